# SPDX-License-Identifier: GPL-2.0-or-later
"""Stack: one network namespace (struct net) with all its state and the calls that an adapter makes.

Theory of operation
-------------------
Nothing here does I/O.  Into a Stack go received frames (``netif_rx``), socket calls and time (``run_timers``); out come
frames through each device's ``ndo_start_xmit``, wake-ups through the sockets' callbacks, and the time of the next
deadline (``next_deadline``).  An adapter's whole loop is:

    drain the device into netif_rx();  rx_done();  run_timers();  let applications run;  sleep until next_deadline()

``netif_rx`` works a frame through to its socket at once; what a batch should do only once (deliver what the loopback
device holds, flush merged segments) waits for ``rx_done``.  A frame never raises: each is delivered, or dropped with a
MIB counter and a reason in ``drop_reasons``.

Two hooks let a program look into the receive path; unset they cost nothing.  ``drop_hook(skb, reason)`` is told of
every dropped packet (reason by ``stack.include.dropreason``).  ``syn_hook(sk, skb)`` decides on every SYN for a
listener ``sk`` before the queues are looked at, and returns a ``SynVerdict`` (stack.include.request_sock);
``ip_hdr(skb)`` and ``tcp_hdr(skb)`` are the SYN's headers, ``ip_hdr(skb).saddr`` who sent it:

    net.syn_hook = lambda sk, skb: SynVerdict.RESET if tcp_hdr(skb).source < 1024 else SynVerdict.ACCEPT

A hook must not call back into the stack; what it raises comes out of netif_rx.

All state hangs off the Stack: two of them in one process know nothing of each other.  Attributes carry the names of
struct net and struct netns_ipv4 where the kernel has them; what the kernel keeps per machine (the timer wheel, the
ARP table, the secrets of secure_seq.c) is per Stack here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stack.clock import Clock
from stack.include.inet_sock import inet_sock
from stack.include.ip import (
    ETH_P_IPV6,
    IPPROTO_ICMP,
    IPPROTO_IGMP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    MAX_INET_PROTOS,
    net_protocol,
)
from stack.include.ipv6 import inet6_protocol
from stack.include.neighbour import neigh_table
from stack.include.net import files_struct
from stack.include.netdevice import net_device
from stack.include.request_sock import SynVerdict
from stack.include.sk_buff import CHECKSUM_NONE, sk_buff
from stack.include.snmp import netns_mib
from stack.include.sysctl import (
    SysctlValue,
    netns_core,
    netns_ipv4,
    netns_ipv6,
    sysctl_get,
    sysctl_names,
    sysctl_parse,
    sysctl_set,
)
from stack.inspect import snapshot as inspect_snapshot
from stack.kernel.time import timer
from stack.kernel.time.timer import timer_base
from stack.net.core import dev as net_core_dev
from stack.net.ipv4 import (
    arp,
    devinet,
    fib_frontend,
    icmp,
    igmp,
    inet_fragment,
    protocol,
    tcp_cong,
    tcp_ipv4,
    udp,
)
from stack.net.ipv6 import addrconf, exthdrs, ip6_input, ndisc, radv, reassembly, tcp_ipv6
from stack.net.ipv6 import icmp as icmpv6
from stack.net.ipv6 import protocol as protocol6
from stack.net.ipv6 import route as route6
from stack.net.ipv6 import udp as udp6
from stack.profile import profile_by_name
from stack.rng import Rng

if TYPE_CHECKING:
    from stack.include.dst import rtable
    from stack.include.inet_hashtables import inet_hashinfo
    from stack.include.inet_timewait_sock import inet_timewait_death_row
    from stack.net.ipv4.route import fib_nh_exception
    from stack.net.ipv4.tcp_metrics import tcp_metrics_block


class Stack:
    """struct net.  ``profile`` names a kernel of ``stack.profile``; ``sysctl`` overrides its defaults by the names of
    /proc/sys/net (``tcp_syncookies``, ``core.somaxconn``).  KeyError or TypeError for what is not there."""

    clock: Clock
    rng: Rng
    ipv4: netns_ipv4
    core: netns_core
    tcp_hashinfo: inet_hashinfo
    tcp_death_row: inet_timewait_death_row
    tcp_metrics: dict[tuple[int, int], tcp_metrics_block]
    udp_table: udp.udp_table
    fib: fib_frontend.fib_net
    ipv4_fqdir: inet_fragment.fqdir
    icmp_global: icmp.icmp_global
    arp_tbl: neigh_table
    fib6: route6.fib6_net
    rt6_exceptions: dict[int, route6.rt6_exception]
    ipv6_fqdir: inet_fragment.fqdir
    icmp6_sk: inet_sock
    tcp6_ctl_sk: inet_sock
    nd_tbl: neigh_table

    def __init__(
        self,
        clock: Clock,
        rng: Rng,
        profile: str = "linux-6.1",
        sysctl: Mapping[str, SysctlValue] | None = None,
    ) -> None:
        self.clock = clock
        self.rng = rng
        self.profile = profile_by_name(profile)
        self.core = netns_core()
        self.ipv4 = netns_ipv4()
        self.ipv6 = netns_ipv6()
        for values in (self.profile.sysctl, sysctl or {}):
            for name, value in values.items():
                self.sysctl_set(name, value)
        self.mib = netns_mib()
        self.files = files_struct()  # what fs/file.c keeps per process
        self.timers = timer_base()
        self.tcp_jiffies32 = timer.tcp_jiffies32(self)  # as read last
        self.drop_reasons: dict[str, int] = {}
        self.drop_hook: Callable[[sk_buff, int], None] | None = None
        self.syn_hook: Callable[[Any, sk_buff], SynVerdict] | None = None
        self.inet_protos: list[net_protocol | None] = [None] * MAX_INET_PROTOS
        self.inet6_protos: list[inet6_protocol | None] = [None] * MAX_INET_PROTOS
        self._init_devices()
        self._init_secrets()
        self.ptype_base: dict[int, Callable[[sk_buff], int]] = {}  # Ethernet types beyond IPv4 and ARP
        self._init_ipv4()
        self._init_ipv6()

    def _init_devices(self) -> None:
        self.devices: dict[int, net_device] = {}  # by ifindex
        self.devices_by_name: dict[str, net_device] = {}
        self.backlog: deque[sk_buff] = deque()  # softnet_data.input_pkt_queue: what loopback sent
        self.loopback_dev = net_core_dev.loopback_init(self)

    def _init_secrets(self) -> None:
        """Keys of 16 bytes for SipHash, one per use."""
        draw = self.rng.get_random_bytes
        self.net_secret = draw(16)
        self.ts_secret = draw(16)
        self.syncookie_secret = (draw(16), draw(16))
        self.inet_ehash_secret = self.rng.get_random_u32()
        self.ip_idents_hashrnd = draw(16)
        self.ip_ident_table: dict[int, int] = {}
        self.rt_hash_cache: dict[tuple[int, int, int], rtable] = {}
        self.rt_input_cache: dict[tuple[int, int, int], rtable] = {}
        self.fib_nh_exceptions: dict[int, fib_nh_exception] = {}

    def _init_ipv4(self) -> None:
        """inet_init() of net/ipv4/af_inet.c and the per-namespace initialisers that it registers."""
        fib_frontend.fib_net_init(self)
        devinet.devinet_init(self)
        arp.arp_init(self)
        inet_fragment.fqdir_init(self)
        icmp.icmp_sk_init(self)
        udp.udp_init(self)
        protocol.inet_add_protocol(self, icmp.icmp_protocol, IPPROTO_ICMP)
        protocol.inet_add_protocol(self, igmp.igmp_protocol, IPPROTO_IGMP)
        protocol.inet_add_protocol(self, udp.udp_protocol, IPPROTO_UDP)
        tcp_ipv4.tcp_sk_init(self)
        protocol.inet_add_protocol(self, tcp_ipv4.tcp_protocol, IPPROTO_TCP)

    def _init_ipv6(self) -> None:
        """inet6_init() of net/ipv6/af_inet6.c."""
        route6.fib6_net_init(self)
        ndisc.ndisc_init(self)
        icmpv6.icmpv6_init(self)
        exthdrs.ipv6_exthdrs_init(self)
        reassembly.ipv6_frag_init(self)
        addrconf.addrconf_init(self)
        protocol6.inet6_add_protocol(self, udp6.udpv6_protocol, IPPROTO_UDP)
        tcp_ipv6.tcpv6_net_init(self)
        protocol6.inet6_add_protocol(self, tcp_ipv6.tcpv6_protocol, IPPROTO_TCP)
        self.ptype_base[ETH_P_IPV6] = ip6_input.ipv6_rcv

    # -- configuration -------------------------------------------------------------------------------------------

    def sysctl_get(self, name: str) -> SysctlValue:
        """The value of "tcp_rmem", "net.ipv4.tcp_rmem", "core.somaxconn"...; KeyError if there is none."""
        if name.removeprefix("net.").removeprefix("ipv4.") == "tcp_available_congestion_control":
            return tcp_cong.tcp_get_available_congestion_control()
        return sysctl_get(self.core, self.ipv4, self.ipv6, name)

    def sysctl_set(self, name: str, value: SysctlValue) -> None:
        """Set one; KeyError for an unknown name, TypeError for a value of another kind, ValueError for one that it
        cannot have."""
        short = name.removeprefix("net.").removeprefix("ipv4.")
        if short.endswith("_congestion_control"):
            self._set_congestion_control(short, value)
            return
        largest = self.profile.sysctl_max.get(short)
        if largest is not None and isinstance(value, int) and not 0 <= value <= largest:
            raise ValueError(
                f"sysctl {short} is 0 to {largest} on {self.profile.name}: {value} is out of range"
            )
        sysctl_set(self.core, self.ipv4, self.ipv6, name, value)

    def sysctl_write(self, name: str, text: str) -> None:
        """Set one as writing ``text`` to its file would; as sysctl_set, and ValueError for a text that is no value."""
        self.sysctl_set(name, sysctl_parse(self.sysctl_get(name), text))

    def sysctls(self) -> dict[str, SysctlValue]:
        """All of them by their full names."""
        return {name: self.sysctl_get(name) for name in sysctl_names(self.core, self.ipv4, self.ipv6)}

    def _set_congestion_control(self, name: str, value: SysctlValue) -> None:
        if name == "tcp_available_congestion_control":
            raise ValueError(
                "sysctl tcp_available_congestion_control is read-only: it lists what this build has"
            )
        if not isinstance(value, str):
            raise TypeError(f"sysctl {name} is a string: {value!r} is of another kind")
        setters: dict[str, Callable[[Stack, str], int]] = {
            "tcp_congestion_control": tcp_cong.tcp_set_default_congestion_control,
            "tcp_allowed_congestion_control": tcp_cong.tcp_set_allowed_congestion_control,
        }
        if setters[name](self, value):
            available = tcp_cong.tcp_get_available_congestion_control()
            raise ValueError(f"sysctl {name}: {value!r} is not among those there are: {available}")

    def register_netdevice(self, name: str, mac: bytes, mtu: int = 1500) -> net_device:
        """A new Ethernet device, up, with its link-local IPv6 address if its MTU is 1280 or more; ValueError for a MAC
        that is not a unicast one, an MTU outside 68..65535 or a name that is taken."""
        dev = net_core_dev.register_netdevice(self, name, mac, mtu)
        addrconf.ipv6_add_dev(self, dev)
        return dev

    def dev_addr_add(self, dev: net_device, cidr: str) -> None:
        """Give the device an address: "10.0.2.2/24" (the first of a subnet is primary, others secondary) or
        "fd00::2/64".  ValueError if it is malformed, there already, or the device has no IPv6."""
        if ":" in cidr:
            addrconf.inet6_addr_add(self, dev, cidr)
        else:
            devinet.inet_addr_add(self, dev, cidr)

    def dev_addr_del(self, dev: net_device, cidr: str) -> None:
        if ":" in cidr:
            addrconf.inet6_addr_del(self, dev, cidr)
        else:
            devinet.inet_addr_del(self, dev, cidr)

    def route_add(self, cidr: str, *, dev: net_device | None = None, via: str | None = None) -> None:
        """A route ("0.0.0.0/0" via a gateway, or a prefix on a device's link)."""
        if ":" in cidr:
            route6.ip6_route_add(self, cidr, dev, via)
        else:
            fib_frontend.ip_rt_add(self, cidr, dev, via)

    def ra_start(
        self,
        dev: net_device,
        prefix: str,
        *,
        dns: Sequence[str] = (),
        domains: Sequence[str] = (),
        router_lifetime: int = 0,
        other: bool = False,
    ) -> None:
        """Send router advertisements on a device, so that its neighbours make themselves addresses of ``prefix``
        ("fd00::/64") and learn of name servers and search domains; ``other`` says that DHCPv6 has more of that kind.
        ValueError as ``radv.ra_start`` says."""
        radv.ra_start(self, dev, prefix, dns, router_lifetime, domains, other)

    def ra_stop(self, dev: net_device) -> None:
        radv.ra_stop(self, dev)

    # -- frames --------------------------------------------------------------------------------------------------

    def netif_rx(
        self,
        dev: net_device,
        frame: bytes,
        *,
        csum_start: int = 0,
        csum_offset: int = 0,
        ip_summed: int = CHECKSUM_NONE,
        gso_size: int = 0,
        gso_type: int = 0,
    ) -> int:
        """Take one Ethernet frame (no FCS) from a device, with what its virtio_net_hdr said.  ``csum_start`` counts
        from the start of the frame and matters with CHECKSUM_PARTIAL only.  0 if it was taken, 1 if dropped at
        the door (NET_RX_DROP)."""
        return net_core_dev.netif_rx(dev, frame, csum_start, csum_offset, ip_summed, gso_size, gso_type)

    def rx_done(self) -> None:
        """The end of a batch of netif_rx calls."""
        net_core_dev.net_rx_action(self)

    # -- time ----------------------------------------------------------------------------------------------------

    def run_timers(self, now_ns: int | None = None) -> int:
        """Fire what is due (now, unless a time is given); returns how many timers fired."""
        if self.backlog:
            net_core_dev.net_rx_action(self)
        fired = timer.run_timers(self, self.clock.now_ns() if now_ns is None else now_ns)
        if self.backlog:
            net_core_dev.net_rx_action(self)
        return fired

    def next_deadline(self) -> int | None:
        """When run_timers has something to do, in ns of the clock; None for never, now if work waits already."""
        if self.backlog:
            return self.clock.now_ns()
        return timer.next_deadline(self.timers)

    # -- inspection ----------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """All tables as one plain dict of ints, strings, lists and dicts (what json.dumps takes)."""
        return inspect_snapshot.snapshot(self)
