# SPDX-License-Identifier: GPL-2.0-or-later
"""A device that breaks the rules on purpose, for whoever writes a driver: what does the driver do then?

`DeviceFaults` holds the script (faultscript.py says what can be written in it) and decides, `FaultyRing` is a Ring
round a Ring that carries it out; both are there only for a device that was given faults, and an ordinary ring knows
nothing of them::

    faults = DeviceFaults(random.Random(1))
    faults.at(100, "rx", "duplicate-used")
    faults.chance(0.01, "tx", "late-used", ms=20)
    faults.add("rx:header:every=50,gso_type=1,gso_size=0")
    server.inject(faults)                       a VhostUserServer; also while its rings run
    faults.at(1, "tx", "stuck")                 from now on, the next buffer
    faults.injected                             what was done, when and to which buffer

The same seed and the same order of events give the same faults. Each one that was injected is told to `on_injected`
and kept, with the device's clock and the time since the ring started, which is when the driver set DRIVER_OK: so it can
be found in the guest's dmesg.

A faulty ring takes the general way for each buffer (pop() and push()), never drain()'s and fill()'s shortcuts. What
is held back is held for good once the ring has been stopped: the driver that stopped it has taken its buffers back. A
ring that is parked (vhost_user/iommu.py) keeps what it holds, and gives back what is due when it goes on. One that is
replaced where it stands, since a migration's log begins or ends, gives everything back, "stuck" or not: another ring
would take up the buffers that are missing and work on them again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from devmodel.port import Buffer
from devmodel.virtio.faultscript import FULL, HEADER_FIELDS, KINDS, Fault, Occasion, parse
from devmodel.virtio.features import VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1, VIRTIO_NET_F_MRG_RXBUF
from devmodel.virtio.memory import GuestMemory
from devmodel.virtio.ring import Areas, Chain, Got, Ring
from devmodel.virtio.spec import VIRTIO_NET_HDR, VIRTIO_NET_HDR_LEGACY

KEPT: Final = 1000
"""Faults that were injected, for whoever asks; those before are forgotten but for their number."""
REORDER_S: Final = 0.005
TWIN_S: Final = 1.0
"""How long a packed ring's duplicate waits for the buffer whose place it takes."""
_WHOLE_FRAMES: Final = ("late-used", "reorder-used")
"""Of a receive queue: a frame's buffers have to come together and in order, or the frame is another one."""


class Random(Protocol):
    """The part of random.Random that is used here."""

    def random(self) -> float: ...

    def choice(self, options: Sequence[int], /) -> int: ...


class FaultyDevice(Protocol):
    """What faults need of the device that they are in."""

    def now(self) -> float:
        """Seconds on a clock that never goes back."""

    def later(self, delay: float, callback: Callable[[], None]) -> object: ...

    def settle(self, index: int) -> None:
        """Show the driver what was given back on that ring, and tell it if it wants to know."""

    def interrupt(self, index: int) -> None:
        """Tell the driver whether it wants to know or not."""

    def demand_reset(self) -> None:
        """Set VIRTIO_CONFIG_S_NEEDS_RESET."""

    def hang_up(self) -> None:
        """Close the frontend's connection."""


@dataclass(frozen=True, slots=True)
class Injected:
    """One fault as it happened. `at_s` since the device was given faults, `ring_s` since the ring started; `number`
    counts the rule's occasions, `head` is the buffer's or -1."""

    at_s: float
    ring_s: float
    queue: int
    number: int
    head: int
    fault: str
    detail: str

    def __str__(self) -> str:
        head = f", head {self.head}" if self.head >= 0 else ""
        return (
            f"fault injected: {self.fault}: queue {self.queue}{head}: {self.detail} "
            f"({self.ring_s:.6f} s after the ring started)"
        )

    def asdict(self) -> dict[str, Any]:
        """A dict for JSON."""
        return {
            "at_s": self.at_s,
            "ring_s": self.ring_s,
            "queue": self.queue,
            "number": self.number,
            "head": self.head,
            "fault": self.fault,
            "detail": self.detail,
        }


class Rule:
    """A fault of the script, and how far it has come."""

    __slots__ = ("done", "fault", "seen")

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.seen = 0
        self.done = 0

    def due(self, rng: Random, now: float) -> bool:
        """Whether it is to be injected at the occasion that came just now."""
        self.seen += 1
        fault = self.fault
        drawn = rng.random() < fault.p if fault.p else False  # always, so that the order of draws is the same
        if not fault.after <= now <= fault.until:
            return False
        if fault.at:
            return self.seen >= fault.at and self.done < (fault.times or 1)
        if fault.times and self.done >= fault.times:
            return False
        return self.seen % fault.every == 0 if fault.every else drawn


class DeviceFaults:
    """See the module. `script`: faults in words; FaultScriptError."""

    def __init__(self, rng: Random, script: Iterable[str] = ()) -> None:
        self.rng = rng
        self.rules: list[Rule] = []
        self.injected: deque[Injected] = deque(maxlen=KEPT)
        self.count = 0
        self.on_injected: Callable[[Injected], None] | None = None
        self._device: FaultyDevice | None = None
        self._opened = 0.0
        for text in script:
            self.add(text)

    def add(self, fault: Fault | str) -> Rule:
        """One more, from now on."""
        rule = Rule(parse(fault) if isinstance(fault, str) else fault)
        self.rules.append(rule)
        return rule

    def at(self, number: int, where: str, what: str, **args: Any) -> Rule:
        """At the `number`-th occasion from now on."""
        return self.add(Fault(where, what, at=number, args=args))

    def every(self, number: int, where: str, what: str, **args: Any) -> Rule:
        """At each `number`-th occasion."""
        return self.add(Fault(where, what, every=number, args=args))

    def chance(self, p: float, where: str, what: str, **args: Any) -> Rule:
        """At each occasion with that probability."""
        return self.add(Fault(where, what, p=p, args=args))

    def clear(self) -> None:
        """No further ones; what was injected goes on as it does."""
        self.rules.clear()

    def asdict(self) -> dict[str, Any]:
        """A dict for JSON: the script with how often each was injected, and the last ones."""
        rules = [
            {"fault": str(rule.fault), "occasions": rule.seen, "injected": rule.done} for rule in self.rules
        ]
        return {
            "count": self.count,
            "rules": rules,
            "injected": [one.asdict() for one in list(self.injected)[-20:]],
        }

    # -- for the device ---------------------------------------------------------------------------------

    def attach(self, device: FaultyDevice) -> None:
        """The device that they are in, once."""
        self._device = device
        self._opened = device.now()

    @property
    def device(self) -> FaultyDevice:
        assert self._device is not None, "faults of no device"
        return self._device

    def around(self, ring: Ring, features: int) -> Ring:
        """The ring that a device uses in the place of this one."""
        return FaultyRing(ring, self, features)

    # -- for the rings ----------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds since the device was given these faults."""
        return self.device.now() - self._opened

    def draw(self, index: int, occasion: Occasion) -> Rule | None:
        """The rule that is due at this occasion. If several are, the first; the others may be at the next."""
        chosen = None
        now = self.now() if self.rules else 0.0
        for rule in self.rules:
            fault = rule.fault
            if KINDS[fault.what].occasion == occasion and fault.is_about(index) and rule.due(self.rng, now):
                chosen = chosen or rule
        return chosen

    def tell(self, rule: Rule, ring: FaultyRing, head: int, detail: str, number: int = 0) -> None:
        """It was injected, at the occasion `number`, the one of now unless given."""
        rule.done += 1
        self.count += 1
        now = self.now()
        done = Injected(
            now,
            now - ring.started,
            ring.index,
            number or rule.seen,
            head,
            f"{rule.fault.where}:{rule.fault.what}",
            detail,
        )
        self.injected.append(done)
        if self.on_injected is not None:
            self.on_injected(done)


class _Held:
    """A buffer, or all those of a frame, with the bytes written, which are given back later: when so `many` others were
    (0: never because of that), or by a timer, which may find the ring parked: then it is `overdue`."""

    __slots__ = ("buffers", "many", "overdue")

    def __init__(self, head: int, written: int, many: int) -> None:
        self.buffers = [(head, written)]
        self.many = many
        self.overdue = False


class _Twin:
    """A buffer of a packed ring that is to be given back twice; `number` is the occasion. An object, as a compiled
    tuple has no identity."""

    __slots__ = ("head", "number", "rule", "written")

    def __init__(self, rule: Rule, number: int, head: int, written: int) -> None:
        self.rule = rule
        self.number = number
        self.head = head
        self.written = written


class FaultyRing(Ring):
    """See the module."""

    __slots__ = (
        "_alive",
        "_faults",
        "_hdr",
        "_held",
        "_holding",
        "_inner",
        "_left",
        "_packed",
        "_receives",
        "_stuck",
        "_taken",
        "_twin",
        "started",
    )

    def __init__(self, inner: Ring, faults: DeviceFaults, features: int) -> None:
        super().__init__(inner.index, inner.num, inner._memory, features, inner._sections)
        self._inner = inner
        self._faults = faults
        self.started = faults.now()
        self._packed = bool(features >> VIRTIO_F_RING_PACKED & 1)
        modern = bool(features >> VIRTIO_F_VERSION_1 & 1 or features >> VIRTIO_NET_F_MRG_RXBUF & 1)
        self._hdr = VIRTIO_NET_HDR if modern else VIRTIO_NET_HDR_LEGACY
        self._receives = not inner.index & 1
        self._taken: dict[int, Chain] = {}
        self._held: list[_Held] = []
        self._holding: _Held | None = None  # what the further buffers of this frame join
        self._left = 0  # buffers of the frame that is being given back
        self._twin: _Twin | None = None
        self._stuck = False
        self._alive = True
        self.tracked = inner.tracked
        # What the device is told once, and marks as told here.
        self.resynchronised, self.resubmitted = inner.resynchronised, inner.resubmitted
        self._sync()

    def _sync(self) -> None:
        self.last_avail, self.walked = self._inner.last_avail, self._inner.walked

    # -- as the ring does -------------------------------------------------------------------------------

    @property
    def base(self) -> int:
        return self._inner.base

    def rebind(self, memory: GuestMemory, areas: Areas) -> None:
        self._memory = memory
        self._inner.rebind(memory, areas)
        self._alive = True
        for held in [held for held in self._held if held.overdue and not self._stuck]:
            self._let_go(held)

    def release(self) -> None:
        self._alive = False
        self._taken.clear()
        self._inner.release()

    def advance(self, before: int) -> int:
        return self._inner.advance(before)

    def forget_signalled(self) -> None:
        self._inner.forget_signalled()

    def suppress_kicks(self) -> None:
        self._inner.suppress_kicks()

    def arm_kicks(self) -> bool:
        return self._inner.arm_kicks()

    def unseen(self) -> bool:
        return self._inner.unseen()

    def mark(self) -> int:
        return self._inner.mark()

    def waiting_heads(self) -> set[int]:
        return self._inner.waiting_heads()

    # -- taking -----------------------------------------------------------------------------------------

    def pop(self) -> Chain | None:
        chain = self._inner.pop()
        self._sync()
        if chain is not None:
            self._taken[chain.head] = chain
        return chain

    def unpop(self, chains: Sequence[Chain]) -> None:
        for chain in chains:
            self._taken.pop(chain.head, None)
        try:
            self._inner.unpop(chains)
        finally:
            self._sync()

    def _drain_plain(
        self,
        read: Callable[[list[memoryview], list[memoryview]], Got | None],
        budget: int,
        found: list[Got],
    ) -> int:
        return 0

    def fill(self, parts: Sequence[Buffer], least: int) -> tuple[int, memoryview] | None:
        return None

    # -- giving back ------------------------------------------------------------------------------------

    def push(self, head: int, written: int) -> None:
        chain = self._taken.pop(head, None)
        room = sum(map(len, chain.writable)) if chain is not None else written
        begins = not self._receives or chain is None or self._frame(chain, head)
        rule = self._faults.draw(self.index, "buffer")
        if begins:
            self._holding = None
        if self._stuck:
            self._hold(head, written)
        elif self._holding is not None:
            self._holding.buffers.append((head, written))
        elif rule is None or (not begins and rule.fault.what in _WHOLE_FRAMES):
            self._give(head, written)
        else:
            self._wrong(rule, head, written, room)

    def forge(self, head: int, claimed: int, written: int) -> None:
        self._inner.forge(head, claimed, written)

    def _give(self, head: int, written: int) -> None:
        """An honest one, and behind it those that waited for so many."""
        if self._twin is not None:
            self._give_twin(head)
        else:
            self._inner.push(head, written)
        if self._left:
            return  # nothing may come between the buffers of a frame
        for held in list(self._held):
            if held.many:
                held.many -= 1
                if not held.many:
                    self._let_go(held)

    def _give_twin(self, head: int) -> None:
        """A packed ring's second half of duplicate-used: this buffer's element names the one before once more."""
        assert self._twin is not None
        twin = self._twin
        self._twin = None
        self._inner.push(twin.head, twin.written)
        self._inner.forge(head, twin.head, twin.written)
        detail = f"given back twice, the second time in the place of buffer {head}"
        self._faults.tell(twin.rule, self, twin.head, detail, twin.number)

    def _wrong(self, rule: Rule, head: int, written: int, room: int) -> None:
        tell = self._faults.tell
        values = rule.fault.values()
        match rule.fault.what:
            case "late-used":
                self._hold(head, written, values["more"], values["ms"] / 1000)
                tell(rule, self, head, f"held back for {values['ms']:g} ms")
            case "reorder-used":
                self._hold(head, written, values["more"], REORDER_S)
                tell(rule, self, head, f"held back behind the next {values['more']}")
            case "duplicate-used" if self._packed:
                if self._twin is None:
                    self._twin = twin = _Twin(rule, rule.seen, head, written)  # told when it is done
                    self._faults.device.later(TWIN_S, lambda: self._drop_twin(twin))
                else:
                    self._give(head, written)
            case "duplicate-used":
                self._give(head, written)
                self._inner.forge(head, head, written)
                tell(rule, self, head, "given back twice")
            case "wrong-length":
                to = values["to"]
                claimed = to if isinstance(to, int) else room if to == FULL else room + 1
                self._inner.forge(head, head, claimed)
                tell(
                    rule,
                    self,
                    head,
                    f"{claimed} bytes written, it was {written} and there is room for {room}",
                )
            case "wrong-head" | "bad-head":
                self._name_another(rule, head, written)
            case "stuck":
                self._stuck = True
                self._hold(head, written)
                tell(rule, self, head, "nothing is given back any more")
            case "needs-reset":
                self._give(head, written)
                self._faults.device.demand_reset()
                tell(rule, self, head, "VIRTIO_CONFIG_S_NEEDS_RESET is set")
            case "hang-up":
                self._give(head, written)
                self._faults.device.later(0.0, self._faults.device.hang_up)
                tell(rule, self, head, "the connection is closed")
            case _:
                raise AssertionError(rule.fault.what)

    def _name_another(self, rule: Rule, head: int, written: int) -> None:
        """wrong-head, bad-head. Without an idle buffer to name it is left to the next occasion."""
        claimed = rule.fault.values().get("to", -1)
        if rule.fault.what == "bad-head":
            claimed = claimed if claimed >= 0 else self.num
        else:
            busy = {
                head,
                *self.waiting_heads(),
                *self._taken,
                *(one for held in self._held for one, _ in held.buffers),
            }
            idle = [other for other in range(self.num) if other not in busy]
            if not idle:
                self._give(head, written)
                return
            claimed = self._faults.rng.choice(idle)
        self._inner.forge(head, claimed, written)
        self._faults.tell(rule, self, head, f"the used element names buffer {claimed}")

    # -- later ------------------------------------------------------------------------------------------

    def _hold(self, head: int, written: int, many: int = 0, seconds: float = -1.0) -> None:
        held = self._holding = _Held(head, written, many)
        self._held.append(held)
        if seconds >= 0:
            self._faults.device.later(seconds, lambda: self._due(held))

    def _due(self, held: _Held) -> None:
        """Its time has come, unless it has gone or the ring has."""
        if not self._alive:
            held.overdue = True
        elif not self._stuck and held in self._held:
            self._let_go(held)
            self._faults.device.settle(self.index)

    def let_go(self) -> None:
        twin, self._twin = self._twin, None
        if twin is not None:
            self._inner.push(twin.head, twin.written)
        for held in list(self._held):
            self._let_go(held)

    def _let_go(self, held: _Held) -> None:
        self._held.remove(held)
        for head, written in held.buffers:
            self._inner.push(head, written)

    def _drop_twin(self, twin: _Twin) -> None:
        """No further buffer came for a packed ring's duplicate: it is given back once, and nothing was injected."""
        if self._twin is not twin:
            return
        self._twin = None
        held = _Held(twin.head, twin.written, 0)
        self._held.append(held)
        self._due(held)

    # -- headers ----------------------------------------------------------------------------------------

    def _frame(self, chain: Chain, head: int) -> bool:
        """Whether the buffer begins a frame to the guest; if so, its header may be overwritten where it lies."""
        if self._left:
            self._left -= 1
            return False
        pieces = chain.writable
        size = self._hdr.size
        header = b"".join(bytes(piece[:size]) for piece in pieces[:size])[:size]
        if len(header) < size:
            return True
        fields = list(self._hdr.unpack(header))
        self._left = max(fields[6], 1) - 1 if len(fields) > 6 else 0
        rule = self._faults.draw(self.index, "frame")
        if rule is None:
            return True
        lies = {name: value for name, value in rule.fault.values().items() if value != -1}
        for name, value in lies.items():
            at = HEADER_FIELDS.index(name)
            if at < len(fields):
                fields[at] = value & (0xFF if at < 2 else 0xFFFF)
        _overwrite(pieces, self._hdr.pack(*fields))
        told = ", ".join(f"{name} {value}" for name, value in lies.items())
        self._faults.tell(rule, self, head, f"the header says {told}")
        return True

    # -- notifications ----------------------------------------------------------------------------------

    def publish(self) -> bool:
        return self._inner.publish()

    def needs_signal(self) -> bool:
        if not self._inner.needs_signal():
            return False
        rule = self._faults.draw(self.index, "interrupt")
        if rule is None:
            return True
        index, device, tell = self.index, self._faults.device, self._faults.tell
        if rule.fault.what == "lost-interrupt":
            tell(rule, self, -1, "no interrupt was sent")
            return False
        ms = rule.fault.values()["ms"]
        device.later(ms / 1000, lambda: device.interrupt(index) if self._alive else None)
        if rule.fault.what == "late-interrupt":
            tell(rule, self, -1, f"the interrupt comes {ms:g} ms late")
            return False
        tell(rule, self, -1, f"a second interrupt comes {ms:g} ms later")
        return True


def _overwrite(pieces: Sequence[memoryview], data: bytes) -> None:
    at = 0
    for piece in pieces:
        end = min(at + len(piece), len(data))
        piece[: end - at] = data[at:end]
        at = end
        if at == len(data):
            return
