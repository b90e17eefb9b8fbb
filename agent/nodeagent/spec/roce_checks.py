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
        wishes = ("mode", "tos", "traffic_class", "name", "congestion")
        if all(getattr(entry, name) in (None, "") for name in wishes):
            place = ("roce", "devices", index)
            keys = tuple((*place, name) for name in wishes)
            problem = f"this entry wants nothing; expected one of {', '.join(wishes)}"
            yield Finding(place, problem, keys, is_hint=True)


def one_marking(spec: NodeSpec) -> Iterator[Finding]:
    """Hint: `roce.devices[].traffic_class` overrides `tos` on every queue pair, so that they should be equal."""
    for index, entry in enumerate(spec.roce.devices if spec.roce else ()):
        if entry.tos is not None and entry.traffic_class and entry.traffic_class != entry.tos:
            place = ("roce", "devices", index, "tos")
            problem = f"traffic_class {entry.traffic_class} overrides it on every queue pair; expected the same number"
            yield Finding(place, problem, (("roce", "devices", index, "traffic_class"),), is_hint=True)


def one_way_to_say_it(spec: NodeSpec) -> Iterator[Finding]:
    """`roce.devices[].congestion`: `cnp_dscp` and `cnp_priority` are not among `parameters` as well."""
    for index, entry in enumerate(spec.roce.devices if spec.roce else ()):
        wish = entry.congestion
        for name, parameter in (("cnp_dscp", "np_cnp_dscp"), ("cnp_priority", "np_cnp_prio")):
            if wish is not None and getattr(wish, name) is not None and parameter in wish.parameters:
                place = ("roce", "devices", index, "congestion")
                problem = f"{name} means the same; expected one of the two"
                yield Finding((*place, "parameters", parameter), problem, ((*place, name),))


RULES = (one_entry_per_device, idle_entry, one_marking, one_way_to_say_it)
