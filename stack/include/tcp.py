# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP's structs, constants and inline helpers: include/linux/tcp.h, include/net/tcp.h, include/uapi/linux/tcp.h.

Units: sequence numbers are ints modulo 2**32; windows and buffers bytes; cwnd, packets_out and the like segments
of one MSS; ``*_us`` microseconds (``srtt_us`` eight times the smoothed value, the variances four times, as in the
kernel); ``tcp_mstamp`` microseconds of the Stack's clock; stamps named ``*stamp`` or ``*time`` without unit are
``tcp_jiffies32``.  A wrapped 32-bit number is always kept masked, so ``==`` compares it rightly.

The payload of a sent packet is never copied: ``skb.frags`` references the buffers that the application wrote.
``frags`` of a packet that was sent once is replaced, never changed in place, since clones share it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from stack.include.inet_connection_sock import inet_connection_sock
from stack.include.snmp import LINUX_MIB_LISTENDROPS
from stack.include.sock import AF_INET, SK_PACING_NEEDED, SOCK_DONE, SOCK_URGINLINE
from stack.include.tcp_states import TCP_SYN_RECV, TCP_SYN_SENT
from stack.include.timer import HZ, TICK_NSEC
from stack.kernel.time.timer import jiffies, tcp_jiffies32
from stack.seqnum import MASK32, before

if TYPE_CHECKING:
    from stack.include.request_sock import request_sock, tcp_request_sock
    from stack.include.sk_buff import sk_buff
    from stack.include.sock import sock
    from stack.include.timer import hrtimer
    from stack.stack import Stack

# Header flags, RFC 9293 section 3.1: the byte after the data offset; TCPHDR_* in include/net/tcp.h.
TCPHDR_FIN: Final = 0x01
TCPHDR_SYN: Final = 0x02
TCPHDR_RST: Final = 0x04
TCPHDR_PSH: Final = 0x08
TCPHDR_ACK: Final = 0x10
TCPHDR_URG: Final = 0x20
TCPHDR_ECE: Final = 0x40
TCPHDR_CWR: Final = 0x80
TCPHDR_AE: Final = 0x100  # RFC 9768; of a received header: the lowest bit of tcphdr.res1
TCPHDR_SYN_ECN: Final = TCPHDR_SYN | TCPHDR_ECE | TCPHDR_CWR
TCPHDR_ACE: Final = TCPHDR_ECE | TCPHDR_CWR | TCPHDR_AE
TCPHDR_SYNACK_ACE: Final = TCPHDR_SYN | TCPHDR_ACK | TCPHDR_ACE

# Option kinds and lengths: RFC 9293, 7323, 2018, 7413, 2385, 9768.
TCPOPT_NOP: Final = 1
TCPOPT_EOL: Final = 0
TCPOPT_MSS: Final = 2
TCPOPT_WINDOW: Final = 3
TCPOPT_SACK_PERM: Final = 4
TCPOPT_SACK: Final = 5
TCPOPT_TIMESTAMP: Final = 8
TCPOPT_MD5SIG: Final = 19
TCPOPT_AO: Final = 29
TCPOPT_FASTOPEN: Final = 34
TCPOPT_ACCECN0: Final = 172
TCPOPT_ACCECN1: Final = 174
TCPOPT_EXP: Final = 254
TCPOLEN_MSS: Final = 4
TCPOLEN_WINDOW: Final = 3
TCPOLEN_SACK_PERM: Final = 2
TCPOLEN_TIMESTAMP: Final = 10
TCPOLEN_MD5SIG: Final = 18
TCPOLEN_SACK_BASE: Final = 2
TCPOLEN_SACK_PERBLOCK: Final = 8
TCPOLEN_FASTOPEN_BASE: Final = 2
TCPOLEN_EXP_FASTOPEN_BASE: Final = 4
# RFC 7413, section 4.1.1: the first two bytes of the experimental option
TCPOPT_FASTOPEN_MAGIC: Final = 0xF989
# The same with the padding that the kernel sends: include/net/tcp.h.
TCPOLEN_TSTAMP_ALIGNED: Final = 12
TCPOLEN_WSCALE_ALIGNED: Final = 4
TCPOLEN_SACKPERM_ALIGNED: Final = 4
TCPOLEN_SACK_BASE_ALIGNED: Final = 4
TCPOLEN_MSS_ALIGNED: Final = 4
TCPOLEN_MD5SIG_ALIGNED: Final = 20
MAX_TCP_OPTION_SPACE: Final = 40
TCP_NUM_SACKS: Final = 4
TCP_SACK_BLOCKS_EXPECTED: Final = 2
TCP_FASTOPEN_COOKIE_MIN: Final = 4
TCP_FASTOPEN_COOKIE_MAX: Final = 16
TCP_FASTOPEN_COOKIE_SIZE: Final = 8  # what this end makes
TCP_FASTOPEN_KEY_LENGTH: Final = 16
TCP_FASTOPEN_KEY_MAX: Final = 2
TCP_FASTOPEN_KEY_BUF_LENGTH: Final = TCP_FASTOPEN_KEY_LENGTH * TCP_FASTOPEN_KEY_MAX

# bits of net.ipv4.tcp_fastopen
TFO_CLIENT_ENABLE: Final = 1
TFO_SERVER_ENABLE: Final = 2
TFO_CLIENT_NO_COOKIE: Final = 4
TFO_SERVER_COOKIE_NOT_REQD: Final = 0x200
TFO_SERVER_WO_SOCKOPT1: Final = 0x400

# Room for link, network and transport headers in front of a payload; include/net/tcp.h sizes it for the worst
# tunnel, this stack for Ethernet (14 + 2), IPv4 or IPv6 with options (60) and TCP (60), rounded to a cache line.
MAX_TCP_HEADER: Final = 160

# Sizes: include/net/tcp.h.  TCP_MSS_DEFAULT is RFC 9293 section 3.7.1's 536, TCP_MIN_SND_MSS the sysctl's floor.
MAX_TCP_WINDOW: Final = 32767
TCP_MAX_WINDOW: Final = 65535
TCP_MAX_WSCALE: Final = 14
TCP_MIN_MSS: Final = 88
TCP_MSS_DEFAULT: Final = 536
TCP_MIN_SND_MSS: Final = 48
TCP_BASE_MSS: Final = 1024
TCP_INIT_CWND: Final = 10  # RFC 6928
TCP_FASTRETRANS_THRESH: Final = 3  # RFC 5681
TCP_MAX_QUICKACKS: Final = 16
TCP_INFINITE_SSTHRESH: Final = 0x7FFFFFFF
TCP_RACK_RECOVERY_THRESH: Final = 16
TCP_RMEM_TO_WIN_SCALE: Final = 8
TCP_DEFAULT_SCALING_RATIO: Final = 1 << (TCP_RMEM_TO_WIN_SCALE - 1)

# Times in jiffies: include/net/tcp.h; measured on 6.1 where linux behaviour is visible on the wire.
TCP_RTO_MAX: Final = 120 * HZ
TCP_RTO_MIN: Final = HZ // 5
TCP_THIN_LINEAR_RETRIES: Final = 6
TCP_TIMEOUT_INIT: Final = HZ  # RFC 6298 (2.1)
TCP_TIMEOUT_FALLBACK: Final = 3 * HZ  # RFC 6298 (5.7)
TCP_DELACK_MAX: Final = HZ // 5
TCP_DELACK_MIN: Final = HZ // 25
TCP_ATO_MIN: Final = HZ // 25
TCP_TIMEWAIT_LEN: Final = 60 * HZ
TCP_FIN_TIMEOUT: Final = TCP_TIMEWAIT_LEN
TCP_FIN_TIMEOUT_MAX: Final = 120 * HZ
TCP_KEEPALIVE_TIME: Final = 120 * 60 * HZ
TCP_KEEPALIVE_PROBES: Final = 9
TCP_KEEPALIVE_INTVL: Final = 75 * HZ
TCP_TIMEOUT_MIN: Final = 2  # jiffies
TCP_RESOURCE_PROBE_INTERVAL: Final = HZ // 2
MAX_TCP_KEEPIDLE: Final = 32767
MAX_TCP_KEEPINTVL: Final = 32767
MAX_TCP_KEEPCNT: Final = 127
MAX_TCP_SYNCNT: Final = 127
TCP_SYN_RETRIES: Final = 6
TCP_SYNACK_RETRIES: Final = 5
TCP_RETR1: Final = 3
TCP_RETR2: Final = 15
TCP_TS_HZ: Final = 1000
TCP_TIMEOUT_MIN_US: Final = 2_000  # measured on both kernels: a reordering timer is two ticks away, not three
# PAWS, RFC 7323 section 5.5: 24 days, and the second of slack for clocks that jitter.
TCP_PAWS_24DAYS: Final = 60 * 60 * 24 * 24
TCP_PAWS_MSL: Final = 60
TCP_PAWS_WINDOW: Final = 1

# tp.nonagle
TCP_NAGLE_OFF: Final = 1
TCP_NAGLE_CORK: Final = 2
TCP_NAGLE_PUSH: Final = 4

# tp.ecn_flags: the mode (tcp_ecn.py), and what RFC 3168 has to remember
TCP_ECN_MODE_RFC3168: Final = 1
TCP_ECN_QUEUE_CWR: Final = 2
TCP_ECN_DEMAND_CWR: Final = 4
TCP_ECN_SEEN: Final = 8
TCP_ECN_MODE_ACCECN: Final = 16
TCP_ECN_DISABLED: Final = 0
TCP_ECN_MODE_ANY: Final = TCP_ECN_MODE_RFC3168 | TCP_ECN_MODE_ACCECN
TCP_ECN_MODE_PENDING: Final = TCP_ECN_MODE_ANY

# icsk_ca_state, include/uapi/linux/tcp.h
TCP_CA_Open = 0
TCP_CA_Disorder = 1
TCP_CA_CWR: Final = 2
TCP_CA_Recovery = 3
TCP_CA_Loss = 4
TCPF_CA_Open = 1 << TCP_CA_Open
TCPF_CA_Disorder = 1 << TCP_CA_Disorder
TCPF_CA_CWR: Final = 1 << TCP_CA_CWR
TCPF_CA_Recovery = 1 << TCP_CA_Recovery
TCPF_CA_Loss = 1 << TCP_CA_Loss

# TCP_SKB_CB(skb).sacked: a sent packet's place in the scoreboard
TCPCB_SACKED_ACKED: Final = 0x01
TCPCB_SACKED_RETRANS: Final = 0x02
TCPCB_LOST: Final = 0x04
TCPCB_TAGBITS: Final = 0x07
TCPCB_REPAIRED: Final = 0x10
TCPCB_EVER_RETRANS: Final = 0x80
TCPCB_RETRANS: Final = TCPCB_SACKED_RETRANS | TCPCB_EVER_RETRANS | TCPCB_REPAIRED

# rx_opt.sack_ok
TCP_SACK_SEEN: Final = 1 << 0
TCP_DSACK_SEEN: Final = 1 << 2

# events of congestion control (enum tcp_ca_event, enum tcp_ca_ack_event_flags)
CA_EVENT_TX_START: Final = 0
CA_EVENT_CWND_RESTART: Final = 1
CA_EVENT_COMPLETE_CWR: Final = 2
CA_EVENT_LOSS: Final = 3
CA_EVENT_ECN_NO_CE: Final = 4
CA_EVENT_ECN_IS_CE: Final = 5
CA_ACK_SLOWPATH: Final = 1 << 0
CA_ACK_WIN_UPDATE: Final = 1 << 1
CA_ACK_ECE: Final = 1 << 2

# tcp_congestion_ops.flags
TCP_CONG_NON_RESTRICTED: Final = 1
TCP_CONG_NEEDS_ECN: Final = 2

# tcp_make_synack's kind
TCP_SYNACK_NORMAL: Final = 0
TCP_SYNACK_FASTOPEN: Final = 1
TCP_SYNACK_COOKIE: Final = 2
TCP_SYNACK_RETRANS: Final = 3

# tp.urg_data: the urgent byte, or what is known of it
TCP_URG_VALID: Final = 0x0100
TCP_URG_NOTYET: Final = 0x0200
TCP_URG_READ: Final = 0x0400

# chrono (tcp_chrono_start)
TCP_CHRONO_UNSPEC: Final = 0
TCP_CHRONO_BUSY: Final = 1
TCP_CHRONO_RWND_LIMITED: Final = 2
TCP_CHRONO_SNDBUF_LIMITED: Final = 3

# tp.tsq_flags (enum tsq_enum)
TSQF_THROTTLED: Final = 1 << 0

# Socket options of level IPPROTO_TCP: include/uapi/linux/tcp.h.
IPPROTO_TCP: Final = 6
SOL_TCP: Final = 6
TCP_NODELAY: Final = 1
TCP_MAXSEG: Final = 2
TCP_CORK: Final = 3
TCP_KEEPIDLE: Final = 4
TCP_KEEPINTVL: Final = 5
TCP_KEEPCNT: Final = 6
TCP_SYNCNT: Final = 7
TCP_LINGER2: Final = 8
TCP_DEFER_ACCEPT: Final = 9
TCP_WINDOW_CLAMP: Final = 10
TCP_INFO: Final = 11
TCP_QUICKACK: Final = 12
TCP_CONGESTION: Final = 13
TCP_USER_TIMEOUT: Final = 18
TCP_MD5SIG: Final = 14
TCP_THIN_LINEAR_TIMEOUTS: Final = 16
TCP_THIN_DUPACK: Final = 17
TCP_FASTOPEN: Final = 23
TCP_TIMESTAMP: Final = 24
TCP_NOTSENT_LOWAT: Final = 25
TCP_CC_INFO: Final = 26
TCP_SAVE_SYN: Final = 27
TCP_SAVED_SYN: Final = 28
TCP_FASTOPEN_CONNECT: Final = 30
TCP_ULP: Final = 31
TCP_MD5SIG_EXT: Final = 32
TCP_FASTOPEN_KEY: Final = 33
TCP_FASTOPEN_NO_COOKIE: Final = 34
TCP_INQ: Final = 36
TCP_CM_INQ: Final = TCP_INQ
TCP_TX_DELAY: Final = 37
TCP_AO_ADD_KEY: Final = 38
TCP_AO_DEL_KEY: Final = 39
TCP_AO_INFO: Final = 40
TCP_IS_MPTCP: Final = 43
TCP_RTO_MIN_US: Final = 45
TCP_DELACK_MAX_US: Final = 46

TCP_AO_MAXKEYLEN: Final = 80
TCP_AO_KEYF_EXCLUDE_OPT: Final = 2  # the MAC leaves the other options out

# struct tcp_md5sig (include/uapi/linux/tcp.h)
TCP_MD5SIG_MAXKEYLEN: Final = 80
TCP_MD5SIG_FLAG_PREFIX: Final = 1
TCP_MD5SIG_FLAG_IFINDEX: Final = 2

# tcpi_options
TCPI_OPT_TIMESTAMPS: Final = 1
TCPI_OPT_SACK: Final = 2
TCPI_OPT_WSCALE: Final = 4
TCPI_OPT_ECN: Final = 8
TCPI_OPT_ECN_SEEN: Final = 16
TCPI_OPT_SYN_DATA: Final = 32
TCPI_OPT_TFO_CHILD: Final = 128

# tcpi_fastopen_client_fail (enum tcp_fastopen_client_fail)
TFO_STATUS_UNSPEC: Final = 0
TFO_COOKIE_UNAVAILABLE: Final = 1
TFO_DATA_NOT_ACKED: Final = 2
TFO_SYN_RETRANSMITTED: Final = 3

# The fixed part of the header: source, dest, seq, ack_seq, offset and flags, window, check, urg_ptr.
TCP_HEADER: Final = Struct("!HHIIHHHH")
TCP_HEADER_LEN: Final = 20


class tcphdr:
    """struct tcphdr as received: ``doff`` in 32-bit words, ``flags`` the TCPHDR_* bits, ``res1`` the four
    reserved bits.  Made by ``tcphdr(*TCP_HEADER.unpack_from(head, offset))``."""

    __slots__ = ("ack_seq", "check", "dest", "doff", "flags", "res1", "seq", "source", "urg_ptr", "window")

    def __init__(
        self,
        source: int,
        dest: int,
        seq: int,
        ack_seq: int,
        doff_flags: int,
        window: int,
        check: int,
        urg_ptr: int,
    ) -> None:
        self.source = source
        self.dest = dest
        self.seq = seq
        self.ack_seq = ack_seq
        self.doff = doff_flags >> 12
        self.res1 = doff_flags >> 8 & 0xF
        self.flags = doff_flags & 0xFF
        self.window = window
        self.check = check
        self.urg_ptr = urg_ptr


class tcp_skb_cb:
    """struct tcp_skb_cb, TCP's private part of a packet.

    ``seq`` .. ``end_seq`` is the sequence space that it covers, SYN and FIN included.  ``header`` is the IP
    options object of a received packet.  What tcp_rate_skb_sent() writes (``first_tx_mstamp`` .. ``delivered``)
    is unset before the packet was sent.
    """

    __slots__ = (
        "ack_seq",
        "delivered",
        "delivered_ce",
        "delivered_mstamp",
        "end_seq",
        "eor",
        "first_tx_mstamp",
        "has_rxtstamp",
        "header",
        "in_flight",
        "ip_dsfield",
        "is_app_limited",
        "sacked",
        "seq",
        "tcp_flags",
        "tcp_gso_segs",
        "tcp_gso_size",
        "tcp_tw_isn",
        "unsent",
    )

    first_tx_mstamp: int
    delivered_mstamp: int
    delivered: int
    delivered_ce: int
    in_flight: int
    is_app_limited: bool

    def __init__(self, seq: int, end_seq: int, tcp_flags: int) -> None:
        self.seq = seq
        self.end_seq = end_seq
        self.tcp_flags = tcp_flags
        self.ack_seq = 0
        self.sacked = 0
        self.ip_dsfield = 0
        self.tcp_gso_segs = 0
        self.tcp_gso_size = 0
        self.tcp_tw_isn = 0
        self.eor = False
        self.has_rxtstamp = False
        self.header: Any = None
        self.in_flight = 0
        self.delivered_mstamp = 0


def tcp_hdr(skb: sk_buff) -> tcphdr:
    th: tcphdr = skb.h_th
    return th


def TCP_SKB_CB(skb: sk_buff) -> tcp_skb_cb:
    cb: tcp_skb_cb = skb.cb
    return cb


# struct tcp_sack_block: first sequence number and the one after the last
tcp_sack_block: TypeAlias = tuple[int, int]


class tcp_fastopen_cookie:
    """struct tcp_fastopen_cookie (RFC 7413); ``len`` -1 means that no option was there."""

    __slots__ = ("exp", "len", "val")

    def __init__(self) -> None:
        self.val = b""
        self.len = -1
        self.exp = False


class tcp_fastopen_request:
    """struct tcp_fastopen_request: what a client's SYN shall carry.  ``data`` (None: nothing is left) and its ``size``
    are the application's, ``copied`` says how many bytes the SYN took.  The cookie's ``len``: 0 asks for one, -1 means
    no option."""

    __slots__ = ("cookie", "copied", "data", "size")

    def __init__(self, data: bytes | None = None) -> None:
        self.cookie = tcp_fastopen_cookie()
        self.cookie.len = 0
        self.data = data
        self.size = len(data) if data is not None else 0
        self.copied = 0


class tcp_md5sig_key:
    """struct tcp_md5sig_key (RFC 2385): the key for peers in ``addr``/``prefixlen``, an address as an int.  ``l3index``
    is the device of a VRF, of which this stack has none: 0."""

    __slots__ = ("addr", "family", "flags", "key", "l3index", "prefixlen")

    def __init__(self, addr: int, family: int, prefixlen: int, l3index: int, flags: int, key: bytes) -> None:
        self.addr = addr
        self.family = family
        self.prefixlen = prefixlen
        self.l3index = l3index
        self.flags = flags
        self.key = key


class tcp_md5sig_info:
    """struct tcp_md5sig_info: a socket's keys, the newest first."""

    __slots__ = ("head",)

    def __init__(self) -> None:
        self.head: list[tcp_md5sig_key] = []


class tcp_ao_key:
    """struct tcp_ao_key (include/net/tcp_ao.h): a master key for peers in ``addr``/``prefixlen`` of a family, with the
    traffic keys of both directions once it belongs to a connection.  ``maclen`` in bytes."""

    __slots__ = (
        "addr",
        "algo",
        "family",
        "key",
        "keyflags",
        "maclen",
        "prefixlen",
        "rcv_traffic",
        "rcvid",
        "snd_traffic",
        "sndid",
    )

    def __init__(
        self,
        addr: int,
        prefixlen: int,
        keyflags: int,
        sndid: int,
        rcvid: int,
        maclen: int,
        key: bytes,
        family: int = AF_INET,
        algo: bytes = b"hmac(sha1)",
    ) -> None:
        self.addr = addr
        self.family = family
        self.algo = algo
        self.prefixlen = prefixlen
        self.keyflags = keyflags
        self.sndid = sndid
        self.rcvid = rcvid
        self.maclen = maclen
        self.key = key
        self.snd_traffic = self.rcv_traffic = b""


class tcp_ao_info:
    """struct tcp_ao_info: a socket's keys, the newest first, its counters, and of a connection which key signs, which
    one is asked for, and how often each direction has wrapped (``snd_basis``, ``rcv_basis``: as of these numbers)."""

    __slots__ = (
        "accept_icmps",
        "ao_required",
        "current_key",
        "dropped_icmp",
        "head",
        "key_not_found",
        "pkt_bad",
        "pkt_good",
        "rcv_basis",
        "rcv_sne",
        "required",
        "rnext_key",
        "snd_basis",
        "snd_sne",
    )

    def __init__(self) -> None:
        self.head: list[tcp_ao_key] = []
        self.current_key: tcp_ao_key | None = None
        self.rnext_key: tcp_ao_key | None = None
        self.ao_required = self.accept_icmps = False
        self.pkt_good = self.pkt_bad = self.key_not_found = self.required = self.dropped_icmp = 0
        self.snd_sne = self.rcv_sne = self.snd_basis = self.rcv_basis = 0


class tcp_sock_af_ops:
    """struct tcp_sock_af_ops: the address family's half of signing.

    Signatures: ``md5_lookup(sk, addr_sk) -> key | None``, ``calc_md5_hash(key, sk, skb) -> bytes`` (sk None: by the
    addresses of a received packet), ``md5_parse(sk, optname, optval) -> int``."""

    __slots__ = ("calc_md5_hash", "md5_lookup", "md5_parse")

    def __init__(
        self, md5_lookup: Callable[..., Any], calc_md5_hash: Callable[..., Any], md5_parse: Callable[..., Any]
    ) -> None:
        self.md5_lookup = md5_lookup
        self.calc_md5_hash = calc_md5_hash
        self.md5_parse = md5_parse


class tcp_accecn_option:
    """A received AccECN option (RFC 9768, section 3.2.3): its kind and the bytes behind the length."""

    __slots__ = ("body", "kind")

    def __init__(self, kind: int, body: bytes) -> None:
        self.kind = kind
        self.body = body

    def counters(self) -> list[tuple[int, int]]:
        """The counters that are there, each the IP codepoint (1 ECT(1), 2 ECT(0), 3 CE) and 24 bits.  Whatever the
        length is, whole fields count, of three at most (measured)."""
        order = (1, 3, 2) if self.kind == TCPOPT_ACCECN1 else (2, 3, 1)
        fields = min(len(self.body) // 3, 3)
        return [(order[i], int.from_bytes(self.body[3 * i : 3 * i + 3], "big")) for i in range(fields)]


class tcp_options_received:
    """struct tcp_options_received: what the peer's options said, per packet and for the connection."""

    __slots__ = (
        "accecn",
        "dsack",
        "mss_clamp",
        "num_sacks",
        "rcv_tsecr",
        "rcv_tsval",
        "rcv_wscale",
        "sack_blocks",
        "sack_ok",
        "saw_tstamp",
        "snd_wscale",
        "ts_recent",
        "ts_recent_stamp",
        "tstamp_ok",
        "user_mss",
        "wscale_ok",
    )

    def __init__(self) -> None:
        self.accecn: tcp_accecn_option | None = None  # of the packet at hand
        self.ts_recent_stamp = 0  # seconds of the Stack's clock; 0: no time stamp yet
        self.ts_recent = 0
        self.rcv_tsval = 0
        self.rcv_tsecr = 0
        self.saw_tstamp = False
        self.tstamp_ok = False
        self.dsack = False
        self.wscale_ok = False
        self.sack_ok = 0
        self.snd_wscale = 0
        self.rcv_wscale = 0
        self.num_sacks = 0
        self.user_mss = 0
        self.mss_clamp = 0
        self.sack_blocks: list[tcp_sack_block] = []  # of the packet at hand

    def copy(self) -> tcp_options_received:
        new = tcp_options_received()
        new.accecn = self.accecn
        new.dsack = self.dsack
        new.mss_clamp = self.mss_clamp
        new.num_sacks = self.num_sacks
        new.rcv_tsecr = self.rcv_tsecr
        new.rcv_tsval = self.rcv_tsval
        new.rcv_wscale = self.rcv_wscale
        new.sack_blocks = self.sack_blocks
        new.sack_ok = self.sack_ok
        new.saw_tstamp = self.saw_tstamp
        new.snd_wscale = self.snd_wscale
        new.ts_recent = self.ts_recent
        new.ts_recent_stamp = self.ts_recent_stamp
        new.tstamp_ok = self.tstamp_ok
        new.user_mss = self.user_mss
        new.wscale_ok = self.wscale_ok
        return new


def tcp_clear_options(rx_opt: tcp_options_received) -> None:
    """Before parsing a SYN: nothing was offered."""
    rx_opt.tstamp_ok = rx_opt.wscale_ok = False
    rx_opt.sack_ok = 0
    rx_opt.snd_wscale = 0


class tcp_rack:
    """struct tcp_rack (RFC 8985)."""

    __slots__ = (
        "advanced",
        "dsack_seen",
        "end_seq",
        "last_delivered",
        "mstamp",
        "reo_wnd_persist",
        "reo_wnd_steps",
        "rtt_us",
    )

    def __init__(self) -> None:
        self.mstamp = 0
        self.rtt_us = 0
        self.end_seq = 0
        self.last_delivered = 0
        self.reo_wnd_steps = 1
        self.reo_wnd_persist = 0
        self.dsack_seen = False
        self.advanced = False


class rcv_rtt_est:
    """The receiver's own estimate of the round trip, for dynamic right-sizing of the buffer."""

    __slots__ = ("rtt_us", "seq", "time")

    def __init__(self) -> None:
        self.rtt_us = self.seq = self.time = 0


class rcvq_space:
    """How much the application read in the last round trip."""

    __slots__ = ("seq", "space", "time")

    def __init__(self) -> None:
        self.space = self.seq = self.time = 0


class minmax:
    """struct minmax (include/linux/win_minmax.h): a running minimum over a time window, kept as the three best
    samples (time, value)."""

    __slots__ = ("s",)

    def __init__(self, t: int = 0, v: int = MASK32) -> None:
        self.s = [(t, v), (t, v), (t, v)]


def minmax_reset(m: minmax, t: int, meas: int) -> int:
    m.s = [(t, meas)] * 3
    return meas


def minmax_running_min(m: minmax, win: int, t: int, meas: int) -> int:
    """Add a sample at time ``t``; returns the minimum over the last ``win`` units of time (Kathleen Nichols'
    windowed filter, lib/win_minmax.c)."""
    s = m.s
    sample = (t, meas)
    if meas <= s[0][1] or t - s[2][0] > win:
        return minmax_reset(m, t, meas)
    if meas <= s[1][1]:
        s[1] = s[2] = sample
    elif meas <= s[2][1]:
        s[2] = sample
    _minmax_subwin_update(m, win, sample)
    return m.s[0][1]


def minmax_running_max(m: minmax, win: int, t: int, meas: int) -> int:
    """The same for the maximum."""
    s = m.s
    sample = (t, meas)
    if meas >= s[0][1] or t - s[2][0] > win:
        return minmax_reset(m, t, meas)
    if meas >= s[1][1]:
        s[1] = s[2] = sample
    elif meas >= s[2][1]:
        s[2] = sample
    _minmax_subwin_update(m, win, sample)
    return m.s[0][1]


def _minmax_subwin_update(m: minmax, win: int, sample: tuple[int, int]) -> None:
    s = m.s
    age = sample[0] - s[0][0]
    if age > win:
        m.s = [s[1], s[2], sample]
        if sample[0] - m.s[0][0] > win:
            m.s = [m.s[1], m.s[2], sample]
    elif s[1][0] == s[0][0] and age > win // 4:
        s[1] = s[2] = sample
    elif s[2][0] == s[1][0] and age > win // 2:
        s[2] = sample


class rate_sample:
    """struct rate_sample: what one ACK says about the delivery rate (draft-cheng-iccrg-delivery-rate-estimation)."""

    __slots__ = (
        "acked_sacked",
        "delivered",
        "interval_us",
        "is_ack_delayed",
        "is_app_limited",
        "is_retrans",
        "last_end_seq",
        "losses",
        "prior_delivered",
        "prior_in_flight",
        "prior_mstamp",
        "rcv_interval_us",
        "rtt_us",
        "snd_interval_us",
    )

    def __init__(self) -> None:
        self.prior_mstamp = 0
        self.prior_delivered = 0
        self.delivered = 0
        self.interval_us = 0
        self.snd_interval_us = 0
        self.rcv_interval_us = 0
        self.rtt_us = -1
        self.losses = 0
        self.acked_sacked = 0
        self.prior_in_flight = 0
        self.last_end_seq = 0
        self.is_app_limited = False
        self.is_retrans = False
        self.is_ack_delayed = False


class ack_sample:
    """struct ack_sample: what congestion control hears of each ACK through pkts_acked()."""

    __slots__ = ("in_flight", "pkts_acked", "rtt_us")

    def __init__(self, pkts_acked: int, rtt_us: int, in_flight: int) -> None:
        self.pkts_acked = pkts_acked
        self.rtt_us = rtt_us
        self.in_flight = in_flight


TCP_CA_NAME_MAX: Final = 16


class tcp_congestion_ops:
    """struct tcp_congestion_ops: one congestion control.  ``ssthresh``, ``undo_cwnd`` and ``cong_avoid`` (or
    ``cong_control``) are required; ``cong_avoid(sk, ack, acked)`` gets the number of segments newly
    acknowledged, ``pkts_acked(sk, sample)`` each ACK; ``get_info(sk)`` gives the struct that TCP_CC_INFO shows.  State
    lives in ``icsk.icsk_ca_priv``."""

    __slots__ = (
        "cong_avoid",
        "cong_control",
        "cwnd_event",
        "flags",
        "get_info",
        "in_ack_event",
        "init",
        "min_tso_segs",
        "name",
        "pkts_acked",
        "release",
        "set_state",
        "sndbuf_expand",
        "ssthresh",
        "undo_cwnd",
    )

    def __init__(
        self,
        name: str,
        *,
        ssthresh: Callable[[tcp_sock], int],
        undo_cwnd: Callable[[tcp_sock], int],
        cong_avoid: Callable[[tcp_sock, int, int], None] | None = None,
        flags: int = 0,
        init: Callable[[tcp_sock], None] | None = None,
        release: Callable[[tcp_sock], None] | None = None,
        set_state: Callable[[tcp_sock, int], None] | None = None,
        cwnd_event: Callable[[tcp_sock, int], None] | None = None,
        in_ack_event: Callable[[tcp_sock, int], None] | None = None,
        pkts_acked: Callable[[tcp_sock, ack_sample], None] | None = None,
        min_tso_segs: Callable[[tcp_sock], int] | None = None,
        cong_control: Callable[[tcp_sock, rate_sample], None] | None = None,
        sndbuf_expand: Callable[[tcp_sock], int] | None = None,
        get_info: Callable[[tcp_sock], bytes] | None = None,
    ) -> None:
        self.get_info = get_info
        self.name = name
        self.flags = flags
        self.ssthresh = ssthresh
        self.undo_cwnd = undo_cwnd
        self.cong_avoid = cong_avoid
        self.init = init
        self.release = release
        self.set_state = set_state
        self.cwnd_event = cwnd_event
        self.in_ack_event = in_ack_event
        self.pkts_acked = pkts_acked
        self.min_tso_segs = min_tso_segs
        self.cong_control = cong_control
        self.sndbuf_expand = sndbuf_expand


class tcp_sock(inet_connection_sock):
    """struct tcp_sock.  The comments in tcp_input.py and tcp_output.py say who moves what.

    ``sk_write_queue`` holds what was never sent, ``tcp_rtx_queue`` what was and is not acknowledged, both in
    order of sequence; ``tsorted_sent_queue`` is the latter in order of the last transmission (a dict used as an
    ordered set).  ``out_of_order_queue`` is sorted by ``seq`` and free of overlaps.
    """

    __slots__ = (
        "accecn_fail_mode",
        "accecn_minlen",
        "accecn_opt_demand",
        "accecn_opt_sent_w_dsack",
        "accecn_opt_tstamp",
        "advmss",
        "af_specific",
        "ao_info",
        "app_limited",
        "bytes_acked",
        "bytes_received",
        "bytes_retrans",
        "bytes_sent",
        "chrono_start",
        "chrono_stat",
        "chrono_type",
        "compressed_ack",
        "compressed_ack_rcv_nxt",
        "compressed_ack_timer",
        "copied_seq",
        "cwnd_usage_seq",
        "data_segs_in",
        "data_segs_out",
        "delivered",
        "delivered_ce",
        "delivered_ecn_bytes",
        "delivered_mstamp",
        "dsack_dups",
        "dup_ack_counter",
        "duplicate_sack",
        "ecn_flags",
        "est_ecnfield",
        "fastopen_client_fail",
        "fastopen_connect",
        "fastopen_no_cookie",
        "fastopen_req",
        "fastopen_rsk",
        "first_tx_mstamp",
        "frto",
        "gso_segs",
        "high_seq",
        "highest_sack",
        "is_cwnd_limited",
        "keepalive_intvl",
        "keepalive_probes",
        "keepalive_time",
        "last_oow_ack_time",
        "linger2",
        "lost",
        "lost_out",
        "lsndtime",
        "max_packets_out",
        "max_window",
        "md5sig_info",
        "mdev_max_us",
        "mdev_us",
        "mss_cache",
        "nonagle",
        "notsent_lowat",
        "out_of_order_queue",
        "pacing_timer",
        "packets_out",
        "pkts_acked_ewma",
        "pred_flags",
        "prev_ecnfield",
        "prior_cwnd",
        "prior_ssthresh",
        "prr_delivered",
        "prr_out",
        "pushed_seq",
        "rack",
        "rate_app_limited",
        "rate_delivered",
        "rate_interval_us",
        "rcv_nxt",
        "rcv_ooopack",
        "rcv_rtt_est",
        "rcv_rtt_last_tsecr",
        "rcv_ssthresh",
        "rcv_tstamp",
        "rcv_wnd",
        "rcv_wup",
        "rcvq_space",
        "received_ce",
        "received_ce_pending",
        "received_ecn_bytes",
        "recvmsg_inq",
        "reord_seen",
        "reordering",
        "repair",
        "retrans_out",
        "retrans_stamp",
        "rto_stamp",
        "rtt_min",
        "rtt_seq",
        "rttvar_us",
        "rx_opt",
        "sacked_out",
        "save_syn",
        "saved_syn",
        "saw_accecn_opt",
        "scaling_ratio",
        "segs_in",
        "segs_out",
        "selective_acks",
        "snd_cwnd",
        "snd_cwnd_clamp",
        "snd_cwnd_cnt",
        "snd_cwnd_stamp",
        "snd_cwnd_used",
        "snd_nxt",
        "snd_sml",
        "snd_ssthresh",
        "snd_una",
        "snd_up",
        "snd_wl1",
        "snd_wnd",
        "srtt_us",
        "syn_data",
        "syn_data_acked",
        "syn_ect_rcv",
        "syn_ect_snt",
        "syn_fastopen",
        "syn_fastopen_ch",
        "syn_fastopen_child",
        "syn_fastopen_exp",
        "tcp_clock_cache",
        "tcp_header_len",
        "tcp_mstamp",
        "tcp_rtx_queue",
        "tcp_tx_delay",
        "tcp_usec_ts",
        "tcp_wstamp_ns",
        "thin_lto",
        "timeout_rehash",
        "tlp_high_seq",
        "tlp_retrans",
        "total_retrans",
        "total_rto",
        "total_rto_recoveries",
        "total_rto_time",
        "tsoffset",
        "tsorted_sent_queue",
        "tsq_flags",
        "undo_marker",
        "undo_retrans",
        "urg_data",
        "urg_mode",
        "urg_seq",
        "window_clamp",
        "write_seq",
        "zc_pending",
    )

    compressed_ack_timer: hrtimer

    def __init__(self, net: Stack, family: int) -> None:
        super().__init__(net, family)
        self._init_send()
        self._init_receive()
        self._init_congestion()
        self._init_timing()
        self._init_options()

    def _init_send(self) -> None:
        self.tcp_header_len = TCP_HEADER_LEN
        self.gso_segs = 0
        self.snd_nxt = self.snd_una = self.snd_sml = self.write_seq = self.pushed_seq = self.snd_up = 0
        self.urg_mode = False  # snd_up holds; the kernel drags snd_up along with every ACK instead
        self.snd_wl1 = self.snd_wnd = self.max_window = 0
        self.mss_cache = TCP_MSS_DEFAULT
        self.nonagle = 0
        self.notsent_lowat = 0
        self.tcp_rtx_queue: deque[sk_buff] = deque()
        self.tsorted_sent_queue: dict[sk_buff, None] = {}
        self.packets_out = self.retrans_out = self.sacked_out = self.lost_out = 0
        self.max_packets_out = self.cwnd_usage_seq = 0
        self.is_cwnd_limited = False
        self.tsq_flags = 0
        self.segs_out = self.data_segs_out = self.bytes_sent = self.bytes_acked = 0
        self.bytes_retrans = self.total_retrans = self.dsack_dups = 0
        self.chrono_start = 0
        self.chrono_stat = [0, 0, 0]
        self.chrono_type = TCP_CHRONO_UNSPEC

    def _init_receive(self) -> None:
        self.pred_flags = 0
        self.rcv_nxt = self.copied_seq = self.rcv_wup = self.rcv_wnd = 0
        self.rcv_ssthresh = self.window_clamp = 0
        self.out_of_order_queue: list[sk_buff] = []
        self.duplicate_sack: tcp_sack_block | None = None
        self.selective_acks: list[tcp_sack_block] = []
        self.compressed_ack = self.compressed_ack_rcv_nxt = self.dup_ack_counter = 0
        self.urg_data = self.urg_seq = 0
        self.recvmsg_inq = False
        self.rcv_ooopack = 0
        self.rcv_rtt_last_tsecr = 0
        self.rcv_rtt_est = rcv_rtt_est()
        self.rcvq_space = rcvq_space()
        self.segs_in = self.data_segs_in = self.bytes_received = 0
        self.rcv_tstamp = 0
        self.last_oow_ack_time = 0

    def _init_congestion(self) -> None:
        self.snd_cwnd = TCP_INIT_CWND
        self.snd_ssthresh = TCP_INFINITE_SSTHRESH
        self.snd_cwnd_cnt = self.snd_cwnd_used = self.snd_cwnd_stamp = 0
        self.snd_cwnd_clamp = MASK32
        self.prior_cwnd = self.prior_ssthresh = self.prr_delivered = self.prr_out = 0
        self.high_seq = self.retrans_stamp = self.undo_marker = 0
        self.undo_retrans = -1
        self.highest_sack: int | None = None  # end of the highest SACKed packet, None if nothing is SACKed
        self.reordering = TCP_FASTRETRANS_THRESH
        self.reord_seen = 0
        self.rack = tcp_rack()
        self.frto = False
        self.ecn_flags = 0
        self.init_accecn()
        self.tlp_high_seq = 0
        self.tlp_retrans = False
        self.delivered = self.delivered_ce = self.lost = self.app_limited = 0
        self.first_tx_mstamp = self.delivered_mstamp = 0
        self.rate_delivered = self.rate_interval_us = 0
        self.rate_app_limited = True

    def init_accecn(self) -> None:
        """Accurate ECN (tcp_ecn.py).  Lists of bytes are indexed by the IP codepoint less one."""
        self.received_ce = 0  # segments that came with CE
        self.received_ce_pending = 0  # of these, not said yet
        self.received_ecn_bytes = [0, 0, 0]
        self.delivered_ecn_bytes = [0, 0, 0]
        self.syn_ect_snt = self.syn_ect_rcv = 0  # the IP codepoint of our SYN or SYN-ACK, and the peer's
        self.prev_ecnfield = 0  # the last packet's codepoint
        self.est_ecnfield = 0  # the codepoint that delivered bytes have if nothing else is said; 0: not known
        self.accecn_minlen = 0  # fields that the next option has to have
        self.accecn_opt_demand = 0  # segments that should have the option
        self.accecn_opt_tstamp = 0  # us, when it was sent last
        self.accecn_opt_sent_w_dsack = False  # the last one stood beside a DSACK
        self.saw_accecn_opt = 0  # TCP_ACCECN_OPT_*
        self.accecn_fail_mode = 0  # TCP_ACCECN_*_FAIL_*
        self.pkts_acked_ewma = 0  # segments per ACK, scaled by 64

    def _init_timing(self) -> None:
        self.tcp_clock_cache = 0  # ns
        self.tcp_mstamp = 0  # us
        self.tcp_wstamp_ns = 0  # of the last packet sent; of a paced socket, when the next may leave
        self.pacing_timer: hrtimer | None = None  # made by the first packet that has to wait
        self.srtt_us = self.mdev_us = self.mdev_max_us = self.rttvar_us = self.rtt_seq = 0
        self.rtt_min = minmax()
        self.lsndtime = 0
        self.tsoffset = 0
        self.tcp_usec_ts = False
        self.timeout_rehash = 0
        self.total_rto = self.total_rto_recoveries = self.total_rto_time = 0  # timeouts, their runs, ms
        self.rto_stamp = 0  # tcp_time_stamp_ms() of the first timeout of a run, 0: none

    def _init_options(self) -> None:
        self.rx_opt = tcp_options_received()
        self.advmss = 0
        self.keepalive_time = self.keepalive_intvl = self.keepalive_probes = 0
        self.linger2 = 0
        self.thin_lto = 0
        self.tcp_tx_delay = 0  # us
        self.zc_pending: deque[tuple[int, int]] | None = None  # end and number of each call with MSG_ZEROCOPY
        self.repair = False
        self.save_syn = 0
        self.scaling_ratio = 0  # payload per memory of full segments, of 256; 0: tcp_adv_win_scale decides
        self.saved_syn: Any = None  # struct saved_syn
        self.fastopen_no_cookie = False
        self.syn_data_acked = False  # data of a SYN (Fast Open) were taken
        self.syn_fastopen_child = False  # made by such a SYN
        self._init_fastopen_client()
        self.fastopen_rsk: tcp_request_sock | None = None
        self.af_specific: tcp_sock_af_ops | None = None
        self.md5sig_info: tcp_md5sig_info | None = None
        self.ao_info: tcp_ao_info | None = None

    def _init_fastopen_client(self) -> None:
        self.fastopen_connect = False  # TCP_FASTOPEN_CONNECT
        self.fastopen_req: tcp_fastopen_request | None = None
        self.fastopen_client_fail = TFO_STATUS_UNSPEC
        self.syn_data = False  # the SYN carried data
        self.syn_fastopen = False  # the SYN had the option,
        self.syn_fastopen_exp = False  # the experimental one
        self.syn_fastopen_ch = False  # its success ends the penalty after a black hole


def tcp_urg_mode(tp: tcp_sock) -> bool:
    """Whether urgent data of ours are not acknowledged yet."""
    return tp.urg_mode and tp.snd_una != tp.snd_up


def tcp_inq(sk: tcp_sock) -> int:
    """How many bytes can be read now, SIOCINQ: up to the urgent byte if that is still to be read."""
    if sk.sk_state in (TCP_SYN_SENT, TCP_SYN_RECV):
        return 0
    urgent_ahead = (
        sk.urg_data
        and not sk.sk_flags & SOCK_URGINLINE
        and not before(sk.urg_seq, sk.copied_seq)
        and before(sk.urg_seq, sk.rcv_nxt)
    )
    if urgent_ahead:
        return (sk.urg_seq - sk.copied_seq) & MASK32
    answ = (sk.rcv_nxt - sk.copied_seq) & MASK32
    return answ - 1 if answ and sk.sk_flags & SOCK_DONE else answ


def tcp_wnd_end(tp: tcp_sock) -> int:
    """The first sequence number that the peer's window does not cover."""
    return (tp.snd_una + tp.snd_wnd) & MASK32


def tcp_receive_window(tp: tcp_sock) -> int:
    """Bytes that may still arrive inside the window last offered; never negative."""
    win = (tp.rcv_wup + tp.rcv_wnd - tp.rcv_nxt) & MASK32
    return win if win < 0x80000000 else 0


def tcp_win_from_space(sk: tcp_sock, space: int) -> int:
    """How much window ``space`` bytes of buffer are worth: the rest is for overhead (tcp_adv_win_scale, or the measured
    scaling_ratio of later kernels)."""
    if sk.scaling_ratio:
        return space * sk.scaling_ratio >> TCP_RMEM_TO_WIN_SCALE
    scale = sk.sk_net.ipv4.sysctl_tcp_adv_win_scale
    return space >> -scale if scale <= 0 else space - (space >> scale)


def tcp_space_from_win(sk: tcp_sock, win: int) -> int:
    """The reverse: how much buffer a window of ``win`` bytes takes; twice as much before there was a ratio."""
    return (win << TCP_RMEM_TO_WIN_SCALE) // sk.scaling_ratio if sk.scaling_ratio else win << 1


def tcp_space(sk: tcp_sock) -> int:
    """Window that the free part of the receive buffer is worth; may be negative."""
    return tcp_win_from_space(sk, sk.sk_rcvbuf - sk.sk_rmem_alloc)


def tcp_full_space(sk: tcp_sock) -> int:
    """Window that the whole receive buffer is worth."""
    return tcp_win_from_space(sk, sk.sk_rcvbuf)


def tcp_adjust_rcv_ssthresh(sk: tcp_sock) -> None:
    """Under memory pressure the window shall not exceed four segments."""
    sk.rcv_ssthresh = min(sk.rcv_ssthresh, 4 * sk.advmss)


def tcp_in_slow_start(tp: tcp_sock) -> bool:
    return tp.snd_cwnd < tp.snd_ssthresh


def tcp_in_initial_slowstart(tp: tcp_sock) -> bool:
    return tp.snd_ssthresh >= TCP_INFINITE_SSTHRESH


def tcp_stream_is_thin(tp: tcp_sock) -> bool:
    """Too few packets in flight for fast retransmit, other than at the start."""
    return tp.packets_out < 4 and not tcp_in_initial_slowstart(tp)


def tcp_in_cwnd_reduction(tp: tcp_sock) -> bool:
    return (1 << tp.icsk_ca_state) & (TCPF_CA_CWR | TCPF_CA_Recovery) != 0


def tcp_left_out(tp: tcp_sock) -> int:
    """Segments that have left the network: SACKed or judged lost."""
    return tp.sacked_out + tp.lost_out


def tcp_packets_in_flight(tp: tcp_sock) -> int:
    """RFC 6675's pipe, in segments."""
    return tp.packets_out - tp.sacked_out - tp.lost_out + tp.retrans_out


def tcp_is_sack(tp: tcp_sock) -> bool:
    return tp.rx_opt.sack_ok != 0


def tcp_is_reno(tp: tcp_sock) -> bool:
    return not tp.rx_opt.sack_ok


def tcp_is_cwnd_limited(sk: tcp_sock) -> bool:
    """Whether cwnd, not the application, held the sender back, so that growing cwnd means something.  In slow
    start half-used is enough (RFC 7661 is the idea)."""
    if sk.is_cwnd_limited:
        return True
    if sk.snd_cwnd < sk.snd_ssthresh:
        return sk.snd_cwnd < 2 * sk.max_packets_out
    return False


def tcp_current_ssthresh(sk: tcp_sock) -> int:
    """ssthresh, or 3/4 of cwnd when not reducing: what to come back to."""
    if tcp_in_cwnd_reduction(sk):
        return sk.snd_ssthresh
    return max(sk.snd_ssthresh, (sk.snd_cwnd >> 1) + (sk.snd_cwnd >> 2))


def tcp_ca_needs_ecn(sk: tcp_sock) -> bool:
    return bool(sk.icsk_ca_ops.flags & TCP_CONG_NEEDS_ECN)


def tcp_needs_internal_pacing(sk: tcp_sock) -> bool:
    return sk.sk_pacing_status == SK_PACING_NEEDED


def tcp_pacing_delay(sk: tcp_sock) -> int:
    """Jiffies until pacing lets the next packet go, rounded down."""
    return max(sk.tcp_wstamp_ns - sk.tcp_clock_cache, 0) // TICK_NSEC


def tcp_fast_path_on(tp: tcp_sock) -> None:
    """Expect plain ACK segments with the usual header length and this window field (RFC 1144's idea)."""
    word = tp.tcp_header_len << 26 | TCPHDR_ACK << 16 | tp.snd_wnd >> tp.rx_opt.snd_wscale
    if tp.ecn_flags & TCP_ECN_MODE_ACCECN:
        # RFC 9768: and this count of CE, whose three bits follow each other from ECE to AE
        word |= (tp.delivered_ce + 5 & 7) << 22
    tp.pred_flags = word & MASK32


def tcp_ca_event(sk: tcp_sock, event: int) -> None:
    """Tell the congestion control (CA_EVENT_*)."""
    cwnd_event = sk.icsk_ca_ops.cwnd_event
    if cwnd_event is not None:
        cwnd_event(sk, event)


def tcp_fast_path_check(sk: tcp_sock) -> None:
    """Turn header prediction on when nothing is out of order or urgent and there is room."""
    if not sk.out_of_order_queue and sk.rcv_wnd and sk.sk_rmem_alloc < sk.sk_rcvbuf and not sk.urg_data:
        tcp_fast_path_on(sk)


def tcp_rtx_queue_head(sk: tcp_sock) -> sk_buff | None:
    return sk.tcp_rtx_queue[0] if sk.tcp_rtx_queue else None


def tcp_write_queue_empty(sk: tcp_sock) -> bool:
    return sk.write_seq == sk.snd_nxt


def tcp_skb_is_last(sk: tcp_sock, skb: sk_buff) -> bool:
    return bool(sk.sk_write_queue) and sk.sk_write_queue[-1] is skb


def tcp_minshall_check(tp: tcp_sock) -> bool:
    """Whether a small segment is in flight (Minshall's refinement of RFC 896)."""
    sml, una, nxt = tp.snd_sml, tp.snd_una, tp.snd_nxt
    return (una - sml) & MASK32 >= 0x80000000 and not (nxt - sml) & MASK32 >= 0x80000000


def tcp_time_stamp(tp: tcp_sock) -> int:
    """The TSval clock without the connection's offset: milliseconds."""
    return tp.tcp_mstamp // 1000 & MASK32


def tcp_time_stamp_ms(tp: tcp_sock) -> int:
    """Milliseconds of the socket's clock as last read."""
    return tp.tcp_mstamp // 1000 & MASK32


def tcp_min_rtt(tp: tcp_sock) -> int:
    return tp.rtt_min.s[0][1]


def tcp_under_memory_pressure(sk: tcp_sock) -> bool:
    """Whether all TCP sockets together hold more than tcp_mem[1] pages (until they are down to tcp_mem[0])."""
    return sk.sk_net.ipv4.tcp_memory_pressure != 0


def tcp_fin_time(sk: tcp_sock) -> int:
    """How long FIN_WAIT2 lasts, in jiffies: at least 3.5 RTO."""
    fin_timeout = sk.linger2 or sk.sk_net.ipv4.sysctl_tcp_fin_timeout * HZ
    rto = sk.icsk_rto
    return max(fin_timeout, (rto << 2) - (rto >> 1))


def keepalive_intvl_when(tp: tcp_sock) -> int:
    return tp.keepalive_intvl or tp.sk_net.ipv4.sysctl_tcp_keepalive_intvl * HZ


def keepalive_time_when(tp: tcp_sock) -> int:
    return tp.keepalive_time or tp.sk_net.ipv4.sysctl_tcp_keepalive_time * HZ


def keepalive_probes(tp: tcp_sock) -> int:
    return tp.keepalive_probes or tp.sk_net.ipv4.sysctl_tcp_keepalive_probes


def ktime_get_seconds(net: Stack) -> int:
    """Whole seconds of the Stack's clock, counted from 1, since a stamp of 0 means "never"."""
    return net.clock.now_ns() // 1_000_000_000 + 1


def tcp_paws_check(rx_opt: tcp_options_received, paws_win: int, net: Stack) -> bool:
    """Whether the packet's TSval is not older than ts_recent (RFC 7323, section 5).  A ts_recent older than 24 days
    proves nothing; a peer with a zero ts_recent is let in."""
    if (rx_opt.ts_recent - rx_opt.rcv_tsval) & MASK32 <= paws_win:
        return True
    if (rx_opt.rcv_tsval - rx_opt.ts_recent) & MASK32 < 0x80000000:
        return True
    if ktime_get_seconds(net) >= rx_opt.ts_recent_stamp + TCP_PAWS_24DAYS:
        return True
    return not rx_opt.ts_recent


def tcp_paws_reject(rx_opt: tcp_options_received, rst: bool, net: Stack) -> bool:
    """tcp_paws_check for handshakes and TIME_WAIT; a RST is believed once ts_recent is older than an MSL."""
    if tcp_paws_check(rx_opt, 0, net):
        return False
    return not (rst and ktime_get_seconds(net) >= rx_opt.ts_recent_stamp + TCP_PAWS_MSL)


def tcp_segs_in(tp: tcp_sock, skb: sk_buff) -> None:
    """Count a received packet as the segments it stands for (RFC 4898)."""
    segs = skb.gso_segs or 1
    tp.segs_in += segs
    th: tcphdr = skb.h_th
    if skb.len > th.doff << 2:
        tp.data_segs_in += segs


def tcp_passive_fastopen(sk: tcp_sock) -> bool:
    """Whether the child of a SYN with data (Fast Open) still waits for the third segment."""
    return sk.sk_state == TCP_SYN_RECV and sk.fastopen_rsk is not None


def fastopen_queue_tune(sk: inet_connection_sock, backlog: int) -> None:
    """How many children of a listener may be in that state (an inline of include/linux/tcp.h)."""
    limit = sk.sk_net.core.sysctl_somaxconn
    sk.icsk_accept_queue.fastopenq.max_qlen = min(backlog & MASK32, limit)


def tcp_listendrop(sk: sock) -> None:
    """A segment to a listener was dropped."""
    sk.sk_drops += 1
    sk.sk_net.mib.net_statistics[LINUX_MIB_LISTENDROPS] += 1


def tcp_move_syn(tp: tcp_sock, req: request_sock) -> None:
    """The saved SYN (TCP_SAVE_SYN) goes from the request to the child."""
    tp.saved_syn = req.saved_syn
    req.saved_syn = None


# SYN cookies: a cookie holds the minute count of its making and is good for fewer than two of them.
MAX_SYNCOOKIE_AGE: Final = 2
TCP_SYNCOOKIE_PERIOD: Final = 60 * HZ
TCP_SYNCOOKIE_VALID: Final = MAX_SYNCOOKIE_AGE * TCP_SYNCOOKIE_PERIOD


def tcp_synq_overflow(sk: tcp_sock) -> None:
    """The listener had to send a cookie; a listener keeps the time of that in ts_recent_stamp."""
    sk.rx_opt.ts_recent_stamp = tcp_jiffies32(sk.sk_net)


def tcp_synq_no_recent_overflow(sk: tcp_sock) -> bool:
    """Whether no cookie can be valid, as none was sent lately.  One that never sent any has 0 there, which is recent
    when the     32-bit jiffies have just passed zero (measured)."""
    last = sk.rx_opt.ts_recent_stamp
    return (tcp_jiffies32(sk.sk_net) - last + HZ) & MASK32 > TCP_SYNCOOKIE_VALID + HZ


def tcp_cookie_time(net: Stack) -> int:
    """The minute counter of cookies."""
    return jiffies(net) // TCP_SYNCOOKIE_PERIOD
