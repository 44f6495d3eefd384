# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import pytest

from stack.api.sim import Sim
from stack.include.ip import IPPROTO_UDP
from stack.include.netdevice import NETDEV_TX_BUSY, NETDEV_TX_OK, NETIF_F_HW_CSUM, net_device
from stack.include.sk_buff import CHECKSUM_PARTIAL, SKB_GSO_TCPV4, sk_buff
from stack.net.core import dev as core_dev
from stack.net.core.skbuff import skb_linear_bytes
from stack.net.ipv4 import udp
from stack.stack import Stack


def bound_udp(net: Stack, port: int) -> udp.udp_sock:
    from stack.include.sock import AF_INET
    from stack.net.core import sock as core_sock

    sk: udp.udp_sock = core_sock.sk_alloc(net, AF_INET, udp.udp_prot)
    core_sock.sock_init_data(None, sk)
    sk.sk_protocol = IPPROTO_UDP
    assert udp.udp_lib_get_port(sk, port) == 0
    sk.inet_sport = sk.sk_num
    return sk


def test_short_frame_is_dropped_with_a_reason() -> None:
    net = Sim().add_stack("10.0.2.2/24")
    dev = net.devices_by_name["eth0"]
    assert net.netif_rx(dev, b"\0" * 13) == core_dev.NET_RX_DROP
    assert net.drop_reasons == {"DEV_HDR": 1}
    assert dev.stats.rx_errors == 1


@pytest.mark.parametrize("ethertype", [0x0026, 0x8100, 0x88CC])
def test_frame_of_unknown_type_is_dropped_as_unhandled(ethertype: int) -> None:
    net = Sim().add_stack("10.0.2.2/24")
    dev = net.devices_by_name["eth0"]
    net.netif_rx(dev, dev.dev_addr + b"\x02" * 6 + ethertype.to_bytes(2, "big") + bytes(50))
    assert net.drop_reasons == {"UNHANDLED_PROTO": 1}


def test_registered_ethernet_type_gets_its_frames() -> None:
    net = Sim().add_stack("10.0.2.2/24")
    dev = net.devices_by_name["eth0"]
    seen: list[bytes] = []

    def handler(skb: sk_buff) -> int:
        seen.append(bytes(skb.head[skb.data : skb.tail]))
        return 0

    net.ptype_base[0x88B5] = handler
    net.netif_rx(dev, dev.dev_addr + b"\x02" * 6 + b"\x88\xb5" + b"six")
    assert seen == [b"six"]
    assert net.drop_reasons == {}


@pytest.mark.parametrize(("start", "offset"), [(0, 16), (13, 0), (34, 60), (34, -40), (65535, 2)])
def test_frame_with_checksum_field_outside_is_dropped(start: int, offset: int) -> None:
    net = Sim().add_stack("10.0.2.2/24")
    dev = net.devices_by_name["eth0"]
    frame = dev.dev_addr + b"\x02" * 6 + b"\x08\x00" + bytes(46)
    net.netif_rx(dev, frame, csum_start=start, csum_offset=offset, ip_summed=CHECKSUM_PARTIAL)
    assert net.drop_reasons == {"DEV_RX_OFFLOAD": 1}


@pytest.mark.parametrize(
    ("gso_size", "gso_type", "summed"),
    [(0, SKB_GSO_TCPV4, CHECKSUM_PARTIAL), (1448, 0x40, CHECKSUM_PARTIAL), (1448, SKB_GSO_TCPV4, 0)],
)
def test_gso_frame_that_makes_no_sense_is_dropped(gso_size: int, gso_type: int, summed: int) -> None:
    net = Sim().add_stack("10.0.2.2/24")
    dev = net.devices_by_name["eth0"]
    frame = dev.dev_addr + b"\x02" * 6 + b"\x08\x00" + bytes(3000)
    net.netif_rx(
        dev, frame, csum_start=34, csum_offset=16, ip_summed=summed, gso_size=gso_size, gso_type=gso_type
    )
    assert net.drop_reasons == {"DEV_RX_OFFLOAD": 1}


def test_device_with_checksum_offload_gets_the_pseudo_header_only() -> None:
    sim = Sim()
    net = sim.add_stack("10.0.2.2/24", features=NETIF_F_HW_CSUM)
    peer = sim.add_peer("10.0.2.15", net)
    sk = bound_udp(net, 7)
    assert udp.udp_sendmsg(sk, b"hi", (0x0A00020F, 9), 0) == 2
    packet = peer.expect_udp(7, 9, b"hi")
    assert packet.frame.ip_summed == CHECKSUM_PARTIAL
    assert (packet.frame.csum_start, packet.frame.csum_offset) == (34, 6)
    assert int.from_bytes(packet.body[6:8], "big") == (0x0A000202 + 0x0A00020F + 17 + 10) % 65535


def test_busy_device_keeps_packets_in_order_until_woken() -> None:
    sim = Sim()
    net = sim.add_stack("10.0.2.2/24")
    sim.add_peer("10.0.2.15", net)
    dev = net.devices_by_name["eth0"]
    sent: list[bytes] = []
    room = [1]

    def xmit(skb: sk_buff, dev: net_device) -> int:
        if not room[0]:
            return NETDEV_TX_BUSY
        room[0] -= 1
        sent.append(skb_linear_bytes(skb)[42:])
        return NETDEV_TX_OK

    dev.ndo_start_xmit = xmit
    sk = bound_udp(net, 7)
    for data in (b"a", b"b", b"c"):
        udp.udp_sendmsg(sk, data, (0x0A00020F, 9), 0)
    assert (sent, len(dev.tx_queue)) == ([b"a"], 2)
    assert sk.sk_wmem_alloc > 0
    room[0] = 10
    core_dev.netif_wake_queue(dev)
    assert sent == [b"a", b"b", b"c"]
    assert sk.sk_wmem_alloc == 0


def test_busy_device_drops_beyond_its_queue() -> None:
    sim = Sim()
    net = sim.add_stack("10.0.2.2/24")
    sim.add_peer("10.0.2.15", net)
    dev = net.devices_by_name["eth0"]
    dev.ndo_start_xmit = lambda skb, dev: NETDEV_TX_BUSY
    dev.tx_queue_len = 3
    sk = bound_udp(net, 7)
    for _ in range(5):
        udp.udp_sendmsg(sk, b"x", (0x0A00020F, 9), 0)
    assert net.drop_reasons == {"QDISC_DROP": 2}
    assert dev.stats.tx_dropped == 2


def test_loopback_delivers_at_the_end_of_the_batch() -> None:
    net = Sim().add_stack("10.0.2.2/24")
    sk = bound_udp(net, 7)
    udp.udp_sendmsg(sk, b"me", (0x0A000202, 7), 0)
    assert net.next_deadline() == 0
    net.rx_done()
    assert udp.udp_recvmsg(sk, 100, 0) == (b"me", (0x0A000202, 7))


@pytest.mark.parametrize("mac", [b"\x01\0\0\0\0\0", bytes(6), b"\x02\0"])
def test_register_netdevice_refuses_an_address_that_is_no_unicast_one(mac: bytes) -> None:
    net = Sim().add_stack()
    with pytest.raises(ValueError, match="unicast"):
        net.register_netdevice("eth1", mac)


def test_register_netdevice_refuses_a_taken_name_and_a_tiny_mtu() -> None:
    net = Sim().add_stack()
    with pytest.raises(ValueError, match="taken"):
        net.register_netdevice("eth0", b"\x02\0\0\0\0\1")
    with pytest.raises(ValueError, match="MTU"):
        net.register_netdevice("eth1", b"\x02\0\0\0\0\1", mtu=67)
