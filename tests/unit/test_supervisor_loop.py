"""The loop on a scripted node: what wakes it, what it does then, and what it survives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nodeagent.errors import BusyError, DeniedError, HostError
from nodeagent.host.files import LocalFiles
from nodeagent.host.notify import Notifier
from nodeagent.host.paths import JOURNAL
from nodeagent.host.ports import Host
from nodeagent.plan.journal import Journal, Phase
from nodeagent.plan.observing import Observer
from nodeagent.resources.base import Step
from nodeagent.spec.reader import read_spec
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.modules import KernelModule, Liveness, ModuleFile
from nodeagent.state.node import NodeState
from nodeagent.supervisor.loop import EVENT_REST_SECONDS, Supervisor
from nodeagent.supervisor.status import Condition, Identity, Status
from nodeagent.supervisor.wake import Wake, Waker

FILE = "version: 1\nmodules:\n  named: {alpha: {}, beta: {}}\nloop: {backoff_seconds: 5}\n"


@dataclass
class Modules:
    """The kernel's modules; `refuse` are those that cannot be loaded."""

    loaded: set[str] = field(default_factory=set)
    refuse: set[str] = field(default_factory=set)
    attempts: list[str] = field(default_factory=list)
    on_load: Callable[[], None] = lambda: None

    def load(self, name: str, options: str = "") -> None:
        del options
        self.attempts.append(name)
        self.on_load()
        if name in self.refuse:
            raise BusyError("load", name, "refused")
        self.loaded.add(name)


class Node(Observer):
    """A node with modules only; `blind` is why it cannot be observed."""

    def __init__(self, root: Path) -> None:
        self.modules = Modules()
        self.blind: HostError | None = None
        ports = SimpleNamespace(files=LocalFiles(str(root)), kmod=self.modules)
        super().__init__(cast(Host, ports))

    def observe(self, interest: Sequence[str], **_: bool) -> NodeState:
        if self.blind is not None:
            raise self.blind
        loaded = {name: KernelModule(name, Liveness.LIVE, 0) for name in self.modules.loaded}
        return NodeState(modules=loaded, module_files={name: ModuleFile(name, f"/{name}.ko") for name in interest})

    def add_holders(self, state: NodeState, services: Any) -> NodeState:
        del services
        return state


@dataclass
class Heard(Notifier):
    """A service manager's view; `said` are the messages in order."""

    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__({"WATCHDOG_USEC": "600000000"})

    def _send(self, message: str, seconds: float = 0.0) -> None:
        del seconds
        self.said.append(message)

    @property
    def words(self) -> list[str]:
        """The first assignment of each message, without repeats in a row and without mere texts."""
        firsts = [message.split("\n")[0] for message in self.said]
        return [word for word in firsts if not word.startswith(("STATUS", "WATCHDOG"))]


class Silent:
    def started(self, phase: Phase, step: Step) -> None: ...

    def finished(self, phase: Phase, step: Step, error: HostError | None) -> None: ...

    def skipped(self, step: Step, reason: str) -> None: ...


@dataclass
class World:
    supervisor: Supervisor
    node: Node
    heard: Heard
    file: Path
    root: Path

    @property
    def status(self) -> Status:
        return self.supervisor.status

    @property
    def patience(self) -> float:
        """Seconds until the next pass is due."""
        return self.supervisor._schedule.due - time.monotonic()

    def attend(self, *reasons: Wake) -> None:
        self.supervisor._attend(frozenset(reasons))

    def make_pass(self) -> None:
        self.supervisor._pass()

    def run(self) -> None:
        """The whole loop in a thread of its own, until something stops it."""
        thread = threading.Thread(target=self.supervisor.run)
        thread.start()
        thread.join(120)
        assert not thread.is_alive()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    file = tmp_path / "node.yaml"
    file.write_text(FILE)
    node, heard = Node(tmp_path), Heard()
    waker = Waker()
    supervisor = Supervisor(
        observer=node,
        spec=read_spec(str(file)),
        status=Status(Identity(1, "gpu17", "", str(file), 0.0)),
        journal=Journal(node.host.files),
        report=Silent(),
        waker=waker,
        notifier=heard,
    )
    yield World(supervisor, node, heard, file, tmp_path)
    waker.close()


def test_it_looks_is_ready_converges_and_stops(world: World) -> None:
    seen: list[tuple[Condition, int]] = []

    def told(status: Status) -> None:
        seen.append((status.condition, len(world.node.modules.loaded)))
        if status.passes:
            world.supervisor.waker.wake(Wake.STOP)

    world.supervisor.on_status = told
    world.run()
    assert seen == [(Condition.WAITING, 0), (Condition.CONVERGED, 2)]
    assert world.heard.words == ["READY=1", "STOPPING=1"]
    assert "STATUS=converging: load module alpha" in world.heard.said
    first, second = (world.heard.said.index(f"STATUS=converging: load module {name}") for name in ("alpha", "beta"))
    assert "WATCHDOG=1" in world.heard.said[first:second]  # fed by each step, not by a timer
    assert world.status.step == ""


def test_a_stop_during_a_transition_ends_it_between_two_steps(world: World) -> None:
    world.node.modules.on_load = lambda: world.supervisor.waker.wake(Wake.STOP)
    world.run()
    assert world.node.modules.attempts == ["alpha"]
    assert world.heard.words == ["READY=1", "STOPPING=1"]
    assert not (world.root / JOURNAL.lstrip("/")).exists()


def test_a_node_that_cannot_be_looked_at_is_tried_again(world: World) -> None:
    world.node.blind = DeniedError("read", "/proc/modules", "permission denied")
    world.supervisor._look()
    assert world.status.condition is Condition.FAILING
    world.make_pass()
    assert world.status.trouble == "read /proc/modules: permission denied"
    assert world.status.last is None
    assert 5 < world.patience < 20
    world.node.blind = None
    world.make_pass()
    assert world.status.condition is Condition.CONVERGED
    assert world.status.trouble == ""
    assert world.patience > 100


def test_a_damaged_journal_changes_nothing_and_ends_nothing(world: World) -> None:
    journal = world.root / JOURNAL.lstrip("/")
    journal.parent.mkdir(parents=True)
    journal.write_text('{"checksum": "12')
    world.supervisor._look()
    world.make_pass()
    assert "read journal" in world.status.trouble
    assert world.node.modules.attempts == []
    journal.unlink()
    world.make_pass()
    assert world.status.condition is Condition.CONVERGED


def test_a_unit_that_fails_waits_alone(world: World) -> None:
    world.node.modules.refuse = {"alpha"}
    world.make_pass()
    assert world.node.modules.loaded == {"beta"}
    assert list(world.status.postponed) == ["modules/named/alpha"]
    assert world.status.failures_total == {"modules/named/alpha": 1}
    assert world.status.condition is Condition.FAILING
    assert 4 < world.patience < 6
    world.make_pass()
    assert world.node.modules.attempts == ["alpha", "beta"]  # the wait is not over
    assert world.status.failures_total == {"modules/named/alpha": 1}
    world.node.modules.refuse = set()
    world.supervisor._backoff.reset()
    world.make_pass()
    assert world.status.condition is Condition.CONVERGED


def test_an_expired_wait_of_a_unit_that_is_blocked_does_not_spin(world: World) -> None:
    world.node.modules.loaded = {"alpha"}
    world.node.modules.refuse = {"beta"}
    world.make_pass()
    past = time.monotonic()
    wait = world.supervisor._backoff._waits["modules/named/beta"]
    world.supervisor._backoff._waits["modules/named/beta"] = replace(wait, until=past - 1)
    world.supervisor._schedule.due = float("inf")
    world.supervisor._plan_next(past)
    assert 10 < world.patience < 20


def test_a_changed_file_is_taken_over(world: World) -> None:
    world.make_pass()
    taken: list[NodeSpec] = []
    world.supervisor.on_spec = taken.append
    world.file.write_text(FILE.replace("beta: {}", "gamma: {}"))
    world.attend()
    assert world.heard.words[-2:] == ["RELOADING=1", "READY=1"]
    assert [list(spec.modules.named) for spec in taken if spec.modules] == [["alpha", "gamma"]]
    assert world.patience <= 0
    world.make_pass()
    assert "gamma" in world.node.modules.loaded
    assert world.status.last is not None
    assert world.status.last.reasons == ("node file changed",)
    world.attend()
    assert world.patience > 100


@pytest.mark.parametrize("harm", ["wrong", "gone"])
def test_a_bad_or_missing_file_leaves_the_last_good_one_in_force(world: World, harm: str) -> None:
    world.make_pass()
    good = world.supervisor.spec
    if harm == "wrong":
        world.file.write_text("version: 1\nmodule: {}\n")
    else:
        world.file.unlink()
    world.attend()
    assert world.supervisor.spec is good
    assert str(world.file) in world.status.spec_error
    assert world.status.condition is Condition.CONVERGED
    assert "not in force" in world.status.line
    assert world.heard.words[-2:] == ["RELOADING=1", "READY=1"]
    before = len(world.heard.said)
    world.attend()
    assert len(world.heard.said) == before  # once, not at every tick
    world.file.write_text(FILE)
    world.attend()
    assert world.status.spec_error == ""


def test_a_reload_is_asked_for_even_if_nothing_changed(world: World) -> None:
    world.node.modules.refuse = {"alpha"}
    world.make_pass()
    world.attend(Wake.RELOAD)
    assert world.status.postponed == {}  # what failed is tried again at once
    world.node.modules.refuse = set()
    world.make_pass()
    assert world.status.condition is Condition.CONVERGED


def test_keys_that_need_a_restart_are_told(world: World) -> None:
    listen = "metrics: {listen: '127.0.0.1:1'}\n"
    world.file.write_text(FILE.replace("loop: {", "loop: {nvml_deadline_seconds: 3, interval_seconds: 7, ") + listen)
    world.attend()
    assert world.status.needs_restart == ("metrics.listen", "loop.nvml_deadline_seconds")
    world.make_pass()
    assert world.patience < 8
    world.file.write_text(FILE)
    world.attend()
    assert world.status.needs_restart == ()


def test_a_reload_while_steps_are_taken_is_followed_by_another_pass(world: World) -> None:
    def edit() -> None:
        world.file.write_text(FILE.replace("beta: {}", "gamma: {}"))
        world.node.modules.on_load = lambda: None

    world.node.modules.on_load = edit
    world.make_pass()
    assert world.node.modules.loaded == {"alpha", "beta"}
    assert world.patience <= 0
    world.make_pass()
    assert "gamma" in world.node.modules.loaded


def test_events_are_gathered_and_do_not_come_close_behind_a_pass(world: World) -> None:
    world.make_pass()
    world.attend(Wake.UDEV)
    assert EVENT_REST_SECONDS - 1 < world.patience <= EVENT_REST_SECONDS
    world.attend(Wake.ASKED)
    assert world.patience <= 0


def test_a_stop_beats_everything_else(world: World) -> None:
    world.make_pass()
    world.file.unlink()
    world.attend(Wake.STOP, Wake.RELOAD, Wake.ASKED)
    assert world.heard.words[-1] == "STOPPING=1"
    assert world.status.spec_error == ""
    assert world.supervisor.stop_asked()
    assert world.heard.words.count("STOPPING=1") == 1
