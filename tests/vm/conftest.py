"""Fixtures of the virtual machine; the guest's own tests are collected in the guest only."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vm.rig import initramfs, packages, stand_ins
from vm.rig.machine import Boot, Outcome, boot

if TYPE_CHECKING:
    from collections.abc import Callable

collect_ignore = ["guest", "rig"]

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".cache" / "vm"


def require_native_module() -> None:
    if importlib.util.find_spec("nodeagent._kmod") is None:
        raise packages.RigError("prepare vm: nodeagent._kmod is not built; run python setup.py build_ext --inplace")


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A line on the terminal while the machine runs, in spite of captured output."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    terminal = request.config.pluginmanager.getplugin("terminalreporter")

    def line(text: str) -> None:
        with capture.global_and_fixture_disabled():
            terminal.ensure_newline()
            terminal.write_line(f"  {text}")

    return line


def selected(session: pytest.Session, plan: Boot) -> tuple[str, ...]:
    """The guest's tests among those that this run of pytest selected, in order."""
    cases = [
        item.callspec.params
        for item in session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
    ]
    return tuple(f"{case['stem']}.py::{case['test']}" for case in cases if case.get("plan") == plan)


@pytest.fixture(scope="session")
def booted(request: pytest.FixtureRequest, say: Callable[[str], None]) -> Callable[[Boot], Outcome]:
    """Runs each boot once per session, with the selected tests, and remembers how it ended."""
    outcomes: dict[str, Outcome] = {}

    def outcome(plan: Boot) -> Outcome:
        if plan.name not in outcomes:
            packages.require_programs()
            require_native_module()
            with packages.locked(CACHE):  # during the boot as well: its results have one place
                kernel = packages.obtain(CACHE)
                stand_ins.install(kernel, HERE / "modules")
                image = kernel.root.parent / "initramfs"
                initramfs.write(kernel, image)
                say(f"vm {plan.name}: kernel {kernel.release} boots")
                wanted = replace(plan, tests=selected(request.session, plan))
                outcomes[plan.name] = boot(kernel, image, wanted, CACHE / "results" / plan.name, say)
        return outcomes[plan.name]

    return outcome
