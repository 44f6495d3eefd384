# SPDX-License-Identifier: GPL-2.0-or-later
"""A private, short-named directory for one run's sockets, and the registry for cleaning up after a crash.

Where: $XDG_RUNTIME_DIR/vnic/, else /tmp/vnic-UID/; each run has `r-XXXXXXXX` below it, mode 0700.  A socket
address holds 107 bytes of path (sun_path is 108 with its final NUL, unix(7)), so a long XDG_RUNTIME_DIR is
passed over for /tmp.

Registry: each directory has `owner.json`, {"owner": [pid, start time], "children": [[pid, start time], ...]}.
Only directories whose owner is gone are leftovers; only children named there, with that very start time,
are ended.  Nothing else on the machine is ever looked at, let alone ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from guest.vm import process
from guest.vm.errors import RunDirError, SocketPathError

SUN_PATH_MAX = 107
_LONGEST_NAME = len("/r-XXXXXXXX/backend-00.sock")
_NEWBORN_S = 10.0
"""A directory without owner.json and younger than this may be somebody's who is just making it."""


def base_dir() -> Path:
    """The directory above all run directories of this user, made if need be; RunDirError if not ours."""
    base = _base_path()
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = base.lstat()
    except OSError as error:
        raise RunDirError(
            f"no run directory can be made at {base}", str(error), "set XDG_RUNTIME_DIR"
        ) from error
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o077:
        mode = stat.filemode(info.st_mode)
        seen = f"owner uid {info.st_uid}, mode {mode}; need uid {os.geteuid()}, drwx------"
        raise RunDirError(
            f"{base} is not a private directory of ours", seen, f"remove {base} or set XDG_RUNTIME_DIR"
        )
    return base


def _base_path() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    candidate = Path(runtime) / "vnic"
    usable = runtime.startswith("/") and os.access(runtime, os.W_OK | os.X_OK)
    if usable and len(os.fsencode(candidate)) + _LONGEST_NAME <= SUN_PATH_MAX:
        return candidate
    return Path(f"/tmp/vnic-{os.geteuid()}")


class RunDir:
    """One run's directory; a context manager that removes it.  Children are registered by their Child."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._children: list[tuple[int, int]] = []
        self._write()

    @classmethod
    def create(cls) -> RunDir:
        """A fresh one; what crashed runs of this user left behind is removed first."""
        base = base_dir()
        remove_leftovers(base)
        try:
            return cls(Path(tempfile.mkdtemp(prefix="r-", dir=base)))
        except OSError as error:
            remedy = "free some space, or set XDG_RUNTIME_DIR to a directory that can be written"
            raise RunDirError(f"no run directory can be made below {base}", str(error), remedy) from error

    def socket_path(self, name: str) -> Path:
        """A path for a Unix socket in here; SocketPathError if it would be too long."""
        path = self.path / name
        check_socket_path(path)
        return path

    def register(self, child: process.Child) -> None:
        """Note a child, so that a later run can end it if we cannot."""
        self._children.append((child.pid, child.start_time))
        self._write()

    def _write(self) -> None:
        owner = [os.getpid(), process.start_time(os.getpid())]
        text = json.dumps({"owner": owner, "children": self._children})
        temporary = self.path / "owner.json.new"
        temporary.write_text(text)
        temporary.rename(self.path / "owner.json")

    def close(self) -> None:
        """Remove the directory and everything in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def __enter__(self) -> RunDir:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def check_socket_path(path: Path) -> None:
    """SocketPathError if no Unix socket can have that path for its length."""
    length = len(os.fsencode(path))
    if length > SUN_PATH_MAX:
        raise SocketPathError(
            "the socket path is too long",
            f"{path} has {length} bytes, a socket address holds {SUN_PATH_MAX}",
            f"use a path below {_base_path()}",
        )


def claim_socket_path(path: Path) -> None:
    """Make `path` free to bind: a stale socket is removed; SocketPathError if it lives, or is no socket."""
    check_socket_path(path)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketPathError(
            f"{path} exists and is not a socket", stat.filemode(mode), "choose another path"
        )
    if _somebody_listens(path):
        pid = _listener_pid(path)
        who = f"pid {pid} ({_command_of(pid)})" if pid else "a process that we may not see"
        raise SocketPathError(f"{path} is in use", f"{who} listens on it", f"end it, or remove {path}")
    path.unlink(missing_ok=True)


def _somebody_listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            return False
        except OSError:  # EAGAIN: its backlog is full, so it lives; EPROTOTYPE, EACCES: bound by somebody
            return True
    return True


_ACCEPTS = "00010000"
"""__SO_ACCEPTCON in the flags of /proc/net/unix: the listener, not one of the connections it accepted."""


def _listener_pid(path: Path) -> int | None:
    """Best effort: whose descriptor is the inode that /proc/net/unix gives for `path`."""
    for line in Path("/proc/net/unix").read_text("utf-8", "replace").splitlines():
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[3] == _ACCEPTS and fields[7] == os.fspath(path.absolute()):
            return next(_holders_of(f"socket:[{fields[6]}]"), None)
    return None


def _holders_of(link: str) -> Iterator[int]:
    for directory in Path("/proc").glob("[0-9]*/fd"):
        if link in _links_in(directory):
            yield int(directory.parent.name)


def _links_in(directory: Path) -> set[str]:
    """What the entries point to; entries come and go meanwhile, and others' directories are closed to us."""
    found = set()
    with contextlib.suppress(OSError):
        for entry in directory.iterdir():
            with contextlib.suppress(OSError):
                found.add(os.readlink(entry))
    return found


def _command_of(pid: int) -> str:
    try:
        return (
            Path(f"/proc/{pid}/cmdline")
            .read_bytes()
            .replace(b"\0", b" ")
            .decode("utf-8", "replace")
            .strip()[:100]
        )
    except OSError:
        return "gone by now"


def remove_leftovers(base: Path) -> list[Path]:
    """Remove run directories below `base` whose owner is gone, end the children they name; returns them."""
    removed = []
    for path in sorted(base.glob("r-*")):
        orphan = _read_registry(path)
        if orphan is not None:
            _end_children(orphan)
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path)
    return removed


def _read_registry(path: Path) -> list[tuple[int, int]] | None:
    """The children of a dead owner's directory; None if the directory must be left alone."""
    try:
        noted = json.loads((path / "owner.json").read_text())
        (pid, started), children = noted["owner"], noted["children"]
        return None if process.is_alive(pid, started) else [(int(a), int(b)) for a, b in children]
    except FileNotFoundError:
        with contextlib.suppress(OSError):
            return [] if time.time() - path.stat().st_mtime > _NEWBORN_S else None
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _end_children(children: list[tuple[int, int]]) -> None:
    for pid, started in children:
        if process.is_alive(pid, started):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
