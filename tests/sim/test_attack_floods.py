# SPDX-License-Identifier: GPL-2.0-or-later
"""A hostile guest floods: memory stays flat, a transfer goes on, and who wants to connect gets in.

These are the floods of ``python -m bench.attack``, each with a few thousand frames instead of a million: enough to fill
every table up to its bound before memory is measured.
"""

from __future__ import annotations

import pytest

from bench import attack
from stack.include.snmp import (
    LINUX_MIB_LISTENOVERFLOWS,
    LINUX_MIB_OFOPRUNED,
    LINUX_MIB_SYNCOOKIESFAILED,
    LINUX_MIB_SYNCOOKIESRECV,
    LINUX_MIB_SYNCOOKIESSENT,
    LINUX_MIB_TCPABORTONMEMORY,
    LINUX_MIB_TCPCHALLENGEACK,
    LINUX_MIB_TCPMEMORYPRESSURES,
)
from stack.net.core import neighbour
from stack.net.ipv4 import icmp, inet_fragment, route

pytestmark = pytest.mark.slow
FRAMES = 2000
WARM_UP = 1600
TABLE = 64  # what the largest tables, of 4096 else, hold here
ALLOWED = 0.75  # blocks of the interpreter a frame: one object kept of each would be more


@pytest.fixture(autouse=True)
def small_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few frames fill them."""
    monkeypatch.setattr(route, "RT_CACHE_MAX", TABLE)
    monkeypatch.setattr(icmp, "_MAX_PEERS", TABLE)
    monkeypatch.setattr(inet_fragment, "MAX_QUEUES", TABLE)
    monkeypatch.setattr(neighbour, "ARP_QUEUES_MAX_BYTES", 50_000)


def flood(name: str, victim: attack.Victim, frames: int = FRAMES, warm_up: int = WARM_UP) -> attack.Result:
    result = attack.run(name, frames, attack.blocks, parts=4, warm_up=warm_up, victim=victim)
    assert result.growth < ALLOWED * frames, f"{result.growth} blocks more after {frames} frames more"
    assert result.new_clients == 2
    assert result.echoed >= (frames // 200) * attack.BLOCK
    return result


def counted(victim: attack.Victim, mib: int) -> int:
    return victim.net.mib.net_statistics[mib]


def test_listener_spoofed_syns_cost_nothing_but_a_cookie() -> None:
    victim = attack.Victim()
    result = flood("syn", victim)
    assert counted(victim, LINUX_MIB_SYNCOOKIESSENT) > result.packets
    assert counted(victim, LINUX_MIB_SYNCOOKIESRECV) == 2  # the two new clients
    queue = victim.listener.sk.icsk_accept_queue
    assert queue.qlen <= 129
    assert len(victim.net.rt_hash_cache) <= TABLE
    assert len(victim.net.rt_input_cache) <= TABLE


def test_listener_forged_cookies_are_refused() -> None:
    victim = attack.Victim()
    result = flood("cookie", victim)
    assert counted(victim, LINUX_MIB_SYNCOOKIESFAILED) > result.packets * 0.9
    assert victim.held == []


def test_established_blind_resets_draw_few_challenges() -> None:
    victim = attack.Victim()
    flood("rst", victim)
    seconds = victim.sim.now_ns() / attack.SEC
    assert 0 < counted(victim, LINUX_MIB_TCPCHALLENGEACK) <= 2 * seconds + 2


def test_established_blind_data_is_not_taken() -> None:
    victim = attack.Victim()
    flood("data", victim)
    client = victim.children[0].sk
    assert len(client.out_of_order_queue) == 0
    assert client.bytes_received == victim.client.snd_nxt - 1


def test_fragments_that_never_complete_fill_their_store_only() -> None:
    victim = attack.Victim()
    flood("fragment", victim)
    store = victim.net.ipv4_fqdir
    assert 0 < len(store.queues) <= TABLE
    assert 0 < store.mem <= victim.net.ipv4.ipfrag_high_thresh + 4096
    victim.sim.run_for(33 * attack.SEC)  # ipfrag_time, and 2 s for the timer wheel
    assert (store.mem, len(store.queues)) == (0, 0)


def test_ports_scanned_answers_to_the_limit_of_icmp() -> None:
    victim = attack.Victim()
    result = flood("scan", victim)
    seconds = victim.sim.now_ns() / attack.SEC
    unreachable = victim.net.mib.icmpmsg_statistics[256 + 3]
    assert 0 < unreachable <= 7 + seconds  # a burst of 6 for the scanner, then one each second
    assert result.answers > (FRAMES + WARM_UP) // 2 * 0.95  # a RST for every TCP port but ours
    assert len(victim.net.icmp_global.peers) <= TABLE


def test_neighbours_that_never_answer_stay_below_gc_thresh3() -> None:
    victim = attack.Victim()
    table = victim.net.arp_tbl
    table.gc_thresh1, table.gc_thresh2, table.gc_thresh3 = 16, 32, TABLE
    flood("neighbour", victim)
    assert len(table.hash) <= table.gc_thresh3
    assert table.stats["table_fulls"] > 0
    assert table.stats["unresolved_discards"] > 0
    queued = sum(skb.truesize for neigh in table.hash.values() for skb in neigh.arp_queue)
    assert queued == table.arp_queue_len_bytes
    assert 0 < queued <= 50_000 + len(table.hash) * 2048


def test_whole_connections_end_at_the_limit_of_descriptors() -> None:
    victim = attack.Victim(sysctl={"tcp_mem": (60, 80, 120), "tcp_max_orphans": 64})
    victim.net.files.max_fds = 300
    flood("connection", victim, warm_up=6000)
    ipv4 = victim.net.ipv4
    assert counted(victim, LINUX_MIB_LISTENOVERFLOWS) > 1000
    assert counted(victim, LINUX_MIB_TCPMEMORYPRESSURES) >= 1
    assert counted(victim, LINUX_MIB_OFOPRUNED) >= 1
    assert counted(victim, LINUX_MIB_TCPABORTONMEMORY) > 100
    assert ipv4.tcp_orphan_count <= 65
