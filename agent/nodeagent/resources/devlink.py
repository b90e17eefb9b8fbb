"""Section `devlink`: parameters of NIC drivers, at once where that goes, else with one reload per function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nodeagent.resources.base import Obstacle, Step, Wish
from nodeagent.resources.devlink_steps import ReloadDevice, SetDevlinkParameter
from nodeagent.resources.function_selection import physical_functions
from nodeagent.resources.link_selection import what_there_is
from nodeagent.spec.devlink import DevlinkEntry
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.devlink import Cmode, DevlinkDevice, DevlinkParameter, ParameterKind
from nodeagent.state.node import NodeState
from nodeagent.state.things import pci

WANTED = "the node file wants it so"
TRUE, FALSE = ("true", "on", "yes", "1"), ("false", "off", "no", "0")
Choice = tuple[DevlinkParameter, Cmode, str]


def plan(spec: NodeSpec, state: NodeState) -> Wish:
    """Steps for every physical function that an entry matches."""
    steps: list[Step] = []
    obstacles: list[Obstacle] = []
    for address, entries in _entries_by_function(spec, state).items():
        found = state.devlink.get(address)
        if found is None:
            obstacles.append(_obstacle(address, "devlink does not know it", "load its driver", waits=True))
            continue
        wanted = {text: value for entry in entries for text, value in entry.parameters.items()}
        chosen = [choice(found, text, value) for text, value in wanted.items()]
        problems = [one for one in chosen if isinstance(one, Obstacle)] or clashes(address, entries)
        obstacles += problems
        if not problems:
            steps += function_steps(found, [one for one in chosen if not isinstance(one, Obstacle)])
    obstacles += [unmatched(entry, state) for entry in spec.devlink if not physical_functions(entry.match, state)]
    return Wish(tuple(steps), tuple(obstacles), remarks=tuple(_remarks(steps)))


def reloads(spec: NodeSpec, state: NodeState) -> frozenset[str]:
    """Functions that are to be reloaded: what is on them comes back as it was, before anything else is done to them."""
    steps = plan(spec, state).steps if spec.devlink else ()
    return frozenset(step.subject.name for step in steps if isinstance(step, ReloadDevice))


def _entries_by_function(spec: NodeSpec, state: NodeState) -> Mapping[str, tuple[DevlinkEntry, ...]]:
    found: dict[str, tuple[DevlinkEntry, ...]] = {}
    for entry in spec.devlink:
        for address in physical_functions(entry.match, state):
            found[address] = (*found.get(address, ()), entry)
    return dict(sorted(found.items()))


def function_steps(found: DevlinkDevice, wanted: list[Choice]) -> Iterator[Step]:
    """What differs; all driverinit values together, because each reload takes the interfaces away."""
    subject, unit = pci(found.address), f"devlink/{found.address}"
    for parameter, cmode, value in wanted:
        before = parameter.value(cmode) or ""
        if cmode is not Cmode.DRIVERINIT and before != value:
            yield SetDevlinkParameter(
                subject=subject,
                unit=unit,
                reason=WANTED,
                name=parameter.name,
                cmode=cmode,
                wanted=value,
                before=before,
            )
    initial = [(parameter, value) for parameter, cmode, value in wanted if cmode is Cmode.DRIVERINIT]
    if any(parameter.value(Cmode.DRIVERINIT) != value for parameter, value in initial) or (
        initial and found.reload_owed
    ):
        yield ReloadDevice(
            subject=subject,
            unit=unit,
            reason="values were written and not applied" if found.reload_owed else WANTED,
            wanted=tuple((parameter.name, value) for parameter, value in initial),
            before=tuple((parameter.name, parameter.value(Cmode.DRIVERINIT) or "") for parameter, _ in initial),
        )


def canonical(kind: ParameterKind, value: str) -> str | None:
    """The value as devlink shows it, None where it is not of the type."""
    if kind is ParameterKind.BOOL:
        return "true" if value.lower() in TRUE else "false" if value.lower() in FALSE else None
    if kind is ParameterKind.STRING:
        return value
    return str(int(value)) if value.isdecimal() and int(value) < 1 << int(kind.value[1:]) else None


def choice(found: DevlinkDevice, text: str, value: str) -> Choice | Obstacle:
    """The parameter, mode and value that a line of the node file means, or why it cannot become a step here."""
    name, _, mode = text.partition("@")
    parameter = found.parameter(name)
    if parameter is None or not parameter.cmodes:
        there = ", ".join(one.name for one in found.parameters) or "none"
        return _obstacle(found.address, f"its driver has no devlink parameter {name}", f"it has {there}")
    cmode = next((one for one in Cmode if one in parameter.cmodes and mode in ("", one)), None)
    if cmode is None:
        modes = " or ".join(f"{name}@{one}" for one in parameter.cmodes)
        return _obstacle(found.address, f"devlink parameter {name} cannot be set {mode}", f"write {modes}")
    wanted = canonical(parameter.kind, value)
    if wanted is None:
        expected = "true or false" if parameter.kind is ParameterKind.BOOL else f"a number of type {parameter.kind}"
        return _obstacle(found.address, f"devlink parameter {name} cannot be {value}", f"write {expected}")
    return parameter, cmode, wanted


def clashes(address: str, entries: tuple[DevlinkEntry, ...]) -> list[Obstacle]:
    """Two entries that want different values of one parameter."""
    seen: dict[str, tuple[str, str]] = {}
    found = []
    for entry in entries:
        for text, value in entry.parameters.items():
            match, other = seen.setdefault(text, (entry.match, value))
            if other != value:
                problem = f"`{match}` wants devlink parameter {text} to be {other}, `{entry.match}` {value}"
                found.append(_obstacle(address, problem, "narrow one of the two"))
    return found


def unmatched(entry: DevlinkEntry, state: NodeState) -> Obstacle:
    return Obstacle(
        f"devlink/{entry.match}", pci(entry.match), "no physical function matches", what_there_is(entry.match, state)
    )


def _remarks(steps: list[Step]) -> Iterator[str]:
    for step in steps:
        if isinstance(step, SetDevlinkParameter) and step.cmode is Cmode.PERMANENT:
            yield f"devlink parameter {step.name} of {step.subject.name} needs a reset of the card or a reboot"


def _obstacle(address: str, problem: str, advice: str, waits: bool = False) -> Obstacle:
    return Obstacle(f"devlink/{address}", pci(address), problem, advice, waits)
