"""Module parameters: texts and values, what is in force, and what would have to change."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import TYPE_CHECKING

from nodeagent.resources.module_sets import NVIDIA, NVIDIA_UVM

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nodeagent.state.modules import ModuleFile
    from nodeagent.state.node import NodeState

NVIDIA_PREFIX = "NVreg_"

# Under another name in /proc/driver/nvidia/params (open-gpu-kernel-modules nv-reg.h).
_SHOWN_AS = MappingProxyType({"RestrictProfilingToAdminUsers": "RmProfilingAdminOnly"})

# Test ioctls that any user could reach; there is no production use.
REFUSED = MappingProxyType({(NVIDIA_UVM, "uvm_enable_builtin_tests"): "opens the driver's test calls to every user"})

_OPTION = re.compile(r'([^\s="]+)(?:=((?:"[^"]*"|[^\s"])*))?')
_WORDS = MappingProxyType(
    {"y": 1, "yes": 1, "true": 1, "on": 1, "t": 1, "n": 0, "no": 0, "false": 0, "off": 0, "f": 0},
)


def parse_options(text: str) -> dict[str, str]:
    """Parameters of an options text; the last of several counts, as in the kernel (kernel/params.c, next_arg)."""
    return {
        _plain(found[1]): found[2].replace('"', "") if found[2] is not None else "Y" for found in _OPTION.finditer(text)
    }


def format_options(configured: str, parameters: Iterable[tuple[str, str]]) -> str:
    """The options modprobe would give, then the node file's, which win because the kernel takes the last."""
    wanted = (f"{name}={_argument(value)}" for name, value in parameters)
    return " ".join([configured.strip(), *wanted]).strip()


def _argument(value: str) -> str:
    """One value as the kernel parses it: 1 and 0 for YAML's booleans, since an integer parameter refuses Y."""
    if value.lower() in ("true", "false"):
        return "1" if value.lower() == "true" else "0"
    return f'"{value}"' if re.search(r"\s", value) else value


def value_of(text: str) -> tuple[int | str, ...]:
    """A parameter's value in comparable form: 0x1, 1 and Y are equal, arrays element by element, "(null)" is empty.

    Negative numbers count modulo 2^32, because the nvidia driver shows its parameters as unsigned 32-bit values.
    """
    bare = text.strip().strip('"')
    if bare == "(null)":
        bare = ""
    return tuple(_scalar(part.strip()) for part in bare.split(","))


def _scalar(text: str) -> int | str:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if re.fullmatch(r"-?0[0-7]+", text):
        return int(text, 8) % 2**32
    if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)", text):
        number = int(text, 0) if text.lower().lstrip("-").startswith("0x") else int(text)
        return number % 2**32 if number < 0 else number
    return text


def full_name(module: str, name: str, file: ModuleFile | None) -> str:
    """The name the kernel knows: the node file leaves out nvidia's NVreg_ prefix."""
    known = file.parameters if file else ()
    if module != NVIDIA or name in known or name.startswith(NVIDIA_PREFIX):
        return name
    return NVIDIA_PREFIX + name


def unknown_parameter(name: str, file: ModuleFile) -> str:
    """Why this parameter cannot be given, "" if it can: the kernel only warns about an unknown name and goes on."""
    known = {_plain(parameter): parameter for parameter in file.parameters}
    if _plain(name) in known:
        return ""
    near = get_close_matches(_plain(name), known, n=3, cutoff=0.5)
    if near:
        return f"has no parameter {name}, but {', '.join(sorted(known[found] for found in near))}"
    listing = ", ".join(sorted(known.values())[:8]) or "none at all"
    return f"has no parameter {name}; it has {listing}"


@dataclass(frozen=True)
class Drift:
    """How parameters in force differ from those wanted; `unreadable` cannot be compared with anything."""

    different: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()


def drift(module: str, wanted: Iterable[tuple[str, str]], state: NodeState) -> Drift:
    """Compare the wanted (full name, value) pairs with what the kernel shows, else with our own record of the load."""
    shown = _shown(module, state)
    recorded = state.loaded_options.get(module)
    given = parse_options(recorded) if recorded is not None else None
    different: list[str] = []
    unreadable: list[str] = []
    for name, value in wanted:
        current = shown.get(_shown_name(module, name))
        if current is None and given is None:
            unreadable.append(name)
            continue
        if current is None and given is not None:
            current = given.get(_plain(name))
        if current is None:
            different.append(f"parameter {name} was not given at load, wanted is {value}")
        elif value_of(current) != value_of(value):
            different.append(f"parameter {name} is {current or 'empty'}, wanted is {value}")
    return Drift(tuple(different), tuple(unreadable))


def _shown(module: str, state: NodeState) -> dict[str, str]:
    loaded = state.modules.get(module)
    pairs: Mapping[str, str] = dict(loaded.parameters) if loaded else {}
    if module == NVIDIA and state.driver is not None:
        pairs = {**dict(state.driver.parameters), **pairs}
    return {_shown_name(module, name): value for name, value in pairs.items()}


def _shown_name(module: str, name: str) -> str:
    if module != NVIDIA:
        return _plain(name)
    bare = name.removeprefix(NVIDIA_PREFIX)
    return _plain(_SHOWN_AS.get(bare, bare))


def _plain(name: str) -> str:
    """`-` and `_` are equal in parameter names too (kernel/params.c, parameq)."""
    return name.replace("-", "_")
