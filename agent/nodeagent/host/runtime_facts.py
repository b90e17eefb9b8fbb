"""Which container runtimes are there, and every file of their configuration in the order in which it counts.

Sources: containerd docs/man/containerd-config.toml.5.md (imports), crio.conf.d(5), containers.conf(5), dockerd(8).
"""

from __future__ import annotations

import posixpath
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from types import MappingProxyType

from nodeagent.errors import HostError
from nodeagent.host import paths
from nodeagent.host.ports import ContainerRuntimes, Files
from nodeagent.state.containers import ConfigFile, Runtime

NAMES = ("containerd", "crio", "docker", "podman")
LIMIT = 4 << 20


def read_runtimes(files: Files, port: ContainerRuntimes) -> Mapping[str, Runtime]:
    """Every runtime that is installed, by name."""
    found = (_runtime(files, port, name) for name in NAMES)
    return MappingProxyType({runtime.name: runtime for runtime in found if runtime is not None})


def _runtime(files: Files, port: ContainerRuntimes, name: str) -> Runtime | None:
    version = port.version(name)
    generated = next((path for path in paths.RANCHER_CONFIGS if files.exists(path)), "") if name == "containerd" else ""
    if not version and not generated:
        return None
    return Runtime(
        name=name,
        version=version,
        files=MappingProxyType(dict(files_of(files, name, generated))),
        active=port.is_active(name),
        owed=files.read_optional(f"{paths.RESTARTS_DUE}/{name}") or "",
        generated=generated,
        nvidia_runtime=files.exists(paths.NVIDIA_RUNTIME),
    )


def files_of(files: Files, name: str, generated: str = "") -> Iterator[tuple[str, ConfigFile]]:
    """(path, content) of every file of a runtime's configuration, those that count for more later."""
    if name == "containerd":
        yield from _containerd(files, generated or paths.CONTAINERD_CONFIG)
    elif name == "crio":
        yield from _read(files, [paths.CRIO_CONFIG, *(p for d in paths.CRIO_DROP_INS for p in _below(files, d, "*"))])
    elif name == "docker":
        yield from _read(files, [paths.DOCKER_CONFIG])
    else:
        yield from _read(files, [*paths.PODMAN_CONFIGS, *_below(files, paths.PODMAN_DROP_INS, "*.conf")])


def _below(files: Files, folder: str, pattern: str) -> list[str]:
    return [f"{folder}/{name}" for name in files.names(folder) if fnmatch(name, pattern) and not name.startswith(".")]


def _read(files: Files, wanted: Iterable[str]) -> Iterator[tuple[str, ConfigFile]]:
    for path in wanted:
        if files.exists(path):
            yield path, read_config(files, path)


def read_config(files: Files, path: str) -> ConfigFile:
    """The file byte for byte; one that is no UTF-8 or cannot be read says so, and is not to be written."""
    try:
        text = files.read_bytes(path, LIMIT).decode()
        return ConfigFile(text, files.mode(path) or 0o644, files.link(path) or "")
    except UnicodeDecodeError:
        return ConfigFile("", problem="it is not UTF-8")
    except HostError as error:
        return ConfigFile("", problem=str(error))


def _containerd(files: Files, main: str) -> Iterator[tuple[str, ConfigFile]]:
    """The main file, then what it imports, which counts for more; each file once."""
    waiting, seen = [main], set()
    while waiting:
        path = waiting.pop(0)
        if path in seen or not files.exists(path):
            continue
        seen.add(path)
        found = read_config(files, path)
        yield path, found
        waiting += [one for pattern in imports_of(found.text) for one in _matching(files, path, pattern)]


def imports_of(text: str) -> tuple[str, ...]:
    """Patterns that a configuration of containerd imports; none where it cannot be read."""
    try:
        found = tomllib.loads(text).get("imports", ())
    except tomllib.TOMLDecodeError:
        return ()
    return tuple(str(pattern) for pattern in found) if isinstance(found, list) else ()


def _matching(files: Files, importer: str, pattern: str) -> list[str]:
    folder, _, name = posixpath.join(posixpath.dirname(importer), pattern).rpartition("/")
    return _below(files, folder, name) if "*" in name or "?" in name else [f"{folder}/{name}"]
