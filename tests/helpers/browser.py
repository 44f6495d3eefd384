# SPDX-License-Identifier: GPL-2.0-or-later
"""A headless Chromium with one page, driven by its DevTools protocol over aiohttp's WebSocket client.

    with Browser.open(folder) as browser:
        browser.go(url)
        browser.until("document.title", "vnic", 10)

Each step has a deadline; what the page complained of (console, uncaught errors, what the browser refused to load) is in
``complaints``.  The browser has a profile of its own in ``folder`` and ends, with its children, when the block is left.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp

from guest.vm.process import Child

PROGRAMS = ("chromium-headless-shell", "chromium")
START_S = 30.0
STEP_S = 20.0
STOP_S = 5.0
_POLL_S = 0.1
_ARGUMENTS = (
    "--headless",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
)


class Browser:
    """One page of one browser; made by ``open``."""

    def __init__(self, profile: Path) -> None:
        self._profile = profile
        self._loop = asyncio.new_event_loop()
        self._session: aiohttp.ClientSession
        self._socket: aiohttp.ClientWebSocketResponse
        self._number = 0
        self.complaints: list[str] = []

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path) -> Iterator[Browser]:
        """What it writes is in folder/chromium.log."""
        program = next(filter(None, map(shutil.which, PROGRAMS)), None)
        assert program is not None, "tools/setup --test installs it"
        profile = folder / "profile"
        argv = [program, *_ARGUMENTS, f"--user-data-dir={profile}"]
        argv += ["--no-sandbox"] if os.geteuid() == 0 else []  # as root it has none
        with (folder / "chromium.log").open("wb") as log:
            child = Child([*argv, "about:blank"], log)
        browser = cls(profile)
        try:
            browser._wait(browser._connect(child), START_S)
            yield browser
        finally:
            with contextlib.suppress(Exception):
                browser._wait(browser._leave(child), STOP_S)
            browser._loop.close()
            child.close()
            shutil.rmtree(profile, ignore_errors=True)

    def _wait(self, work: Any, timeout_s: float) -> Any:
        async def within() -> Any:
            async with asyncio.timeout(timeout_s):
                return await work

        return self._loop.run_until_complete(within())

    async def _connect(self, child: Child) -> None:
        port_file = self._profile / "DevToolsActivePort"
        while not port_file.exists() or len(port_file.read_text().splitlines()) < 2:
            assert child.returncode is None, "chromium ended: see chromium.log"
            await asyncio.sleep(_POLL_S)
        port = port_file.read_text().splitlines()[0]
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            pages = [one for one in await answer.json() if one["type"] == "page"]
        self._socket = await self._session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0)
        for domain in ("Page", "Runtime", "Log"):
            await self._call(f"{domain}.enable", {})

    async def _leave(self, child: Child) -> None:
        """Its children end with it if it is asked to end."""
        await self._socket.send_json({"id": 0, "method": "Browser.close"})
        while child.returncode is None:
            await asyncio.sleep(_POLL_S)
        await self._session.close()

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive()
            assert message.type is aiohttp.WSMsgType.TEXT, f"chromium hung up during {method}"
            told = json.loads(message.data)
            if told.get("id") == self._number:
                assert "error" not in told, f"{method}: {told['error']}"
                result: dict[str, Any] = told["result"]
                return result
            self._note(told)

    def _note(self, told: dict[str, Any]) -> None:
        what = told.get("params", {})
        if told.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(what["exceptionDetails"])[:1000])
        elif told.get("method") == "Runtime.consoleAPICalled" and what["type"] in (
            "error",
            "warning",
            "assert",
        ):
            self.complaints.append(json.dumps(what["args"])[:1000])
        elif told.get("method") == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{what['entry']['text']} {what['entry'].get('url', '')}")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One call of the DevTools protocol."""
        done: dict[str, Any] = self._wait(self._call(method, parameters), STEP_S)
        return done

    # -- the page ------------------------------------------------------------------------------------------------------

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        """The window, and which colours its user likes."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def go(self, url: str) -> None:
        """Open that address."""
        error = self.call("Page.navigate", url=url).get("errorText")
        assert error is None, f"{url}: {error}"
        self.until(f"location.href === {json.dumps(url)} && document.readyState === 'complete'", STEP_S)

    def ask(self, expression: str) -> Any:
        """The value of an expression of JavaScript, a plain one."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, f"{expression}: {done['exceptionDetails']}"
        return done["result"].get("value")

    def until(self, expression: str, timeout_s: float) -> Any:
        """The value of an expression once it is true; of an element of the page write !!."""
        deadline = time.monotonic() + timeout_s
        while not (value := self.ask(expression)):
            assert time.monotonic() < deadline, f"not true after {timeout_s:g} s: {expression}"
            time.sleep(_POLL_S)
        return value

    def press(self, key: str, text: str = "") -> None:
        """A key, to whatever has the focus."""
        codes = {"Tab": 9, "Enter": 13, " ": 32}
        more = {"key": key, "windowsVirtualKeyCode": codes.get(key, 0), "text": text}
        self.call("Input.dispatchKeyEvent", type="keyDown", **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", **more)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """As PNG: the whole page, or what the window shows of it."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))
