# SPDX-License-Identifier: GPL-2.0-or-later
"""The live page in a headless Chromium, of a back end that a real guest uses."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from line import SERVER

pytestmark = pytest.mark.xdist_group("watching")

STEP_S = 30
ROWS = "[...document.querySelectorAll('#connections tbody tr')].map(row => row.innerText.split('\\t'))"
RECENT = "[...document.querySelectorAll('#recent button')].map(button => button.innerText)"


def counter(name: str) -> str:
    """The value that the page shows of it, as JavaScript."""
    row = f"document.querySelector('#counts [data-name={json.dumps(name)}]')"
    return f"Number({row}?.children[1].innerText ?? 0)"


@contextlib.contextmanager
def photographed(browser: Browser, folder: Path) -> Iterator[None]:
    """What the page looked like when the block failed."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):
            browser.screenshot(folder / "page.png")
        raise


def test_page_shows_a_guests_connection_its_counters_and_its_call_trees(
    backends: Any, boot: Callable[..., Any], artifacts: Path
) -> None:
    guest = boot(nic=backends.start("vhost-user", "--control", "none", "--web", "0"))
    url = backends.running[-1].page()
    with Browser.open(artifacts) as browser, photographed(browser, artifacts):
        browser.size(1280, 800)
        browser.go(url)
        browser.until("document.getElementById('status').innerText === '● live'", STEP_S)
        browser.until("document.getElementById('who').innerText.includes('guest connected')", STEP_S)
        browser.until("document.getElementById('tracing').innerText.startsWith('tracing')", STEP_S)
        before = browser.ask(counter("TcpPassiveOpens"))

        job = guest.shell.background(f"{{ echo hello; sleep 300; }} | nc {SERVER} 7 > /tmp/echoed")
        try:
            (row,) = browser.until(f"{ROWS}.length === 1 && {ROWS}[0][0] === '● ESTAB' && {ROWS}", STEP_S)
            guest_end = row[4].strip()
            assert row[3] == f"{SERVER}:7"
            assert guest_end.startswith("10.0.2.15:")
            browser.until(f"{counter('TcpPassiveOpens')} === {before + 1}", STEP_S)
            browser.until("!!document.querySelector('#counts .moved .rate')?.innerText", STEP_S)
            syn_then_ack(browser, f"{SERVER}:7 < {guest_end}")
            detail_by_keyboard(browser, guest_end)
            guest.check(f"echo other | nc -N -w 5 {SERVER} 9")
            browser.until("document.getElementById('connections-more').innerText === ''", STEP_S)
            only_this_connections_trees(browser, f"{SERVER}:7 < {guest_end}")
            picture(browser)
            folding(browser)
            pausing(browser, guest)
        finally:
            job.kill("KILL")
        browser.until(f"!{ROWS}.some(row => row[0] === '● ESTAB')", STEP_S)
        assert browser.ask("document.documentElement.scrollWidth") <= 1280
        assert browser.complaints == []


def syn_then_ack(browser: Browser, flow: str) -> None:
    """The handshake is among the last trees; the SYN's is drawn once it is chosen."""
    for states in ("LISTEN → NEW_SYN_RECV", "NEW_SYN_RECV → ESTABLISHED"):
        wanted = json.dumps([flow, states])
        browser.until(f"{RECENT}.some(text => {wanted}.every(part => text.includes(part)))", STEP_S)
    browser.ask(
        "[...document.querySelectorAll('#recent button')]"
        ".find(button => button.innerText.includes('LISTEN → NEW_SYN_RECV')).click()"
    )
    lines = browser.ask("document.getElementById('tree').innerText").splitlines()
    assert lines[0] == "tcp_v4_rcv"
    for name in ("tcp_v4_do_rcv", "tcp_rcv_state_process", "tcp_v4_conn_request", "tcp_v4_send_synack"):
        assert any(line.strip().startswith(f"-> {name}") for line in lines), name
    assert "LISTEN → NEW_SYN_RECV" in browser.ask("document.getElementById('tree-head').innerText")
    browser.ask("document.getElementById('newest').click()")


def detail_by_keyboard(browser: Browser, guest_end: str) -> None:
    """Enter on the connection's button opens struct tcp_info."""
    browser.ask("document.querySelector('#connections tbody button').focus()")
    browser.press("Enter", "\r")
    browser.until("document.querySelectorAll('#detail tbody tr').length > 50", STEP_S)
    info = dict(
        browser.ask(
            "[...document.querySelectorAll('#detail tbody tr')].map(row => "
            "[row.cells[0].innerText, row.cells[1].innerText])"
        )
    )
    assert info["state"] == "1 ESTABLISHED"
    assert info["bytes_received"] == "6 B"
    assert guest_end in browser.ask("document.getElementById('detail-head').innerText")


def only_this_connections_trees(browser: Browser, flow: str) -> None:
    """Those of the connection that is chosen, until it is not any more."""
    shown = browser.ask(RECENT)
    assert shown
    assert all(flow in text for text in shown)
    browser.ask("document.getElementById('detail-close').click()")
    browser.until("document.getElementById('detail').hidden", STEP_S)


def picture(browser: Browser) -> None:
    """The tables as SVG, then as text."""
    choose = (
        "{{const f = document.getElementById('form'); f.value = '{}'; f.dispatchEvent(new Event('change'))}}"
    )
    browser.ask(choose.format("svg"))
    browser.until("document.querySelector('#picture svg')?.textContent.includes('TCP_ESTABLISHED')", STEP_S)
    browser.ask(choose.format("text"))
    browser.until("document.querySelector('#picture pre')?.innerText.includes('inet_hashinfo')", STEP_S)


def folding(browser: Browser) -> None:
    """A function that is folded hides what it calls."""
    browser.until("!!document.querySelector('#tree details details')", STEP_S)
    browser.ask("document.querySelector('#tree summary').focus()")
    browser.press("Enter", "\r")
    browser.until("!document.querySelector('#tree details').open", STEP_S)
    browser.press("Enter", "\r")
    browser.until("document.querySelector('#tree details').open", STEP_S)


def pausing(browser: Browser, guest: Any) -> None:
    """No tree comes while it is paused; the rest of the page goes on."""
    browser.ask("document.getElementById('pause').click()")
    browser.until("document.getElementById('tracing').innerText.startsWith('paused')", STEP_S)
    before, count = browser.ask(RECENT), browser.ask(counter("TcpPassiveOpens"))
    guest.check(f"echo unseen | nc -N -w 5 {SERVER} 9")
    browser.until(f"{counter('TcpPassiveOpens')} === {count + 1}", STEP_S)
    assert browser.ask(RECENT) == before


def hiding(browser: Browser) -> None:
    """A page that nobody sees lets go of the back end, and comes back."""
    hide = (
        "Object.defineProperty(document, 'hidden', {{get: () => {}, configurable: true}});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    browser.ask(hide.format("true"))
    browser.until("document.getElementById('status').innerText.includes('asleep')", STEP_S)
    browser.ask(hide.format("false"))
    browser.until("document.getElementById('status').className === 'live'", STEP_S)


def test_page_says_that_the_back_end_is_gone(backends: Any, artifacts: Path) -> None:
    backends.start("vhost-user", "--control", "none", "--web", "0")
    url = backends.running[-1].page()
    with Browser.open(artifacts) as browser, photographed(browser, artifacts):
        browser.size(600, 800, dark=True)
        browser.go(url)
        browser.until("document.getElementById('status').className === 'live'", STEP_S)
        browser.until("document.querySelectorAll('#listeners tbody tr').length > 5", STEP_S)
        assert browser.ask("document.documentElement.scrollWidth") <= 600
        assert browser.complaints == []
        hiding(browser)
        backends.kill()
        browser.until("document.getElementById('status').innerText.startsWith('✕ the back end')", STEP_S)
