"""Packages of Debian's next release on a machine with this one: downloaded with apt, unpacked, never installed."""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

NEXT = {"bookworm": "trixie"}
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"  # of debian-archive-keyring, which has the next release's too
ALL = ("*",)


class NotObtainedError(Exception):
    """The mirror has no such package, or apt knows no mirror; the message says what would do instead."""


@dataclass(frozen=True)
class Wanted:
    """A package, with what it depends on or alone; only files that match `keep` stay. `instead`: what else would do.

    Another `component` than main may lack on a machine of the next release as well, and is taken from there then.
    """

    package: str
    instead: str
    with_needs: bool = False
    component: str = "main"
    keep: tuple[str, ...] = ALL


def unpacked(wanted: Wanted, place: Path) -> Path:
    """The root of its file tree below `place`, from there or by download. NotObtainedError where that cannot be."""
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "unpacked").exists():
            _download(wanted, place)
    return place / "root"


def _download(wanted: Wanted, place: Path) -> None:
    """By apt with lists and settings of its own: the machine's mirror, the next release, signatures checked as ever."""
    apt, root = place / "apt", place / "root"
    for path in (root, apt):
        shutil.rmtree(path, ignore_errors=True)
    for folder in (root, apt / "lists/partial", apt / "archives/partial"):
        folder.mkdir(parents=True)
    (apt / "status").touch()  # nothing is installed, so that apt finds all that is needed
    (apt / "sources.list").write_text(f"deb [signed-by={KEYS}] {_mirror(wanted)}\n")
    command = ["apt-get", "-qq", *_options(apt)]
    _run([*command, "update", "--error-on=any"], wanted)
    fetch = ["-y", "-d", "--no-install-recommends", "install"] if wanted.with_needs else ["download"]
    _run([*command, *fetch, wanted.package], wanted, apt / "archives")
    for package in sorted((apt / "archives").glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(root)], wanted)
    shutil.rmtree(apt)
    _prune(root, wanted.keep)
    (place / "unpacked").touch()


def _options(apt: Path) -> list[str]:
    options = {
        "Dir::State": apt,
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "Dir::Cache::archives": apt / "archives",
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",  # the cache is not open to apt's own user
        "Debug::NoLocking": "true",  # dpkg's lock is root's; the tests need not be
    }
    return [part for name, value in options.items() for part in ("-o", f"{name}={value}")]


def _mirror(wanted: Wanted) -> str:
    """`URI RELEASE COMPONENT`: where this machine's own Debian packages come from, for the next release."""
    form = "$(LABEL) $(COMPONENT) $(CODENAME) $(REPO_URI)"
    lists = _run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"], wanted)
    for release, uri in re.findall(r"(?m)^Debian main (\S+) (\S+)$", lists):
        if release in NEXT or (wanted.component != "main" and release in NEXT.values()):
            return f"{uri} {NEXT.get(release, release)} {wanted.component}"
    reason = f"apt has no lists of Debian {', '.join(NEXT)}"
    raise NotObtainedError(f"obtain {wanted.package}: {reason}; run apt-get update, or {wanted.instead}")


def _prune(root: Path, keep: tuple[str, ...]) -> None:
    """Take away what nobody asked for: packages are mostly documentation."""
    for path in root.rglob("*"):
        if not path.is_dir() and not any(fnmatch(str(path.relative_to(root)), pattern) for pattern in keep):
            path.unlink()


def _run(command: list[str], wanted: Wanted, folder: Path | None = None) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-1000:]
        reason = f"{command[0]} exits {done.returncode}: {said}"
        raise NotObtainedError(f"obtain {wanted.package}: {reason}; the mirror must have it, or {wanted.instead}")
    return done.stdout
