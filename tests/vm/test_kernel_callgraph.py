# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's kernel as the witness of the call trees: what it calls in each step is what the stack calls."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import images
from guest.vm.args import Vm
from guest.vm.probe import Qemu
from vnic import callgraph, kernelgraph

pytestmark = pytest.mark.xdist_group("kernel-callgraph")

DOCS = Path(__file__).parents[2] / "docs" / "callgraph.md"
IN_ORDER = {  # what each kernel goes through in a step, in this order, and the stack too
    "bind": ["sys_bind", "inet_bind", "inet_csk_get_port", "inet_bind_bucket_create"],
    "listen": [
        "sys_listen",
        "inet_listen",
        "inet_csk_listen_start",
        "reqsk_queue_alloc",
        "inet_hash",
        "__inet_hash",
    ],
    "receive_syn": [
        "__inet_lookup_listener",
        "tcp_v4_do_rcv",
        "tcp_conn_request",
        "inet_reqsk_alloc",
        "ip_output",
    ],
    "receive_ack": [
        "tcp_check_req",
        "tcp_v4_syn_recv_sock",
        "inet_ehash_insert",
        "tcp_child_process",
        "tcp_ack",
    ],
    "established_fin": ["tcp_rcv_established", "tcp_ack", "tcp_data_queue", "tcp_fin", "tcp_set_state"],
    "fin_wait1_ack": ["tcp_rcv_state_process", "tcp_time_wait", "inet_twsk_alloc", "tcp_done"],
}


@pytest.fixture(scope="module")
def trees(
    image: images.Image, qemu: Qemu, tsc_khz: int | None, shared_artifacts: Any
) -> Iterator[list[kernelgraph.KernelCall]]:
    vm = Vm(
        kernel=image.kernel,
        initramfs=image.initramfs,
        qemu=qemu.path,
        qemu_version=qemu.version,
        tsc_khz=tsc_khz,
        append=("vnic.quiet", "vnic.plain"),
    )
    with shared_artifacts("") as artifacts:
        yield kernelgraph.parse(asyncio.run(kernelgraph.record(vm, artifacts)))


@pytest.mark.parametrize("scene", kernelgraph.SCENES)
def test_kernel_goes_through_the_scene_and_begins_where_the_stack_does(
    trees: list[kernelgraph.KernelCall], scene: str
) -> None:
    tree = kernelgraph.find(trees, scene)
    ours = callgraph.trace(callgraph.SCENES[scene], tree.name)
    assert ours.root.name == tree.name
    both = [line for line in kernelgraph.compare(ours.root, tree) if line.startswith("  ")]
    assert len(both) >= 3


@pytest.mark.parametrize("scene", IN_ORDER)
def test_kernel_and_stack_call_in_the_same_order(trees: list[kernelgraph.KernelCall], scene: str) -> None:
    tree = kernelgraph.find(trees, scene)
    ours = callgraph.trace(callgraph.SCENES[scene], tree.name)
    both = [re.sub(r"^ *(-> )?", "", line) for line in kernelgraph.compare(ours.root, tree) if line[0] == " "]
    assert [name for name in both if name in IN_ORDER[scene]][: len(IN_ORDER[scene])] == IN_ORDER[scene]


def test_share_of_the_kernels_tcp_functions_is_what_the_docs_state(
    trees: list[kernelgraph.KernelCall],
) -> None:
    stated = re.search(r"at least (\d+) %", DOCS.read_text())
    assert stated is not None
    mirrored, missing = kernelgraph.mirrored(trees)
    assert len(mirrored) >= 120
    assert 100 * len(mirrored) >= int(stated[1]) * (len(mirrored) + len(missing)), (
        f"missing: {sorted(missing)}"
    )
