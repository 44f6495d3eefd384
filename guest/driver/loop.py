# SPDX-License-Identifier: GPL-2.0-or-later
"""Driver, rings and device in one process on a clock that is stepped: no socket, no thread, nothing that sleeps.

    world = World()                        loop, device (a Port), guest memory, frontend
    world.port.attach(handler)             a stack, or whoever is behind the device
    driver = world.start(features)         the whole negotiation; rings run
    driver.send(frame); world.kick(TX)     through memory, as a guest would
    world.settle()                         everything that is due now, until nobody has anything to do
    world.sleep(0.005)                     time passes, timers run in order
    world.crash(); world.take_over()       the device dies as it stands, another one goes on in the same memory

The device is the one that serves QEMU (`VhostUserServer`): its drains, its suppression of kicks, its re-check of
lost ones. What is replaced is the event loop under it (`StepLoop`) and the connection (`DirectLink`), whose kicks and
signals are flags instead of eventfds: set twice before the other side looks they count once, as an eventfd would.
Messages go to the Session with duplicated descriptors, as SCM_RIGHTS does, since whoever takes one closes it.

Same calls, same order of events: the loop runs callbacks in the order in which they were asked for, timers by time
and then by that order.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final, TypeVar

from devmodel.errors import FrontendError, StateError
from devmodel.vhost_user import actions as va
from devmodel.vhost_user import message as vu
from devmodel.vhost_user import session as vs
from devmodel.vhost_user.backend_channel import BackendChannel
from devmodel.vhost_user.connection import Device
from devmodel.vhost_user.message import Message
from devmodel.vhost_user.server import VhostUserServer
from devmodel.virtio import features as vf
from devmodel.virtio.config import NetConfig
from devmodel.virtio.features import DEVICE_FEATURES, VIRTIO_F_ACCESS_PLATFORM, mask
from devmodel.virtio.inflight import InflightSpec
from devmodel.virtio.state import StateReader
from guest.driver.channel import Asked, FrontendChannel, invalidation
from guest.driver.control import CTRL, Command
from guest.driver.errors import BackendHungUp, BackendSilent
from guest.driver.frontend import CHANNEL_FEATURES, Call, Frontend, Steps
from guest.driver.iommu import Iommu
from guest.driver.memory import LAYOUTS, DriverMemory
from guest.driver.virtio_net import DEFAULT_MTU, DRIVER_FEATURES, RX, TX, Frame, VirtioNetDriver

T = TypeVar("T")

MEMORY_SIZE: Final = 8 << 20
_STEPS_PER_INSTANT: Final = 100_000


class StepTimer:
    """What `StepLoop.call_later()` gives."""

    __slots__ = ("args", "callback", "cancelled", "when")

    def __init__(self, when: float, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.when = when
        self.callback = callback
        self.args = args
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class StepLoop:
    """The part of an event loop that a device needs; time moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self._soon: deque[StepTimer] = deque()
        self._timers: list[tuple[float, int, StepTimer]] = []
        self._count = 0

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., object], /, *args: Any) -> StepTimer:
        handle = StepTimer(self.now, callback, args)
        self._soon.append(handle)
        return handle

    def call_later(self, delay: float, callback: Callable[..., object], /, *args: Any) -> StepTimer:
        return self.call_at(self.now + delay, callback, *args)

    def call_at(self, when: float, callback: Callable[..., object], /, *args: Any) -> StepTimer:
        handle = StepTimer(when, callback, args)
        self._count += 1
        heappush(self._timers, (when, self._count, handle))
        return handle

    def add_reader(self, fd: int, callback: Callable[[], None], /) -> None:
        raise NotImplementedError("no descriptor is waited for on a step clock")

    def remove_reader(self, fd: int, /) -> bool:
        return False

    def add_writer(self, fd: int, callback: Callable[[], None], /) -> None:
        raise NotImplementedError("no descriptor is waited for on a step clock")

    def remove_writer(self, fd: int, /) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any], /) -> None:
        """A fault of whoever is behind the port ends the run, as tests want it."""
        raise context["exception"]

    def run_ready(self) -> bool:
        """Run what was asked for and is due; whether there was anything."""
        while self._timers and self._timers[0][0] <= self.now:
            self._soon.append(heappop(self._timers)[2])
        ready, self._soon = self._soon, deque()
        for handle in ready:
            if not handle.cancelled:
                handle.callback(*handle.args)
        return bool(ready)

    def next_deadline(self) -> float | None:
        """When the next timer is due; None without one."""
        while self._timers and self._timers[0][2].cancelled:
            heappop(self._timers)
        return self._timers[0][0] if self._timers else None


class DirectLink:
    """A frontend in this process, seen from the device; and the device, seen from the frontend."""

    def __init__(self, loop: StepLoop, session: vs.Session, device: Device) -> None:
        self.session = session
        self.log: list[Call] = []
        self.signalled: set[int] = set()
        self.errors: set[int] = set()
        self.ended: FrontendError | None = None
        self.unheard: list[bytes] = []
        self._loop = loop
        self._device = device
        self._open = True
        self._kicks: set[int] = set()
        self._replies: deque[tuple[bytes, int | None]] = deque()
        self._state_fd = -1
        self.on_channel: Callable[[bytes], None] = self.unheard.append
        self.channel_ends: list[str] = []

    # -- for the frontend -------------------------------------------------------------------------------

    def run(self, steps: Steps[T]) -> T:
        """Carry a part of the protocol to its end."""
        answer: bytes | None = None
        while True:
            try:
                call = next(steps) if answer is None else steps.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            answer = self.call(call)

    def call(self, call: Call) -> bytes:
        """Give one message to the session; the payload of its answer, b"" if it has none."""
        if not self._open:
            raise BackendHungUp("the session is over", str(self.ended or ""))
        self.log.append(call)
        if self._state_fd >= 0 and call.request == vu.Request.VHOST_USER_CHECK_DEVICE_STATE:
            self._read_state()
        flags = vu.VHOST_USER_VERSION | (vu.VHOST_USER_NEED_REPLY_MASK if call.need_reply else 0)
        fds = tuple(os.dup(fd) for fd in call.fds)
        self.perform(self.session.handle(Message(call.request, flags, call.payload, fds)))
        if not call.replies:
            return b""
        if self._replies:
            data, fd = self._replies.popleft()
            if fd is not None and call.got_fds is not None:
                call.got_fds.append(fd)
            elif fd is not None:
                os.close(fd)
            return data[vu.HEADER.size :]
        if not self._open:
            raise BackendHungUp(f"the session ended by {call.name}", str(self.ended or ""))
        raise BackendSilent(f"the session did not answer {call.name}")

    def answer(self, data: bytes) -> None:
        """Say something on the back-end channel, b"" to close it, as a socket's reader would find it."""
        channel = self.session.channel
        while self._open and channel is not None and not channel.closed:
            part, data = data[: channel.wants], data[channel.wants :]
            try:
                answer = channel.feed(part)
            except FrontendError as error:
                self.perform(self.session.channel_lost(error.fact))
                return
            if answer is not None:
                self.perform(self.session.channel_heard(answer))
            if not data:
                return

    def kick(self, index: int) -> None:
        """The device looks at the ring in its next turn."""
        if self._open and index not in self._kicks:
            self._kicks.add(index)
            self._loop.call_soon(self._kicked, index)

    def _kicked(self, index: int) -> None:
        self._kicks.discard(index)
        if self._open:
            self._device.kicked(index)

    def take_signals(self) -> set[int]:
        """The rings that were signalled since the last call."""
        signalled, self.signalled = self.signalled, set()
        return signalled

    def disconnect(self) -> None:
        """As when the frontend's process ends."""
        if self._open:
            self.close()
            self._device.disconnected(None)

    # -- for the device ---------------------------------------------------------------------------------

    def perform(self, actions: list[va.Action]) -> None:
        for action in actions:
            if self._open or isinstance(action, va.CloseFd | va.ChannelFd):
                self._perform_one(action)

    def _perform_one(self, action: va.Action) -> None:
        device = self._device
        match action:
            case va.Reply(data, fd):
                self._replies.append((data, fd))
            case va.CloseFd(fd):
                os.close(fd)
            case va.KickFd(_, fd) | va.CallFd(_, fd) | va.ErrFd(_, fd):
                if fd is not None:
                    os.close(fd)
            case va.LogFd(fd):
                os.close(fd)
            case va.Signal(index):
                self.signal(index)
            case va.SaveState(fd, data):
                self._write_state(fd, data)
            case va.LoadState(fd):
                self._state_fd = fd
            case va.StopTransfer():
                self._forget_state()
            case va.RingStarted(index):
                device.ring_started(index)
            case va.RingStopped(index):
                device.ring_stopped(index)
            case va.RingBroken(index, error):
                self.errors.add(index)
                device.ring_broken(index, error)
            case va.RingPaused(index):
                device.ring_paused(index)
            case va.RingResumed(index):
                device.ring_resumed(index)
            case va.Kicked(index):
                device.kicked(index)
            case va.ChannelFd(fd, _):
                os.close(fd)
            case va.ChannelSend(data):
                self.on_channel(data)
            case va.ChannelClosed(reason, finished):
                self.channel_ends.append(reason)
                device.channel_closed(reason, finished)
            case va.StateChanged():
                device.state_changed()
            case va.Rarp(mac):
                device.rarp(mac)
            case va.Disconnect(error):
                self.ended = error
                self.close()
                device.disconnected(error)

    def _write_state(self, fd: int, data: bytes) -> None:
        """All at once: the pipe is made large enough."""
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, max(len(data), 4096))
        os.write(fd, data)
        os.close(fd)
        self.perform(self.session.state_ended(None, None))

    def _read_state(self) -> None:
        """What the frontend has written before it asks how it went."""
        reader, fd = StateReader(), self._state_fd
        state, error = None, None
        os.set_blocking(fd, False)
        try:
            while data := os.read(fd, 1 << 16):
                reader.feed(data)
            state = reader.finish()
        except BlockingIOError:
            error = StateError(
                "the state's transfer stalled", "the frontend asked before it had closed the pipe"
            )
        except StateError as caught:
            error = caught
        self._forget_state()
        self.perform(self.session.state_ended(state, error))

    def _forget_state(self) -> None:
        fd, self._state_fd = self._state_fd, -1
        if fd >= 0:
            os.close(fd)

    def signal(self, index: int) -> bool:
        if actions := self.session.notify(index):
            self.perform(actions)
            return True
        self.signalled.add(index)
        return True

    def kick_pending(self, index: int) -> bool:
        return index in self._kicks

    def hung_up(self) -> bool:
        return not self._open

    def die(self) -> None:
        """As when the back end's process is killed: nothing is stopped, nothing is written any more."""
        self._open = False

    def close(self) -> None:
        if self._open:
            self.perform(self.session.close())
            self._open = False


class World:
    """See the module. `lose_kicks` and `lose_signals` take that many of the next ones away; with `inflight` the
    frontend has the device write down which buffers it holds, where it offers that.

    With `iommu` ("strict" or "lazy") the driver's addresses are I/O virtual; the frontend then has its end of the
    back-end channel too, as it has with `config` and `inband`. There `channel_delay_s` is how long it takes to answer,
    and `lose_requests` how many of the next requests it never sees.
    """

    def __init__(
        self,
        *,
        offered: int = DEVICE_FEATURES,
        protocol_features: int = vs.PROTOCOL_FEATURES,
        layout: str = "split",
        memory_size: int = MEMORY_SIZE,
        inflight: bool = False,
        iommu: str = "",
        config: NetConfig | None = None,
        inband: bool = False,
        control_queue: bool = False,
    ) -> None:
        self.loop = StepLoop()
        self.inband = inband
        if inband:
            protocol_features |= mask(vu.VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS)
        self._offered = offered, protocol_features
        self._control_queue, self._config, self._iommu = control_queue, config, bool(iommu)
        self.port = self._device()
        self.inflight: tuple[InflightSpec, int] | None = None
        self._wants_inflight = inflight
        self._bases: list[int] = []
        self.memory = DriverMemory(LAYOUTS[layout](memory_size))
        self.iommu = Iommu(self.memory, lazy=iommu == "lazy") if iommu else None
        if self.iommu is not None:
            self.iommu.on_unmap = self._invalidate
        self.channel_delay_s = 0.0
        self.lose_requests = 0
        self.frontend = Frontend()
        if iommu or inband or config is not None:
            self.frontend.wanted_protocol |= CHANNEL_FEATURES
            self.frontend.channel_fd = self.memory.fd  # any descriptor: nobody writes to it
        self.channel = FrontendChannel(self.frontend, self.iommu)
        self.driver: VirtioNetDriver | None = None
        self.received: list[Frame] = []
        self.on_frames: Callable[[list[Frame]], None] = self.received.extend
        self.lose_kicks = 0
        self.lose_signals = 0
        self.link = self.connect()

    def connect(self) -> DirectLink:
        """A frontend connects (again): the device sees a new session."""

        def make(session: vs.Session) -> DirectLink:
            self.link = DirectLink(self.loop, session, self.port)
            self.link.on_channel = self._asked
            return self.link

        self.frontend.forget()
        self.channel = FrontendChannel(self.frontend, self.iommu)
        self.port.serve(make)
        return self.link

    # -- the back-end channel ---------------------------------------------------------------------------

    def _asked(self, data: bytes) -> None:
        """The device said something on the channel: it is answered in a turn of its own."""
        link = self.link
        for asked in self.channel.feed(data):
            if self.lose_requests:
                self.lose_requests -= 1
            else:
                self.loop.call_later(self.channel_delay_s, self._answer, link, link.session.channel, asked)

    def _answer(self, link: DirectLink, end: BackendChannel | None, asked: Asked) -> None:
        """`end` is where it was asked: an answer to a channel that was replaced meanwhile is heard by nobody."""
        if link is not self.link or link.hung_up():
            return
        number = link.run(self.channel.steps(asked))
        reply = self.channel.reply(asked, number)
        if reply and end is link.session.channel:
            link.answer(reply)
        called, self.channel.calls = self.channel.calls, set()
        link.signalled |= called

    def _invalidate(self, iova: int, size: int) -> None:
        """The guest took a mapping away: the device has let go of it when this returns."""
        if not self.link.hung_up() and self.frontend.features >> VIRTIO_F_ACCESS_PLATFORM & 1:
            self.link.run(self.frontend.request(vu.Request.VHOST_USER_IOTLB_MSG, invalidation(iova, size)))

    # -- the guest --------------------------------------------------------------------------------------

    def start(
        self, features: int = DRIVER_FEATURES, num: int = 64, mtu: int = DEFAULT_MTU
    ) -> VirtioNetDriver:
        """Negotiate, and start a new driver's rings. What is not offered is not asked for."""
        frontend = self.frontend
        if self.driver is not None:
            self.driver.release()
        offered = self.link.run(frontend.connect())
        if mtu != DEFAULT_MTU:
            self.link.run(frontend.set_mtu(mtu))
        if self.iommu is not None:
            features |= mask(VIRTIO_F_ACCESS_PLATFORM)
        self.link.run(frontend.set_features(features & offered))
        driver = VirtioNetDriver(self.memory, frontend.features, num, mtu, self.iommu)
        self.driver = driver
        driver.refill()
        self._bases = [queue.base for queue in driver.queues]
        if self._wants_inflight and frontend.has(vu.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD):
            self._forget_inflight()
            self.inflight = self.link.run(frontend.get_inflight(len(driver.queues), num))
        self.resume()
        return driver

    def stop(self) -> list[int]:
        """Stop the rings, as a guest's reset does; where they stand."""
        assert self.driver is not None
        return self.link.run(self.frontend.stop(self.driver.queues))

    def resume(self) -> None:
        """Start the rings of the driver that is there, where they stand."""
        assert self.driver is not None
        if self.inflight is not None:
            self.link.run(self.frontend.set_inflight(*self.inflight))
        self.link.run(self.frontend.start(self.memory, self.driver.queues))
        self.driver.rx.enable_calls()
        self.settle()

    def crash(self) -> VhostUserServer:
        """The device's process is killed, and another one started: its port, which nobody is behind yet."""
        self.link.die()
        now, self.loop = self.loop.now, StepLoop()
        self.loop.now = now
        self.port = self._device()
        return self.port

    def take_over(self) -> None:
        """The frontend connects to the new device and has it go on. As QEMU does it names the places where the
        rings were started, since it was not told of any since."""
        assert self.driver is not None
        self.connect()
        frontend = self.frontend
        self.link.run(frontend.connect())
        features = self.driver.features & ~vf.mask(vf.VHOST_USER_F_PROTOCOL_FEATURES)
        self.link.run(frontend.set_features(features))
        if self.inflight is not None:
            self.link.run(frontend.set_inflight(*self.inflight))
        self.link.run(frontend.start(self.memory, self.driver.queues, bases=self._bases))

    def _device(self) -> VhostUserServer:
        return VhostUserServer(
            None,
            self.loop,
            "in-process",
            *self._offered,
            control_queue=self._control_queue,
            config=self._config,
            iommu=self._iommu,
        )

    def _forget_inflight(self) -> None:
        if self.inflight is not None:
            os.close(self.inflight[1])
        self.inflight = None

    def send(self, *frames: bytes) -> None:
        """A batch of frames out of the guest, one kick for all if the device wants one."""
        assert self.driver is not None
        for frame in frames:
            self.driver.queue(frame)
        if self.driver.tx.publish():
            self.kick(TX)

    def command(self, command: Command) -> int:
        """Have one command of the control queue carried out; its ack."""
        return self.ask(command)[0]

    def ask(self, command: Command, room: int = 0) -> bytes:
        """The same; ack and result, which has so many bytes."""
        assert self.driver is not None
        assert self.driver.control is not None
        if self.driver.control.post(command, room):
            self.kick(CTRL)
        self.settle()
        (answer,) = self.driver.control.answers()
        return answer

    def kick(self, index: int) -> None:
        if self.lose_kicks:
            self.lose_kicks -= 1
        elif self.inband:
            self.link.run(self.frontend.set_state(vu.Request.VHOST_USER_VRING_KICK, index, 0))
        else:
            self.link.kick(index)

    def _interrupts(self) -> bool:
        """Let the driver handle what was signalled; whether anything was."""
        signalled = self.link.take_signals()
        if not signalled or self.driver is None:
            return False
        if self.lose_signals:
            self.lose_signals -= 1
            return True
        if RX in signalled:
            self.poll()
        if TX in signalled:
            self.driver.reclaim()
        return True

    def poll(self) -> None:
        """Look at the receive ring as an interrupt would make the driver do."""
        assert self.driver is not None
        frames, kick = self.driver.receive()
        if kick:
            self.kick(RX)
        if frames:
            self.on_frames(frames)

    # -- time -------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Run device and driver until neither has anything to do now."""
        for _ in range(_STEPS_PER_INSTANT):
            if not (self.loop.run_ready() | self._interrupts()):
                return
        raise RuntimeError(f"device and driver never come to rest at {self.loop.now} s")

    def sleep(self, seconds: float) -> None:
        """Let time pass, and everything happen at its time."""
        until = self.loop.now + seconds
        self.settle()
        while (due := self.loop.next_deadline()) is not None and due <= until:
            self.loop.now = max(due, self.loop.now)
            self.settle()
        self.loop.now = until

    def close(self) -> None:
        self.link.disconnect()
        self.port.close()
        self._forget_inflight()
        self.memory.close()
