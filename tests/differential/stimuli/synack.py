# SPDX-License-Identifier: GPL-2.0-or-later
"""SYN-ACK shapes, options and malformed options."""

from __future__ import annotations

import socket

from tests.differential.script import Step, Stimulus, ack, established, listen, stimulus, syn, wait

L = listen()


def _one(name: str, *fields: Step, **sysctl: int | str) -> Stimulus:
    return stimulus(name, L, *fields, **sysctl)


STIMULI = [
    _one("synack-full", syn()),
    _one("synack-no-options", syn(bare=True)),
    _one("synack-mss-only", syn(bare=True, mss=1460)),
    _one("synack-ts-without-sack", syn(sackok=False)),
    _one("synack-sack-without-ts", syn(ts=None)),
    _one("synack-sack-only", syn(bare=True, sackok=True)),
    _one("synack-wscale-only", syn(bare=True, wscale=3)),
    _one("synack-wscale-15", syn(wscale=15)),
    _one("synack-wscale-255", syn(wscale=255)),
    _one("synack-ts-zero", syn(ts=(0, 0))),
    _one("synack-ts-ecr-set", syn(ts=(77, 99))),
    _one("synack-mss-0", syn(mss=0)),
    _one("synack-mss-1", syn(mss=1)),
    _one("synack-mss-65535", syn(mss=65535)),
    _one("synack-window-0", syn(win=0)),
    _one("synack-retry-later", syn(), wait(30), syn()),
    _one("synack-sysctl-no-ts", syn(), tcp_timestamps=0),
    _one("synack-sysctl-no-sack", syn(), tcp_sack=0),
    _one("synack-sysctl-no-wscale", syn(), tcp_window_scaling=0),
    _one("synack-sysctl-ts-2", syn(), tcp_timestamps=2),
    _one("synack-opt-bad-length-0", syn(bare=True, opts=b"\x02\x00\x05\xb4")),
    _one("synack-opt-bad-length-1", syn(bare=True, opts=b"\x02\x01\x05\xb4")),
    _one("synack-opt-mss-length-3", syn(bare=True, opts=b"\x02\x03\x05\x01")),
    _one("synack-opt-past-end", syn(bare=True, opts=b"\x01\x01\x02\x04")),
    _one("synack-opt-eol-hides", syn(bare=True, opts=b"\x00\x02\x04\x05\xb4\x04\x02\x00")),
    _one("synack-opt-nops", syn(bare=True, opts=b"\x01" * 40)),
    _one("synack-opt-unknown", syn(bare=True, opts=b"\xfd\x04\xaa\xbb\x02\x04\x02\x00")),
    _one("synack-opt-mss-twice", syn(bare=True, opts=b"\x02\x04\x02\x00\x02\x04\x05\xb4")),
    _one("synack-opt-ts-length-9", syn(bare=True, opts=b"\x08\x09" + bytes(7) + b"\x01\x01\x01")),
    _one("synack-opt-wscale-length-4", syn(bare=True, opts=b"\x03\x04\x07\x00\x02\x04\x05\xb4")),
    _one("synack-opt-sackok-length-3", syn(bare=True, opts=b"\x04\x03\x00\x01\x02\x04\x05\xb4")),
    *(
        stimulus(f"synack-rcvbuf-{n}", listen(16, 80, (socket.SOL_SOCKET, socket.SO_RCVBUF, n)), syn())
        for n in (2048, 8192, 20000, 65536, 1 << 20, 4 << 20)
    ),
    *(
        stimulus(f"synack-maxseg-{n}", listen(16, 80, (socket.IPPROTO_TCP, socket.TCP_MAXSEG, n)), syn())
        for n in (88, 500, 1400, 9000)
    ),
    *(
        stimulus(
            f"synack-rcvbuf-first-window-{n}",
            established((socket.SOL_SOCKET, socket.SO_RCVBUF, n)),
            ack(b"a"),
        )
        for n in (100000, 1 << 17, 1 << 20)
    ),
    stimulus("synack-ip-tos", listen(16, 80, (socket.IPPROTO_IP, socket.IP_TOS, 0x28)), syn()),
    stimulus("synack-ip-ttl", listen(16, 80, (socket.IPPROTO_IP, socket.IP_TTL, 9)), syn()),
    _one("synack-syn-tos", syn(tos=0x48)),
    _one("synack-reflect-tos", syn(tos=0x48), tcp_reflect_tos=1),
]
