# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from guest.vm import process, rundir
from guest.vm.errors import RunDirError, SocketPathError
from guest.vm.process import Child
from guest.vm.rundir import RunDir


def test_rundir_is_private_and_gone_after_close() -> None:
    with RunDir.create() as run:
        assert run.path.stat().st_mode & 0o777 == 0o700
        assert run.path.parent.stat().st_mode & 0o077 == 0
        path = run.path
    assert not path.exists()


def test_rundir_sockets_fit_even_if_the_runtime_dir_is_too_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / ("d" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    assert rundir._base_path() == Path(f"/tmp/vnic-{os.geteuid()}")


def test_rundir_base_open_to_others_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "vnic").mkdir(mode=0o755)
    (tmp_path / "vnic").chmod(0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(RunDirError, match="not a private directory"):
        rundir.base_dir()


def test_rundir_base_that_is_a_link_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "vnic").symlink_to(tmp_path / "real")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(RunDirError):
        rundir.base_dir()


def crashed_run(children: list[list[int]]) -> Path:
    """A directory whose owner is this process's number with another start time: a process long gone."""
    path = rundir.base_dir() / "r-crashed0"
    path.mkdir(mode=0o700)
    (path / "owner.json").write_text(json.dumps({"owner": [os.getpid(), 1], "children": children}))
    return path


def test_leftover_of_a_dead_run_is_removed_and_its_child_ended() -> None:
    child = Child([sys.executable, "-SEc", "import signal; signal.pause()"], subprocess.DEVNULL)
    try:
        path = crashed_run([[child.pid, child.start_time]])
        assert rundir.remove_leftovers(rundir.base_dir()) == [path]
        assert child.wait(5.0) == -9
        assert not path.exists()
    finally:
        child.close()


def test_leftover_whose_childs_number_belongs_to_a_stranger_spares_the_stranger() -> None:
    child = Child([sys.executable, "-SEc", "import signal; signal.pause()"], subprocess.DEVNULL)
    try:
        crashed_run([[child.pid, child.start_time - 1]])
        assert len(rundir.remove_leftovers(rundir.base_dir())) == 1
        assert child.returncode is None
    finally:
        child.close()


def test_directory_of_a_living_run_is_left_alone() -> None:
    with RunDir.create() as run:
        assert rundir.remove_leftovers(run.path.parent) == []
        assert run.path.exists()


def test_directory_just_being_made_is_left_alone_and_an_old_one_removed() -> None:
    newborn, old = (rundir.base_dir() / name for name in ("r-newborn0", "r-oldoldol"))
    newborn.mkdir()
    old.mkdir()
    past = time.time() - 3600
    os.utime(old, (past, past))
    assert rundir.remove_leftovers(rundir.base_dir()) == [old]


def test_socket_path_stale_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
    rundir.claim_socket_path(path)
    assert not path.exists()


def test_socket_path_of_a_living_listener_is_refused_with_its_pid(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(SocketPathError, match="in use") as caught:
            rundir.claim_socket_path(path)
        assert f"pid {os.getpid()}" in caught.value.evidence
    assert path.exists()


def test_socket_path_that_is_a_file_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(SocketPathError, match="not a socket"):
        rundir.claim_socket_path(path)
    assert path.read_text() == "precious"


def test_socket_path_free_is_claimed(tmp_path: Path) -> None:
    rundir.claim_socket_path(tmp_path / "s")


def test_child_dies_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import os, subprocess, sys\n"
        "from guest.vm.process import Child\n"
        "child = Child(['sleep', '30'], subprocess.DEVNULL)\n"
        "print(child.pid, child.start_time, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=False, timeout=20)
    pid, started = map(int, done.stdout.split())
    if process.is_alive(pid, started):  # the signal left when its parent did; let it arrive
        pidfd = os.pidfd_open(pid)
        select.select([pidfd], [], [], 5.0)
        os.close(pidfd)
    assert not process.is_alive(pid, started)


def test_child_that_ignores_sigterm_is_killed() -> None:
    program = "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()"
    read, write = os.pipe()
    child = Child([sys.executable, "-SEc", program], write)
    try:
        assert os.read(read, 1) == b"\n"
        assert child.end(term_s=0.02, kill_s=5.0) == -9
    finally:
        child.close()
        os.close(read)
        os.close(write)
