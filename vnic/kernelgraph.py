# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own call trees, as the witness of ours: ``vnic callgraph --kernel``.

A guest's kernel is the server and our Stack its client, over the virtual card.  In the guest ftrace's function_graph
tracer writes down what the kernel calls for each segment, socket call and timer; ``parse`` reads that, ``pruned``
leaves out memory, locks, scheduling, security modules and the device below IP, and ``find`` picks the tree of a scene
of vnic/callgraph.py by what is called in it.

What a tree of the kernel's cannot show: functions that the compiler put into their callers.  So a function of ours that
is not there proves nothing; one of the kernel's that is not in ours is a difference.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import difflib
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Final

import images
from devmodel.middleware.fault import FaultPort, Faults
from devmodel.port import Port
from guest.vm import probe
from guest.vm.args import Stream, Vm
from guest.vm.machine import Guest, boot
from guest.vm.rundir import RunDir
from stack.api import aio
from stack.trace.notes import NOISE, NOISE_FILES
from stack.trace.recorder import PACKAGE, Call
from vnic.cli import output
from vnic.errors import VnicError
from vnic.host import Host
from vnic.options import Options

TRACING: Final = "/sys/kernel/tracing"
PORT: Final = 2222
DELAY_S: Final = 0.05  # each way
SETTLE_S: Final = 1.0  # for a step's last segment, and the delayed ACK behind it
ROOTS: Final = (
    *("tcp_v4_rcv", "__sys_bind", "__sys_listen", "__sys_accept4", "inet_stream_connect"),
    *("tcp_recvmsg", "tcp_sendmsg", "inet_release", "tcp_write_timer", "reqsk_timer_handler"),
)


class NoKernelTrace(VnicError):
    """The guest's kernel gave no trace of a step."""


@dataclass
class KernelCall:
    """One call of the kernel's."""

    name: str
    children: list[KernelCall] = field(default_factory=list)

    def names(self) -> Iterator[str]:
        """Of this call and of all under it, in the order in which they began."""
        yield self.name
        for child in self.children:
            yield from child.names()


# -- reading ---------------------------------------------------------------------------------------------------------

# " 0) + 31.087 us   |        __fget_light();", its first columns as the options of the tracer have them
_LINE: Final = re.compile(r"^(?:\s*\d+\))?[^|/]*\|(?P<indent>\s*)(?P<text>\S.*)$")
_CALL: Final = re.compile(r"^(?P<name>[A-Za-z_][\w.]*)\(\)(?P<rest> \{|;)")
_SUFFIX: Final = re.compile(r"\.(isra|part|constprop|cold)\.?\d*")
_OTHER_NAMES: Final = {"__sys_bind": "sys_bind", "__sys_listen": "sys_listen", "__sys_accept4": "sys_accept4"}


def _name(raw: str) -> str:
    """The function in the source that a symbol stands for."""
    name = _SUFFIX.sub("", raw)
    if name.startswith("cubictcp_"):  # what older kernels, and the notes, call bictcp_
        name = name.replace("cubictcp_", "bictcp_", 1)
    return _OTHER_NAMES.get(name, name)


def parse(text: str) -> list[KernelCall]:
    """The trees in the text of function_graph.  A segment that came in an interrupt, in the middle of a call, has a
    tree of its own too."""
    roots: list[KernelCall] = []
    path: list[KernelCall] = []
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        depth = len(found["indent"]) // 2 - 1
        call = _CALL.match(found["text"])
        del path[max(depth, 0) :]
        if call is None or depth != len(path):
            continue
        made = KernelCall(_name(call["name"]))
        if path:
            path[-1].children.append(made)
        if not path or call["name"] in ROOTS:
            roots.append(made)
        if call["rest"] == " {":
            path.append(made)
    return roots


# -- leaving out -----------------------------------------------------------------------------------------------------

# Patterns of names that are left out with all that they call, by what they are about.
_LEFT_OUT: Final = {
    "memory": """k?mem_.* kmalloc.* kfree.* k?v?free.* .*alloc_pages.* .*slab.* skb_release.* skb_free.* __kfree_skb
        consume_skb kfree_skb.* skb_attempt_defer_free __build_skb.* __alloc_skb sk_mem.* __sk_mem.* sk_forced_mem.*
        should_fail.* skb_set_owner.* sk_filter_trim_cap sk_page_frag.* skb_rbtree_purge skb_queue_purge page_frag.*
        tcp_write_queue_purge""",
    "locks": """_raw_.* .*spin.* lock_sock.* release_sock __release_sock .*rcu.* .*mutex.* .*local_bh.* .*rwsem.*
        __cond_resched tcp_release_cb srcu.*""",
    "time": """ktime_.* jiffies.* .*_to_jiffies mod_timer .*timer_delete.* .*del_timer.* .*hrtimer.* init_timer_key
        sk_reset_timer sk_stop_timer inet_csk_clear_xmit_timers tcp_mstamp_refresh""",
    "scheduling": """.*wake_up.* .*wakeup.* schedule.* .*irq.* .*interrupt.* .*sysvec.* .*to_wait.* finish_wait
        .*softirq.* pollwake tick_.* update_.* __common.* finish_task.* do_timer idle_cpu""",
    "security": "security_.* apparmor.* tomoyo.* bpf_.* aa_.* selinux.* __?cgroup.* cgroup_.* sk_filter.* tcp_bpf.*",
    "files": """alloc_fd sockfd_lookup_light get_unused_fd_flags fd_install .*alloc_file.* .*inode.* d_.* __d_.*
        .*fget.* sock_alloc.* move_addr.* copy_.* .*copy_to_iter.* .*copy_datagram.* __skb_datagram.* fput.*
        __check_object_size mntget .*module_.* .*uid.* make_k.* map_id.* put_pid inet_getname stream_open""",
    "the rest of the machine": """get_random.* _get_random.* crng.* chacha.* blake2.* extract_entropy.* nf_hook.*
        add_interrupt.* xfrm.* l3mdev.* neigh_.* __dev_queue_xmit dev_queue_xmit netlink.* perf.* __virt_addr.* trace.*
        reuseport_.* __reuseport.* skb_clone_tx.* .*ulp.* .*psp.* .*workqueue.* queue_work.* call_.*""",
}
_PATTERN: Final = re.compile("|".join(f"(?:{p})" for text in _LEFT_OUT.values() for p in text.split()))


def pruned(call: KernelCall) -> KernelCall:
    """The tree without what it is not about."""
    kept = [pruned(child) for child in call.children if not _PATTERN.fullmatch(child.name)]
    out: list[KernelCall] = []
    for child in kept:
        # "tcp_send_ack() { __tcp_send_ack.part.0() ...": a function that the compiler cut in two is one
        if child.name == call.name:
            out += child.children
        else:
            out.append(child)
    return replace(call, children=out)


# -- which tree is which ---------------------------------------------------------------------------------------------

Test = Callable[[KernelCall, frozenset[str]], bool]


def _segment(*called: str, without: tuple[str, ...] = ()) -> Test:
    def test(root: KernelCall, names: frozenset[str]) -> bool:
        return root.name == "tcp_v4_rcv" and names.issuperset(called) and names.isdisjoint(without)

    return test


def _root(name: str, *called: str) -> Test:
    return lambda root, names: root.name == name and names.issuperset(called)


_DATA: Final = ("tcp_data_queue", "tcp_queue_rcv")

# How the tree of a scene is known among those of one connection.
SCENES: Final[dict[str, Test]] = {
    "bind": _root("sys_bind"),
    "listen": _root("sys_listen"),
    "accept": _root("sys_accept4"),
    "receive_syn": _segment("tcp_v4_conn_request"),
    "receive_ack": _segment("tcp_check_req"),
    "closed_port": _segment("tcp_v4_send_reset", without=("tcp_v4_do_rcv",)),
    "established_data": _segment("tcp_rcv_established", "tcp_queue_rcv", without=("tcp_fin",)),
    "established_ack": _segment("tcp_rcv_established", "tcp_ack", without=(*_DATA, "tcp_fin")),
    "established_fin": _segment("tcp_rcv_established", "tcp_fin"),
    "last_ack_ack": _segment("tcp_rcv_state_process", "tcp_done", without=("tcp_time_wait",)),
    "fin_wait1_ack": _segment("tcp_rcv_state_process", "tcp_time_wait", without=("tcp_fin",)),
    "fin_wait2_fin": _segment("tcp_timewait_state_process"),
    "read": _root("tcp_recvmsg", "tcp_recvmsg_locked", "tcp_cleanup_rbuf"),
    "write": _root("tcp_sendmsg", "tcp_write_xmit"),
    "close": _root("inet_release", "tcp_send_fin"),
}


def find(trees: list[KernelCall], scene: str) -> KernelCall:
    """The first tree of that scene; NoKernelTrace if there is none."""
    test = SCENES[scene]
    for tree in trees:
        if test(tree, frozenset(tree.names())):
            return pruned(tree)
    raise NoKernelTrace(
        f"the guest's kernel did not go through the step {scene}",
        evidence=f"{len(trees)} trees were recorded, of {', '.join(sorted({t.name for t in trees})) or 'nothing'}",
        remedy="report this with the output of `vnic callgraph --kernel --raw`",
    )


# -- drawing and comparing -------------------------------------------------------------------------------------------


def draw(call: KernelCall, depth: int = 0) -> Iterator[str]:
    """In the notation of the notes."""
    yield "  " * depth + ("-> " if depth else "") + call.name
    for child in call.children:
        yield from draw(child, depth + 1)


@cache
def our_functions() -> frozenset[str]:
    """The names of all functions that the stack has."""
    names: set[str] = set()
    for path in Path(PACKAGE).rglob("*.py"):
        names |= {
            node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)
        }
    return frozenset(names)


_TCP: Final = re.compile(
    r"(?:__)?(?:tcp|bictcp|inet_csk|inet_csk_reqsk|inet_bind|inet_hash|inet_ehash|inet_lookup|inet_twsk|reqsk|cookie)_.*"
    r"|__inet_(?:hash|lookup|inherit|twsk).*|inet_(?:hash|unhash|listen|bind|accept|put_port)"
)


def mirrored(trees: list[KernelCall]) -> tuple[frozenset[str], frozenset[str]]:
    """Of the kernel's TCP functions in these trees: those that the stack has by name, and those that it has not."""
    seen = {name for tree in trees for name in pruned(tree).names() if _TCP.fullmatch(name)}
    ours = our_functions()
    return frozenset(seen & ours), frozenset(seen - ours)


def _ours(call: Call, depth: int, known: frozenset[str]) -> Iterator[tuple[int, str]]:
    """Our calls, helpers looked through, without accessors that the kernel has as inline functions."""
    for child in call.calls():
        helper = child.name.startswith("_") and not child.name.startswith("__")
        path = child.code.co_filename.removeprefix(PACKAGE.removesuffix("stack"))
        inline = path.startswith(NOISE_FILES) or child.name in NOISE or "." in child.name
        shown = child.name in known or not (helper or inline or _PATTERN.fullmatch(child.name))
        if shown:
            yield depth, child.name
        if shown or not _PATTERN.fullmatch(child.name):
            yield from _ours(child, depth + shown, known)


def _flat(call: KernelCall, depth: int) -> Iterator[tuple[int, str]]:
    for child in call.children:
        yield depth, child.name
        yield from _flat(child, depth + 1)


def compare(ours: Call, kernel: KernelCall) -> list[str]:
    """Both trees in one: lines that begin with "  " are in both, "+ " in ours only, "- " in the kernel's only."""
    a, b = list(_flat(kernel, 1)), list(_ours(ours, 1, frozenset(kernel.names())))
    matcher = difflib.SequenceMatcher(None, [name for _, name in a], [name for _, name in b], autojunk=False)
    out = [f"  {kernel.name}"]
    for kind, i1, i2, j1, j2 in matcher.get_opcodes():
        if kind == "equal":
            out += [_row("  ", *item) for item in a[i1:i2]]
        else:
            out += [_row("- ", *item) for item in a[i1:i2]]
            out += [_row("+ ", *item) for item in b[j1:j2]]
    return out


def _row(sign: str, depth: int, name: str) -> str:
    return f"{sign}{'  ' * depth}-> {name}"


# -- recording -------------------------------------------------------------------------------------------------------


def plan(image_name: str) -> Vm:
    """A guest of that image, under TCG, where its kernel is traced at leisure."""
    qemu = probe.ask_qemu(probe.find_qemu())
    image = images.ensure(image_name, output.stage)
    return Vm(
        kernel=image.kernel,
        initramfs=image.initramfs,
        qemu=qemu.path,
        qemu_version=qemu.version,
        tsc_khz=probe.tsc_khz(),
        append=("vnic.quiet", "vnic.plain"),
    )


def _delayed(port: Port) -> Port:
    """Answers come when the guest's kernel is done with what they answer; else they wait in the socket's backlog."""
    late = Faults(delay=DELAY_S)
    return FaultPort(port, random.Random(0), asyncio.get_running_loop(), rx=late, tx=late)


@contextlib.asynccontextmanager
async def _guest(vm: Vm, rundir: RunDir, artifacts: Path | None) -> AsyncIterator[tuple[Host, Guest]]:
    """A Host of ours in this process, and a guest behind it."""
    path = rundir.socket_path("net0.sock")
    async with Host.open(Options(stream=str(path)), _delayed) as host:
        vm = replace(vm, nics=(Stream(path=path),))
        guest = await asyncio.to_thread(boot, vm, rundir, artifacts)
        try:
            yield host, guest
        finally:
            await asyncio.to_thread(guest.close)


async def record(vm: Vm, artifacts: Path | None = None) -> str:
    """What function_graph wrote down of two connections to the guest: one that the client closes first, one that the
    server does; and of a SYN to a closed port.  The console's log and the trace are kept in ``artifacts``."""
    with RunDir.create() as rundir:
        async with _guest(vm, rundir, artifacts) as (host, guest):

            async def run(command: str) -> str:
                return await asyncio.to_thread(guest.check, command)

            address = await run("ip -4 -o addr show eth0 | awk '{print $4}' | cut -d/ -f1")
            await run(_start())
            with contextlib.suppress(ConnectionRefusedError):
                await aio.open_connection(host.runner, address.strip(), PORT + 1)
            await _converse(
                host, run, address.strip(), "(sleep 2; echo hi; sleep 9) | nc -l", closes_first=True
            )
            await _converse(host, run, address.strip(), "sleep 9 | timeout 3 nc -l", closes_first=False)
            await run(f"echo 0 > {TRACING}/tracing_on")
            text = await run(f"cat {TRACING}/trace")
            if artifacts is not None:
                (artifacts / "function_graph.txt").write_text(text)
            return text


def _start() -> str:
    roots = " ".join(ROOTS)
    return (
        f"mount -t tracefs none {TRACING} 2>/dev/null; cd {TRACING} && echo 16384 > buffer_size_kb && "
        f"echo {roots} > set_graph_function && echo function_graph > current_tracer && "
        "echo 0 > options/funcgraph-irqs; echo > trace"
    )


async def _converse(
    host: Host, run: Callable[[str], Awaitable[str]], address: str, server: str, *, closes_first: bool
) -> None:
    """A connection to a server in the guest: a line to it, and one back if the client closes first; then the end."""
    await run(f"({server} {PORT} > /dev/null) & sleep 0.5")
    reader, writer = await aio.open_connection(host.runner, address, PORT)
    await asyncio.sleep(SETTLE_S)
    writer.write(b"hello\n")
    await asyncio.sleep(SETTLE_S)
    if closes_first:
        await reader.readline()
    else:
        await reader.read()
    await asyncio.sleep(SETTLE_S)
    writer.close()
    await asyncio.sleep(SETTLE_S)
