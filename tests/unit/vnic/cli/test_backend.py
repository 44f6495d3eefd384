# SPDX-License-Identifier: GPL-2.0-or-later
"""The back end as a child: ready, silent, or dead."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest.vm.rundir import RunDir
from vnic.cli import backend
from vnic.cli.vm import check_back_end, say_report
from vnic.errors import BackendError, BackendTimeout, exit_code_of

pytestmark = pytest.mark.slow  # starts interpreters


@pytest.fixture
def rundir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunDir]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with RunDir.create() as made:
        yield made


def scripted(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(backend, "serve_command", lambda arguments: [sys.executable, "-S", "-c", code])


def test_started_ready_line_is_returned(rundir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, "import time; print('ready: here', flush=True); time.sleep(60)")
    with backend.Backend([], rundir) as child:
        assert child.await_ready() == "ready: here"
        assert child.page() == ""
        assert child.running
    assert not child.running


def test_address_of_the_live_page_is_the_one_it_said(rundir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "ready: here\\n  live page: http://127.0.0.1:1/x/"
    scripted(monkeypatch, f"import time; print('{said}', flush=True); time.sleep(60)")
    with backend.Backend([], rundir) as child:
        child.await_ready()
        assert child.page() == "http://127.0.0.1:1/x/"


def test_started_dies_at_once_with_its_words_and_code(
    rundir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, "import sys; sys.exit('error: the socket is taken')")
    with backend.Backend([], rundir) as child, pytest.raises(BackendError) as caught:
        child.await_ready()
    assert "error: the socket is taken" in caught.value.evidence
    assert exit_code_of(caught.value) == 1


def test_started_says_nothing_until_the_deadline(rundir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, "import time; time.sleep(60)")
    with backend.Backend([], rundir) as child:
        with pytest.raises(BackendTimeout) as caught:
            child.await_ready(0.1)
        assert not child.running
    assert exit_code_of(caught.value) == 5


def test_back_end_that_nobody_runs_is_an_error_that_says_how_to_start_it(tmp_path: Path) -> None:
    with pytest.raises(BackendError) as told:
        check_back_end(tmp_path / "vnic.sock", "stream")
    assert told.value.exit_code == 3
    assert f"vnic serve --stream {tmp_path}/vnic.sock" in told.value.remedy


def test_back_end_that_listens_is_taken(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "vnic.sock"))
        listener.listen()
        check_back_end(tmp_path / "vnic.sock", "vhost-user")


def test_complaints_are_what_it_logged_and_not_its_ready_lines(
    rundir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    warning = "WARNING devmodel.middleware.capture: the capture ends here"
    scripted(monkeypatch, f"print({warning!r}); print('ready: x', flush=True); import time; time.sleep(60)")
    with backend.Backend([], rundir) as child:
        child.await_ready()
        assert child.complaints() == [warning]


def test_report_that_was_not_written_is_not_said_to_be_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "run.html"
    say_report(report, 1000.0)
    report.write_text("of another run")
    os.utime(report, (999.0, 999.0))
    say_report(report, 1000.0)
    assert capsys.readouterr().err.count("could not be written") == 2
    os.utime(report, (1001.0, 1001.0))
    say_report(report, 1000.0)
    assert f"the report is {report}" in capsys.readouterr().err
