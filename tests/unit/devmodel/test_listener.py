# SPDX-License-Identifier: GPL-2.0-or-later
"""What may lie in a listener's way, and what is said about it."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
from pathlib import Path

import pytest

from devmodel.errors import (
    AddressInUse,
    SocketPathBlocked,
    SocketPathInUse,
    SocketPathTooLong,
    TransportError,
)
from devmodel.listener import listen_inet, listen_unix


def refused(path: str, kind: type[TransportError]) -> TransportError:
    with pytest.raises(kind) as caught:
        listen_unix(path)
    assert caught.value.fact
    assert caught.value.evidence
    assert caught.value.remedy
    return caught.value


def test_path_of_107_bytes_works_and_108_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    listen_unix("x" * 107).close()
    assert "108" in refused("x" * 108, SocketPathTooLong).evidence
    assert "214" in refused("ü" * 107, SocketPathTooLong).evidence


def test_stale_socket_is_taken_over(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(path)
    dead.close()
    listener = listen_unix(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    listener.close()
    assert not os.path.exists(path)


def test_living_owner_is_named_and_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    owner = listen_unix(path)
    assert str(os.getpid()) in refused(path, SocketPathInUse).evidence
    assert os.path.exists(path)
    owner.close()


def test_living_owner_with_a_full_queue_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    owner = socket.socket(socket.AF_UNIX)
    owner.bind(path)
    owner.listen(0)
    waiting = socket.socket(socket.AF_UNIX)
    waiting.connect(path)
    assert "full" in refused(path, SocketPathInUse).evidence
    waiting.close()
    owner.close()


def test_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "s"
    file.write_text("mine")
    refused(str(file), SocketPathBlocked)
    assert file.read_text() == "mine"


def test_missing_directory_is_said(tmp_path: Path) -> None:
    assert "No such file" in refused(str(tmp_path / "no" / "s"), SocketPathBlocked).evidence


def test_closing_leaves_a_successors_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    first = listen_unix(path)
    os.unlink(path)
    second = listen_unix(path)
    first.close()
    assert os.path.exists(path)
    second.close()


def test_taken_port_is_said() -> None:
    first = listen_inet("127.0.0.1", 0)
    with pytest.raises(AddressInUse) as caught:
        listen_inet("127.0.0.1", first.sock.getsockname()[1])
    assert "in use" in caught.value.evidence
    assert "ss -ltnp" in caught.value.remedy
    first.close()


def test_address_of_another_host_is_said_with_its_own_remedy() -> None:
    with pytest.raises(AddressInUse) as caught:
        listen_inet("192.0.2.1", 0)
    assert "ip -br address" in caught.value.remedy


def test_accept_without_descriptors_hangs_up_instead_of_spinning(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listener = listen_unix(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as waiting, socket.socket(socket.AF_UNIX) as late:
        waiting.connect(path)
        resource.setrlimit(resource.RLIMIT_NOFILE, (late.fileno() + 1, hard))
        taken = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.open(os.devnull, os.O_RDONLY))
            assert listener.accept() is None
            assert waiting.recv(1) == b""
            assert not select.select([listener], [], [], 0)[0]
        finally:
            for fd in taken:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        late.connect(path)
        connected = listener.accept()
        assert connected is not None
        connected.close()
    listener.close()
    assert listener.accept() is None
