"""Rules for section `roce` of the node file that no single key shows."""

from __future__ import annotations

from collections.abc import Iterator

from nodeagent.spec.findings import Finding
from nodeagent.spec.schema import NodeSpec


def one_entry_per_device(spec: NodeSpec) -> Iterator[Finding]:
    """Two entries of `roce.devices` cannot have the same `match`."""
    seen: dict[str, int] = {}
    for index, entry in enumerate(spec.roce.devices if spec.roce else ()):
        first = seen.setdefault(entry.match, index)
        if first != index:
            problem = f"{entry.match} is also the match of roce.devices[{first}]; expected one entry"
            because = (("roce", "devices", first, "match"),)
            yield Finding(("roce", "devices", index, "match"), problem, because)


def idle_entry(spec: NodeSpec) -> Iterator[Finding]:
    """Hint: an entry of `roce.devices` without a setting wants nothing."""
    for index, entry in enumerate(spec.roce.devices if spec.roce else ()):
        if (entry.mode, entry.tos, entry.traffic_class) == (None, None, None):
            place = ("roce", "devices", index)
            keys = tuple((*place, name) for name in ("mode", "tos", "traffic_class"))
            problem = "this entry wants nothing; expected mode, tos or traffic_class"
            yield Finding(place, problem, keys, is_hint=True)


def one_marking(spec: NodeSpec) -> Iterator[Finding]:
    """Hint: `roce.devices[].traffic_class` overrides `tos` on every queue pair, so that they should be equal."""
    for index, entry in enumerate(spec.roce.devices if spec.roce else ()):
        if entry.tos is not None and entry.traffic_class and entry.traffic_class != entry.tos:
            place = ("roce", "devices", index, "tos")
            problem = f"traffic_class {entry.traffic_class} overrides it on every queue pair; expected the same number"
            yield Finding(place, problem, (("roce", "devices", index, "traffic_class"),), is_hint=True)


RULES = (one_entry_per_device, idle_entry, one_marking)
