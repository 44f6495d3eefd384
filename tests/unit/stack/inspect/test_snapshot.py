# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import json

from stack.api import bsd
from stack.api.sim import MSEC, RawTcp, Sim
from stack.net.ipv4 import proc
from stack.stack import Stack


def listening(sim: Sim) -> tuple[Stack, RawTcp, bsd.Socket]:
    net = sim.add_stack("10.0.2.2/24")
    peer = sim.add_peer("10.0.2.15", net, delay_ns=5 * MSEC)
    sock = bsd.Socket(net)
    sock.bind(("0.0.0.0", 2222))
    sock.listen(3)
    return net, peer.tcp(2222), sock


def test_listener_shows_with_its_bind_bucket() -> None:
    net, _, _ = listening(Sim())
    tcp = net.snapshot()["tcp"]
    (listener,) = tcp["listeners"]
    assert (listener["state"], listener["local"], listener["backlog"]) == ("LISTEN", "0.0.0.0:2222", 3)
    (bucket,) = tcp["bind_buckets"]
    assert (bucket["bucket"], bucket["port"], bucket["owners"]) == (2222 & 1023, 2222, [listener["id"]])


def test_half_open_connection_shows_as_a_request_of_its_listener() -> None:
    net, conn, _ = listening(Sim())
    conn.send("S", mss=1460, sackok=True, ts=(1, 0), wscale=7)
    conn.expect("SA")
    tcp = net.snapshot()["tcp"]
    (request,) = tcp["requests"]
    assert request["state"] == "NEW_SYN_RECV"
    assert request["listener"] == tcp["listeners"][0]["id"]
    assert request["remote"] == "10.0.2.15:40000"
    assert request["rcv_isn"] == conn.isn
    assert request["options"]["sack_ok"]
    assert tcp["listeners"][0]["qlen"] == 1
    assert tcp["connections"] == []


def test_completed_connection_shows_in_the_accept_queue_with_its_tcp_info() -> None:
    net, conn, _ = listening(Sim())
    conn.handshake()
    tcp = net.snapshot()["tcp"]
    (child,) = tcp["connections"]
    assert child["state"] == "ESTABLISHED"
    assert tcp["listeners"][0]["accept_queue"][0]["child"] == child["id"]
    info = child["info"]
    assert 9_000 <= info["tcpi_rtt"] <= 11_000
    assert info["tcpi_snd_cwnd"] == 10
    assert info["tcpi_options"] == {"timestamps": True, "sack": True, "wscale": True}
    assert sorted(tcp["bind_buckets"][0]["owners"]) == sorted([tcp["listeners"][0]["id"], child["id"]])
    assert net.snapshot()["snmp"]["Tcp"]["CurrEstab"] == 1


def test_snapshot_is_plain_and_the_same_for_the_same_run() -> None:
    texts = []
    for _ in range(2):
        sim = Sim(seed=5)
        net, conn, sock = listening(sim)
        conn.handshake()
        child, _ = sock.accept()
        child.close()
        sim.run_for(100 * MSEC)
        texts.append(json.dumps(net.snapshot()))
    assert texts[0] == texts[1]
    assert '"FIN_WAIT1"' in texts[0] or '"FIN_WAIT2"' in texts[0]


def test_proc_files_have_a_line_of_names_and_one_of_numbers_per_group() -> None:
    net, conn, _ = listening(Sim())
    conn.handshake()
    for text, groups in (
        (proc.snmp_seq_show(net), ["Ip", "Icmp", "Tcp", "Udp"]),
        (proc.netstat_seq_show(net), ["TcpExt", "IpExt"]),
    ):
        lines = text.splitlines()
        heads = [line.split(":")[0] for line in lines]
        assert heads[0::2] == heads[1::2]
        assert [h for h in heads[0::2] if h != "IcmpMsg"] == groups
        for names, numbers in zip(lines[0::2], lines[1::2], strict=True):
            assert len(names.split()) == len(numbers.split())
    assert "PassiveOpens" in proc.snmp_seq_show(net)
    assert proc.counters(net)["TcpPassiveOpens"] == 1


def test_profile_hides_counters_its_kernel_has_not() -> None:
    old = Sim().add_stack("10.0.2.2/24")
    new = Sim().add_stack("10.0.2.2/24", profile="linux-6.18")
    assert "PAWSTimewait" not in proc.netstat_groups(old)["TcpExt"]
    assert "PAWSTimewait" in proc.netstat_groups(new)["TcpExt"]
