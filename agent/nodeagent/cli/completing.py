"""What a shell is offered for values of which argparse knows no closed set; each list is made when a shell asks."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator


def offer(argument: argparse.Action, values: Callable[[], Iterator[str]]) -> None:
    """Let argcomplete offer these values: `completer` is the attribute that it looks for (its README, completers)."""
    vars(argument)["completer"] = lambda **_: list(values())


def profile_names() -> Iterator[str]:
    from nodeagent.simulation.profiles import profiles

    yield from profiles()


def example_names() -> Iterator[str]:
    from nodeagent.spec.example import EXAMPLES

    yield from EXAMPLES


def check_names() -> Iterator[str]:
    from nodeagent.spec.health import CHECK_NAMES

    yield from CHECK_NAMES


def policy_words() -> Iterator[str]:
    from nodeagent.spec.schema import Policy

    yield from (f"{kind}={policy}" for kind in ("gpu", "nic", "node") for policy in Policy)


def module_names() -> Iterator[str]:
    from nodeagent.resources.module_sets import GPU_STACK, RDMA_STACK

    yield from dict.fromkeys(("nvidia", "rdma", *GPU_STACK, *RDMA_STACK))
