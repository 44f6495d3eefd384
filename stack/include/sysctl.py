# SPDX-License-Identifier: GPL-2.0-or-later
"""The sysctls of one Stack: struct netns_ipv4 (include/net/netns/ipv4.h) and net.core.

Attributes carry the kernel's field names.  The values here are those that a fresh namespace of Debian 12's Linux 6.1
shows with 1 GiB of memory; ``stack.profile`` changes them for other kernels, the ``sysctl`` argument of ``Stack``
for one stack.  ``sysctl_set`` takes the names of /proc/sys/net (``tcp_syncookies``, ``core.somaxconn``).
Times are in the unit of the /proc file unless said otherwise; those that the kernel keeps in jiffies
(tcp_fin_timeout, tcp_keepalive_*) are seconds here and the reader multiplies by HZ.
"""

from __future__ import annotations

import re
from struct import Struct
from typing import Final

from stack.include.request_sock import tcp_fastopen_context

SysctlValue = int | str | tuple[int, ...]


class netns_core:
    """net.core.*"""

    def __init__(self) -> None:
        self.sysctl_somaxconn = 4096
        self.sysctl_rmem_default = 212992
        self.sysctl_rmem_max = 212992
        self.sysctl_wmem_default = 212992
        self.sysctl_wmem_max = 212992
        self.sysctl_txrehash = 1
        self.sysctl_optmem_max = 20480
        self.netdev_max_backlog = 1000
        self.cookie_last = 0  # of the SO_COOKIE given out last
        self.netstamp_needed = 0  # sockets that want to know when packets came
        self.prot_inuse: dict[str, int] = {}  # sock_prot_inuse_add(): sockets in the tables, by protocol


class netns_ipv4:
    """net.ipv4.*; also the routing generation that invalidates cached routes."""

    def __init__(self) -> None:
        self.rt_genid = 0
        self.tcp_orphan_count = 0  # connections without an application
        self.tcp_challenge_timestamp = 0  # the second that tcp_challenge_count is for
        self.tcp_challenge_count = 0  # challenge ACKs that may still be sent in it
        self.tcp_memory_allocated = 0  # pages set aside for what TCP sockets received and nobody read
        self.tcp_memory_pressure = 0  # jiffies when tcp_mem[1] was passed, 0 while it is not
        self._init_ip()
        self._init_tcp_open()
        self._init_tcp_data()

    def _init_ip(self) -> None:
        self.sysctl_ip_default_ttl = 64
        self.sysctl_ip_no_pmtu_disc = 0
        self.sysctl_ip_fwd_use_pmtu = 0
        self.sysctl_ip_nonlocal_bind = 0
        self.sysctl_ip_early_demux = 1
        self.sysctl_tcp_early_demux = 1
        self.sysctl_udp_early_demux = 1
        self.ip_local_ports_range = (32768, 60999)
        self.sysctl_local_reserved_ports: frozenset[int] = frozenset()
        self.sysctl_ip_prot_sock = 1024
        self.sysctl_icmp_echo_ignore_all = 0
        self.sysctl_icmp_echo_ignore_broadcasts = 1
        self.sysctl_icmp_ignore_bogus_error_responses = 1
        self.sysctl_icmp_errors_use_inbound_ifaddr = 0
        self.sysctl_icmp_ratelimit = 1000  # ms between errors to one peer once its burst is used
        self.sysctl_icmp_ratemask = 0x1818  # types 3, 4, 11, 12
        self.sysctl_icmp_msgs_per_sec = 1000
        self.sysctl_icmp_msgs_burst = 50
        self.sysctl_udp_rmem_min = 4096
        self.sysctl_udp_wmem_min = 4096
        self.sysctl_udp_l3mdev_accept = 0
        self.sysctl_tcp_l3mdev_accept = 0
        self.ipfrag_high_thresh = 4 * 1024 * 1024
        self.ipfrag_low_thresh = 3 * 1024 * 1024
        self.ipfrag_time = 30
        self.ipfrag_max_dist = 64
        self.ip_rt_mtu_expires = 600
        self.ip_rt_min_pmtu = 552
        self.ip_rt_min_advmss = 256
        self.sysctl_rp_filter = 0
        self.sysctl_log_martians = 0
        self.sysctl_accept_source_route = 0

    def _init_tcp_open(self) -> None:
        self.sysctl_tcp_syncookies = 1
        self.sysctl_max_syn_backlog = 128
        self.sysctl_tcp_synack_retries = 5
        self.sysctl_tcp_syn_retries = 6
        self.sysctl_tcp_syn_linear_timeouts = 0
        self.sysctl_tcp_abort_on_overflow = 0
        self.sysctl_tcp_fastopen = 1
        self.tcp_fastopen_ctx: tcp_fastopen_context | None = None  # tcp_fastopen_key
        self.sysctl_tcp_fastopen_blackhole_timeout = 0
        self.tfo_active_disable_times = 0  # how often Fast Open went silent in a row, and when last (jiffies)
        self.tfo_active_disable_stamp = 0
        self.sysctl_tcp_timestamps = 1
        self.sysctl_tcp_sack = 1
        self.sysctl_tcp_window_scaling = 1
        self.sysctl_tcp_ecn = 2
        self.sysctl_tcp_ecn_fallback = 1
        self.sysctl_tcp_ecn_option = 2
        self.sysctl_tcp_ecn_option_beacon = 3
        self.sysctl_tcp_reflect_tos = 0
        self.sysctl_tcp_fwmark_accept = 0
        self.sysctl_tcp_migrate_req = 0
        self.sysctl_tcp_max_tw_buckets = 4096
        self.sysctl_tcp_tw_reuse = 2
        self.sysctl_tcp_rfc1337 = 0
        self.sysctl_tcp_stdurg = 0
        self.sysctl_tcp_autobind_reuse = 0
        self.sysctl_tcp_challenge_ack_limit = 2147483647
        self.sysctl_tcp_invalid_ratelimit = 500  # ms
        self.sysctl_tcp_congestion_control = "cubic"
        self.tcp_allowed_congestion_control = "reno cubic bbr"
        self.sysctl_tcp_nometrics_save = 0
        self.sysctl_tcp_no_ssthresh_metrics_save = 1

    def _init_tcp_data(self) -> None:
        self.sysctl_tcp_rmem = (4096, 131072, 6291456)
        self.sysctl_tcp_wmem = (4096, 16384, 4194304)
        self.sysctl_tcp_mem = (11418, 15224, 22836)  # pages
        self.sysctl_tcp_adv_win_scale = 1
        self.sysctl_tcp_app_win = 31
        self.sysctl_tcp_moderate_rcvbuf = 1
        self.sysctl_tcp_shrink_window = 0
        self.sysctl_tcp_workaround_signed_windows = 0
        self.sysctl_tcp_retries1 = 3
        self.sysctl_tcp_retries2 = 15
        self.sysctl_tcp_orphan_retries = 0
        self.sysctl_tcp_max_orphans = 4096
        self.sysctl_tcp_fin_timeout = 60  # s
        self.sysctl_tcp_keepalive_time = 7200  # s
        self.sysctl_tcp_keepalive_intvl = 75  # s
        self.sysctl_tcp_keepalive_probes = 9
        self.sysctl_tcp_early_retrans = 3
        self.sysctl_tcp_recovery = 1
        self.sysctl_tcp_thin_linear_timeouts = 0
        self.sysctl_tcp_retrans_collapse = 1
        self.sysctl_tcp_frto = 2
        self.sysctl_tcp_dsack = 1
        self.sysctl_tcp_reordering = 3
        self.sysctl_tcp_max_reordering = 300
        self.sysctl_tcp_min_snd_mss = 48
        self.sysctl_tcp_mtu_probing = 0
        self.sysctl_tcp_base_mss = 1024
        self.sysctl_tcp_mtu_probe_floor = 48
        self.sysctl_tcp_probe_threshold = 8
        self.sysctl_tcp_probe_interval = 600  # s
        self.sysctl_tcp_slow_start_after_idle = 1
        self.sysctl_tcp_limit_output_bytes = 1048576
        self.sysctl_tcp_notsent_lowat = 0xFFFFFFFF
        self.sysctl_tcp_tso_win_divisor = 3
        self.sysctl_tcp_min_tso_segs = 2
        self.sysctl_tcp_tso_rtt_log = 9
        self.sysctl_tcp_autocorking = 1
        self.sysctl_tcp_pacing_ss_ratio = 200
        self.sysctl_tcp_pacing_ca_ratio = 120
        self.sysctl_tcp_min_rtt_wlen = 300  # s
        self.sysctl_tcp_comp_sack_delay_ns = 1_000_000
        self.sysctl_tcp_comp_sack_slack_ns = 100_000
        self.sysctl_tcp_comp_sack_nr = 44
        self.sysctl_tcp_backlog_ack_defer = 1
        self.sysctl_tcp_pingpong_thresh = 1


class netns_ipv6:
    """struct netns_ipv6 (include/net/netns/ipv6.h): net.ipv6.*; also the routing generation of IPv6."""

    def __init__(self) -> None:
        self.rt_genid = 0
        self.sysctl_disable_ipv6 = 0  # conf.all.disable_ipv6
        self.sysctl_hop_limit = 64  # conf.all.hop_limit
        self.sysctl_bindv6only = 0
        self.sysctl_auto_flowlabels = 1
        self.sysctl_flowlabel_reflect = 0
        self.sysctl_flowlabel_state_ranges = 0
        self.sysctl_ip_nonlocal_bind = 0
        self.sysctl_icmpv6_time = 1000  # icmp.ratelimit, ms
        # icmp.ratemask "0-1,3-127": every error but packet too big
        self.sysctl_icmpv6_ratemask = (1 << 128) - 1 & ~(1 << 2)
        self.sysctl_icmpv6_echo_ignore_all = 0
        self.sysctl_icmpv6_echo_ignore_multicast = 0
        self.sysctl_ip6frag_high_thresh = 4 * 1024 * 1024
        self.sysctl_ip6frag_time = 60
        self.sysctl_max_dst_opts_number = 8
        self.sysctl_max_hbh_opts_number = 8
        self.ip6_rt_mtu_expires = 600
        self.ip6_rt_min_advmss = 1220


# Names of /proc/sys/net/ipv4 that are not "sysctl_" + name in struct netns_ipv4.
_IPV4_FIELDS: Final = {
    "tcp_max_syn_backlog": "sysctl_max_syn_backlog",
    "tcp_no_metrics_save": "sysctl_tcp_nometrics_save",
    "ip_local_port_range": "ip_local_ports_range",
    "ip_local_reserved_ports": "sysctl_local_reserved_ports",
    "ip_unprivileged_port_start": "sysctl_ip_prot_sock",
    "tcp_fastopen_blackhole_timeout_sec": "sysctl_tcp_fastopen_blackhole_timeout",
    "ipfrag_high_thresh": "ipfrag_high_thresh",
    "ipfrag_low_thresh": "ipfrag_low_thresh",
    "ipfrag_time": "ipfrag_time",
    "ipfrag_max_dist": "ipfrag_max_dist",
    "route.mtu_expires": "ip_rt_mtu_expires",
    "route.min_pmtu": "ip_rt_min_pmtu",
    "route.min_adv_mss": "ip_rt_min_advmss",
    "tcp_allowed_congestion_control": "tcp_allowed_congestion_control",
}


# Those of /proc/sys/net/ipv6 whose field is not sysctl_<name>.
_IPV6_FIELDS: Final = {
    "icmp.ratelimit": "sysctl_icmpv6_time",
    "icmp.ratemask": "sysctl_icmpv6_ratemask",
    "icmp.echo_ignore_all": "sysctl_icmpv6_echo_ignore_all",
    "icmp.echo_ignore_multicast": "sysctl_icmpv6_echo_ignore_multicast",
    "route.mtu_expires": "ip6_rt_mtu_expires",
    "route.min_adv_mss": "ip6_rt_min_advmss",
}


def _locate(
    core: netns_core, ipv4: netns_ipv4, ipv6: netns_ipv6, name: str
) -> tuple[netns_core | netns_ipv4 | netns_ipv6, str]:
    owner: netns_core | netns_ipv4 | netns_ipv6
    name = name.removeprefix("net.").removeprefix("ipv4.")
    if name.startswith("ipv6."):
        name = name.removeprefix("ipv6.").removeprefix("conf.all.")
        field = _IPV6_FIELDS.get(name, "sysctl_" + name)
        owner = ipv6
    elif name.startswith("core."):
        name = name.removeprefix("core.")
        field = name if hasattr(core, name) else "sysctl_" + name
        owner = core
    else:
        name = name.removeprefix("conf.all.")
        field = _IPV4_FIELDS.get(name, "sysctl_" + name)
        owner = ipv4
    if not hasattr(owner, field):
        raise KeyError(f"no sysctl net.*.{name}: see stack/include/sysctl.py for those there are")
    return owner, field


def sysctl_get(core: netns_core, ipv4: netns_ipv4, ipv6: netns_ipv6, name: str) -> SysctlValue:
    """The value of ``tcp_rmem``, ``net.ipv4.tcp_rmem``, ``ipv6.bindv6only`` or ``core.somaxconn``; KeyError if there
    is none."""
    if name.removeprefix("net.").removeprefix("ipv4.") == "tcp_fastopen_key":
        return _fastopen_key_text(ipv4)
    owner, field = _locate(core, ipv4, ipv6, name)
    value: SysctlValue = getattr(owner, field)
    return value


def sysctl_set(core: netns_core, ipv4: netns_ipv4, ipv6: netns_ipv6, name: str, value: SysctlValue) -> None:
    """Set one sysctl; KeyError for an unknown name, TypeError if the kind of value differs from the default's,
    ValueError for one that the kernel would refuse."""
    if name.removeprefix("net.").removeprefix("ipv4.") == "tcp_fastopen_key":
        ipv4.tcp_fastopen_ctx = _fastopen_key_parse(value)
        return
    owner, field = _locate(core, ipv4, ipv6, name)
    old = getattr(owner, field)
    if isinstance(old, frozenset) and isinstance(value, tuple):
        setattr(owner, field, frozenset(value))
        return
    if not _same_kind(old, value):
        raise TypeError(f"sysctl {name} is {old!r} by default: {value!r} is of another kind")
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, int):
            _check_range(name, number)
    setattr(owner, field, value)
    if field == "sysctl_tcp_fastopen_blackhole_timeout":
        ipv4.tfo_active_disable_times = 0


def sysctl_names(core: netns_core, ipv4: netns_ipv4, ipv6: netns_ipv6) -> list[str]:
    """The full names of all: "net.core.somaxconn", "net.ipv4.tcp_rmem" ...; in alphabetical order."""
    names: list[str] = []
    tables: tuple[tuple[str, object, dict[str, str]], ...] = (
        ("net.core.", core, {"netdev_max_backlog": "netdev_max_backlog"}),
        ("net.ipv4.", ipv4, _IPV4_FIELDS),
        ("net.ipv6.", ipv6, _IPV6_FIELDS),
    )
    for prefix, owner, renamed in tables:
        fields = {f: n for n, f in renamed.items()}
        plain = [f for f in vars(owner) if f.startswith("sysctl_") and f not in fields]
        names += [prefix + f.removeprefix("sysctl_") for f in plain]
        names += [prefix + name for field, name in fields.items() if hasattr(owner, field)]
    return sorted(names)


def sysctl_parse(old: SysctlValue, text: str) -> SysctlValue:
    """A value of the same kind from what one would write to the file below /proc/sys; ValueError if it is none."""
    words = text.split()
    if isinstance(old, str):
        return text.strip()
    if isinstance(old, tuple | frozenset):
        return tuple(int(word, 0) for word in words)
    if len(words) != 1:
        raise ValueError(f"{text!r} is not one number")
    return type(old)(int(words[0], 0))


# What a number may be, as measured by writing to /proc/sys/net of a live 6.18; the others are 32 bits with a sign.
_BYTES: Final = """
ip_early_demux ip_no_pmtu_disc ip_nonlocal_bind tcp_abort_on_overflow tcp_comp_sack_nr tcp_dsack tcp_early_demux
tcp_frto tcp_fwmark_accept tcp_keepalive_probes tcp_moderate_rcvbuf tcp_mtu_probing tcp_no_metrics_save
tcp_orphan_retries tcp_recovery tcp_retrans_collapse tcp_retries1 tcp_retries2 tcp_rfc1337 tcp_sack
tcp_slow_start_after_idle tcp_stdurg tcp_synack_retries tcp_syncookies tcp_thin_linear_timeouts tcp_timestamps
tcp_tso_rtt_log tcp_tso_win_divisor tcp_window_scaling tcp_workaround_signed_windows udp_early_demux ipv6.bindv6only
ipv6.flowlabel_state_ranges ipv6.icmp.echo_ignore_all ipv6.icmp.echo_ignore_multicast ipv6.ip_nonlocal_bind
"""
_SWITCHES: Final = """
core.txrehash icmp_echo_ignore_all icmp_echo_ignore_broadcasts icmp_errors_use_inbound_ifaddr
icmp_ignore_bogus_error_responses tcp_autocorking tcp_backlog_ack_defer tcp_ecn_fallback tcp_l3mdev_accept
tcp_migrate_req tcp_no_ssthresh_metrics_save tcp_reflect_tos tcp_shrink_window udp_l3mdev_accept
"""
INT_MIN: Final = -(1 << 31)
INT_MAX: Final = (1 << 31) - 1
UINT_MAX: Final = (1 << 32) - 1
_RANGES: Final[dict[str, tuple[int, int]]] = {
    **dict.fromkeys(_BYTES.split(), (0, 255)),
    **dict.fromkeys(_SWITCHES.split(), (0, 1)),
    **dict.fromkeys(
        ("core.optmem_max", "core.somaxconn", "icmp_msgs_burst", "icmp_msgs_per_sec"), (0, INT_MAX)
    ),
    **dict.fromkeys(("ipfrag_max_dist", "tcp_fastopen_blackhole_timeout_sec"), (0, INT_MAX)),
    **dict.fromkeys(("udp_rmem_min", "udp_wmem_min", "tcp_max_reordering"), (1, INT_MAX)),
    **dict.fromkeys(("tcp_comp_sack_delay_ns", "tcp_comp_sack_slack_ns", "tcp_notsent_lowat"), (0, UINT_MAX)),
    **dict.fromkeys(("ipfrag_high_thresh", "ipfrag_low_thresh", "ipv6.ip6frag_high_thresh"), (0, UINT_MAX)),
    **dict.fromkeys(("tcp_pacing_ca_ratio", "tcp_pacing_ss_ratio"), (0, 1000)),
    **dict.fromkeys(("tcp_min_snd_mss", "tcp_mtu_probe_floor"), (48, 65535)),
    **dict.fromkeys(("tcp_min_tso_segs", "tcp_pingpong_thresh"), (1, 255)),
    "ip_default_ttl": (1, 255),
    "route.min_pmtu": (68, INT_MAX),
    "tcp_adv_win_scale": (-31, 31),
    "tcp_app_win": (0, 31),
    "tcp_early_retrans": (0, 4),
    "tcp_ecn": (0, 5),  # by profile less: Profile.sysctl_max
    "tcp_min_rtt_wlen": (0, 86400),
    "tcp_reordering": (1, 300),
    "tcp_syn_linear_timeouts": (0, 127),
    "tcp_syn_retries": (1, 127),
    "tcp_tw_reuse": (0, 2),
    "ipv6.auto_flowlabels": (0, 3),
    "ipv6.flowlabel_reflect": (0, 7),
    "ipv6.hop_limit": (1, 255),
}


def _check_range(name: str, value: int) -> None:
    short = name.removeprefix("net.").removeprefix("ipv4.").replace("conf.all.", "")
    low, high = _RANGES.get(short, (INT_MIN, INT_MAX))
    if not low <= value <= high:
        raise ValueError(f"sysctl {name}: {value} is not in {low} to {high}")


def _same_kind(old: object, value: SysctlValue) -> bool:
    """An int for an int, a string for a string, as many numbers for a tuple of numbers."""
    if isinstance(old, tuple) and isinstance(value, tuple):
        return isinstance(old[0], str) or len(value) == len(old)
    return type(value) is type(old)


# proc_tcp_fastopen_key() of net/ipv4/sysctl_net_ipv4.c: a key of 16 bytes is shown as four little-endian words,
# in hexadecimal with dashes between; a comma goes before the second key, if there is one.
_FASTOPEN_WORDS: Final = Struct("<4I")


def _fastopen_key_text(ipv4: netns_ipv4) -> str:
    keys = ipv4.tcp_fastopen_ctx.key if ipv4.tcp_fastopen_ctx is not None else (bytes(16),)
    return ",".join("-".join(f"{word:08x}" for word in _FASTOPEN_WORDS.unpack(key)) for key in keys)


def _fastopen_key_parse(value: SysctlValue) -> tcp_fastopen_context:
    keys = value.split(",") if isinstance(value, str) else []
    parsed = [_KEY_PATTERN.fullmatch(key.strip()) for key in keys]
    raw = [_FASTOPEN_WORDS.pack(*(int(word, 16) for word in match.groups())) for match in parsed if match]
    if not 1 <= len(keys) <= 2 or len(raw) != len(keys):
        raise ValueError(
            f"sysctl tcp_fastopen_key: {value!r} is no key: four words like a1b2c3d4-00000000-00000000-00000000, "
            "and a second such key behind a comma"
        )
    return tcp_fastopen_context(raw[0], raw[1] if len(raw) == 2 else None)


_KEY_PATTERN: Final = re.compile("-".join(["([0-9a-fA-F]{1,8})"] * 4))
