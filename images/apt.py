# SPDX-License-Identifier: GPL-2.0-or-later
"""Which package, in which version, from where: asked of apt, which never changes anything here and needs no root.

A `View` is a set of apt's options.  The host view reads the lists that `apt-get update` left on the host.  A
private view has lists, caches and, for another suite, a source of its own in a scratch directory, so that an
unprivileged user can refresh it; sources and keys stay those of the host.

Every query gives apt an empty status file: what is installed on the host must not shorten the answer, and the
closure of a program's libraries comes from apt's own resolver (`apt-get install --print-uris` prints and stops).
"""

from __future__ import annotations

import hashlib
import re
import urllib.parse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from images.errors import DownloadError, NoNetwork, PackageCorrupt, PackageListError, raise_if_full
from images.host import Runner, tail

ARCHITECTURE = "amd64"
KEYRINGS = (
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/etc/apt/trusted.gpg.d/debian-archive-keyring.gpg",
)
UPDATE = "apt-get update   (as root or with sudo)"


@dataclass(frozen=True, slots=True)
class Package:
    """One version of one package; `sha256` is of its .deb, `section` is Debian's ("libs", "net", "kernel")."""

    name: str
    version: str
    section: str
    sha256: str
    size: int
    filename: str
    depends: str = ""

    @property
    def is_library(self) -> bool:
        return self.section.rpartition("/")[2] in ("libs", "oldlibs")


@dataclass(frozen=True, slots=True)
class View:
    """apt as one set of lists sees the world; `label` says which, in messages."""

    run: Runner
    label: str
    options: tuple[str, ...]

    def _call(self, program: str, *arguments: str, cwd: Path | None = None) -> tuple[int, str, str]:
        result = self.run([program, *self.options, *arguments], cwd)
        return result.code, result.text, result.err

    def update(self) -> str:
        """Refreshes the lists of a private view; the complaints, empty when all is well."""
        code, _, err = self._call("apt-get", "update", "-qq")
        return tail(err) if code or "E:" in err or "W:" in err else ""

    def has_lists(self) -> bool:
        """Whether apt has at least one package list to look into."""
        _, out, _ = self._call("apt-get", "indextargets", "--format", "$(FILENAME)", "Created-By: Packages")
        return any(Path(line).exists() for line in out.splitlines() if line)

    def closure(self, names: Sequence[str]) -> list[Package]:
        """The packages and everything they depend on.  Raises PackageListError."""
        code, out, err = self._call(
            "apt-get", "install", "--print-uris", "-qq", "-y", "--no-install-recommends", *names
        )
        files = re.findall(r"^'[^']*' (\S+_\S+\.deb) \d+", out, re.MULTILINE)
        if code or not files:
            raise unknown(names, self.label, err)
        return self.show([_name_and_version(file) for file in files])

    def candidate(self, name: str) -> Package:
        """The version apt would install.  Raises PackageListError."""
        code, out, err = self._call("apt-cache", "show", "--no-all-versions", name)
        found = [] if code else list(_packages(out))
        if not found:
            raise unknown([name], self.label, err)
        return found[0]

    def show(self, wanted: Sequence[tuple[str, str]]) -> list[Package]:
        """The records of (name, version) pairs, in that order.  Raises PackageListError."""
        _, out, err = self._call("apt-cache", "show", *(f"{name}={version}" for name, version in wanted))
        known = {(package.name, package.version): package for package in _packages(out)}
        if missing := [name for name, version in wanted if (name, version) not in known]:
            raise unknown(missing, self.label, err)
        return [known[pair] for pair in wanted]

    def download(
        self, packages: Sequence[Package], directory: Path, cache: Path | None = None
    ) -> dict[str, Path]:
        """Fetches the .debs into `directory`, by package name.  Raises DownloadError, PackageCorrupt, DiskError.

        `cache` is the directory that a full disk is reported for; `directory` itself is gone by then.
        """
        pairs = [f"{package.name}={package.version}" for package in packages]
        code, _, err = self._call("apt-get", "download", "-qq", *pairs, cwd=directory)
        found = {package.name: sorted(directory.glob(f"{package.name}_*.deb")) for package in packages}
        missing = [package for package in packages if not found[package.name]]
        if code or missing:
            raise_if_full(err, cache or directory)
            raise _download_error(missing or packages, self.label, err)
        for package in packages:
            check(found[package.name][0], package)
        return {name: files[0] for name, files in found.items()}


def unknown(names: Iterable[str], label: str, err: str) -> PackageListError:
    return PackageListError(
        f"apt does not know these packages: {', '.join(names)}",
        f"{label}: {tail(err, 4)}",
        f"{UPDATE}, then build again",
    )


def no_network(label: str, complaint: str) -> NoNetwork:
    return NoNetwork(
        "no package list can be fetched, so no guest image can be built",
        f"apt-get update, {label}: {complaint or 'it said nothing'}",
        "connect to the network, or set apt's proxy in /etc/apt/apt.conf.d, then: vnic image build;\n"
        "without any network, copy ~/.cache/vnic/images from a machine that has built it",
    )


def _download_error(packages: Sequence[Package], label: str, err: str) -> DownloadError:
    first, more = packages[0], f" and {len(packages) - 1} more" if len(packages) > 1 else ""
    return DownloadError(
        f"the Debian package {first.name} {first.version}{more} could not be fetched",
        f"apt-get download, {label}: {tail(err, 4)}",
        f"check the network and the mirror in /etc/apt; after a 404, {UPDATE};\n"
        "an image that is built already needs neither",
    )


def check(path: Path, package: Package) -> None:
    """Raises PackageCorrupt unless the file is the one that apt's signed lists describe."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != package.sha256:
        raise PackageCorrupt(
            f"the file of package {package.name} {package.version} is damaged",
            f"{path.name}: SHA-256 is {found}, the list says {package.sha256}",
            "build again; if it stays so, a proxy or mirror on the way changes files",
        )


def _name_and_version(file: str) -> tuple[str, str]:
    name, version, _ = file.split("_", 2)
    return name, urllib.parse.unquote(version)


def _packages(text: str) -> Iterable[Package]:
    for paragraph in text.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", paragraph, re.MULTILINE))
        if "SHA256" in fields:
            yield Package(
                fields["Package"],
                fields["Version"],
                fields.get("Section", ""),
                fields["SHA256"],
                int(fields["Size"]),
                fields["Filename"],
                fields.get("Depends", ""),
            )


def _options(scratch: Path) -> list[str]:
    status, archives = scratch / "status", scratch / "archives"
    status.touch()
    (archives / "partial").mkdir(parents=True)
    pairs = [
        f"Dir::State::status={status}",
        # --print-uris is silent about what lies in the host's archive directory already.
        f"Dir::Cache::archives={archives}",
        "Debug::NoLocking=true",
        f"APT::Architecture={ARCHITECTURE}",
        "Acquire::Retries=1",
        "Acquire::http::Timeout=20",
        "Acquire::https::Timeout=20",
        "Acquire::Languages=none",
        # The scratch directory is private to its user, so apt's own unprivileged user cannot write there.
        "APT::Sandbox::User=",
    ]
    return [word for pair in pairs for word in ("-o", pair)]


def host_view(run: Runner, scratch: Path) -> View:
    """The lists that the host has, read only; `scratch` is an existing directory of ours."""
    return View(run, "the host's package lists", tuple(_options(scratch)))


def _private_options(scratch: Path) -> list[str]:
    (scratch / "state/lists/partial").mkdir(parents=True)
    (scratch / "cache").mkdir()
    pairs = [
        f"Dir::State={scratch / 'state'}",
        f"Dir::State::lists={scratch / 'state/lists'}",
        f"Dir::Cache={scratch / 'cache'}",
    ]
    return [*_options(scratch), *(word for pair in pairs for word in ("-o", pair))]


def private_view(run: Runner, scratch: Path) -> View:
    """The host's sources with lists of our own, still empty: call update()."""
    return View(run, "fresh lists of the host's sources", tuple(_private_options(scratch)))


def suite_view(run: Runner, scratch: Path, suite: str) -> View:
    """Another suite of the mirror that the host uses, with lists of our own, still empty: call update()."""
    key = next((path for path in KEYRINGS if Path(path).exists()), None)
    options = f"arch={ARCHITECTURE}" + (f" signed-by={key}" if key else "")
    source = scratch / "sources.list"
    source.write_text(f"deb [{options}] {mirror(run)} {suite} main\n")
    pairs = [f"Dir::Etc::SourceList={source}", "Dir::Etc::SourceParts=-", "Dir::Etc::PreferencesParts=-"]
    words = [word for pair in pairs for word in ("-o", pair)]
    return View(run, f"lists of Debian's suite {suite}", (*_private_options(scratch), *words))


def mirror(run: Runner) -> str:
    """The address of the Debian archive that the host's apt is configured for.  Raises PackageListError."""
    fields = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)"
    result = run(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"])
    rows = [line.split("|") for line in result.text.splitlines() if line.count("|") == 2]
    archives = [uri for uri, _, component in rows if component == "main" and _is_archive(uri)]
    if not archives:
        raise PackageListError(
            "no mirror of the Debian archive is configured",
            f"apt-get indextargets lists: {', '.join(row[0] for row in rows) or 'nothing'}",
            "add Debian's main archive to /etc/apt/sources.list.d, then build again",
        )
    return archives[0]


def _is_archive(uri: str) -> bool:
    """Debian's own tree, not its security archive: mirrors keep the last component of the path."""
    return uri.rstrip("/").rpartition("/")[2] == "debian"
