"""What a reload of a driver took away stays owed until it is back, whatever refuses it and whenever the agent dies."""

from __future__ import annotations

import errno
import json
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from mortal import in_child, mortal
from nodeagent.cli import main
from nodeagent.host.paths import JOURNAL
from nodeagent.plan.convergence import converge, goal_of
from nodeagent.plan.executor import Context
from nodeagent.plan.journal import Journal, Phase
from nodeagent.plan.observing import Observer
from nodeagent.resources.base import Step
from nodeagent.resources.link_restore import RestoreLink
from nodeagent.simulation.node import open_node
from nodeagent.spec.reader import read_spec
from sim_node import SimNode, Told, sim_node, text_of

PROFILE = "gpu-server-4x-a100"
PF, NIC, OTHER = "0000:61:00.0", "enp97s0np0", "enp225s0np0"
MODULES = (
    "disruption: {{nic: allow}}\n"
    "modules: {{rdma: {{stack: inbox}}, named: {{mlx5_core: {{parameters: {{prof_sel: {0}}}}}}}}}\n"
)
LINKS = f"links: [{{match: {NIC}, up: true}}, {{match: {OTHER}, up: true, mtu: 4200}}]\n"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SimNode]:
    with sim_node(tmp_path, PROFILE, "in-process") as opened:
        assert opened.converge(MODULES.format(0) + LINKS).plan.converged
        opened.node.use_interface(NIC, "10.1.0.1/24")
        opened.node.use_interface(OTHER, "10.3.0.1/24")
        yield opened


def _addresses(node: SimNode) -> dict[str, tuple[str, ...]]:
    return {name: node.kernel.interfaces[name].addresses for name in (NIC, OTHER) if name in node.kernel.interfaces}


def _run_once(directory: str, file: str, instant: int) -> int:
    host = mortal(open_node(PROFILE, directory).host("in-process"), instant, ("kmod", "links"))
    outcome = converge(goal_of(read_spec(file)), Context(Observer(host), Journal(host.files), Told()))
    return 0 if outcome.plan.converged and not outcome.failures else 1


def test_a_refusal_after_a_crash_at_any_instant_is_told_and_made_good(node: SimNode) -> None:
    before, owed, deaths = node.kernel.interfaces, 0, 0
    for instant in range(1, 100):
        wish = MODULES.format(instant % 2) + LINKS
        code = in_child(partial(_run_once, node.node.directory, node.write(wish), instant))
        assert code in (0, -signal.SIGKILL), instant
        if code == 0:
            break
        deaths += 1
        node.node.kernel.fail("restore", NIC, (errno.EBUSY, errno.EOPNOTSUPP)[instant // 2 % 2])
        first = node.converge(wish)
        if first.failures:  # else it died before anything had gone, or after all was back
            owed += 1
            assert {failure.step.subject.name for failure in first.failures} == {NIC}, instant
            assert not first.plan.converged
            assert [step.subject.name for step in first.plan.owed] == [NIC], (instant, first.plan.owed)
            assert node.kernel.interfaces[OTHER] == before[OTHER], instant  # the others do not wait for it
        node.node.kernel.clear_faults()
        second = node.converge(wish)
        assert second.plan.converged, (instant, text_of(second.plan))
        assert node.kernel.interfaces == before, instant
        assert not node.journal.exists()
    assert deaths > 8
    assert owed > 4


def test_what_is_owed_is_named_by_every_verb_and_goes_on_being_owed(
    node: SimNode, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--simulate", PROFILE, "--simulate-dir", node.node.directory)
    node.node.kernel.fail("restore", NIC, errno.EBUSY, 3)
    wish = node.write(MODULES.format(1) + LINKS)
    for _ in range(3):
        assert main(["apply", *words, "--file", wish]) == 1
        told = capsys.readouterr().out
        assert f"restore {NIC}: mtu 1500, up, settings, address 10.1.0.1/24" in " ".join(told.split())
        assert main(["plan", *words, "--file", wish, "-o", "json"]) == 3
        (owed,) = json.loads(capsys.readouterr().out)["owed"]
        assert owed["subject"] == f"netdev {NIC}"
        assert Path(node.node.directory + JOURNAL).exists()
    assert main(["apply", *words, "--file", wish]) == 0
    assert _addresses(node) == {NIC: ("10.1.0.1/24",), OTHER: ("10.3.0.1/24",)}
    assert not node.journal.exists()


def _die_before_links_are_back(phase: Phase, step: Step) -> None:
    if phase is Phase.RESTORE and isinstance(step, RestoreLink):
        raise KeyboardInterrupt


def test_a_wish_that_has_changed_meanwhile_wins_over_what_was(node: SimNode) -> None:
    """The interface comes back with all that others gave it, then it gets the MTU that the file now wants."""
    with pytest.raises(KeyboardInterrupt):
        node.converge(MODULES.format(1) + LINKS, Told(before=_die_before_links_are_back))
    wish = MODULES.format(1) + LINKS.replace("4200", "9000")
    told = Told()
    outcome = node.converge(wish, told)
    assert outcome.plan.converged, text_of(outcome.plan)
    assert (node.kernel.interfaces[OTHER].mtu, _addresses(node)[OTHER]) == (9000, ("10.3.0.1/24",))
    assert sum(line.startswith(f"act restore {OTHER}") for line in told.lines) == 1, told.lines
    assert not node.journal.exists()


def test_a_reload_that_is_rolled_back_leaves_the_driver_as_it_was(node: SimNode) -> None:
    """The module that stands on the driver came back before the time was over: it goes once more, and comes back."""
    node.node.use_interface(NIC, "10.1.0.1/24", default_route=True)
    node.node.kernel.fail("restore", NIC, errno.EBUSY)
    outcome = node.converge(MODULES.format(1) + LINKS + "guard: {seconds: 1}\n")
    assert any("rolled back; see guard in the node file" in str(failure) for failure in outcome.failures)
    assert not any("held by" in str(failure) for failure in outcome.failures), outcome.failures
    assert node.kernel.modules["mlx5_core"].parameters["prof_sel"] == "0"
    assert node.kernel.interfaces[NIC].default_route
    assert _addresses(node) == {NIC: ("10.1.0.1/24",), OTHER: ("10.3.0.1/24",)}
    assert "mlx5_ib" in node.kernel.modules


def test_what_stands_on_a_module_that_does_not_come_back_is_not_waited_for(node: SimNode) -> None:
    node.node.kernel.fail("insert", "mlx5_core", errno.ENOMEM, 1)
    told = Told()
    outcome = node.converge(MODULES.format(1) + LINKS, told)
    assert outcome.failures
    assert not any(line.startswith("restore restore enp") and "wait for" in line for line in told.lines), told.lines
    assert node.converge(MODULES.format(1) + LINKS).plan.converged
    assert _addresses(node) == {NIC: ("10.1.0.1/24",), OTHER: ("10.3.0.1/24",)}
