# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic driver``: a guest's driver without a guest, against any vhost-user back end."""

from __future__ import annotations

import json
import re
from contextlib import closing
from enum import StrEnum
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vnic import errors
from vnic.cli import output

if TYPE_CHECKING:
    from guest.driver.trial import Plan, Trial


class Layout(StrEnum):
    """guest/driver/memory.py has what each is like."""

    SPLIT = "split"
    FLAT = "flat"
    PIECES = "pieces"


ConnectPath = Annotated[str, typer.Option("--connect", metavar="PATH", help="Where the back end listens.")]
Address = Annotated[str, typer.Option(metavar="ADDR", help="The guest's own address.")]
Mac = Annotated[str, typer.Option(metavar="MAC", help="Its hardware address.")]
Server = Annotated[str, typer.Option(metavar="ADDR", help="Whom to ask.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Where to connect by TCP.")]
Pings = Annotated[int, typer.Option("--count", "-c", min=0, max=1000, help="Echo requests.")]
Features = Annotated[
    str,
    typer.Option(
        metavar="LIST",
        help="What to acknowledge of what is offered: all, none, names and bits by commas, -NAME without it.",
    ),
]
Packed = Annotated[bool, typer.Option("--packed", help="Packed rings; an error if they are not offered.")]
Legacy = Annotated[
    bool, typer.Option("--legacy", help="No features at all, as old firmware: 10-byte header.")
]
QueueSize = Annotated[int, typer.Option("--queue-size", metavar="N", help="Entries of each ring.")]
MemoryLayout = Annotated[
    Layout, typer.Option("--memory", help="Regions like QEMU's, one with gpa == uva, or four that touch.")
]
Deadline = Annotated[
    float, typer.Option("--deadline", min=0.1, max=600, metavar="SECONDS", help="For each answer.")
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


def driver(
    connect: ConnectPath,
    address: Address = "10.0.2.15",
    mac: Mac = "52:54:00:12:34:56",
    server: Server = "10.0.2.2",
    port: Port = 7,
    count: Pings = 3,
    features: Features = "all",
    packed: Packed = False,
    legacy: Legacy = False,
    queue_size: QueueSize = 256,
    memory: MemoryLayout = Layout.SPLIT,
    deadline: Deadline = 5.0,
    as_json: AsJson = False,
) -> int:
    """Be a guest's driver: negotiate with a back end, then ask ARP, ping and TCP; exit code 1 without all answers."""
    from guest.driver.backend import Backend
    from guest.driver.errors import DriverError
    from guest.driver.trial import Plan, Trial

    asked, must = _features(features, packed, legacy)
    plan = Plan(
        address=_address("--address", address),
        server=_address("--server", server),
        mac=_mac(mac),
        port=port,
        pings=count,
        features=asked,
        must=must,
        queue_size=queue_size,
        layout=memory.value,
        deadline_s=deadline,
    )
    with closing(Trial(Backend(connect, deadline), plan)) as trial:
        try:
            trial.run()
        except DriverError:
            if trial.frontend.offered and not as_json:  # what was learnt until then
                _show(trial, plan, as_json)
            raise
        _show(trial, plan, as_json)
        return errors.EXIT_OK if trial.ok else errors.EXIT_FAILED


def _features(text: str, packed: bool, legacy: bool) -> tuple[int, int]:
    """What to ask for, and what has to be there."""
    from devmodel.virtio import features as vf
    from guest.driver.negotiation import parse_features

    if legacy and (packed or text != "all"):
        raise errors.UsageError(
            "--legacy acknowledges no feature at all",
            f"--features {text}" + (" --packed" if packed else ""),
            "leave out one or the other",
        )
    asked = 0 if legacy else parse_features(text)
    packed = packed or bool(asked >> vf.VIRTIO_F_RING_PACKED & 1)
    if not packed:
        return asked, 0
    return asked, vf.mask(
        vf.VIRTIO_F_RING_PACKED, vf.VIRTIO_F_VERSION_1
    )  # a packed ring is of VERSION_1 (2.8)


def _address(option: str, text: str) -> str:
    try:
        return str(IPv4Address(text))
    except ValueError as error:
        raise errors.UsageError(
            f"{option} {text!r} is no IPv4 address", str(error), f"{option} 10.0.2.2"
        ) from error


def _mac(text: str) -> bytes:
    if not re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", text) or int(text[:2], 16) & 1:
        raise errors.UsageError(f"--mac {text!r} is no station's address", "", "--mac 52:54:00:12:34:56")
    return bytes.fromhex(text.replace(":", ""))


def _show(trial: Trial, plan: Plan, as_json: bool) -> None:
    report = trial.report()
    if as_json:
        print(json.dumps({"schema": 1, **report}, indent=1))
        return
    for title, key in (("features", "features"), ("protocol features", "protocol_features")):
        print(f"{title}:")
        for line in _bits(report[key]):
            print(f"  {line}")
    rings = report["rings"]
    if not rings["header"]:
        return
    print(
        f"rings: {rings['layout']}, {rings['size']} entries, {rings['header']}-byte header; "
        f"{report['queue_pairs']} queue pair(s), {report['memory_slots']} memory slots"
    )
    for probe in trial.probes:
        mark = "ok  " if probe.ok else "FAIL" if probe.sent else "-   "
        took = "" if probe.ms is None else f"  {probe.ms:.3f} ms"
        again = f"  (asked {probe.sent} times)" if probe.sent > 1 else ""
        print(f"{mark} {probe.name:<5} {probe.target:<18} {probe.detail}{took}{again}")
    for line in _complaints(rings, report["counters"]):
        print(f"FAIL {line}" if "broken" in line else f"     {line}")
    output.headline(_verdict(trial, plan))


def _bits(bits: list[dict[str, Any]]) -> list[str]:
    width = max((len(bit["name"]) for bit in bits), default=0)
    return [f"{bit['bit']:>2} {bit['name']:<{width}}  {_state(bit)}" for bit in bits] or ["none"]


def _state(bit: dict[str, Any]) -> str:
    if not bit["offered"]:
        return "not offered"
    return "acknowledged" if bit["acknowledged"] else "offered"


def _complaints(rings: dict[str, Any], counters: dict[str, int]) -> list[str]:
    told = [f"the back end calls queue {index} broken" for index in rings["broken"]]
    if rings["frames_without_signal"]:
        told.append(f"{rings['frames_without_signal']} frames lay in the receive ring without a signal")
    if rings["bad_checksums"]:
        told.append(f"{rings['bad_checksums']} packets had a wrong checksum")
    if odd := counters.get("rx_odd_num_buffers"):
        told.append(f"{odd} frames had a num_buffers other than 1 without MRG_RXBUF (virtio 1.2, 5.1.6.4.1)")
    return told


def _verdict(trial: Trial, plan: Plan) -> str:
    answered = sum(probe.ok for probe in trial.probes)
    return f"{answered} of {len(trial.probes)} answered at {plan.server} behind {trial.backend.path}"
