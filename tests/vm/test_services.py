# SPDX-License-Identifier: GPL-2.0-or-later
"""What a user types into the guest, on every transport and machine type: the lines of the banner, and their answers."""

from __future__ import annotations

import hashlib
import re

import pytest

from guest.vm.machine import Guest

SERVER = "10.0.2.2"
SERVER6 = "fd00:10:0:2::2"


def test_dhcp_gives_the_first_address_of_the_pool(served: Guest) -> None:
    assert served.ready["dhcp"] == "ok"
    assert "10.0.2.15/24" in served.check("ip -4 addr show eth0")
    assert "via 10.0.2.2" in served.check("ip route show default")


def test_ping_is_answered(served: Guest) -> None:
    assert "3 packets received" in served.check(f"ping -c 3 -i 0.2 -W 5 {SERVER}")


def test_large_ping_is_reassembled_and_fragmented(served: Guest) -> None:
    assert "2 packets received" in served.check(f"ping -c 2 -i 0.2 -s 4000 -W 5 {SERVER}")


def test_name_is_resolved_by_our_dns(served: Guest) -> None:
    assert SERVER in served.check("nslookup vnic.test")
    assert served.check("curl -sS -o /dev/null -w '%{remote_ip}' http://vnic.test/") == SERVER


def test_unknown_name_is_refused(served: Guest) -> None:
    assert served.run("curl -sS http://nobody.vnic.test/").code == 6  # curl(1): couldn't resolve host


def test_echo_answers_each_line_while_the_connection_is_open(served: Guest) -> None:
    with served.shell.spawn(f"nc {SERVER} 7") as nc:
        for word in ("one", "two", "three"):
            nc.sendline(word)
            nc.expect(word.encode())
        nc.interrupt()


def test_echo_returns_what_was_piped_and_ends(served: Guest) -> None:
    assert served.check(f"seq 1 1000 | nc -N {SERVER} 7 | sha256sum") == served.check(
        "seq 1 1000 | sha256sum"
    )


def test_discard_takes_everything_and_says_nothing(served: Guest) -> None:
    assert served.check(f"head -c 1000000 /dev/zero | nc -N {SERVER} 9") == ""


def test_chargen_sends_rfc_864_lines(served: Guest) -> None:
    lines = served.check(f"nc {SERVER} 19 </dev/null | head -n 100").splitlines()
    assert len(lines) == 100
    assert all(len(line.rstrip("\r")) == 72 for line in lines)
    assert lines[1][:71] == lines[0][1:72]


def test_page_shows_the_connection_as_the_server_sees_it(served: Guest) -> None:
    page = served.check(f"curl -sS http://{SERVER}/")
    assert re.search(r"10\.0\.2\.15[: ]+\d+", page), page
    for word in ("ESTABLISHED", "timestamps", "sack", "wscale", "1448", "window scale", "MSS"):
        assert word in page, page


@pytest.mark.parametrize("size", [0, 1, 1447, 65536, 20_000_000])
def test_bytes_arrive_as_many_as_asked_for_with_their_checksum(served: Guest, size: int) -> None:
    served.check(f"curl -sS -D /tmp/headers -o /tmp/body http://{SERVER}/bytes/{size}", 60)
    assert int(served.check("stat -c %s /tmp/body")) == size
    digest = served.check("sha256sum /tmp/body").split()[0]
    assert digest in served.check("cat /tmp/headers")


def test_upload_is_answered_with_length_and_checksum(served: Guest) -> None:
    answer = served.check(f"curl -sS -T /bin/busybox http://{SERVER}/upload", 60)
    assert served.check("sha256sum /bin/busybox").split()[0] in answer
    assert served.check("stat -c %s /bin/busybox").strip() in answer


def test_upload_of_unknown_length_is_answered_too(served: Guest) -> None:
    answer = served.check(f"seq 1 100000 | curl -sS -T - http://{SERVER}/upload", 60)
    data = b"".join(b"%d\n" % n for n in range(1, 100001))
    assert hashlib.sha256(data).hexdigest() in answer
    assert str(len(data)) in answer


def test_unknown_page_is_a_404(served: Guest) -> None:
    assert served.check(f"curl -sS -o /dev/null -w '%{{http_code}}' http://{SERVER}/nothing") == "404"


@pytest.mark.parametrize("direction", ["", "-R"])
def test_iperf3_measures_both_ways(served: Guest, direction: str) -> None:
    report = served.check(f"iperf3 -c {SERVER} -t 2 {direction}", 60)
    assert "iperf Done." in report
    assert float(_received(report)) > 0


def _received(report: str) -> str:
    found = re.search(r"([\d.]+) [KMG]?Bytes +([\d.]+) [KMG]?bits/sec.*receiver", report)
    assert found, report
    return found.group(1)


def test_iperf3_parallel_streams(served: Guest) -> None:
    assert "iperf Done." in served.check(f"iperf3 -c {SERVER} -t 1 -P 4", 60)


def test_guest_configures_ipv6_by_itself_and_reaches_every_service(served: Guest) -> None:
    served.check(f"for i in $(seq 50); do ip -6 route get {SERVER6} && break; sleep 0.1; done", 30)
    served.check(
        "for i in $(seq 50); do ip -6 addr show dev eth0 | grep -q 'fd00:.*global' && break; sleep 0.1; done"
    )
    served.check(f"ping -6 -c 3 {SERVER6}", 30)
    assert served.check(f"echo hello | nc -6 -N {SERVER6} 7", 30) == "hello\n"
    page = served.check(f"curl -6 -sS 'http://[{SERVER6}]/'", 30)
    assert "ESTABLISHED" in page
    assert SERVER6 in page
    served.check(f"curl -6 -sS -o /tmp/body6 -D /tmp/headers6 'http://[{SERVER6}]/bytes/5000000'", 60)
    digest = served.check("sha256sum /tmp/body6").split()[0]
    assert digest in served.check("cat /tmp/headers6")
    assert served.run(f"nc -6 -w 10 {SERVER6} 4321").code == 1


def test_guest_learns_of_name_servers_by_router_advertisement_and_dhcpv6(served: Guest) -> None:
    """tcpdump of the guest reads what comes: the image has no DHCPv6 client (busybox is built without udhcpc6)."""
    seen = "/tmp/dhcp6.txt"
    served.check(f"tcpdump -i eth0 -vv -n -l -c 1 'udp src port 547' >{seen} 2>/tmp/tcpdump.log & sleep 0.1")
    served.check("for i in $(seq 100); do grep -q listening /tmp/tcpdump.log && break; sleep 0.1; done", 30)
    # An information-request that wants options 23, 24 and 32, from a client with a DUID-LL.
    request = (
        r"\013xid\000\001\000\012\000\003\000\001RT\000\000\000\001\000\006\000\006\000\027\000\030\000\040"
    )
    ask = f"printf '{request}' | nc -6 -u -w 1 -p 546 ff02::1:2%eth0 547"  # fails until eth0 has an address
    served.check(f"for i in $(seq 50); do {ask}; grep -q DNS-server {seen} && break; sleep 0.1; done", 60)
    answer = served.check(f"cat {seen}")
    assert "dhcp6 reply" in answer
    assert f"(DNS-server {SERVER6})" in answer
    assert "(DNS-search-list vnic.test.)" in answer
    assert "(lifetime 86400)" in answer
    capture = "tcpdump -i eth0 -vv -n -l -c 1 'icmp6 and ip6[40] == 134'"
    served.check(f"{capture} >/tmp/ra.txt 2>/tmp/tcpdump.log & sleep 0.1")
    served.check("for i in $(seq 100); do grep -q listening /tmp/tcpdump.log && break; sleep 0.1; done", 30)
    served.check("ip link set eth0 down && ip link set eth0 up")  # the guest asks for a router
    served.check("for i in $(seq 200); do grep -q rdnss /tmp/ra.txt && break; sleep 0.1; done", 60)
    advertisement = served.check("cat /tmp/ra.txt")
    assert "Flags [other stateful]" in advertisement
    assert f"addr: {SERVER6}" in advertisement
    assert "vnic.test." in advertisement


def test_names_have_ipv6_addresses_and_are_found_from_them(served: Guest) -> None:
    # The test before this one may have taken the link down: a new address is not used before it is known to be free.
    settled = "ip -6 addr show dev eth0 scope global | grep inet6 | grep -qv tentative"
    served.check(f"for i in $(seq 100); do {settled} && exit; sleep 0.1; done; exit 1", 60)
    assert SERVER6 in served.check("nslookup -type=AAAA vnic.test")
    assert "server.vnic.test" in served.check(f"nslookup {SERVER6}")
    assert SERVER6 in served.check(
        f"nslookup -type=AAAA vnic.test {SERVER6}", 30
    )  # our name server, asked over IPv6


def test_closed_port_refuses_at_once(served: Guest) -> None:
    result = served.run(f"nc -v -w 10 {SERVER} 4321")
    assert result.code == 1
    assert "Connection refused" in result.err
    assert result.seconds < 4


def test_closed_udp_port_is_unreachable(served: Guest) -> None:
    before = _in_dest_unreachs(served)
    served.run(f"echo x | nc -u -w 1 {SERVER} 4321")
    assert _in_dest_unreachs(served) == before + 1


def _in_dest_unreachs(guest: Guest) -> int:
    names, values = (line.split() for line in guest.check("grep ^Icmp: /proc/net/snmp").splitlines())
    return int(dict(zip(names, values, strict=True))["InDestUnreachs"])


def test_two_hundred_connections_at_once_each_get_their_own_echo(served: Guest) -> None:
    report = served.check(f"vnicbench hold {SERVER} 7 -n 200", 90)
    assert "ok=200 failed=0" in report
