"""What a shell is offered for values that argparse does not know a closed set of; loaded only when a shell asks."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping


def teach(parser: argparse.ArgumentParser) -> None:
    """Give argcomplete the values of every argument below `parser` that has a list of them."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way to walk what was added
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            for below in action.choices.values():
                teach(below)
        values = VALUES.get((action.dest, str(action.metavar)))
        if values is not None:
            vars(action)["completer"] = _completer(values)  # the attribute that argcomplete looks for


def _completer(values: Callable[[], Iterator[str]]) -> Callable[..., list[str]]:
    return lambda **_: list(values())


def _profiles() -> Iterator[str]:
    from nodeagent.simulation.profiles import profiles

    yield from profiles()


def _examples() -> Iterator[str]:
    from nodeagent.spec.example import EXAMPLES

    yield from EXAMPLES


def _checks() -> Iterator[str]:
    from nodeagent.spec.health import CHECK_NAMES

    yield from CHECK_NAMES


def _policies() -> Iterator[str]:
    from nodeagent.spec.schema import Policy

    yield from (f"{kind}={policy}" for kind in ("gpu", "nic", "node") for policy in Policy)


def _modules() -> Iterator[str]:
    from nodeagent.resources.module_sets import GPU_STACK, RDMA_STACK

    yield from dict.fromkeys(("nvidia", "rdma", *GPU_STACK, *RDMA_STACK))


VALUES: Mapping[tuple[str, str], Callable[[], Iterator[str]]] = {
    ("simulate", "PROFILE"): _profiles,
    ("name", "NAME"): _examples,
    ("explain", "XID|CHECK"): _checks,
    ("disruption", "KIND=POLICY"): _policies,
    ("names", "NAME"): _modules,
}
