# SPDX-License-Identifier: GPL-2.0-or-later
"""The MIB counters: include/uapi/linux/snmp.h, include/net/snmp.h and the name tables of net/ipv4/proc.c.

Each counter is an index into one list of its Stack (``net.mib``); a group's constants count from 0 in the order in
which /proc/net/snmp and /proc/net/netstat print them, so a name table is the group's list of labels.  Counters
that only a later kernel has are always there and left out of the text forms by the profile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stack.stack import Stack

# IP, RFC 4293; /proc/net/snmp "Ip:" up to OutTransmits, then /proc/net/netstat "IpExt:".
IPSTATS_MIB_INPKTS = 0
IPSTATS_MIB_INHDRERRORS = 1
IPSTATS_MIB_INADDRERRORS = 2
IPSTATS_MIB_OUTFORWDATAGRAMS = 3
IPSTATS_MIB_INUNKNOWNPROTOS = 4
IPSTATS_MIB_INDISCARDS = 5
IPSTATS_MIB_INDELIVERS = 6
IPSTATS_MIB_OUTREQUESTS = 7
IPSTATS_MIB_OUTDISCARDS = 8
IPSTATS_MIB_OUTNOROUTES = 9
IPSTATS_MIB_REASMTIMEOUT = 10
IPSTATS_MIB_REASMREQDS = 11
IPSTATS_MIB_REASMOKS = 12
IPSTATS_MIB_REASMFAILS = 13
IPSTATS_MIB_FRAGOKS = 14
IPSTATS_MIB_FRAGFAILS = 15
IPSTATS_MIB_FRAGCREATES = 16
IPSTATS_MIB_OUTPKTS = 17
IPSTATS_MIB_INNOROUTES = 18
IPSTATS_MIB_INTRUNCATEDPKTS = 19
IPSTATS_MIB_INMCASTPKTS = 20
IPSTATS_MIB_OUTMCASTPKTS = 21
IPSTATS_MIB_INBCASTPKTS = 22
IPSTATS_MIB_OUTBCASTPKTS = 23
IPSTATS_MIB_INOCTETS = 24
IPSTATS_MIB_OUTOCTETS = 25
IPSTATS_MIB_INMCASTOCTETS = 26
IPSTATS_MIB_OUTMCASTOCTETS = 27
IPSTATS_MIB_INBCASTOCTETS = 28
IPSTATS_MIB_OUTBCASTOCTETS = 29
IPSTATS_MIB_CSUMERRORS = 30
IPSTATS_MIB_NOECTPKTS = 31
IPSTATS_MIB_ECT1PKTS = 32
IPSTATS_MIB_ECT0PKTS = 33
IPSTATS_MIB_CEPKTS = 34
IPSTATS_MIB_REASM_OVERLAPS = 35

# ICMP, RFC 4293
ICMP_MIB_INMSGS = 0
ICMP_MIB_INERRORS = 1
ICMP_MIB_CSUMERRORS = 2
ICMP_MIB_INDESTUNREACHS = 3
ICMP_MIB_INTIMEEXCDS = 4
ICMP_MIB_INPARMPROBS = 5
ICMP_MIB_INSRCQUENCHS = 6
ICMP_MIB_INREDIRECTS = 7
ICMP_MIB_INECHOS = 8
ICMP_MIB_INECHOREPS = 9
ICMP_MIB_INTIMESTAMPS = 10
ICMP_MIB_INTIMESTAMPREPS = 11
ICMP_MIB_INADDRMASKS = 12
ICMP_MIB_INADDRMASKREPS = 13
ICMP_MIB_OUTMSGS = 14
ICMP_MIB_OUTERRORS = 15
ICMP_MIB_RATELIMITGLOBAL = 16
ICMP_MIB_RATELIMITHOST = 17
ICMP_MIB_OUTDESTUNREACHS = 18
ICMP_MIB_OUTTIMEEXCDS = 19
ICMP_MIB_OUTPARMPROBS = 20
ICMP_MIB_OUTSRCQUENCHS = 21
ICMP_MIB_OUTREDIRECTS = 22
ICMP_MIB_OUTECHOS = 23
ICMP_MIB_OUTECHOREPS = 24
ICMP_MIB_OUTTIMESTAMPS = 25
ICMP_MIB_OUTTIMESTAMPREPS = 26
ICMP_MIB_OUTADDRMASKS = 27
ICMP_MIB_OUTADDRMASKREPS = 28

# TCP, RFC 4022
TCP_MIB_RTOALGORITHM = 0
TCP_MIB_RTOMIN = 1
TCP_MIB_RTOMAX = 2
TCP_MIB_MAXCONN = 3
TCP_MIB_ACTIVEOPENS = 4
TCP_MIB_PASSIVEOPENS = 5
TCP_MIB_ATTEMPTFAILS = 6
TCP_MIB_ESTABRESETS = 7
TCP_MIB_CURRESTAB = 8
TCP_MIB_INSEGS = 9
TCP_MIB_OUTSEGS = 10
TCP_MIB_RETRANSSEGS = 11
TCP_MIB_INERRS = 12
TCP_MIB_OUTRSTS = 13
TCP_MIB_CSUMERRORS = 14

# UDP, RFC 4113
UDP_MIB_INDATAGRAMS = 0
UDP_MIB_NOPORTS = 1
UDP_MIB_INERRORS = 2
UDP_MIB_OUTDATAGRAMS = 3
UDP_MIB_RCVBUFERRORS = 4
UDP_MIB_SNDBUFERRORS = 5
UDP_MIB_CSUMERRORS = 6
UDP_MIB_IGNOREDMULTI = 7
UDP_MIB_MEMERRORS = 8

# "TcpExt:" of /proc/net/netstat
LINUX_MIB_SYNCOOKIESSENT = 0
LINUX_MIB_SYNCOOKIESRECV = 1
LINUX_MIB_SYNCOOKIESFAILED = 2
LINUX_MIB_EMBRYONICRSTS = 3
LINUX_MIB_PRUNECALLED = 4
LINUX_MIB_RCVPRUNED = 5
LINUX_MIB_OFOPRUNED = 6
LINUX_MIB_OUTOFWINDOWICMPS = 7
LINUX_MIB_LOCKDROPPEDICMPS = 8
LINUX_MIB_ARPFILTER = 9
LINUX_MIB_TIMEWAITED = 10
LINUX_MIB_TIMEWAITRECYCLED = 11
LINUX_MIB_TIMEWAITKILLED = 12
LINUX_MIB_PAWSACTIVEREJECTED = 13
LINUX_MIB_PAWSESTABREJECTED = 14
LINUX_MIB_BEYOND_WINDOW = 15
LINUX_MIB_TSECRREJECTED = 16
LINUX_MIB_PAWS_OLD_ACK = 17
LINUX_MIB_PAWS_TW_REJECTED = 18
LINUX_MIB_DELAYEDACKS = 19
LINUX_MIB_DELAYEDACKLOCKED = 20
LINUX_MIB_DELAYEDACKLOST = 21
LINUX_MIB_LISTENOVERFLOWS = 22
LINUX_MIB_LISTENDROPS = 23
LINUX_MIB_TCPHPHITS = 24
LINUX_MIB_TCPPUREACKS = 25
LINUX_MIB_TCPHPACKS = 26
LINUX_MIB_TCPRENORECOVERY = 27
LINUX_MIB_TCPSACKRECOVERY = 28
LINUX_MIB_TCPSACKRENEGING = 29
LINUX_MIB_TCPSACKREORDER = 30
LINUX_MIB_TCPRENOREORDER = 31
LINUX_MIB_TCPTSREORDER = 32
LINUX_MIB_TCPFULLUNDO = 33
LINUX_MIB_TCPPARTIALUNDO = 34
LINUX_MIB_TCPDSACKUNDO = 35
LINUX_MIB_TCPLOSSUNDO = 36
LINUX_MIB_TCPLOSTRETRANSMIT = 37
LINUX_MIB_TCPRENOFAILURES = 38
LINUX_MIB_TCPSACKFAILURES = 39
LINUX_MIB_TCPLOSSFAILURES = 40
LINUX_MIB_TCPFASTRETRANS = 41
LINUX_MIB_TCPSLOWSTARTRETRANS = 42
LINUX_MIB_TCPTIMEOUTS = 43
LINUX_MIB_TCPLOSSPROBES = 44
LINUX_MIB_TCPLOSSPROBERECOVERY = 45
LINUX_MIB_TCPRENORECOVERYFAIL = 46
LINUX_MIB_TCPSACKRECOVERYFAIL = 47
LINUX_MIB_TCPRCVCOLLAPSED = 48
LINUX_MIB_TCPBACKLOGCOALESCE = 49
LINUX_MIB_TCPDSACKOLDSENT = 50
LINUX_MIB_TCPDSACKOFOSENT = 51
LINUX_MIB_TCPDSACKRECV = 52
LINUX_MIB_TCPDSACKOFORECV = 53
LINUX_MIB_TCPABORTONDATA = 54
LINUX_MIB_TCPABORTONCLOSE = 55
LINUX_MIB_TCPABORTONMEMORY = 56
LINUX_MIB_TCPABORTONTIMEOUT = 57
LINUX_MIB_TCPABORTONLINGER = 58
LINUX_MIB_TCPABORTFAILED = 59
LINUX_MIB_TCPMEMORYPRESSURES = 60
LINUX_MIB_TCPMEMORYPRESSURESCHRONO = 61
LINUX_MIB_TCPSACKDISCARD = 62
LINUX_MIB_TCPDSACKIGNOREDOLD = 63
LINUX_MIB_TCPDSACKIGNOREDNOUNDO = 64
LINUX_MIB_TCPSPURIOUSRTOS = 65
LINUX_MIB_TCPMD5NOTFOUND = 66
LINUX_MIB_TCPMD5UNEXPECTED = 67
LINUX_MIB_TCPMD5FAILURE = 68
LINUX_MIB_TCPSACKSHIFTED = 69
LINUX_MIB_TCPSACKMERGED = 70
LINUX_MIB_TCPSACKSHIFTFALLBACK = 71
LINUX_MIB_TCPBACKLOGDROP = 72
LINUX_MIB_PFMEMALLOCDROP = 73
LINUX_MIB_TCPMINTTLDROP = 74
LINUX_MIB_TCPDEFERACCEPTDROP = 75
LINUX_MIB_IPRPFILTER = 76
LINUX_MIB_TCPTIMEWAITOVERFLOW = 77
LINUX_MIB_TCPREQQFULLDOCOOKIES = 78
LINUX_MIB_TCPREQQFULLDROP = 79
LINUX_MIB_TCPRETRANSFAIL = 80
LINUX_MIB_TCPRCVCOALESCE = 81
LINUX_MIB_TCPOFOQUEUE = 82
LINUX_MIB_TCPOFODROP = 83
LINUX_MIB_TCPOFOMERGE = 84
LINUX_MIB_TCPCHALLENGEACK = 85
LINUX_MIB_TCPSYNCHALLENGE = 86
LINUX_MIB_TCPFASTOPENACTIVE = 87
LINUX_MIB_TCPFASTOPENACTIVEFAIL = 88
LINUX_MIB_TCPFASTOPENPASSIVE = 89
LINUX_MIB_TCPFASTOPENPASSIVEFAIL = 90
LINUX_MIB_TCPFASTOPENLISTENOVERFLOW = 91
LINUX_MIB_TCPFASTOPENCOOKIEREQD = 92
LINUX_MIB_TCPFASTOPENBLACKHOLE = 93
LINUX_MIB_TCPSPURIOUSRTXHOSTQUEUES = 94
LINUX_MIB_BUSYPOLLRXPACKETS = 95
LINUX_MIB_TCPAUTOCORKING = 96
LINUX_MIB_TCPFROMZEROWINDOWADV = 97
LINUX_MIB_TCPTOZEROWINDOWADV = 98
LINUX_MIB_TCPWANTZEROWINDOWADV = 99
LINUX_MIB_TCPSYNRETRANS = 100
LINUX_MIB_TCPORIGDATASENT = 101
LINUX_MIB_TCPHYSTARTTRAINDETECT = 102
LINUX_MIB_TCPHYSTARTTRAINCWND = 103
LINUX_MIB_TCPHYSTARTDELAYDETECT = 104
LINUX_MIB_TCPHYSTARTDELAYCWND = 105
LINUX_MIB_TCPACKSKIPPEDSYNRECV = 106
LINUX_MIB_TCPACKSKIPPEDPAWS = 107
LINUX_MIB_TCPACKSKIPPEDSEQ = 108
LINUX_MIB_TCPACKSKIPPEDFINWAIT2 = 109
LINUX_MIB_TCPACKSKIPPEDTIMEWAIT = 110
LINUX_MIB_TCPACKSKIPPEDCHALLENGE = 111
LINUX_MIB_TCPWINPROBE = 112
LINUX_MIB_TCPKEEPALIVE = 113
LINUX_MIB_TCPMTUPFAIL = 114
LINUX_MIB_TCPMTUPSUCCESS = 115
LINUX_MIB_TCPDELIVERED = 116
LINUX_MIB_TCPDELIVEREDCE = 117
LINUX_MIB_TCPACKCOMPRESSED = 118
LINUX_MIB_TCPZEROWINDOWDROP = 119
LINUX_MIB_TCPRCVQDROP = 120
LINUX_MIB_TCPWQUEUETOOBIG = 121
LINUX_MIB_TCPFASTOPENPASSIVEALTKEY = 122
LINUX_MIB_TCPTIMEOUTREHASH = 123
LINUX_MIB_TCPDUPLICATEDATAREHASH = 124
LINUX_MIB_TCPDSACKRECVSEGS = 125
LINUX_MIB_TCPDSACKIGNOREDDUBIOUS = 126
LINUX_MIB_TCPMIGRATEREQSUCCESS = 127
LINUX_MIB_TCPMIGRATEREQFAILURE = 128
LINUX_MIB_TCPPLBREHASH = 129
LINUX_MIB_TCPAOREQUIRED = 130
LINUX_MIB_TCPAOBAD = 131
LINUX_MIB_TCPAOKEYNOTFOUND = 132
LINUX_MIB_TCPAOGOOD = 133
LINUX_MIB_TCPAODROPPEDICMPS = 134

snmp4_ipstats_list = (
    "InReceives",
    "InHdrErrors",
    "InAddrErrors",
    "ForwDatagrams",
    "InUnknownProtos",
    "InDiscards",
    "InDelivers",
    "OutRequests",
    "OutDiscards",
    "OutNoRoutes",
    "ReasmTimeout",
    "ReasmReqds",
    "ReasmOKs",
    "ReasmFails",
    "FragOKs",
    "FragFails",
    "FragCreates",
    "OutTransmits",
    "InNoRoutes",
    "InTruncatedPkts",
    "InMcastPkts",
    "OutMcastPkts",
    "InBcastPkts",
    "OutBcastPkts",
    "InOctets",
    "OutOctets",
    "InMcastOctets",
    "OutMcastOctets",
    "InBcastOctets",
    "OutBcastOctets",
    "InCsumErrors",
    "InNoECTPkts",
    "InECT1Pkts",
    "InECT0Pkts",
    "InCEPkts",
    "ReasmOverlaps",
)

snmp4_icmp_list = (
    "InMsgs",
    "InErrors",
    "InCsumErrors",
    "InDestUnreachs",
    "InTimeExcds",
    "InParmProbs",
    "InSrcQuenchs",
    "InRedirects",
    "InEchos",
    "InEchoReps",
    "InTimestamps",
    "InTimestampReps",
    "InAddrMasks",
    "InAddrMaskReps",
    "OutMsgs",
    "OutErrors",
    "OutRateLimitGlobal",
    "OutRateLimitHost",
    "OutDestUnreachs",
    "OutTimeExcds",
    "OutParmProbs",
    "OutSrcQuenchs",
    "OutRedirects",
    "OutEchos",
    "OutEchoReps",
    "OutTimestamps",
    "OutTimestampReps",
    "OutAddrMasks",
    "OutAddrMaskReps",
)

snmp4_tcp_list = (
    "RtoAlgorithm",
    "RtoMin",
    "RtoMax",
    "MaxConn",
    "ActiveOpens",
    "PassiveOpens",
    "AttemptFails",
    "EstabResets",
    "CurrEstab",
    "InSegs",
    "OutSegs",
    "RetransSegs",
    "InErrs",
    "OutRsts",
    "InCsumErrors",
)

snmp4_udp_list = (
    "InDatagrams",
    "NoPorts",
    "InErrors",
    "OutDatagrams",
    "RcvbufErrors",
    "SndbufErrors",
    "InCsumErrors",
    "IgnoredMulti",
    "MemErrors",
)

snmp4_net_list = (
    "SyncookiesSent",
    "SyncookiesRecv",
    "SyncookiesFailed",
    "EmbryonicRsts",
    "PruneCalled",
    "RcvPruned",
    "OfoPruned",
    "OutOfWindowIcmps",
    "LockDroppedIcmps",
    "ArpFilter",
    "TW",
    "TWRecycled",
    "TWKilled",
    "PAWSActive",
    "PAWSEstab",
    "BeyondWindow",
    "TSEcrRejected",
    "PAWSOldAck",
    "PAWSTimewait",
    "DelayedACKs",
    "DelayedACKLocked",
    "DelayedACKLost",
    "ListenOverflows",
    "ListenDrops",
    "TCPHPHits",
    "TCPPureAcks",
    "TCPHPAcks",
    "TCPRenoRecovery",
    "TCPSackRecovery",
    "TCPSACKReneging",
    "TCPSACKReorder",
    "TCPRenoReorder",
    "TCPTSReorder",
    "TCPFullUndo",
    "TCPPartialUndo",
    "TCPDSACKUndo",
    "TCPLossUndo",
    "TCPLostRetransmit",
    "TCPRenoFailures",
    "TCPSackFailures",
    "TCPLossFailures",
    "TCPFastRetrans",
    "TCPSlowStartRetrans",
    "TCPTimeouts",
    "TCPLossProbes",
    "TCPLossProbeRecovery",
    "TCPRenoRecoveryFail",
    "TCPSackRecoveryFail",
    "TCPRcvCollapsed",
    "TCPBacklogCoalesce",
    "TCPDSACKOldSent",
    "TCPDSACKOfoSent",
    "TCPDSACKRecv",
    "TCPDSACKOfoRecv",
    "TCPAbortOnData",
    "TCPAbortOnClose",
    "TCPAbortOnMemory",
    "TCPAbortOnTimeout",
    "TCPAbortOnLinger",
    "TCPAbortFailed",
    "TCPMemoryPressures",
    "TCPMemoryPressuresChrono",
    "TCPSACKDiscard",
    "TCPDSACKIgnoredOld",
    "TCPDSACKIgnoredNoUndo",
    "TCPSpuriousRTOs",
    "TCPMD5NotFound",
    "TCPMD5Unexpected",
    "TCPMD5Failure",
    "TCPSackShifted",
    "TCPSackMerged",
    "TCPSackShiftFallback",
    "TCPBacklogDrop",
    "PFMemallocDrop",
    "TCPMinTTLDrop",
    "TCPDeferAcceptDrop",
    "IPReversePathFilter",
    "TCPTimeWaitOverflow",
    "TCPReqQFullDoCookies",
    "TCPReqQFullDrop",
    "TCPRetransFail",
    "TCPRcvCoalesce",
    "TCPOFOQueue",
    "TCPOFODrop",
    "TCPOFOMerge",
    "TCPChallengeACK",
    "TCPSYNChallenge",
    "TCPFastOpenActive",
    "TCPFastOpenActiveFail",
    "TCPFastOpenPassive",
    "TCPFastOpenPassiveFail",
    "TCPFastOpenListenOverflow",
    "TCPFastOpenCookieReqd",
    "TCPFastOpenBlackhole",
    "TCPSpuriousRtxHostQueues",
    "BusyPollRxPackets",
    "TCPAutoCorking",
    "TCPFromZeroWindowAdv",
    "TCPToZeroWindowAdv",
    "TCPWantZeroWindowAdv",
    "TCPSynRetrans",
    "TCPOrigDataSent",
    "TCPHystartTrainDetect",
    "TCPHystartTrainCwnd",
    "TCPHystartDelayDetect",
    "TCPHystartDelayCwnd",
    "TCPACKSkippedSynRecv",
    "TCPACKSkippedPAWS",
    "TCPACKSkippedSeq",
    "TCPACKSkippedFinWait2",
    "TCPACKSkippedTimeWait",
    "TCPACKSkippedChallenge",
    "TCPWinProbe",
    "TCPKeepAlive",
    "TCPMTUPFail",
    "TCPMTUPSuccess",
    "TCPDelivered",
    "TCPDeliveredCE",
    "TCPAckCompressed",
    "TCPZeroWindowDrop",
    "TCPRcvQDrop",
    "TCPWqueueTooBig",
    "TCPFastOpenPassiveAltKey",
    "TcpTimeoutRehash",
    "TcpDuplicateDataRehash",
    "TCPDSACKRecvSegs",
    "TCPDSACKIgnoredDubious",
    "TCPMigrateReqSuccess",
    "TCPMigrateReqFailure",
    "TCPPLBRehash",
    "TCPAORequired",
    "TCPAOBad",
    "TCPAOKeyNotFound",
    "TCPAOGood",
    "TCPAODroppedIcmps",
)

# How many of snmp4_ipstats_list /proc/net/snmp prints; the rest is IpExt of /proc/net/netstat.
SNMP4_IPSTATS_IN_SNMP = IPSTATS_MIB_OUTPKTS + 1


class netns_mib:
    """struct netns_mib: all counters of one Stack.  ``icmpmsg_statistics`` counts received types at index
    ``type`` and sent ones at ``256 + type``."""

    __slots__ = (
        "icmp_statistics",
        "icmpmsg_statistics",
        "ip_statistics",
        "net_statistics",
        "tcp_statistics",
        "udp_statistics",
    )

    def __init__(self) -> None:
        self.ip_statistics = [0] * len(snmp4_ipstats_list)
        self.icmp_statistics = [0] * len(snmp4_icmp_list)
        self.icmpmsg_statistics = [0] * 512
        self.tcp_statistics = [0] * len(snmp4_tcp_list)
        self.udp_statistics = [0] * len(snmp4_udp_list)
        self.net_statistics = [0] * len(snmp4_net_list)


def IP_INC_STATS(net: Stack, field: int) -> None:
    net.mib.ip_statistics[field] += 1


def IP_UPD_PO_STATS(net: Stack, packets: int, octets: int, length: int) -> None:
    """One packet of ``length`` bytes; both fields are named, as Python has no token pasting."""
    stats = net.mib.ip_statistics
    stats[packets] += 1
    stats[octets] += length


def ICMP_INC_STATS(net: Stack, field: int) -> None:
    net.mib.icmp_statistics[field] += 1


def ICMPMSGIN_INC_STATS(net: Stack, icmp_type: int) -> None:
    net.mib.icmpmsg_statistics[icmp_type] += 1


def ICMPMSGOUT_INC_STATS(net: Stack, icmp_type: int) -> None:
    net.mib.icmpmsg_statistics[256 + icmp_type] += 1


def TCP_INC_STATS(net: Stack, field: int) -> None:
    net.mib.tcp_statistics[field] += 1


def TCP_ADD_STATS(net: Stack, field: int, value: int) -> None:
    net.mib.tcp_statistics[field] += value


def TCP_DEC_STATS(net: Stack, field: int) -> None:
    net.mib.tcp_statistics[field] -= 1


def UDP_INC_STATS(net: Stack, field: int) -> None:
    net.mib.udp_statistics[field] += 1


def NET_INC_STATS(net: Stack, field: int) -> None:
    net.mib.net_statistics[field] += 1


def NET_ADD_STATS(net: Stack, field: int, value: int) -> None:
    net.mib.net_statistics[field] += value
