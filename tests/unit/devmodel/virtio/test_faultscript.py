# SPDX-License-Identifier: GPL-2.0-or-later
"""The words for device faults."""

from __future__ import annotations

import pytest

from devmodel.virtio.faultscript import KINDS, Fault, FaultScriptError, parse


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("rx:duplicate-used:at=100", Fault("rx", "duplicate-used", at=100)),
        ("tx:late-used:p=0.01,ms=20", Fault("tx", "late-used", p=0.01, args={"ms": 20.0})),
        ("tx3:stuck:at=1000,until=60", Fault("tx3", "stuck", at=1000, until=60.0)),
        (
            "ring4:wrong-length:every=2,to=over,times=3",
            Fault("ring4", "wrong-length", every=2, times=3, args={"to": "over"}),
        ),
        (
            "rx:header:at=5,gso_type=0x1,gso_size=0",
            Fault("rx", "header", at=5, args={"gso_type": 1, "gso_size": 0}),
        ),
    ],
)
def test_words_become_a_fault_and_the_fault_these_words(text: str, fault: Fault) -> None:
    assert parse(text) == fault
    assert parse(str(fault)) == fault


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rx", "WHERE:WHAT"),
        ("rx:late", "there are late-used"),
        ("eth0:stuck:at=1", "no queue"),
        ("ring:stuck:at=1", "no queue"),
        ("rx:stuck", "when"),
        ("rx:stuck:at=1,p=0.5", "when"),
        ("rx:stuck:p=1.5", "none of its kind"),
        ("rx:stuck:at=-1", "none of its kind"),
        ("rx:stuck:at=one", "no number"),
        ("rx:stuck:at=1,ms=3", "stuck knows at, every, p"),
        ("rx:wrong-length:at=1", "has to say to"),
        ("rx:header:at=1", "has to name a field"),
        ("tx:header:at=1,flags=1", "frames to the guest"),
        ("rx:late-used:at=1,ms=-5", "ms cannot be -5"),
        ("rx:late-used:at=1,ms=inf", "ms cannot be inf"),
        ("rx:late-interrupt:at=1,ms=nan", "ms cannot be nan"),
        ("rx:late-used:at=1,more=-1", "more cannot be -1"),
        ("rx:header:at=1,flags=256", "from 0 to 255"),
        ("rx:header:at=1,gso_type=-1", "gso_type cannot be -1"),
        ("rx:header:at=1,hdr_len=65536", "from 0 to 65535"),
        ("rx:wrong-length:at=1,to=4294967296", "from 0 to 4294967295"),
        ("rx:bad-head:at=1,to=-1", "to cannot be -1"),
        ("rx:stuck:at=1,after=nan", "none of its kind"),
        ("rx:stuck:at=1,until=-1", "none of its kind"),
        (f"rx{'9' * 5000}:stuck:at=1", "no queue"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(text: str, says: str) -> None:
    with pytest.raises(FaultScriptError) as caught:
        parse(text)
    assert says in f"{caught.value} {caught.value.evidence}"


@pytest.mark.parametrize(
    ("where", "indexes"),
    [("rx", {0, 2, 4}), ("tx", {1, 3, 5}), ("rx1", {2}), ("tx0", {1}), ("ring4", {4})],
)
def test_where_names_queues(where: str, indexes: set[int]) -> None:
    fault = Fault(where, "stuck", at=1)
    assert {index for index in range(6) if fault.is_about(index)} == indexes


def test_each_kind_is_documented_and_has_an_occasion() -> None:
    assert all(kind.text and kind.occasion in ("buffer", "frame", "interrupt") for kind in KINDS.values())
