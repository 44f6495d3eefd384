# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from guest.vm import probe, tinyguest
from guest.vm.errors import KvmUnusable, QemuMissing, QemuTooOld
from guest.vm.probe import KvmVerdict, Qemu

HELP = {
    "-version": "QEMU emulator version {version} (Debian 1:x)",
    "-netdev": "Available netdev backend types:\nsocket\nstream\nuser\nvhost-user",
    "-machine": "Supported machines are:\nmicrovm              microvm (i386)\nq35                  Standard PC",
}


def make_qemu(path: Path, version: str = "7.2.22") -> str:
    cases = "\n".join(
        f"{key}) printf '%s\\n' '{text.format(version=version)}';;" for key, text in HELP.items()
    )
    path.write_text(f'#!/bin/sh\ncase "$1" in\n{cases}\nesac\n')
    path.chmod(0o755)
    return str(path)


def qemu_of(version: tuple[int, ...]) -> Qemu:
    return Qemu("/q", version, "QEMU", frozenset({"user", "stream"}), frozenset({"q35"}))


def test_qemu_absent_from_path_is_missing_with_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("VNIC_QEMU", raising=False)
    with pytest.raises(QemuMissing) as caught:
        probe.find_qemu()
    assert "qemu-system-x86_64" in caught.value.evidence
    assert str(tmp_path) in caught.value.evidence
    assert "apt install qemu-system-x86" in caught.value.remedy


def test_qemu_named_by_environment_is_preferred(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = make_qemu(tmp_path / "my-qemu")
    monkeypatch.setenv("VNIC_QEMU", path)
    assert probe.find_qemu() == path


def test_qemu_found_tells_version_netdevs_and_machines(tmp_path: Path) -> None:
    qemu = probe.ask_qemu(make_qemu(tmp_path / "q"))
    assert qemu.version == (7, 2, 22)
    assert qemu.netdevs == {"socket", "stream", "user", "vhost-user"}
    assert qemu.machines == {"microvm", "q35"}


def test_program_that_is_no_qemu_is_missing(tmp_path: Path) -> None:
    with pytest.raises(QemuMissing, match="is not a QEMU"):
        probe.ask_qemu(make_qemu(tmp_path / "q", version="unknown"))


def test_program_that_fails_is_missing_with_its_words(tmp_path: Path) -> None:
    path = tmp_path / "q"
    path.write_text("#!/bin/sh\necho broken library >&2\nexit 127\n")
    path.chmod(0o755)
    with pytest.raises(QemuMissing) as caught:
        probe.ask_qemu(str(path))
    assert "code 127" in caught.value.fact
    assert "broken library" in caught.value.evidence


def test_qemu_below_minimum_is_too_old() -> None:
    with pytest.raises(QemuTooOld, match=r"older than 7\.2"):
        qemu_of((6, 2, 0)).require()


def test_qemu_without_netdev_is_too_old_and_lists_what_it_has() -> None:
    with pytest.raises(QemuTooOld) as caught:
        qemu_of((7, 2, 0)).require(netdev="vhost-user")
    assert "stream user" in caught.value.evidence


def test_qemu_without_machine_is_too_old() -> None:
    with pytest.raises(QemuTooOld, match="microvm"):
        qemu_of((7, 2, 0)).require(machine="microvm")


def test_qemu_with_everything_asked_for_passes() -> None:
    qemu_of((10, 0, 2)).require(netdev="stream", machine="q35")


def test_kvm_device_absent_is_missing(tmp_path: Path) -> None:
    assert probe.probe_kvm(qemu_of((7, 2)), device=tmp_path / "kvm").state == "missing"


def test_kvm_device_that_is_a_file_is_odd(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    device.write_bytes(b"")
    verdict = probe.probe_kvm(qemu_of((7, 2)), device=device)
    assert verdict.state == "odd"
    assert "KVM_GET_API_VERSION" in verdict.evidence


def test_kvm_guest_that_never_ends_hangs_within_the_deadline(tmp_path: Path) -> None:
    hanger = tmp_path / "q"
    hanger.write_text("#!/bin/sh\nexec sleep 30\n")
    hanger.chmod(0o755)
    verdict = probe.run_tiny_guest(str(hanger), "kvm", deadline_s=0.05)
    assert verdict.state == "hangs"
    assert "QEMU was killed" in verdict.evidence


def test_kvm_guest_refused_by_qemu_fails_with_its_words(tmp_path: Path) -> None:
    refuser = tmp_path / "q"
    refuser.write_text("#!/bin/sh\necho 'failed to initialize kvm: Permission denied' >&2\nexit 1\n")
    refuser.chmod(0o755)
    verdict = probe.run_tiny_guest(str(refuser), "kvm", deadline_s=5)
    assert verdict.state == "fails"
    assert "failed to initialize kvm" in verdict.evidence


def test_kvm_guest_that_reports_back_is_ok(tmp_path: Path) -> None:
    good = tmp_path / "q"
    good.write_text(f"#!/bin/sh\nexit {tinyguest.EXIT_CODE}\n")
    good.chmod(0o755)
    assert probe.run_tiny_guest(str(good), "kvm", deadline_s=5).ok


def stand_in(monkeypatch: pytest.MonkeyPatch, verdict: KvmVerdict) -> list[str]:
    """Count real tries; the device is taken to open."""
    tries: list[str] = []

    def run(path: str, accel: str) -> KvmVerdict:
        tries.append(accel)
        return verdict

    monkeypatch.setattr(probe, "run_tiny_guest", run)
    monkeypatch.setattr(probe, "_kvm_refusal", lambda device: None)
    return tries


def test_kvm_verdict_is_cached_for_the_same_qemu_and_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = stand_in(monkeypatch, KvmVerdict("hangs", "no end"))
    first, second = (probe.probe_kvm(qemu_of((7, 2))) for _ in range(2))
    assert tries == ["kvm"]
    assert (first.state, second.state) == ("hangs", "hangs")
    assert "found earlier" in second.evidence


def test_kvm_verdict_is_not_believed_after_a_reboot(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = stand_in(monkeypatch, KvmVerdict("ok", "ran"))
    probe.probe_kvm(qemu_of((7, 2)))
    monkeypatch.setattr(probe, "_boot_id", lambda: "another boot")
    probe.probe_kvm(qemu_of((7, 2)))
    assert tries == ["kvm", "kvm"]


def test_kvm_cache_that_is_garbage_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = stand_in(monkeypatch, KvmVerdict("ok", "ran"))
    probe.cache_dir().mkdir(parents=True)
    (probe.cache_dir() / "kvm-probe.json").write_text('{"key": ')
    assert probe.probe_kvm(qemu_of((7, 2))).ok
    assert tries == ["kvm"]


def test_accel_auto_with_hanging_kvm_is_tcg_said_aloud() -> None:
    accel, said = probe.choose_accel("auto", KvmVerdict("hangs", "no end"))
    assert accel == "tcg"
    assert "NO KVM" in said
    assert "x10" in said
    assert "opens but hangs" in said


def test_accel_kvm_with_hanging_kvm_is_refused() -> None:
    with pytest.raises(KvmUnusable) as caught:
        probe.choose_accel("kvm", KvmVerdict("hangs", "no end"))
    assert caught.value.exit_code == 3
    assert caught.value.remedy.startswith("leave out --accel kvm")


def test_accel_auto_with_working_kvm_is_kvm() -> None:
    assert probe.choose_accel("auto", KvmVerdict("ok", "ran"))[0] == "kvm"


def test_accel_tcg_is_tcg_even_with_working_kvm() -> None:
    assert probe.choose_accel("tcg", KvmVerdict("ok", "ran"))[0] == "tcg"


def test_memfd_is_probed_by_making_one() -> None:
    assert probe.probe_memfd().ok


def test_tap_is_probed_by_opening_its_device_and_nobody_has_to_have_one(tmp_path: Path) -> None:
    missing = probe.probe_tap(tmp_path / "tun")
    assert (missing.ok, missing.required, missing.value) == (False, False, "missing")
    assert "modprobe tun" in missing.remedy
    (tmp_path / "tun").write_bytes(b"")
    assert probe.probe_tap(tmp_path / "tun").ok


def test_tsc_measured_twice_agrees_within_a_thousandth() -> None:
    first, second = probe.tsc_khz(0.01), probe.tsc_khz(0.01)
    if first is None or second is None:
        pytest.skip("this host has no constant TSC")
    assert abs(first - second) < first / 1000


def test_report_without_qemu_is_not_ok_and_lists_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VNIC_QEMU", "/nowhere/qemu")
    report = probe.probe()
    assert not report.ok
    assert report.qemu is None
    assert "FAIL qemu" in report.as_text()
    facts = {fact["name"]: fact for fact in json.loads(report.as_json())["facts"]}
    assert "apt install" in facts["qemu"]["remedy"]


def test_report_with_unusable_kvm_is_still_ok(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VNIC_QEMU", make_qemu(tmp_path / "q"))
    stand_in(monkeypatch, KvmVerdict("hangs", "no end"))
    report = probe.probe()
    assert report.ok
    assert report.kvm.state == "hangs"
    assert "no   kvm" in report.as_text()


def test_tiny_guest_image_starts_at_the_reset_vector() -> None:
    image = tinyguest.image()
    assert len(image) == 0x10000
    assert image[0xFFF0] == 0xE9
    target = (0xFFF3 + int.from_bytes(image[0xFFF1:0xFFF3], "little")) & 0xFFFF
    assert image[target : target + len(tinyguest.code())] == tinyguest.code()


@pytest.mark.slow
def test_tiny_guest_under_tcg_reaches_its_end() -> None:
    path = shutil.which("qemu-system-x86_64")
    if path is None:
        pytest.skip("needs qemu-system-x86_64")
    verdict = probe.run_tiny_guest(path, "tcg", deadline_s=20)
    assert verdict.ok
    assert "a timer interrupt" in verdict.evidence


def test_kvm_verdict_of_a_user_without_home_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    tries = stand_in(monkeypatch, KvmVerdict("ok", "ran"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    for _ in range(2):
        assert probe.probe_kvm(qemu_of((7, 2))).ok
    assert tries == ["kvm", "kvm"]
