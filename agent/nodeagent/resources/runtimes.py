"""Section `runtimes`: container runtimes know CDI, by the fewest keys and without a restart that changes nothing."""

from __future__ import annotations

from collections.abc import Mapping

from nodeagent.resources.base import Obstacle, Step, Wish
from nodeagent.resources.cdi import directories_of
from nodeagent.resources.file_steps import file_thing
from nodeagent.resources.runtime_rules import Change, ImpossibleError, Wanted, change_for
from nodeagent.resources.runtime_steps import ReloadRuntime, RestartRuntime, WriteRuntimeConfig, runtime_thing
from nodeagent.spec.containers import Cdi, Component, Runtimes
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.containers import Owed, Runtime
from nodeagent.state.node import NodeState


def plan(spec: NodeSpec, state: NodeState) -> Wish:
    """Steps for every runtime that is installed and not `off`; one that is `on` and absent is an obstacle."""
    if spec.runtimes is None:
        return Wish()
    wanted = Wanted(directories_of(spec.cdi or Cdi()), spec.runtimes.nvidia_runtime)
    wishes = [
        _wish(name, component, state.containers.runtimes.get(name), wanted)
        for name, component in _components(spec.runtimes).items()
        if component is not Component.OFF
    ]
    return Wish(
        tuple(step for wish in wishes for step in wish.steps),
        tuple(obstacle for wish in wishes for obstacle in wish.obstacles),
        tuple(remark for wish in wishes for remark in wish.remarks),
    )


def _components(section: Runtimes) -> Mapping[str, Component]:
    return {
        "containerd": section.containerd,
        "crio": section.crio,
        "docker": section.docker,
        "podman": section.podman,
    }


def _wish(name: str, component: Component, runtime: Runtime | None, wanted: Wanted) -> Wish:
    if runtime is None:
        missing = _obstacle(name, "it is not installed", f"install it, or set runtimes.{name} to auto")
        return Wish(obstacles=(missing,)) if component is Component.ON else Wish()
    try:
        change = change_for(runtime, wanted)
    except ImpossibleError as error:
        if component is Component.ON:
            return Wish(obstacles=(_obstacle(name, str(error), error.advice),))
        return Wish(remarks=(f"{name} is left alone: {error}",))
    return Wish(_steps(runtime, change))


def _steps(runtime: Runtime, change: Change) -> tuple[Step, ...]:
    unit = f"runtimes/{runtime.name}"
    owed = _owed(runtime, change)
    steps: list[Step] = []
    if change.text is not None:
        steps.append(
            WriteRuntimeConfig(
                subject=file_thing(change.path),
                unit=unit,
                reason="containers get devices by CDI",
                what=f"{runtime.name} configuration",
                text=change.text,
                before=change.before,
                mode=runtime.files[change.path].mode if change.path in runtime.files else 0o644,
                runtime=runtime.name,
                owed=owed,
            )
        )
    if owed:
        steps.append(_telling(runtime, change, owed))
    return tuple(steps)


def _owed(runtime: Runtime, change: Change) -> str:
    """What a runtime that runs must be told, a restart of former times included."""
    if not runtime.active or (change.text is None and not runtime.owed):
        return ""
    is_enough = not runtime.restart_due and (change.text is None or change.reload)
    return Owed.RELOAD if is_enough else Owed.RESTART


def _telling(runtime: Runtime, change: Change, owed: str) -> Step:
    subject, unit = runtime_thing(runtime.name), f"runtimes/{runtime.name}"
    reason = "its configuration changed"
    if owed == Owed.RELOAD:
        return ReloadRuntime(subject=subject, unit=unit, reason=reason)
    stops = change.stops_containers
    first = runtime.name == "docker" and not stops
    return RestartRuntime(subject=subject, unit=unit, reason=reason, stops_containers=stops, reloads_first=first)


def _obstacle(name: str, problem: str, advice: str) -> Obstacle:
    return Obstacle(f"runtimes/{name}", runtime_thing(name), problem, advice)
