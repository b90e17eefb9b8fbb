"""The container's file system as the Dockerfile makes it, without an engine and without root.

Its second stage by hand: the packages that it installs and what they need, from the machine's own apt, unpacked over
Debian's essential ones; then /opt/nodeagent and /usr/share/nodeagent. What differs from an image that an engine built:
maintainer scripts did not run but for ldconfig (no users, no alternatives), the base is the essential packages of the
machine's distribution instead of debian:*-slim, and /opt/nodeagent holds the packages of the tests' Python.
"""

from __future__ import annotations

import compileall
import os
import re
import shutil
import subprocess
import sysconfig
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

import nodeagent
from vm.rig.packages import RigError, run

MERGED = ("bin", "sbin", "lib", "lib64")  # links into /usr, which debootstrap makes before it unpacks anything
SCRIPT = """#!/opt/nodeagent/bin/python3
import sys
from nodeagent.__main__ import main
sys.exit(main())
"""


@dataclass(frozen=True)
class Recipe:
    """What the Dockerfile says about the image that runs: packages, environment, entry point, and the host's options.

    `against_the_host` are the words of its head comment between `docker run` and the image's name.
    """

    packages: tuple[str, ...]
    environment: tuple[str, ...]
    entrypoint: str
    against_the_host: tuple[str, ...]


def parse(dockerfile: str) -> Recipe:
    """RigError where the file is not built as expected."""
    final = dockerfile.rpartition("\nFROM ")[2]
    installed = re.search(r"apt-get install -y --no-install-recommends ([\w .+-]+?)\s*\\", final)
    environment = re.search(r"^ENV (.*)$", final, re.MULTILINE)
    entrypoint = re.search(r'^ENTRYPOINT \["([^"]+)"\]$', final, re.MULTILINE)
    comment = re.sub(r"\\\n#", "", dockerfile.partition("\nFROM ")[0])
    host = re.search(r"docker run (--privileged.*?) nodeagent run\b", comment)
    if not (installed and environment and entrypoint and host):
        raise RigError("read Dockerfile: packages, ENV, ENTRYPOINT or the privileged command line not found")
    return Recipe(tuple(installed[1].split()), tuple(environment[1].split()), entrypoint[1], tuple(host[1].split()))


def obtain(cache: Path, repository: Path) -> Path:
    """The file system, from the cache or made (about 55 MB to download); the agent in it is always today's."""
    recipe = parse((repository / "Dockerfile").read_text())
    place = (cache / "image").resolve()
    stamp, wanted = place / "packages", " ".join(recipe.packages)
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(place, ignore_errors=True)
        _unpack(recipe.packages, place)
        stamp.write_text(wanted)
    _install_agent(place / "root", repository)
    return place / "root"


def _unpack(packages: tuple[str, ...], place: Path) -> None:
    root, downloads = place / "root", place / "downloads"
    (downloads / "partial").mkdir(parents=True)
    for name in MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    status = place / "status"
    status.touch()  # nothing is installed, so that apt finds all that is needed
    options = (f"Dir::State::status={status}", f"Dir::Cache::archives={downloads}", "Debug::NoLocking=true")
    settings = [word for option in options for word in ("-o", option)]
    advice = "run apt-get update; the machine needs a Debian mirror"
    command = ["apt-get", "-qq", "-y", "-d", "--no-install-recommends", *settings, "install", *packages, "?essential"]
    run(command, advice=advice)
    for package in sorted(downloads.glob("*.deb")):
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as archive:
            unpack = ["tar", "-x", "-C", str(root), "--keep-directory-symlink", "--no-same-owner"]
            subprocess.run(unpack, stdin=archive.stdout, check=True)
    shutil.rmtree(downloads)
    become_root = [] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user"]
    run([*become_root, "ldconfig", "-X", "-r", str(root)])  # libc-bin's script does it; Python finds libraries by it


def _install_agent(root: Path, repository: Path) -> None:
    """As `pip install .` into a virtual environment of the image's Python lays it out."""
    home = root / "opt" / "nodeagent"
    shutil.rmtree(home, ignore_errors=True)
    version = sysconfig.get_python_version()
    if not (root / "usr" / "bin" / f"python{version}").exists():
        raise RigError(f"make image: its Python is not {version} as that of the tests; run them with the system's own")
    packages = home / "lib" / f"python{version}" / "site-packages"
    packages.mkdir(parents=True)
    (home / "bin").mkdir()
    (home / "bin" / "python3").symlink_to("/usr/bin/python3")
    (home / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    (home / "bin" / "nodeagent").write_text(SCRIPT)
    (home / "bin" / "nodeagent").chmod(0o755)
    for found in _needed(_wanted(repository), {}).values():
        _copy_distribution(found, packages)
    sources = Path(nodeagent.__file__).parent
    compileall.compile_dir(str(sources), quiet=2)  # as pip does
    shutil.copytree(sources, packages / "nodeagent")
    shutil.copytree(repository / "examples", root / "usr" / "share" / "nodeagent" / "examples", dirs_exist_ok=True)


def _wanted(repository: Path) -> list[str]:
    """The agent's requirements with those of the extras that the Dockerfile installs."""
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    extras = re.search(r"pip install [^\n]*\.\[([\w,-]+)\]", (repository / "Dockerfile").read_text())
    chosen = extras[1].split(",") if extras else []
    return [*project["dependencies"], *(text for name in chosen for text in project["optional-dependencies"][name])]


def _needed(requirements: Iterable[str], found: dict[str, Distribution]) -> dict[str, Distribution]:
    """What these need when they run, themselves included."""
    for wanted in map(Requirement, requirements):
        if wanted.name not in found and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
            found[wanted.name] = distribution(wanted.name)
            _needed(found[wanted.name].requires or (), found)
    return found


def _copy_distribution(found: Distribution, packages: Path) -> None:
    for file in found.files or ():
        if file.parts[0] != ".." and os.path.exists(file.locate()):
            place = packages / file
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(str(file.locate()), place)  # with its time, by which compiled files are found valid
