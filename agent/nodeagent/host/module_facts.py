"""Kernel modules in the running kernel, by /sys/module (Documentation/ABI/stable/sysfs-module)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from nodeagent.errors import DeniedError
from nodeagent.host.driver_facts import loaded_parameters
from nodeagent.host.paths import SYS_MODULE
from nodeagent.host.ports import Files
from nodeagent.state.modules import KernelModule, Liveness

INITSTATE: Mapping[str, Liveness] = {
    "live": Liveness.LIVE,
    "coming": Liveness.COMING,
    "going": Liveness.GOING,
}


def read_modules(
    files: Files, *, parameters_of: Collection[str] = (), builtin: Collection[str] = ()
) -> Mapping[str, KernelModule]:
    """Every loaded module by name, with the parameters of those in `parameters_of`.

    A directory below /sys/module without `initstate` is code that was built in; such names appear only when they are in
    `builtin` (built-in code without parameters or a version has no directory at all). Raises DeniedError where sysfs
    itself cannot be read.
    """
    found = (_read_module(files, name, name in parameters_of, name in builtin) for name in files.names(SYS_MODULE))
    return MappingProxyType({module.name: module for module in found if module is not None})


def _read_module(files: Files, name: str, with_parameters: bool, if_builtin: bool) -> KernelModule | None:
    initstate = _attribute(files, name, "initstate")
    if not initstate and not if_builtin:
        return None
    return KernelModule(
        name=name,
        liveness=INITSTATE.get(initstate, Liveness.COMING) if initstate else Liveness.BUILTIN,
        refcount=parse_refcount(_attribute(files, name, "refcnt")),
        holders=files.names(f"{SYS_MODULE}/{name}/holders") if initstate else (),
        version=_attribute(files, name, "version"),
        srcversion=_attribute(files, name, "srcversion"),
        parameters=_parameters(files, name) if with_parameters else (),
        taint=_attribute(files, name, "taint"),
    )


def parse_refcount(text: str) -> int | None:
    """The reference count; None where the kernel does not say, or while the module is going (it then reads -1)."""
    return int(text) if text.isdecimal() else None


def _attribute(files: Files, name: str, attribute: str) -> str:
    return (files.read_optional(f"{SYS_MODULE}/{name}/{attribute}") or "").strip()


def _parameters(files: Files, name: str) -> tuple[tuple[str, str], ...]:
    """The parameters that can be read back, by name; nvidia shows its own in /proc only (nv-procfs.c)."""
    directory = f"{SYS_MODULE}/{name}/parameters"
    values = {parameter: _parameter(files, f"{directory}/{parameter}") for parameter in files.names(directory)}
    if name == "nvidia":
        values.update(loaded_parameters(files))
    return tuple(sorted((parameter, value) for parameter, value in values.items() if value is not None))


def _parameter(files: Files, path: str) -> str | None:
    """Text of one parameter, None where its mode forbids reading (sysfs refuses that even to root)."""
    try:
        value = files.read_optional(path)
    except DeniedError:
        return None
    return None if value is None else value.strip()
