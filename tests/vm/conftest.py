"""Fixtures of the virtual machine; the guest's own tests are collected in the guest only."""

from __future__ import annotations

import importlib.util
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import pytest

from vm.rig import emulator, image, initramfs, packages, stand_ins
from vm.rig.machine import Boot, Outcome, Parts, boot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

collect_ignore = ["guest", "rig"]

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".cache" / "vm"


def require_native_module() -> None:
    if importlib.util.find_spec("nodeagent._kmod") is None:
        raise packages.RigError("prepare vm: nodeagent._kmod is not built; run python setup.py build_ext --inplace")


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A line on the terminal while the machine runs, in spite of captured output."""
    terminal_lock = Lock()  # two machines may run at a time
    capture = request.config.pluginmanager.getplugin("capturemanager")
    terminal = request.config.pluginmanager.getplugin("terminalreporter")

    def line(text: str) -> None:
        with terminal_lock, capture.global_and_fixture_disabled():
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


def selected_plans(session: pytest.Session) -> list[Boot]:
    """Those boots that have a selected test, each once and in order."""
    cases = [getattr(item, "callspec", None) for item in session.items]
    return list(dict.fromkeys(case.params["plan"] for case in cases if case and "plan" in case.params))


@pytest.fixture(scope="session")
def parts(say: Callable[[str], None]) -> Iterator[Parts]:
    """Kernel, modules and initramfs; other runs of the tests wait until this one is done with them and the results."""
    packages.require_programs()
    require_native_module()
    with packages.locked(CACHE):
        kernel = packages.obtain(CACHE)
        stand_ins.install(kernel, HERE / "modules")
        image = kernel.root.parent / "initramfs"
        initramfs.write(kernel, image)
        yield Parts(kernel, image, say)


def image_of(plan: Boot) -> str:
    """The container's file system for this boot: one that an engine built, if it is named, else one made by the rig."""
    if not plan.image:
        return ""
    return os.environ.get("NODEAGENT_IMAGE_ROOT") or str(image.obtain(CACHE, HERE.parents[1]))


def emulator_of(plan: Boot) -> tuple[str, ...]:
    """The QEMU for this boot, by the device that it must have."""
    return emulator.obtain(plan.model, CACHE.parent) if plan.model else plan.emulator


@pytest.fixture(scope="session")
def booted(request: pytest.FixtureRequest, parts: Parts) -> Iterator[Callable[[Boot], Outcome]]:
    """The outcome of a boot with the selected tests; each boots once, two at a time, all from the first question on."""
    outcomes: dict[str, Future[Outcome]] = {}

    def run(plan: Boot) -> Outcome:
        parts.say(f"vm {plan.name}: kernel {parts.kernel.release} boots")
        wanted = replace(plan, tests=selected(request.session, plan), image=image_of(plan), emulator=emulator_of(plan))
        return boot(parts, wanted, CACHE / "results" / plan.name)

    with ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:

        def outcome(plan: Boot) -> Outcome:
            for each in (*selected_plans(request.session), plan):
                if each.name not in outcomes:
                    outcomes[each.name] = pool.submit(run, each)
            return outcomes[plan.name].result()

        yield outcome
        parts.given_up.set()
        pool.shutdown(cancel_futures=True)
