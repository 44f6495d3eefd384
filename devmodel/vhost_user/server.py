# SPDX-License-Identifier: GPL-2.0-or-later
"""A vhost-user back end that is a Port: listens at a unix socket, serves one frontend at a time.

What it decides:

* Who is served. The first to connect; a second one while the first is there is hung up on
  (`clients_refused`). After a hang-up it goes on listening, so a QEMU with `reconnect=` comes back, to
  this process or its successor.
* When rings are looked at. A kick drains the transmit ring: up to 256 chains are taken, published by one
  store and handed on, then `batch_done()`, then what the handler sent is published and signalled. That
  repeats while the ring is not empty, for at most 1024 chains (long ones count more) in one turn of the
  event loop; the rest is left to the next turn, so that neither other devices nor timers starve. While a
  drain goes on the guest is asked not to kick.
* Who is told of completions. A batch whose answer signals the receive ring does not signal the transmit
  ring too: a driver that is interrupted for the one looks at the other (Linux does), so a round trip is one
  interrupt instead of two. A driver that still waits is told with the next batch that has no answer, or when
  the rings are looked at 5 ms later. One that negotiated NOTF_COAL says how long it may not be told (coalesce.py).
* Lost kicks. A ring that was left empty is looked at again 5 ms later without being kicked, and from then
  on at intervals that double up to 80 ms while nothing happens. Under QEMU's TCG a guest has been seen to
  wait for good without this. What it finds, and no kick was on its way, is counted in `lost_kicks`.
* Who is there to be served. While `hold()` is in force the guest's rings are left alone: what it sends stays in them,
  unread and unlost, until `go_on()`. Whoever is behind the port has its state still on the way.
* What waits. Frames for a guest that has no buffers posted wait in a queue of 256 frames, beyond which
  they are dropped (`tx_drop_backlog`).

Counters (`stats()`): rx_* is from the guest, tx_* to the guest. rx_frames, rx_bytes, tx_frames, tx_bytes;
reasons for drops rx_drop_{short,long,writable,csum,gso,disabled,link_down},
tx_drop_{too_big,backlog,filtered,link_down,malformed,broken} and their sum tx_dropped; kicks, lost_kicks, batches,
signals, broken_rings, resynchronised_rings, resubmitted_buffers (that a back end which died had taken), connects,
clients_refused, frontend_errors, unsealed_regions (memory that the frontend could cut short, and so end us),
channel_errors, iotlb_misses, tx_queued (now).

What became of each ring's kicks and interrupts is in its RingAudit (virtio/audit.py), and why and how often it broke in
its Breaks (virtio/diagnosis.py); `negotiation()` has both.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, Protocol

from devmodel.errors import BrokenRing, FrontendError
from devmodel.listener import Listener, listen_unix
from devmodel.netdev.offload import finish
from devmodel.port import Buffer, Offloads, PortHandler, VnetHdr, deliver
from devmodel.vhost_user.actions import Action
from devmodel.vhost_user.coalesce import Coalescer
from devmodel.vhost_user.connection import Connection
from devmodel.vhost_user.devicestate import NoOwner, StateOwner
from devmodel.vhost_user.mapping import allocate, map_fd
from devmodel.vhost_user.session import PROTOCOL_FEATURES, Session, offered_features
from devmodel.virtio.audit import RingAudit
from devmodel.virtio.config import NetConfig
from devmodel.virtio.diagnosis import Breaks
from devmodel.virtio.features import DEVICE_FEATURES, VIRTIO_NET_F_GUEST_ANNOUNCE
from devmodel.virtio.iotlb import IotlbMiss
from devmodel.virtio.memory import Mapping
from devmodel.virtio.net import NO_BUFFERS, SENT, Frame, VirtioNet, scatter
from devmodel.virtio.ring import DESCRIPTORS_PER_CHAIN, Chain, Ring
from devmodel.virtio.ringfaults import DeviceFaults
from devmodel.virtio.spec import VIRTIO_CONFIG_S_NEEDS_RESET
from devmodel.virtio.state import DeviceState, check

log = logging.getLogger(__name__)

BATCH = 256
CHAINS_PER_TURN = 1024
BACKLOG_FRAMES = 256
RECHECK_S = 0.005
RECHECK_IDLE_S = 0.080

_UNSEALED = (
    "the frontend's memory lies in a file that can be made shorter, which would end this process by SIGBUS; "
    "a memory-backend-memfd cannot (F_SEAL_SHRINK)"
)
_COUNTERS = (
    "rx_drop_disabled",
    "rx_drop_link_down",
    "tx_drop_backlog",
    "tx_drop_filtered",
    "tx_drop_link_down",
    "tx_drop_malformed",
    "tx_drop_broken",
    "kicks",
    "lost_kicks",
    "batches",
    "signals",
    "broken_rings",
    "resynchronised_rings",
    "resubmitted_buffers",
    "connects",
    "clients_refused",
    "frontend_errors",
    "unsealed_regions",
    "channel_errors",
    "iotlb_misses",
)
_TX_DROPS = (
    "tx_drop_too_big",
    "tx_drop_backlog",
    "tx_drop_filtered",
    "tx_drop_link_down",
    "tx_drop_malformed",
    "tx_drop_broken",
)


class Timer(Protocol):
    """What `call_later()` gives."""

    def cancel(self) -> None: ...


class DeviceLoop(Protocol):
    """The part of an asyncio event loop that a device uses; guest/driver/loop.py has one with a clock of its own."""

    def time(self) -> float: ...

    def add_reader(self, fd: int, callback: Callable[[], None], /) -> object: ...

    def remove_reader(self, fd: int, /) -> bool: ...

    def add_writer(self, fd: int, callback: Callable[[], None], /) -> object: ...

    def remove_writer(self, fd: int, /) -> bool: ...

    def call_soon(self, callback: Callable[..., object], /, *args: Any) -> object: ...

    def call_later(self, delay: float, callback: Callable[..., object], /, *args: Any) -> Timer: ...

    def call_exception_handler(self, context: dict[str, Any], /) -> None: ...


class Link(Protocol):
    """A connected frontend: a Connection over a socket, or one in this process."""

    session: Session

    def perform(self, actions: list[Action]) -> None: ...

    def signal(self, index: int) -> bool: ...

    def kick_pending(self, index: int) -> bool: ...

    def hung_up(self) -> bool: ...

    def close(self) -> None: ...


class _Lane:
    """One receive queue of the guest: its ring while it may be used, and what waits for its buffers."""

    __slots__ = ("backlog", "frames", "paused", "ring")

    def __init__(self) -> None:
        self.frames = 0  # steered here, of several
        self.ring: Ring | None = None
        self.paused = False  # it has none for a while, frames wait
        self.backlog: deque[tuple[VnetHdr | None, Sequence[Buffer]]] = deque()


class VhostUserServer:
    """See the module. Made by `await VhostUserServer.listen(path)`; belongs to the loop that ran it. Without a listener
    it serves whoever `serve()` is called for."""

    def __init__(
        self,
        listener: Listener | None,
        loop: DeviceLoop,
        name: str = "vhost-user",
        features: int = DEVICE_FEATURES,
        protocol_features: int = PROTOCOL_FEATURES,
        queue_pairs: int = 1,
        control_queue: bool = False,
        config: NetConfig | None = None,
        iommu: bool = False,
    ) -> None:
        self.name = name
        self.net = VirtioNet(queue_pairs)
        self._listener = listener
        self._loop = loop
        self._features = features
        self._protocol_features = protocol_features
        self._queue_pairs = queue_pairs
        self._control_queue = control_queue
        self._config = config
        self._iommu = iommu
        self._plugged = True
        self._handler: PortHandler | None = None
        self._connection: Link | None = None
        self._lanes = [_Lane() for _ in range(queue_pairs)]
        self._used = self._lanes[:1]  # those that frames are steered to: never empty
        self._link: tuple[bool, Offloads] = (False, Offloads())
        self._count = dict.fromkeys(_COUNTERS, 0)
        self._kicked_at = [-1] * (2 * queue_pairs + control_queue)
        self._audits = [RingAudit() for _ in self._kicked_at]
        self._breaks = [Breaks() for _ in self._kicked_at]
        self.faults: DeviceFaults | None = None
        self._timer: Timer | None = None
        self._interval = RECHECK_S
        self._coalescer = Coalescer(loop, self._signal_what_waits)
        self._published = [
            0
        ] * queue_pairs  # frames that were sent when the pair's receive ring was published last
        self._held = False
        self._owner: StateOwner = NoOwner()
        if listener is not None:
            loop.add_reader(listener.fileno(), self._accept)

    @classmethod
    async def listen(
        cls,
        path: str,
        *,
        name: str = "vhost-user",
        features: int = DEVICE_FEATURES,
        protocol_features: int = PROTOCOL_FEATURES,
        queue_pairs: int = 1,
        control_queue: bool = False,
        config: NetConfig | None = None,
        iommu: bool = True,
    ) -> VhostUserServer:
        """Listen at `path` now. TransportError says why not. `features` narrows what is offered; `control_queue` and
        `config`, configuration space with the card's MAC address, are for a frontend that has neither itself, which
        QEMU has. `iommu` offers VIRTIO_F_ACCESS_PLATFORM; QEMU passes it on to a guest only with iommu_platform=on, a
        frontend that passes on all that it is offered and has no IOMMU needs it off."""
        loop = asyncio.get_running_loop()
        return cls(
            listen_unix(path),
            loop,
            name,
            features,
            protocol_features,
            queue_pairs,
            control_queue,
            config,
            iommu,
        )

    # -- Port -------------------------------------------------------------------------------------------

    @property
    def link_up(self) -> bool:
        return self._link[0]

    @property
    def offloads(self) -> Offloads:
        return self._link[1]

    @property
    def mtu(self) -> int:
        """The guest's MTU as its frontend announced it (VHOST_USER_NET_SET_MTU), else 1500."""
        return self.net.mtu

    @property
    def connected(self) -> bool:
        """A frontend is connected, whether or not its guest runs."""
        return self._connection is not None

    @property
    def guest_runs(self) -> bool:
        """A ring of it runs: its guest is here and nowhere else."""
        return self._connection is not None and not self._connection.session.suspended

    @property
    def owner(self) -> StateOwner:
        """Of the state behind the device; a session that is there has a new one at once, as a back end that connects
        may have a session before anybody can say who the owner is."""
        return self._owner

    @owner.setter
    def owner(self, owner: StateOwner) -> None:
        self._owner = owner
        if self._connection is not None:
            self._connection.session.state.owner = owner

    def check_state(self, state: DeviceState) -> None:
        """StateError for one that no device like this can be made to be."""
        has_config = self._config is not None
        offered = offered_features(
            self._features, self._queue_pairs, self._control_queue, has_config, self._iommu
        )
        check(state, self._queue_pairs, offered)

    def hold(self) -> None:
        """See the module."""
        self._held = True

    def go_on(self) -> None:
        """Take up what the guest sent meanwhile."""
        self._held = False
        if self._connection is not None:
            for vring in self._connection.session.vrings:
                if vring.ring is not None:
                    self.ring_started(vring.index)

    def attach(self, handler: PortHandler) -> None:
        self._handler = handler
        if self.link_up:
            handler.link_changed(*self._link)

    def send(self, hdr: VnetHdr | None, parts: Sequence[Buffer]) -> bool:
        if hdr is None or self.net.offloads.takes(hdr, parts):
            return self._send(hdr, parts)
        train = finish(hdr, parts)
        if not train:
            self._count["tx_drop_malformed"] += 1
            return False
        sent = True
        for frame in train:
            sent &= self._send(None, frame)
        return sent

    def _send(self, hdr: VnetHdr | None, parts: Sequence[Buffer]) -> bool:
        rx_filter = self.net.rx_filter
        if rx_filter.active and not rx_filter.accepts(parts[0]):
            self._count["tx_drop_filtered"] += 1
            return False
        lane = self._used[0] if len(self._used) == 1 else self._steered(parts)
        ring = lane.ring
        if ring is None:
            if lane.paused:
                return self._queue(lane, hdr, parts)
            self._count["tx_drop_link_down"] += 1
            return False
        if lane.backlog:
            return self._queue(lane, hdr, parts)
        try:
            verdict = self.net.transmit(ring, hdr, parts)
        except IotlbMiss as miss:
            self._missed(ring.index, miss)
            return self._queue(lane, hdr, parts, waits=True)
        except BrokenRing as error:
            self._quarantine(ring.index, error)
            self._count["tx_drop_broken"] += 1
            return False
        if verdict == NO_BUFFERS:
            return self._queue(lane, hdr, parts)
        return verdict == SENT

    def _steered(self, parts: Sequence[Buffer]) -> _Lane:
        """The queue for a frame: its flow's, or the first while that one's ring stands still."""
        lane = self._used[self.net.steering.pair_of(parts[0])]
        if lane.ring is None and not lane.paused:
            lane = self._used[0]
        lane.frames += 1
        return lane

    def _queue(self, lane: _Lane, hdr: VnetHdr | None, parts: Sequence[Buffer], waits: bool = False) -> bool:
        """Keep a frame; `waits`: for a translation, which will come by itself."""
        if len(lane.backlog) >= BACKLOG_FRAMES:
            self._count["tx_drop_backlog"] += 1
            return False
        kept = None if hdr is None else VnetHdr(*hdr.astuple())
        lane.backlog.append((kept, [b"".join(parts)]))
        if len(lane.backlog) == 1 and not waits:
            self._wait_for_buffers(lane)
        return True

    def _wait_for_buffers(self, lane: _Lane) -> None:
        if lane.ring is not None:
            if self._coalescer.active:
                self._coalescer.hurry(lane.ring.index)
            if lane.ring.arm_kicks():
                self._loop.call_soon(self._send_backlog, lane, False)
        self._keep_watch()

    def _send_backlog(self, lane: _Lane, caused: bool = True) -> int:
        """Send what waited, as far as there are buffers now; how many batches that was, 0 or 1."""
        backlog, ring = lane.backlog, lane.ring
        waited = len(backlog)
        try:
            while backlog and ring is not None:
                if self.net.transmit(ring, *backlog[0]) == NO_BUFFERS:
                    self._wait_for_buffers(lane)
                    break
                backlog.popleft()
        except IotlbMiss as miss:
            self._missed(2 * self._lanes.index(lane), miss)
        except BrokenRing as error:
            self._quarantine(error.queue, error)
            return 0
        if ring is None:
            return 0
        if not backlog:
            ring.suppress_kicks()
        found = self._audits[ring.index].kicks.looked(int(len(backlog) < waited), caused)
        self.flush()
        return found

    def flush(self) -> None:
        for lane in self._used:
            ring = lane.ring
            if ring is not None and ring.publish():
                if self._coalescer.active and not self._due(lane, ring):
                    self._audits[ring.index].interrupts.held_back()
                else:
                    self._shown(ring)

    def _due(self, lane: _Lane, ring: Ring) -> bool:
        """Whether the driver is to be told now of what was sent to it."""
        sent = lane.frames if len(self._used) > 1 else self.net.counters.tx_frames
        pair = ring.index // 2
        self._coalescer.add(ring.index, max(sent - self._published[pair], 1))
        self._published[pair] = sent
        return self._coalescer.due(ring.index)

    def _signal_what_waits(self, index: int) -> None:
        """A notification has waited as long as its driver lets it."""
        ring = self._ring(index)
        if ring is not None:
            self._audits[index].interrupts.timed += 1
            self._decide(ring)

    def _shown(self, ring: Ring) -> None:
        """Tell the driver of the batch that it was shown, if it wants to know."""
        self._audits[ring.index].interrupts.shown += 1
        self._decide(ring)

    def _decide(self, ring: Ring) -> None:
        audit = self._audits[ring.index].interrupts
        audit.pending = False
        if ring.needs_signal():
            audit.needed += 1
            self._signal(ring.index)
        else:
            audit.suppressed += 1

    def set_link(self, up: bool) -> None:
        """Pull the cable, or plug it in again. No frame passes meanwhile, and whoever is behind the port hears of it;
        the guest does if configuration space is ours (`config`). Of a QEMU, `set_link` in its monitor tells the
        guest."""
        if up == self._plugged:
            return
        self._plugged = up
        if self._config is not None:
            self._config.link_up = up
        self.state_changed()
        self._config_changed()

    def announce(self) -> bool:
        """Ask the guest to announce its addresses, as after a move to another network (virtio 1.2, section
        5.1.6.5.4); False if its driver does not know that. It acknowledges through the control queue."""
        if self._config is None or not self.net.features >> VIRTIO_NET_F_GUEST_ANNOUNCE & 1:
            return False
        self.net.control.announce = True
        self._config_changed()
        return True

    def _config_changed(self) -> None:
        if self._connection is not None:
            self._connection.perform(self._connection.session.config_changed())

    def stats(self) -> dict[str, int]:
        stats = {**self.net.counters.asdict(), **self._count, "tx_queued": self._queued()}
        stats["tx_dropped"] = sum(stats[name] for name in _TX_DROPS)
        return stats

    def _queued(self) -> int:
        return sum(len(lane.backlog) for lane in self._lanes)

    def negotiation(self) -> dict[str, Any]:
        """What the frontend and its guest agreed on with us: a dict for JSON; without one there are no features."""
        agreed = {} if self._connection is None else self._connection.session.negotiation()
        now = self._loop.time()
        for ring in agreed.get("rings", []):
            ring |= self._breaks[ring["index"]].asdict(now)
            ring["audit"] = self._audits[ring["index"]].asdict()
            lane = self._lane(ring["index"])
            if lane is not None:
                ring["steered"] = lane.frames
        told = {"transport": "vhost-user", "connected": self.connected, "mtu": self.mtu, **agreed}
        return told if self.faults is None else {**told, "faults": self.faults.asdict()}

    def close(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._loop.remove_reader(listener.fileno())
        if self._connection is not None:
            self._connection.close()
            self.disconnected(None)
        if listener is not None:
            listener.close()

    # -- frontends --------------------------------------------------------------------------------------

    def _accept(self) -> None:
        if self._listener is None:
            return
        sock = self._listener.accept()
        if sock is None:
            return
        if self._connection is not None and not self._connection.hung_up():
            self._count["clients_refused"] += 1
            sock.close()
            log.warning("%s: a second frontend was refused, one is connected", self.name)
            return
        self.serve(lambda session: Connection(self._loop, sock, session, self))

    def serve(self, connect: Callable[[Session], Link]) -> None:
        """A frontend is there: begin a session, over what `connect` makes of it."""
        self._count["connects"] += 1
        session = Session(
            self._map,
            queue_pairs=self._queue_pairs,
            features=self._features,
            protocol_features=self._protocol_features,
            net=self.net,
            control_queue=self._control_queue,
            allocator=allocate,
            config=self._config,
            iommu=self._iommu,
            owner=self._owner,
        )
        for vring, breaks in zip(session.vrings, self._breaks, strict=True):
            vring.breaks = breaks
        session.around = None if self.faults is None else self.faults.around
        self._connection = connect(session)
        log.info("%s: frontend connected", self.name)

    def _map(self, fd: int, size: int, offset: int) -> Mapping:
        """Guest memory is taken unsealed too, since much of what is legal comes so, but not without a word."""
        mapping = map_fd(fd, size, offset)
        if not mapping.sealed:
            self._count["unsealed_regions"] += 1
            if self._count["unsealed_regions"] == 1:
                log.warning("%s: %s", self.name, _UNSEALED)
        return mapping

    def disconnected(self, error: FrontendError | None) -> None:
        self._connection = None
        self.state_changed()
        self._coalescer.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if error is None:
            log.info("%s: frontend disconnected", self.name)
        else:
            self._count["frontend_errors"] += 1
            log.warning("%s: frontend disconnected: %s", self.name, error)

    # -- rings ------------------------------------------------------------------------------------------

    def _ring(self, index: int) -> Ring | None:
        return None if self._connection is None else self._connection.session.vrings[index].ring

    def _broken(self, index: int) -> bool:
        connection = self._connection
        return connection is not None and connection.session.vrings[index].broken is not None

    def _runs(self, index: int) -> bool:
        """The ring runs, or will again by itself."""
        connection = self._connection
        return connection is not None and (
            connection.session.running(index) is not None or connection.session.parked(index)
        )

    def _running(self, index: int) -> Ring | None:
        return None if self._connection is None else self._connection.session.running(index)

    def _is_control(self, index: int) -> bool:
        return self._connection is not None and self._connection.session.control_index == index

    def _lane(self, index: int) -> _Lane | None:
        """The receive queue of a ring. None for any other, also for the last one of a device with a control queue that
        was not negotiated: nothing forbids to start that."""
        if index & 1 or self._is_control(index) or index // 2 >= len(self._lanes):
            return None
        return self._lanes[index // 2]

    def _pair_runs(self, pair: int) -> bool:
        if self._is_control(2 * pair):
            return False
        return self._runs(2 * pair) and (self._runs(2 * pair + 1) or self._broken(2 * pair + 1))

    def state_changed(self) -> None:
        """The link is up while the first pair's rings run and are enabled; pairs behind it are used as far as they do
        without a gap.

        A transmit ring in quarantine does not take it down: the other direction goes on.
        """
        up = self._plugged and self._pair_runs(0)
        for pair, lane in enumerate(self._lanes):
            runs = up and self._pair_runs(pair)
            lane.ring = self._running(2 * pair) if runs else None
            lane.paused = runs and lane.ring is None
            if not runs:
                lane.backlog.clear()
        self._used = (
            list(takewhile(lambda lane: lane.ring is not None or lane.paused, self._lanes)) or self._lanes[:1]
        )
        if self._connection is not None and self._connection.session.control_index >= 0:
            self._used = self._used[: self.net.control.pairs]
        self.net.steering.use(len(self._used))
        self._coalescer.use(self.net.control.coalescing)
        link = (up, self.net.offloads if up else Offloads())
        if link != self._link:
            self._link = link
            if self._handler is not None:
                self._handler.link_changed(*link)

    def ring_started(self, index: int) -> None:
        """A ring is scanned once when it starts: the kick for what is in it may be lost."""
        ring = self._ring(index)
        if ring is None:
            return
        if ring.resynchronised:
            ring.resynchronised = False  # it is told once, though a ring that is enabled starts again
            self._count["resynchronised_rings"] += 1
            log.info(
                "%s: queue %d taken up at %#x by what its used descriptors say", self.name, index, ring.base
            )
        if ring.tracked:
            self._took_over(ring)
        if self._is_control(index):
            self._loop.call_soon(self._scan, self._obey, index)
        elif index & 1:
            self._loop.call_soon(self._scan, self._drain, index)
        else:
            ring.suppress_kicks()
        self._keep_watch()

    def _scan(self, look: Callable[[int], int], index: int) -> None:
        self._audits[index].kicks.at_start += bool(look(index))

    def _took_over(self, ring: Ring) -> None:
        """A back end that died may have given buffers back without telling the driver."""
        if ring.resubmitted:
            self._count["resubmitted_buffers"] += ring.resubmitted
            text = "%s: queue %d taken up with %d buffers that were in flight"
            log.info(text, self.name, ring.index, ring.resubmitted)
            ring.resubmitted = 0
        self._audits[ring.index].interrupts.rechecked(True)
        self._signal(ring.index)

    def ring_stopped(self, index: int) -> None:
        self._coalescer.forget(index)
        self._audits[index].interrupts.pending = False
        lane = self._lane(index)
        if lane is not None:
            lane.ring = None

    def ring_paused(self, index: int) -> None:
        self.state_changed()

    def ring_resumed(self, index: int) -> None:
        """Look at it: whatever kicks came meanwhile led nowhere."""
        ring = self._ring(index)
        self.state_changed()
        if ring is None:
            return
        ring.publish()
        if ring.needs_signal():  # what was published when it was paused
            self._audits[index].interrupts.rechecked(True)
            self._signal(index)
        self._loop.call_soon(self._scan, self._look, index)

    def _missed(self, index: int, miss: IotlbMiss) -> None:
        """The ring's next buffer is not translated yet."""
        self._count["iotlb_misses"] += 1
        if self._connection is not None:
            self._connection.perform(self._connection.session.missed(index, miss))
            self._keep_watch()

    def channel_closed(self, reason: str, finished: bool) -> None:
        if finished:
            log.info("%s: %s", self.name, reason)
            return
        self._count["channel_errors"] += 1
        log.warning("%s: the back-end channel is closed: %s", self.name, reason)

    def ring_broken(self, index: int, error: BrokenRing) -> None:
        self._count["broken_rings"] += 1
        self._breaks[index].at = self._loop.time()
        log.warning("%s: %s", self.name, error)

    def _quarantine(self, index: int, error: BrokenRing) -> None:
        if self._connection is not None:
            self._connection.perform(self._connection.session.quarantine(index, error))

    def _signal(self, index: int) -> None:
        audit = self._audits[index].interrupts
        if self._connection is not None and self._connection.signal(index):
            self._count["signals"] += 1
            audit.sent += 1
        else:
            audit.unsent += 1

    def kicked(self, index: int) -> bool:
        """Look at the ring; False if the driver has added nothing since its last kick."""
        self._count["kicks"] += 1
        audit = self._audits[index].kicks
        ring = self._ring(index)
        if ring is None:
            audit.kicks += 1
            audit.spurious += 1
            return False
        mark = ring.mark()
        news = mark != self._kicked_at[index]
        self._kicked_at[index] = mark
        audit.kicks += 1
        if not self._look(index):
            audit.spurious += 1
        return news

    def _look(self, index: int) -> int:
        """Serve a ring; how many batches were found."""
        if self._is_control(index):
            return self._obey(index)
        if index & 1:
            return self._drain(index)
        lane = self._lane(index)
        return self._send_backlog(lane) if lane is not None and lane.backlog else 0

    def _obey(self, index: int) -> int:
        """Carry out the driver's commands: virtio 1.2, section 5.1.6.5. How many batches that was, 0 or 1."""
        ring = self._ring(index)
        if ring is None:
            return 0
        try:
            while True:
                chain = ring.pop()
                if chain is not None:
                    self._answer(ring, chain)
                elif not ring.arm_kicks():
                    break
        except IotlbMiss as miss:
            self._missed(index, miss)
        except BrokenRing as error:
            self._quarantine(index, error)
            return 0
        found = ring.publish()
        if found:
            self._shown(ring)
        self.state_changed()
        return self._audits[index].kicks.looked(int(found))

    def _answer(self, ring: Ring, chain: Chain) -> None:
        room = sum(map(len, chain.writable))
        answer = self.net.control.process(b"".join(chain.readable), room)
        if not answer:
            rule = "a control command without room for its ack"
            raise BrokenRing(ring.index, rule, "5.1.6.5", chain.head)
        scatter(chain.writable, (answer,))
        ring.push(chain.head, len(answer))

    def _drain(self, index: int, caused: bool = True) -> int:
        """Empty a transmit ring, or as much of it as one turn may take; how many batches that was. `caused`: something
        made us look, and it is not the rest of an earlier turn."""
        if self._held:
            return 0
        left = CHAINS_PER_TURN
        batches = 0
        while left > 0:
            ring = self._ring(index)
            if ring is None:
                break
            ring.suppress_kicks()
            before, walked = ring.last_avail, ring.walked
            try:
                frames = self.net.receive(ring, BATCH)
            except IotlbMiss as miss:
                self._missed(index, miss)
                break
            except BrokenRing as error:
                self._quarantine(index, error)
                break
            taken = ring.advance(before)
            left -= taken + (ring.walked - walked) // DESCRIPTORS_PER_CHAIN
            if taken:
                batches += 1
                if self._coalescer.active:
                    self._coalescer.add(index, taken)
                self._complete(ring, index, frames)
            elif not ring.arm_kicks():
                break
        else:
            self._loop.call_soon(self._drain, index, False)
        if left < CHAINS_PER_TURN:
            self._keep_watch()
        return self._audits[index].kicks.looked(batches, caused)

    def _complete(self, ring: Ring, index: int, frames: list[Frame]) -> None:
        """Give a batch's buffers back, hand its frames on, and tell the driver if it wants to know.

        Where buffers in flight are tracked, frames go first: what was not handed on is not given back either.
        """
        audit = self._audits[index].interrupts
        shown = not ring.tracked and ring.publish()
        count = self._count
        count["batches"] += 1
        signals = count["signals"]
        if self._running(index) is None:
            count["rx_drop_disabled"] += len(frames)
        elif not self._plugged:
            count["rx_drop_link_down"] += len(frames)
        elif frames:
            if len(self._used) > 1:
                for _, frame in frames:
                    self.net.steering.sent_on(frame, index // 2)
            self._deliver(frames)
        if ring.tracked and ring is self._ring(index):
            shown = ring.publish()
        if not shown:
            return
        if self._coalescer.active and not self._coalescer.due(index):
            audit.held_back()
            return
        audit.shown += 1
        if count["signals"] != signals:
            audit.put_off()
        elif self._ring(index) is not ring:
            audit.stopped += 1
        else:
            self._decide(ring)

    def _signal_completions(self, ring: Ring) -> None:
        """Tell the driver of what was given back to it without its being told, if it still wants to know."""
        if self._coalescer.active and not self._coalescer.due(ring.index):
            return
        wanted = ring.needs_signal()
        self._audits[ring.index].interrupts.rechecked(wanted)
        if wanted:
            self._signal(ring.index)

    def _deliver(self, frames: list[Frame]) -> None:
        if self._handler is None:
            return
        deliver(self._handler, frames, self._handler_failed)
        self.flush()

    def _handler_failed(self, error: Exception) -> None:
        self._loop.call_exception_handler({"message": f"{self.name}: handler failed", "exception": error})

    def rarp(self, mac: bytes) -> None:
        """Announce the guest's MAC to whoever is behind: a reverse ARP request from it (RFC 903)."""
        body = b"\x00\x01\x08\x00\x06\x04\x00\x03" + (mac + bytes(4)) * 2
        frame = b"\xff" * 6 + mac + b"\x80\x35" + body
        self._deliver([(None, frame.ljust(60, b"\0"))])

    # -- faults on purpose (virtio/ringfaults.py) ---------------------------------------------------------

    def inject(self, faults: DeviceFaults) -> None:
        """Break the rules as these say, on rings that run too. Once: faults are added to the ones that are there."""
        self.faults = faults
        faults.attach(self)
        faults.on_injected = lambda done: log.warning("%s: %s", self.name, done)
        if self._connection is None:
            return
        session = self._connection.session
        session.around = faults.around
        for vring in session.vrings:
            if vring.ring is not None:
                vring.ring = faults.around(vring.ring, session.features)
            if vring.parked is not None:
                vring.parked = faults.around(vring.parked, session.features)
        self.state_changed()

    def now(self) -> float:
        return self._loop.time()

    def later(self, delay: float, callback: Callable[[], None]) -> object:
        return self._loop.call_later(delay, callback)

    def settle(self, index: int) -> None:
        """Show the driver what was given back on a ring, and tell it if it wants to know."""
        ring = self._ring(index)
        if ring is not None and ring.publish():
            self._shown(ring)

    def interrupt(self, index: int) -> None:
        """Tell a driver, whether it wants to know or not."""
        self._signal(index)

    def demand_reset(self) -> None:
        """VIRTIO_CONFIG_S_NEEDS_RESET (virtio 1.2, section 2.1.2): for a frontend that asks for the status, as nothing
        in vhost-user tells one."""
        if self._connection is not None:
            self._connection.session.status |= VIRTIO_CONFIG_S_NEEDS_RESET

    def hang_up(self) -> None:
        """Close the frontend's connection; one that comes back is served anew."""
        if self._connection is not None:
            self._connection.close()
            self.disconnected(None)

    # -- lost kicks -------------------------------------------------------------------------------------

    def _keep_watch(self) -> None:
        """Something happened: look again in 5 ms."""
        if self._timer is None or self._interval > RECHECK_S:
            if self._timer is not None:
                self._timer.cancel()
            self._interval = RECHECK_S
            self._timer = self._loop.call_later(RECHECK_S, self._recheck)

    def _recheck(self) -> None:
        connection = self._connection
        self._timer = None
        if connection is None:
            return
        found = False
        for vring in connection.session.vrings:
            connection.perform(connection.session.retry(vring.index))
            ring = vring.ring
            if ring is not None and vring.index & 1 and not self._is_control(vring.index):
                self._signal_completions(ring)
            if ring is not None and self._neglected(connection, ring):
                found = True
                self._count["lost_kicks"] += 1
                self._audits[vring.index].kicks.lost += bool(self._look(vring.index))
        if self._timer is None and self._connection is not None:
            self._interval = RECHECK_S if found else min(2 * self._interval, RECHECK_IDLE_S)
            self._timer = self._loop.call_later(self._interval, self._recheck)

    def _neglected(self, connection: Link, ring: Ring) -> bool:
        """Entries wait that we asked to be told of, and no kick is under way."""
        if self._held or connection.session.waits(ring.index):
            return False
        if not ring.index & 1 and not self._is_control(ring.index):
            lane = self._lane(ring.index)
            if lane is None or not lane.backlog:
                return False
        return ring.unseen() and not connection.kick_pending(ring.index)
