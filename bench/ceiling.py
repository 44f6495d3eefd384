# SPDX-License-Identifier: GPL-2.0-or-later
"""The ceiling: what vnic's device, event loop and QEMU allow on this machine when the stack behind them does nothing.

A PortHandler that answers the bench's client frame by frame: no sockets, timers, retransmission, congestion control
or checks, and it breaks at the first lost frame.  It is no server, but the distance between it and vnic is the price
of the stack, and the distance between it and a peer is what a stack could win at most.  Its segments carry MSS and
window scale only.

    state: one Peer per connection, its next sequence numbers and what the client's window allows
    answers: SYN -> SYN-ACK; ports BASE_PORT + 0..3 as in bench/apps.py; data of a batch is acknowledged once
"""

from __future__ import annotations

from struct import Struct

from bench.apps import BASE_PORT, CHUNK
from devmodel.port import Offloads, Port, VnetHdr

FIN, SYN, PSH, ACK = 1, 2, 8, 16
WSCALE = 7
MSS = 1460
GSO = 44 * MSS
MASK32 = 0xFFFFFFFF
_NEEDS_CSUM, _TCPV4 = 1, 1  # virtio 1.2, section 5.1.6
_IP = Struct("!BBHHHBBHII")
_TCP = Struct("!HHIIBBHHH")
_SYN_OPTIONS = bytes((2, 4, MSS >> 8, MSS & 255, 1, 3, 3, WSCALE))
_SEQ, _DOFF, _PORTS, _PAYLOAD = 38, 46, 34, 54


class Peer:
    """One connection; sequence numbers modulo 2**32, window in bytes."""

    __slots__ = ("acked", "frame", "left", "rcv_nxt", "request", "snd_nxt", "window", "wscale")

    def __init__(self, frame: bytes, rcv_nxt: int, wscale: int) -> None:
        self.frame = frame[:34]
        self.rcv_nxt, self.snd_nxt, self.acked = rcv_nxt, 1000, 1000
        self.wscale, self.window = wscale, 0
        self.left = -1  # bytes of a Source still to send; -1 before it was asked
        self.request = b""


class Responder:
    """The handler of a port whose guest runs vnicbench."""

    def __init__(self, port: Port, mac: bytes, address: int) -> None:
        self._port, self._mac, self._address = port, mac, address
        self._peers: dict[bytes, Peer] = {}
        self._to_acknowledge: dict[bytes, Peer] = {}
        self._react = (self._one_byte, self._ping_pong, self._sink, self._source)
        port.attach(self)

    def link_changed(self, up: bool, offloads: Offloads) -> None:
        """It assumes all offloads."""

    def batch_done(self) -> None:
        for ports, peer in self._to_acknowledge.items():
            self._send(ports, peer, ACK)
        self._to_acknowledge.clear()

    def frame_received(self, hdr: VnetHdr | None, frame: bytes) -> None:
        if frame[12:14] == b"\x08\x06":
            self._arp(frame)
        elif frame[23] == 1:
            self._echo(frame)
        elif frame[23] == 6:
            self._tcp(frame)

    # -- what is not measured ------------------------------------------------------------------------------------

    def _arp(self, frame: bytes) -> None:
        if frame[38:42] == self._address.to_bytes(4, "big"):
            answer = (
                frame[6:12] + self._mac + frame[12:20] + b"\0\2" + self._mac + frame[38:42] + frame[22:32]
            )
            self._port.send(None, [answer])

    def _echo(self, frame: bytes) -> None:
        """An echo request becomes its answer: type 0, so the checksum grows by the 8 that is gone (RFC 1624)."""
        check = int.from_bytes(frame[36:38], "big") + 0x0800
        check = (check & 0xFFFF) + (check >> 16)
        ip = frame[14:26] + frame[30:34] + frame[26:30]
        answer = frame[6:12] + frame[:6] + frame[12:14] + ip + b"\0\0" + check.to_bytes(2, "big") + frame[38:]
        self._port.send(None, [answer])

    # -- TCP -------------------------------------------------------------------------------------------------------

    def _tcp(self, frame: bytes) -> None:
        ports = frame[_PORTS : _PORTS + 4]
        flags = frame[_DOFF + 1]
        if flags & SYN:
            self._syn(ports, frame)
            return
        peer = self._peers.get(ports)
        if peer is None:
            return
        end = 14 + int.from_bytes(frame[16:18], "big")
        payload = frame[_PORTS + (frame[_DOFF] >> 4) * 4 : end]
        peer.rcv_nxt = (peer.rcv_nxt + len(payload) + (flags & FIN)) & MASK32
        peer.window = int.from_bytes(frame[48:50], "big") << peer.wscale
        peer.acked = int.from_bytes(frame[42:46], "big")
        self._react[frame[37] - (BASE_PORT & 0xFF)](ports, peer, flags, payload)

    def _syn(self, ports: bytes, frame: bytes) -> None:
        seq = int.from_bytes(frame[_SEQ : _SEQ + 4], "big")
        options = frame[_PAYLOAD : _PORTS + (frame[_DOFF] >> 4) * 4]
        at = options.find(b"\x03\x03")
        peer = Peer(frame, (seq + 1) & MASK32, options[at + 2] if at >= 0 else 0)
        self._peers[ports] = peer
        self._send(ports, peer, SYN | ACK)

    def _end(self, ports: bytes, peer: Peer) -> None:
        """The client's FIN: nothing is kept."""
        self._send(ports, peer, ACK)
        del self._peers[ports]

    def _one_byte(self, ports: bytes, peer: Peer, flags: int, payload: bytes) -> None:
        if flags & FIN:
            self._end(ports, peer)
        elif peer.snd_nxt == 1001:
            self._send(ports, peer, ACK | PSH, b"x")
            self._send(ports, peer, ACK | FIN)

    def _ping_pong(self, ports: bytes, peer: Peer, flags: int, payload: bytes) -> None:
        if payload:
            self._send(ports, peer, ACK | PSH, payload)
        if flags & FIN:
            self._send(ports, peer, ACK | FIN)

    def _sink(self, ports: bytes, peer: Peer, flags: int, payload: bytes) -> None:
        if flags & FIN:
            self._to_acknowledge.pop(ports, None)
            self._send(ports, peer, ACK | FIN)
        elif payload:
            self._to_acknowledge[ports] = peer

    def _source(self, ports: bytes, peer: Peer, flags: int, payload: bytes) -> None:
        if flags & FIN:
            self._end(ports, peer)
            return
        peer.request += payload
        if peer.left < 0 and len(peer.request) >= 8:
            peer.left = int.from_bytes(peer.request[:8], "big")
        while peer.left > 0:
            room = peer.window - ((peer.snd_nxt - peer.acked) & MASK32)
            size = min(GSO, peer.left, room // MSS * MSS)
            if size <= 0:
                return
            peer.left -= size
            self._send(ports, peer, ACK | PSH, memoryview(CHUNK)[:size])
            if not peer.left:
                self._send(ports, peer, ACK | FIN)

    def _send(self, ports: bytes, peer: Peer, flags: int, payload: bytes | memoryview = b"") -> None:
        options = _SYN_OPTIONS if flags & SYN else b""
        size = len(payload)
        head = peer.frame
        doff = 20 + len(options)
        source, to = int.from_bytes(head[30:34], "big"), int.from_bytes(head[26:30], "big")
        ip = _IP.pack(0x45, 0, 20 + doff + size, 0, 0x4000, 64, 6, 0, source, to)
        check = 0xFFFF - int.from_bytes(ip, "big") % 0xFFFF
        pseudo = (source + to + 6 + doff + size) % 0xFFFF
        tcp = _TCP.pack(
            *(int.from_bytes(ports[2:], "big"), int.from_bytes(ports[:2], "big")),
            *(peer.snd_nxt, peer.rcv_nxt, doff << 2, flags, 0xFFFF, pseudo, 0),
        )
        peer.snd_nxt = (peer.snd_nxt + size + bool(flags & (SYN | FIN))) & MASK32
        gso = size > MSS
        hdr = VnetHdr(
            _NEEDS_CSUM, _TCPV4 if gso else 0, 14 + 20 + doff if gso else 0, MSS if gso else 0, 34, 16
        )
        front = (
            head[6:12]
            + self._mac
            + head[12:14]
            + ip[:10]
            + check.to_bytes(2, "big")
            + ip[12:]
            + tcp
            + options
        )
        self._port.send(hdr, [front, payload] if size else [front])
