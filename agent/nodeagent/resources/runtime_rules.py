"""What each container runtime needs in its configuration for CDI, as far as it has not got it; pure.

Sources: containerd docs/cri/config.md and RELEASES.md (CDI since 1.7, on since 2.0; configuration versions 2, 3 and 4),
nvidia-container-toolkit pkg/config/engine (plugin tables, runtimes, that containerd before 2.1 replaces an imported
plugin table as a whole), docker/docs engine release notes (CDI since 25 with features.cdi, on since 28.3), CRI-O
crio.conf(5) (CDI since 1.23), podman issues 25691 and 26569 (5.5 looks in /etc/cdi only, unless containers.conf says).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from nodeagent.host.paths import (
    CDI_DYNAMIC,
    CDI_DYNAMIC_TOO,
    CDI_STATIC,
    CONTAINERD_CONFIG,
    CONTAINERD_DROP_IN,
    CRIO_DROP_IN,
    DOCKER_CONFIG,
    NVIDIA_RUNTIME,
    PODMAN_DROP_IN,
)
from nodeagent.resources.config_edit import (
    Setting,
    UneditableError,
    edit_json,
    edit_toml,
    merged,
    parse_json,
    parse_toml,
    value_at,
)
from nodeagent.state.containers import Runtime

USUAL = (CDI_STATIC, CDI_DYNAMIC)
CRI_TABLES: Mapping[int, tuple[str, ...]] = {
    1: ("plugins", "cri"),
    2: ("plugins", "io.containerd.grpc.v1.cri"),
    3: ("plugins", "io.containerd.cri.v1.runtime"),
    4: ("plugins", "io.containerd.cri.v1.runtime"),
}
DOCKER_RELOADS = frozenset({"runtimes"})  # dockerd(8), configuration reload; features.cdi counts at the start only
CRI_NAMES = frozenset({"cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"})


@dataclass(frozen=True)
class Wanted:
    """What is asked of a runtime: directories with CDI files, and whether the wrapper runtime."""

    directories: tuple[str, ...] = USUAL
    nvidia_runtime: bool = False


@dataclass(frozen=True)
class Change:
    """What to write where; `text` is None where nothing is to be done, then `why` says why it is enough.

    `reload`: the runtime takes it over without a restart. `stops_containers`: a restart does.
    """

    path: str = ""
    text: str | None = None
    before: str | None = None
    why: str = ""
    stops_containers: bool = False
    reload: bool = False


class ImpossibleError(Exception):
    """The runtime cannot be given what is wanted; the text says why, `advice` what would help."""

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(problem)
        self.advice = advice


def change_for(runtime: Runtime, wanted: Wanted) -> Change:
    """The one change a runtime needs. ImpossibleError where there is none."""
    for path, file in runtime.files.items():
        if file.problem:
            raise ImpossibleError(f"{path}: {file.problem}", "mend it by hand")
    if wanted.nvidia_runtime and not runtime.nvidia_runtime:
        raise ImpossibleError(f"{NVIDIA_RUNTIME} is not there", "install nvidia-container-toolkit")
    try:
        return _writable(runtime, RULES[runtime.name](runtime, wanted))
    except UneditableError as error:
        raise ImpossibleError(str(error), "mend or change it by hand") from error


def _writable(runtime: Runtime, change: Change) -> Change:
    link = runtime.files[change.path].link if change.path in runtime.files else ""
    if change.text is not None and link:
        raise ImpossibleError(f"{change.path} is a link to {link}, so that somebody else keeps it", "change it there")
    return change


def _too_old(runtime: Runtime, least: tuple[int, ...], says: str) -> None:
    if not runtime.release:
        raise ImpossibleError("its version cannot be told", f"see `{runtime.name} --version`")
    if runtime.release < least:
        raise ImpossibleError(f"version {runtime.version} has no CDI", f"CDI came with {says}")


def _values(runtime: Runtime) -> dict[str, dict[str, Any]]:
    found = {}
    for path, file in runtime.files.items():
        try:
            found[path] = parse_json(file.text) if path.endswith(".json") else parse_toml(file.text)
        except UneditableError as error:
            raise UneditableError(f"{path}: {error}") from error
    return found


def _lacks(directories: Any, wanted: Wanted) -> bool:
    """Whether a list of directories, None for the usual ones, leaves out one that is wanted."""
    here = USUAL if directories is None else tuple(directories)
    same = {CDI_DYNAMIC_TOO: CDI_DYNAMIC}
    return not {*wanted.directories} <= {same.get(one, one) for one in here}


def _all_directories(directories: Any, wanted: Wanted) -> list[str]:
    return list(dict.fromkeys((*(directories or USUAL), *wanted.directories)))


# containerd


def containerd(runtime: Runtime, wanted: Wanted) -> Change:
    """enable_cdi where it is off, directories where one is missing, the runtime where asked for."""
    values = _values(runtime)
    main = runtime.generated or CONTAINERD_CONFIG
    version = _config_version(runtime, values.get(main))
    if runtime.version:
        _too_old(runtime, (1, 7), "containerd 1.7")
    if not CRI_NAMES.isdisjoint(value_at(values.get(main, {}), ("disabled_plugins",)) or ()):
        raise ImpossibleError("its CRI plugin is disabled, so that no kubelet uses it", "Docker needs nothing of it")
    table = CRI_TABLES[version]
    effective = _effective(values, table, runtime.release)
    settings = _containerd_settings(effective, table, runtime, wanted)
    if not settings:
        return Change(why="CDI is on")
    if runtime.generated:
        advice = "put the keys into its template; see its documentation of containerd"
        raise ImpossibleError(f"{main} is written anew at each start, and lacks {_words(settings)}", advice)
    return _containerd_change(runtime, values, settings, version)


def _config_version(runtime: Runtime, main: Mapping[str, Any] | None) -> int:
    """A file without a version has version 1; without a file or text the newest that this containerd knows is free."""
    if not main:
        return 3 if runtime.release >= (2,) else 2
    found = main.get("version", 1)
    if found not in CRI_TABLES or (found == 1 and runtime.release >= (2,)):
        raise ImpossibleError(f"its configuration has version {found!r}", "known are 2, 3 and 4")
    return int(found)


def _effective(values: Mapping[str, Mapping[str, Any]], table: Sequence[str], release: tuple[int, ...]) -> Any:
    """The CRI table as containerd sees it: before 2.1 the last file that has it counts alone."""
    tables = [found for one in values.values() if (found := value_at(one, table)) is not None]
    if not all(isinstance(one, Mapping) for one in tables):
        raise UneditableError(f"{table[-1]} is not a table")
    if release < (2, 1):
        return tables[-1] if tables else {}
    result: dict[str, Any] = {}
    for one in tables:
        result = merged(result, one)
    return result


def _containerd_settings(cri: Any, table: tuple[str, ...], runtime: Runtime, wanted: Wanted) -> list[Setting]:
    default = runtime.release >= (2,) or not runtime.version
    settings = []
    if cri.get("enable_cdi", default) is not True:
        settings.append(Setting((*table, "enable_cdi"), True))
    if _lacks(cri.get("cdi_spec_dirs"), wanted):
        settings.append(Setting((*table, "cdi_spec_dirs"), _all_directories(cri.get("cdi_spec_dirs"), wanted)))
    place = ("containerd", "runtimes", "nvidia")
    name = (*place, "options", "BinaryName")
    if wanted.nvidia_runtime and value_at(cri, name) != NVIDIA_RUNTIME:
        settings.append(Setting((*table, *place, "runtime_type"), "io.containerd.runc.v2"))
        settings.append(Setting((*table, *name), NVIDIA_RUNTIME))
    return settings


def _containerd_change(
    runtime: Runtime, values: Mapping[str, Mapping[str, Any]], settings: Sequence[Setting], version: int
) -> Change:
    """A drop-in where containerd merges them and the main file imports its directory; else the file that counts."""
    main, table = CONTAINERD_CONFIG, CRI_TABLES[version]
    path = main
    if runtime.release >= (2, 1) and _imports(values.get(main, {}), CONTAINERD_DROP_IN):
        path = CONTAINERD_DROP_IN
    elif runtime.release < (2, 1):
        path = next((one for one in reversed(list(values)) if value_at(values[one], table) is not None), main)
    before = runtime.files[path].text if path in runtime.files else None
    text = edit_toml(before if before and before.strip() else f"version = {version}\n", settings)
    after = {**{one: found for one, found in values.items() if one != path}}
    order = sorted({**after, path: {}}, key=lambda one: (one != main, one))
    seen = _effective({one: parse_toml(text) if one == path else after[one] for one in order}, table, runtime.release)
    lost = [setting for setting in settings if value_at(seen, setting.path[len(table) :]) != setting.value]
    if lost:
        raise ImpossibleError(f"an imported file overrides {_words(lost)}", "change it there")
    return Change(path, text, before)


def _imports(main: Mapping[str, Any], path: str) -> bool:
    """Patterns without a leading slash start at the main file's directory."""
    folder = CONTAINERD_CONFIG.rpartition("/")[0]
    patterns = [str(pattern) for pattern in main.get("imports", ())]
    return any(fnmatch(path, one if one.startswith("/") else f"{folder}/{one}") for one in patterns)


def _words(settings: Sequence[Setting]) -> str:
    return ", ".join(setting.path[-1] for setting in settings)


# Docker


def docker(runtime: Runtime, wanted: Wanted) -> Change:
    """features.cdi, which is on by itself since 28.3; cdi-spec-dirs and the runtime only where needed."""
    _too_old(runtime, (25,), "Docker 25")
    before = runtime.files[DOCKER_CONFIG].text if DOCKER_CONFIG in runtime.files else None
    values = _values(runtime).get(DOCKER_CONFIG, {})
    settings = []
    if (value_at(values, ("features", "cdi")) is not True) and (
        runtime.release < (28, 3) or value_at(values, ("features", "cdi")) is False
    ):
        settings.append(Setting(("features", "cdi"), True))
    if _lacks(values.get("cdi-spec-dirs"), wanted):
        settings.append(Setting(("cdi-spec-dirs",), _all_directories(values.get("cdi-spec-dirs"), wanted)))
    if wanted.nvidia_runtime and value_at(values, ("runtimes", "nvidia", "path")) != NVIDIA_RUNTIME:
        settings.append(Setting(("runtimes", "nvidia", "path"), NVIDIA_RUNTIME))
    stops = values.get("live-restore") is not True
    if not settings:
        return Change(why="CDI is on", stops_containers=stops)
    text = edit_json(before or "", settings)
    is_reloadable = all(setting.path[0] in DOCKER_RELOADS for setting in settings)
    return Change(DOCKER_CONFIG, text, before, stops_containers=stops, reload=is_reloadable)


# CRI-O and Podman


def crio(runtime: Runtime, wanted: Wanted) -> Change:
    """CDI is always on; a drop-in only for other directories or the runtime."""
    _too_old(runtime, (1, 23), "CRI-O 1.23")
    table = ("crio", "runtime")
    values = _all_merged(runtime)
    settings = []
    directories = value_at(values, (*table, "cdi_spec_dirs"))
    if _lacks(directories, wanted):
        settings.append(Setting((*table, "cdi_spec_dirs"), _all_directories(directories, wanted)))
    place = (*table, "runtimes", "nvidia")
    if wanted.nvidia_runtime and value_at(values, (*place, "runtime_path")) != NVIDIA_RUNTIME:
        settings.append(Setting((*place, "runtime_path"), NVIDIA_RUNTIME))
        settings.append(Setting((*place, "runtime_type"), "oci"))
    return _drop_in(runtime, CRIO_DROP_IN, settings)


def podman(runtime: Runtime, wanted: Wanted) -> Change:
    """Nothing before 5.5, where directories are built in; 5.5 has to be told of the dynamic one."""
    _too_old(runtime, (4, 1), "Podman 4.1")
    values = _all_merged(runtime)
    directories = value_at(values, ("engine", "cdi_spec_dirs"))
    settings = []
    if runtime.release < (5, 5):
        if _lacks(None, wanted):
            raise ImpossibleError("it looks for CDI files in its own two directories only", "leave cdi.directory empty")
    elif _lacks(directories if directories is not None else (CDI_STATIC,), wanted):
        settings.append(Setting(("engine", "cdi_spec_dirs"), _all_directories(directories, wanted)))
    place = ("engine", "runtimes", "nvidia")
    if wanted.nvidia_runtime and value_at(values, place) != [NVIDIA_RUNTIME]:
        settings.append(Setting(place, [NVIDIA_RUNTIME]))
    return _drop_in(runtime, PODMAN_DROP_IN, settings)


def _all_merged(runtime: Runtime) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for one in _values(runtime).values():
        result = merged(result, one)
    return result


def _drop_in(runtime: Runtime, path: str, settings: Sequence[Setting]) -> Change:
    if not settings:
        return Change(why="CDI is on")
    before = runtime.files[path].text if path in runtime.files else None
    text = edit_toml(before or "", settings)
    values = _values(runtime)
    later = [one for one in values if one > path and one.rpartition("/")[0] == path.rpartition("/")[0]]
    result: dict[str, Any] = {}
    for one in later:
        result = merged(result, values[one])
    lost = [one for one in settings if value_at(result, one.path) not in (None, one.value)]
    if lost:
        raise ImpossibleError(f"{later[-1]} overrides {_words(lost)}", "change it there")
    return Change(path, text, before)


RULES = {"containerd": containerd, "docker": docker, "crio": crio, "podman": podman}
