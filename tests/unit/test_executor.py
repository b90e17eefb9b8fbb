"""The executor and its journal on a scripted module port: undo, restore, crash at every instruction."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from nodeagent.errors import BusyError, HostError, JournalError
from nodeagent.host.files import LocalFiles
from nodeagent.host.paths import JOURNAL
from nodeagent.host.ports import Host
from nodeagent.plan.executor import Context, Result, execute
from nodeagent.plan.journal import Entry, Journal, Phase, Status, decode, encode, owed_steps
from nodeagent.plan.model import Transition
from nodeagent.plan.observing import Observer
from nodeagent.resources.base import Disturbs, Step
from nodeagent.resources.device_nodes import MakeDeviceNode
from nodeagent.resources.mig import CreateGpuInstance, SetMigMode
from nodeagent.resources.module_steps import LoadModule, UnloadModule
from nodeagent.resources.registry import STEPS
from nodeagent.state.gpu import Placement
from nodeagent.state.things import device_node, gpu, module


class KilledError(BaseException):
    """The agent dies here: nothing after it runs."""


@dataclass
class ScriptedModules:
    """A set of loaded modules that refuses what it is told to refuse and can kill the agent before or after an act."""

    loaded: set[str]
    refuse: set[str] = field(default_factory=set)
    kill_at: int = -1
    acts: int = 0

    def _act(self, word: str) -> None:
        if word in self.refuse:
            raise BusyError(*word.split(" "), "refused")
        self._maybe_die()
        name = word.split(" ")[1]
        self.loaded ^= {name}
        self._maybe_die()

    def _maybe_die(self) -> None:
        self.acts += 1
        if self.acts == self.kill_at:
            raise KilledError

    def load(self, name: str, options: str = "") -> None:
        del options
        self._act(f"load {name}")

    def unload(self, name: str) -> None:
        self._act(f"unload {name}")


class Silent:
    """A report that keeps what it was told."""

    def __init__(self) -> None:
        self.skips: list[str] = []

    def started(self, phase: Phase, step: Step) -> None: ...

    def finished(self, phase: Phase, step: Step, error: HostError | None) -> None: ...

    def skipped(self, step: Step, reason: str) -> None:
        del reason
        self.skips.append(str(step))


def context_of(root: Path, modules: ScriptedModules) -> Context:
    files = LocalFiles(str(root))
    unused: Any = None
    kmod = cast("Any", modules)
    host = Host(files, kmod, *[unused] * 10)
    return Context(Observer(host), Journal(files), Silent())


def load(name: str, unit: str, *needs: str) -> LoadModule:
    return LoadModule(subject=module(name), unit=unit, needs=needs)


def unload(name: str, unit: str) -> UnloadModule:
    return UnloadModule(subject=module(name), unit=unit, serves=Disturbs.GPU)


RELOAD = Transition(
    quiesce=(unload("gdrdrv", "quiet"), unload("nvidia_uvm", "quiet")),
    acts=(unload("nvidia", "modules/nvidia"), load("nvidia", "modules/nvidia")),
    restore=(load("nvidia_uvm", "quiet", "nvidia"), load("gdrdrv", "quiet", "nvidia")),
)
WHOLE = {"nvidia", "nvidia_uvm", "gdrdrv"}


def run(root: Path, transition: Transition, modules: ScriptedModules) -> Result:
    return execute(transition, context_of(root, modules))


def test_a_reload_ends_where_it_began_and_leaves_no_journal(tmp_path: Path) -> None:
    modules = ScriptedModules(set(WHOLE))
    result = run(tmp_path, RELOAD, modules)
    assert not result.failures
    assert modules.loaded == WHOLE
    assert not (tmp_path / JOURNAL[1:]).exists()


def test_a_refusal_while_quiescing_restores_and_takes_no_act(tmp_path: Path) -> None:
    modules = ScriptedModules(set(WHOLE), refuse={"unload nvidia_uvm"})
    result = run(tmp_path, RELOAD, modules)
    assert [str(failure.step) for failure in result.failures] == ["unload module nvidia_uvm"]
    assert result.acted == ()
    assert modules.loaded == WHOLE


def test_a_failed_act_is_undone_and_what_was_quiesced_comes_back(tmp_path: Path) -> None:
    modules = ScriptedModules({"nvidia", "a"}, refuse={"load b"})
    transition = Transition(
        quiesce=(unload("a", "quiet"),),
        acts=(unload("nvidia", "u"), load("b", "u"), load("c", "v", "b")),
        restore=(load("a", "quiet"),),
    )
    context = context_of(tmp_path, modules)
    result = execute(transition, context)
    assert modules.loaded == {"nvidia", "a"}
    assert result.failed_units == {"u"}
    assert cast("Silent", context.report).skips == ["load module c"]


def test_another_unit_that_stands_on_the_undone_one_is_undone_first(tmp_path: Path) -> None:
    modules = ScriptedModules(set(), refuse={"load uvm"})
    acts = (
        load("nvidia", "nvidia"),
        load("gdrdrv", "gdrcopy", "nvidia"),
        load("uvm", "nvidia", "nvidia"),
        load("x", "x"),
    )
    result = run(tmp_path, Transition(acts=acts), modules)
    assert modules.loaded == {"x"}
    assert [str(step) for step in result.acted] == ["load module x"]


def test_what_stands_on_an_undone_unit_is_not_even_tried(tmp_path: Path) -> None:
    modules = ScriptedModules(set(), refuse={"load uvm"})
    context = context_of(tmp_path, modules)
    acts = (load("nvidia", "nvidia"), load("uvm", "nvidia", "nvidia"), load("gdrdrv", "gdrcopy", "nvidia"))
    result = execute(Transition(acts=acts), context)
    assert [str(failure.step) for failure in result.failures] == ["load module uvm"]
    assert cast("Silent", context.report).skips == ["load module gdrdrv"]


def test_told_to_stop_it_begins_no_act_and_leaves_no_half_unit(tmp_path: Path) -> None:
    modules = ScriptedModules(set(WHOLE))
    context = context_of(tmp_path, modules)
    asked = iter([False, True])
    result = execute(RELOAD, Context(context.observer, context.journal, context.report, lambda: next(asked)))
    assert result.stopped
    assert modules.loaded == WHOLE


@pytest.mark.parametrize("instant", range(1, 13))
def test_killed_at_any_instant_the_journal_owes_exactly_what_is_missing(tmp_path: Path, instant: int) -> None:
    """Six steps, each with an instant before and after the change; then the next run takes what the journal owes."""
    modules = ScriptedModules(set(WHOLE), kill_at=instant)
    with pytest.raises(KilledError):
        run(tmp_path, RELOAD, modules)
    modules.kill_at = -1
    owed = Journal(LocalFiles(str(tmp_path))).read()
    missing = [step for step in owed if step.subject.name not in modules.loaded]
    run(tmp_path, Transition(acts=tuple(missing), is_owed=True), modules)
    assert modules.loaded == WHOLE


def test_killed_while_undoing_owes_the_undo(tmp_path: Path) -> None:
    modules = ScriptedModules({"nvidia"}, refuse={"load new"}, kill_at=3)
    with pytest.raises(KilledError):
        run(tmp_path, Transition(acts=(unload("nvidia", "u"), load("new", "u"))), modules)
    assert [str(step) for step in Journal(LocalFiles(str(tmp_path))).read()] == ["load module nvidia"]


def test_what_was_owed_stays_owed_through_another_transition(tmp_path: Path) -> None:
    modules = ScriptedModules(set())
    context = context_of(tmp_path, modules)
    execute(Transition(acts=(load("x", "x"),)), context, (load("gdrdrv", "quiet"),))
    assert [str(step) for step in context.journal.read()] == ["load module gdrdrv"]


def test_a_failed_restore_stays_owed(tmp_path: Path) -> None:
    modules = ScriptedModules(set(WHOLE), refuse={"load gdrdrv"})
    result = run(tmp_path, RELOAD, modules)
    assert result.failed_units == {"quiet"}
    assert [str(step) for step in Journal(LocalFiles(str(tmp_path))).read()] == ["load module gdrdrv"]


def test_every_step_survives_the_journal() -> None:
    steps = (
        SetMigMode(subject=gpu("GPU-1"), unit="mig/GPU-1", enabled=True),
        CreateGpuInstance(subject=gpu("GPU-1"), unit="mig/GPU-1", profile="1g.5gb", placement=Placement(2, 1)),
        unload("nvidia", "modules/nvidia"),
        load("b", "u", "a"),
    )
    entries = tuple(Entry(Phase.ACT, step, Status.INTENT) for step in steps)
    assert decode(encode(entries, "boot")) == entries


def test_every_step_class_is_registered() -> None:
    def below(kind: type[Step]) -> set[type[Step]]:
        return {kind, *(deeper for child in kind.__subclasses__() for deeper in below(child))}

    ours = {
        kind
        for kind in below(Step)
        if kind.__module__.startswith("nodeagent.")
        and kind.__module__ != Step.__module__  # what steps of one kind have in common
        and not kind.__name__.startswith("_")
    }
    assert ours == set(STEPS.values())


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda text: text[: len(text) // 2], "line "),
        (lambda text: text.replace('"done"', '"pending"'), "checksum"),
        (lambda text: "", "byte 0 of 0"),
        (lambda text: "[]", "is not a journal"),
        (lambda text: json.dumps({**json.loads(text), "version": 9}), "checksum"),
    ],
)
def test_a_damaged_journal_says_where_and_what_to_do(damage: Any, told: str) -> None:
    text = encode([Entry(Phase.ACT, load("a", "u"), Status.DONE)], "boot")
    with pytest.raises(JournalError) as caught:
        decode(damage(text))
    assert told in str(caught.value)
    assert "then remove the file" in str(caught.value)


@dataclass
class Slow(LocalFiles):
    """Files on which the first result takes as long to write as it takes all others to ask for theirs."""

    root: str
    asked: threading.Semaphore
    others: int
    written: int = 0

    def replace(self, path: str, text: str, mode: int = 0o600) -> None:
        self.written += 1
        if self.written == 2:  # the first is the beginning of the transition
            for _ in range(self.others):
                assert self.asked.acquire(timeout=120)
            time.sleep(0.2)
        super().replace(path, text, mode)


def test_who_waits_for_the_journal_is_written_together_and_on_disk_when_the_call_returns(tmp_path: Path) -> None:
    steps = tuple(load(f"m{number}", f"u{number}") for number in range(12))
    files = Slow(str(tmp_path), threading.Semaphore(0), len(steps) - 1)
    journal = Journal(files)
    journal.begin(Transition(acts=steps), ())
    seen: list[bool] = []

    def note(step: Step) -> None:
        files.asked.release()
        journal.note(Phase.ACT, step, Status.DONE)
        entries = decode((tmp_path / JOURNAL.lstrip("/")).read_text())
        seen.append(Entry(Phase.ACT, step, Status.DONE) in entries)

    threads = [threading.Thread(target=note, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * len(steps)
    assert files.written < len(steps)


def test_a_journal_from_before_a_step_had_another_field_can_be_read() -> None:
    node = MakeDeviceNode(subject=device_node("/dev/x"), unit="u", major=1, minor=2)
    document = json.loads(encode([Entry(Phase.ACT, node)], "boot"))
    del document["entries"][0]["step"]["of"]
    del document["checksum"]
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    assert decode(json.dumps({"checksum": digest, **document})) == (Entry(Phase.ACT, node),)


def test_owed_steps_of_an_untouched_transition_are_none() -> None:
    entries = [Entry(Phase.QUIESCE, unload("a", "quiet")), Entry(Phase.RESTORE, load("a", "quiet"))]
    assert owed_steps(entries) == ()
