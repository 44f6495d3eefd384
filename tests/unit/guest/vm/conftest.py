# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU that behaves badly on demand: a real process that speaks just enough QMP and console."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from guest.vm.args import Vm

FAKE_QEMU = r"""#!{python} -SE
import json, os, signal, socket, sys

mode = sys.argv[-1]

def dial(name):
    path = next(a for a in sys.argv if a.startswith("socket,id=" + name)).split("path=")[1]
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return sock

if mode == "refuses":
    print("fake: -netdev vhost-user: Failed to connect to 'x.sock'", file=sys.stderr)
    sys.exit(1)
if mode == "crashes":
    os.kill(os.getpid(), signal.SIGSEGV)
if mode == "hangs":
    signal.pause()
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
console, qmp = dial("console0"), dial("qmp0")
if mode == "mute-monitor":
    signal.pause()
version = {{"qemu": {{"major": 7, "minor": 2, "micro": 22}}, "package": ""}}
qmp.sendall(json.dumps({{"QMP": {{"version": version, "capabilities": []}}}}).encode() + b"\n")
words = {{
    "panics": b"[    1.500000] Kernel panic - not syncing: sysrq triggered crash\r\n[    1.500100] trace\r\n",
    "prompts": b"hello\r\nvnic# ",
    "stubborn": b"hello\r\nvnic# ",
}}
console.sendall(words.get(mode, b""))
if mode == "leaves":
    sys.exit(0)
if mode == "dies-late":
    console.sendall(b"so far so good\r\n")
def requests():
    text = ""
    while piece := qmp.recv(65536).decode():
        text = (text + piece).lstrip()
        while text:
            try:
                request, end = json.JSONDecoder().raw_decode(text)
            except ValueError:
                break
            text = text[end:].lstrip()
            yield request

for asked in requests():
    if mode == "dies-late" and asked["execute"] == "qmp_capabilities":
        print("fake: assertion failed", file=sys.stderr)
        sys.stderr.flush()
        os._exit(7)
    answer = {{"return": {{}}}}
    if asked["execute"] == "query-status":
        answer = {{"return": {{"status": "running", "running": True, "singlestep": False}}}}
    if asked["execute"] == "query-version":
        answer = {{"return": version}}
    if asked["execute"] == "system_reset":
        event = {{"event": "RESET", "data": {{}}, "timestamp": {{"seconds": 1, "microseconds": 2}}}}
        qmp.sendall(json.dumps(event).encode() + b"\n")
    if asked["execute"] == "nonsense":
        answer = {{"error": {{"class": "CommandNotFound", "desc": "The command nonsense has not been found"}}}}
    if asked["execute"] == "sulk":
        continue
    if mode == "stubborn" and asked["execute"] == "quit":
        continue
    qmp.sendall(json.dumps({{**answer, "id": asked.get("id")}}).encode() + b"\n")
    if asked["execute"] == "quit":
        sys.exit(0)
while mode == "stubborn":
    signal.pause()
"""


@pytest.fixture(autouse=True)
def _private_directories(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees or touches the run directories and the cache of real runs."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def fake_qemu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program; what it does is its last argument."""
    path = tmp_path_factory.mktemp("bin") / "fake-qemu"
    path.write_text(FAKE_QEMU.format(python=sys.executable))
    path.chmod(0o755)
    return path


@pytest.fixture
def fake_vm(fake_qemu: Path) -> Vm:
    """A Vm for the fake; give it the mode with dataclasses.replace(vm, extra=(mode,))."""
    return Vm(kernel=Path("vmlinuz"), initramfs=Path("initramfs"), qemu=str(fake_qemu))
