# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import json

from stack.api import bsd
from stack.api.sim import MSEC, RawTcp, Sim
from stack.inspect.snapshot import counters, tcp_sockets, tcp_tables, udp_sockets
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
    assert [name for name, agreed in info["tcpi_options"].items() if agreed] == [
        "timestamps",
        "sack",
        "wscale",
    ]
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
        (proc.snmp_seq_show(net), ["Ip", "Icmp", "Tcp", "Udp", "UdpLite"]),
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


SNMP_6_1 = """\
Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos InDiscards InDelivers \
OutRequests OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs FragFails FragCreates
Icmp: InMsgs InErrors InCsumErrors InDestUnreachs InTimeExcds InParmProbs InSrcQuenchs InRedirects InEchos InEchoReps \
InTimestamps InTimestampReps InAddrMasks InAddrMaskReps OutMsgs OutErrors OutRateLimitGlobal OutRateLimitHost \
OutDestUnreachs OutTimeExcds OutParmProbs OutSrcQuenchs OutRedirects OutEchos OutEchoReps OutTimestamps \
OutTimestampReps OutAddrMasks OutAddrMaskReps
IcmpMsg: InType8 OutType0
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs \
RetransSegs InErrs OutRsts InCsumErrors
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors
UdpLite: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors
"""

NETSTAT_6_1 = """\
TcpExt: SyncookiesSent SyncookiesRecv SyncookiesFailed EmbryonicRsts PruneCalled RcvPruned OfoPruned OutOfWindowIcmps \
LockDroppedIcmps ArpFilter TW TWRecycled TWKilled PAWSActive PAWSEstab DelayedACKs DelayedACKLocked DelayedACKLost \
ListenOverflows ListenDrops TCPHPHits TCPPureAcks TCPHPAcks TCPRenoRecovery TCPSackRecovery TCPSACKReneging \
TCPSACKReorder TCPRenoReorder TCPTSReorder TCPFullUndo TCPPartialUndo TCPDSACKUndo TCPLossUndo TCPLostRetransmit \
TCPRenoFailures TCPSackFailures TCPLossFailures TCPFastRetrans TCPSlowStartRetrans TCPTimeouts TCPLossProbes \
TCPLossProbeRecovery TCPRenoRecoveryFail TCPSackRecoveryFail TCPRcvCollapsed TCPBacklogCoalesce TCPDSACKOldSent \
TCPDSACKOfoSent TCPDSACKRecv TCPDSACKOfoRecv TCPAbortOnData TCPAbortOnClose TCPAbortOnMemory TCPAbortOnTimeout \
TCPAbortOnLinger TCPAbortFailed TCPMemoryPressures TCPMemoryPressuresChrono TCPSACKDiscard TCPDSACKIgnoredOld \
TCPDSACKIgnoredNoUndo TCPSpuriousRTOs TCPMD5NotFound TCPMD5Unexpected TCPMD5Failure TCPSackShifted TCPSackMerged \
TCPSackShiftFallback TCPBacklogDrop PFMemallocDrop TCPMinTTLDrop TCPDeferAcceptDrop IPReversePathFilter \
TCPTimeWaitOverflow TCPReqQFullDoCookies TCPReqQFullDrop TCPRetransFail TCPRcvCoalesce TCPOFOQueue TCPOFODrop \
TCPOFOMerge TCPChallengeACK TCPSYNChallenge TCPFastOpenActive TCPFastOpenActiveFail TCPFastOpenPassive \
TCPFastOpenPassiveFail TCPFastOpenListenOverflow TCPFastOpenCookieReqd TCPFastOpenBlackhole TCPSpuriousRtxHostQueues \
BusyPollRxPackets TCPAutoCorking TCPFromZeroWindowAdv TCPToZeroWindowAdv TCPWantZeroWindowAdv TCPSynRetrans \
TCPOrigDataSent TCPHystartTrainDetect TCPHystartTrainCwnd TCPHystartDelayDetect TCPHystartDelayCwnd \
TCPACKSkippedSynRecv TCPACKSkippedPAWS TCPACKSkippedSeq TCPACKSkippedFinWait2 TCPACKSkippedTimeWait \
TCPACKSkippedChallenge TCPWinProbe TCPKeepAlive TCPMTUPFail TCPMTUPSuccess TCPDelivered TCPDeliveredCE \
TCPAckCompressed TCPZeroWindowDrop TCPRcvQDrop TCPWqueueTooBig TCPFastOpenPassiveAltKey TcpTimeoutRehash \
TcpDuplicateDataRehash TCPDSACKRecvSegs TCPDSACKIgnoredDubious TCPMigrateReqSuccess TCPMigrateReqFailure
IpExt: InNoRoutes InTruncatedPkts InMcastPkts OutMcastPkts InBcastPkts OutBcastPkts InOctets OutOctets InMcastOctets \
OutMcastOctets InBcastOctets OutBcastOctets InCsumErrors InNoECTPkts InECT1Pkts InECT0Pkts InCEPkts ReasmOverlaps
"""


def test_snapshot_has_the_columns_of_6_1_in_its_order() -> None:
    net, conn, _ = listening(Sim())
    conn.peer.send_icmp("10.0.2.2", 8, 0, 1, b"ping")
    conn.handshake()
    text = net.snapshot()["proc_net"]
    for name, columns in (("snmp", SNMP_6_1), ("netstat", NETSTAT_6_1)):
        assert [line + "\n" for line in text[name].splitlines()[0::2]] == columns.splitlines(keepends=True)


def test_icmp_types_take_a_pair_of_lines_per_sixteen() -> None:
    net = Sim().add_stack("10.0.2.2/24")
    for icmp_type in range(40):
        net.mib.icmpmsg_statistics[icmp_type] = icmp_type + 1
    lines = [line for line in proc.snmp_seq_show(net).splitlines() if line.startswith("IcmpMsg:")]
    assert [len(line.split()) - 1 for line in lines] == [16, 16, 16, 16, 8, 8]
    assert lines[2].split()[1] == "InType16"
    assert lines[3].split()[1] == "17"


def test_sockstat_counts_sockets_by_protocol_and_state() -> None:
    net, conn, sock = listening(Sim())
    udp = bsd.Socket(net, type=bsd.SOCK_DGRAM)
    udp.bind(("", 53))
    unused = bsd.Socket(net)
    conn.handshake()
    conn.send("PA", b"x" * 100)
    conn.peer.sim.run_for(8 * MSEC)
    sim_text = net.snapshot()["proc_net"]["sockstat"]
    assert sim_text.splitlines() == [
        "sockets: used 4",
        "TCP: inuse 2 orphan 0 tw 0 alloc 3 mem 1",
        "UDP: inuse 1 mem 0",
        "UDPLITE: inuse 0",
        "RAW: inuse 0",
        "FRAG: inuse 0 memory 0",
    ]
    unused.close()
    child, _ = sock.accept()
    child.recv(100)
    child.close()
    conn.expect("A")
    assert "TCP: inuse 2 orphan 1 tw 0 alloc 2 mem " in proc.sockstat_seq_show(net)
    conn.peer.inbox.clear()
    conn.send("FA", ack=2)
    conn.peer.sim.run_for(20 * MSEC)
    assert "TCP: inuse 1 orphan 0 tw 1 alloc 1 mem 0" in proc.sockstat_seq_show(net)


def test_profile_hides_counters_its_kernel_has_not() -> None:
    old = Sim().add_stack("10.0.2.2/24")
    new = Sim().add_stack("10.0.2.2/24", profile="linux-6.18")
    assert "PAWSTimewait" not in proc.netstat_groups(old)["TcpExt"]
    assert "PAWSTimewait" in proc.netstat_groups(new)["TcpExt"]


def test_some_of_many_sockets_are_told_of_with_the_buckets_that_they_are_in() -> None:
    sim = Sim()
    net = sim.add_stack("10.0.2.2/24")
    peer = sim.add_peer("10.0.2.15", net)
    for port in (80, 2222):
        sock = bsd.Socket(net)
        sock.bind(("0.0.0.0", port))
        sock.listen(3)
    for sport in (1000, 1001):
        peer.tcp(2222, sport=sport).handshake()
    bsd.Socket(net, type=bsd.SOCK_DGRAM).bind(("10.0.2.2", 53))
    chosen = [sk for chain in net.tcp_hashinfo.ehash.values() for sk in chain][:1]
    told = tcp_tables(net, chosen)
    assert [one["remote"] for one in told["connections"]] == ["10.0.2.15:1000"]
    assert told["listeners"] == []
    (bucket,) = told["bind_buckets"]
    assert (bucket["port"], len(bucket["owners"])) == (2222, 3)
    assert list(told["ehash_buckets"].values()) == [[told["connections"][0]["id"]]]
    assert told["listening_buckets"] == {}
    assert tcp_sockets(net, chosen)["connections"] == told["connections"]
    assert len(udp_sockets(net)) == 1
    assert udp_sockets(net, 0) == []


def test_counters_are_named_as_by_nstat() -> None:
    net, conn, _ = listening(Sim())
    conn.handshake()
    told = counters(net)
    assert (told["TcpPassiveOpens"], told["TcpExtListenDrops"]) == (1, 0)
    assert "Ip6InReceives" in told
