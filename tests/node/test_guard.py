"""Interfaces that must not be lost: a change is refused, or kept only when the node is seen to be reachable again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nodeagent.cli import main
from nodeagent.errors import JournalError
from nodeagent.host.paths import PROBATION
from nodeagent.plan.journal import Phase
from nodeagent.plan.observing import Observer
from nodeagent.resources.base import Step
from nodeagent.simulation.kernel_state import edited
from sim_node import SimNode, Told, sim_node, text_of

NIC, OTHER = "enp97s0np0", "enp225s0np0"
BASE = "disruption: {nic: allow}\nmodules:\n  rdma: {stack: inbox}\n  named: {mlx5_core: {}}\n"
WISH = f"links: [{{match: {NIC}, up: true, mtu: 9000, rings: {{rx: 2048}}}}]\n"
AUTOMATIC = BASE + "guard: {seconds: 1}\n" + WISH
MANUAL = BASE + "guard: {changes: manual, seconds: 2}\n" + WISH
PATIENT = MANUAL.replace("seconds: 2", "seconds: 600")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SimNode]:
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as opened:
        opened.converge(BASE + f"links: [{{match: {NIC}, up: true}}]\n")
        opened.node.use_interface(NIC, "10.1.0.1/24", default_route=True)
        yield opened


def _is(node: SimNode) -> tuple[int, int, bool, bool]:
    found = node.kernel.interfaces[NIC]
    return found.mtu, found.settings.get("rings.rx", 1024), found.carrier, found.default_route


def _loses_its_carrier(node: SimNode) -> None:
    """With an MTU that the other side does not have."""
    changed = replace(node.kernel.interfaces[NIC], carrier_up_to_mtu=1500)
    node.node.kernel.change(lambda state: replace(state, interfaces=edited(state.interfaces, **{NIC: changed})))


def _trial(node: SimNode) -> Path:
    return Path(node.node.directory + PROBATION)


def test_a_change_after_which_the_gateway_answers_stays(node: SimNode) -> None:
    told = Told()
    outcome = node.converge(AUTOMATIC, told)
    assert outcome.plan.converged, text_of(outcome.plan)
    assert _is(node) == (9000, 2048, True, True)
    assert f"act wait up to 1 s for carrier, default route and gateway on {NIC}" in told.lines
    assert not _trial(node).exists()


def test_a_change_that_cuts_the_node_off_is_rolled_back_and_told(node: SimNode) -> None:
    _loses_its_carrier(node)
    told = Told()
    outcome = node.converge(AUTOMATIC, told)
    assert _is(node) == (1500, 1024, True, True)
    assert not _trial(node).exists()
    (failure,) = outcome.failures
    assert "carrier and default route and gateway 10.1.0.254 were not there again in time; rolled back" in str(failure)
    assert [line for line in told.lines if line.startswith("undo")] == [
        f"undo set mtu of {NIC} to 1500 (is 9000)", f"undo set rings of {NIC}: rx 1024 (is 2048)",
    ]  # fmt: skip
    assert outcome.results[-1].failed_units == {f"links/{NIC}"}  # the loop backs it off


def test_refuse_holds_it_back_and_nothing_else(node: SimNode) -> None:
    file = BASE + f"guard: {{changes: refuse, interfaces: [{OTHER}]}}\n" + WISH.replace(NIC, "driver:mlx5_core")
    text = text_of(node.converge(file).plan)
    assert f"guard.changes is refuse, and {NIC} is guarded (default route)" in text
    assert f"guard.changes is refuse, and {OTHER} is guarded (listed in guard.interfaces)" in text
    assert _is(node) == (1500, 1024, True, True)
    assert node.converge(file.replace(f"interfaces: [{OTHER}]", "interfaces: []")).steps_taken == 3
    assert node.kernel.interfaces[OTHER].mtu == 9000


def test_the_interface_of_the_ssh_session_is_guarded(node: SimNode) -> None:
    node.node.use_interface(OTHER, "10.2.0.7/24")
    node.converge(BASE + f"links: [{{match: {OTHER}, up: true}}]\n")
    node.observer = Observer(node.host, control_address="10.2.0.7")
    file = BASE + "guard: {changes: refuse}\n" + WISH.replace(NIC, OTHER)
    text = text_of(node.converge(file).plan)
    assert f"{OTHER} is guarded (control connection)" in text


def test_manual_wants_a_confirmation(node: SimNode) -> None:
    outcome = node.converge(MANUAL)
    assert "it was not confirmed in time; rolled back" in str(outcome.failures[0])
    assert _is(node) == (1500, 1024, True, True)


def test_a_confirmed_change_stays(node: SimNode, capsys: pytest.CaptureFixture[str]) -> None:
    verb = ["confirm", "--simulate", "gpu-server-4x-a100", "--simulate-dir", node.node.directory]
    codes: list[int] = []

    def operator(_: Phase, step: Step) -> None:
        if str(step).startswith("wait"):
            codes.append(main(verb))

    outcome = node.converge(PATIENT, Told(before=operator))
    assert outcome.plan.converged, text_of(outcome.plan)
    assert _is(node) == (9000, 2048, True, True)
    assert (codes, capsys.readouterr().out) == ([0], f"confirmed: change of {NIC}\n")
    assert main(verb) == 1
    assert "confirm change: none is waiting" in capsys.readouterr().err


@pytest.mark.parametrize("at", ["set rings", "set mtu", "wait"])
def test_a_crash_at_any_step_ends_in_a_roll_back_after_the_deadline(node: SimNode, at: str) -> None:
    def crash(_: Phase, step: Step) -> None:
        if str(step).startswith(at):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        node.converge(PATIENT, Told(before=crash))
    document = json.loads(_trial(node).read_text())
    _trial(node).write_text(json.dumps({**document, "deadline": 0.0}))
    outcome = node.converge(PATIENT.replace(WISH, "links: []\n"))
    assert _is(node) == (1500, 1024, True, True)
    assert outcome.plan.converged
    assert not _trial(node).exists()
    assert "rolled back" in str(outcome.failures[0])


@pytest.mark.parametrize("mode", ["automatic", "manual"])
def test_a_reload_that_was_broken_off_is_rolled_back_at_once(node: SimNode, mode: str) -> None:
    """Nothing brings the link back but the way back, so that waiting for it would be an outage for nothing."""
    guard = f"guard: {{changes: {mode}, seconds: 600}}\n"
    reload = BASE.replace("{mlx5_core: {}}", "{mlx5_core: {parameters: {prof_sel: 1}}}") + guard

    def crash(phase: Phase, step: Step) -> None:
        if phase is Phase.RESTORE and str(step).startswith(f"restore {NIC}"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        node.converge(reload, Told(before=crash))
    assert not node.kernel.interfaces[NIC].default_route
    told = Told()
    outcome = node.converge(BASE + guard, told)
    assert _is(node)[2:] == (True, True)
    assert not any(line.startswith("act wait") for line in told.lines)
    stands = "refused and not undone: unload module mlx5_core"  # what came back before the crash holds it
    assert f"the change was broken off; not rolled back as a whole, {stands}; see guard" in str(outcome.failures[0])
    assert not _trial(node).exists()
    assert not node.journal.exists()


def test_a_roll_back_that_is_refused_says_what_stands(node: SimNode) -> None:
    """After a crash what came back holds the driver, so that the new options stay in force."""
    guard = "guard: {changes: manual, seconds: 600}\n"
    reload = BASE.replace("{mlx5_core: {}}", "{mlx5_core: {parameters: {prof_sel: 1}}}") + guard

    def crash(_: Phase, step: Step) -> None:
        if str(step).startswith("wait"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        node.converge(reload, Told(before=crash))
    document = json.loads(_trial(node).read_text())
    _trial(node).write_text(json.dumps({**document, "deadline": 0.0}))
    outcome = node.converge(BASE + guard)
    assert node.kernel.modules["mlx5_core"].parameters["prof_sel"] == "1"
    changes = [str(one) for one in outcome.failures if one.phase is Phase.ACT]
    assert changes
    for text in changes:
        assert (
            "it was not confirmed in time; not rolled back as a whole, refused and not undone: unload module mlx5_c"
            in text
        )
    assert any("undo unload module mlx5_core: held by" in str(one) for one in outcome.failures)


def test_what_a_reboot_undid_is_forgotten_and_a_damaged_file_stops_everything(node: SimNode) -> None:
    def crash(_: Phase, step: Step) -> None:
        if str(step).startswith("wait"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        node.converge(PATIENT, Told(before=crash))
    text = _trial(node).read_text()
    _trial(node).write_text(json.dumps({**json.loads(text), "boot_id": "another"}))
    assert node.converge(PATIENT.replace(WISH, "links: []\n")).results == ()
    assert not _trial(node).exists()
    _trial(node).write_text(text[: len(text) // 2])
    with pytest.raises(JournalError, match="not a change on trial"):
        node.converge(AUTOMATIC)


def test_a_reload_under_the_guarded_interface_is_on_trial_too(node: SimNode) -> None:
    told = Told()
    reload = BASE.replace("{mlx5_core: {}}", "{mlx5_core: {parameters: {prof_sel: 1}}}") + "guard: {seconds: 1}\n"
    outcome = node.converge(reload, told)
    assert outcome.plan.converged, text_of(outcome.plan)
    assert any(line.startswith("act wait up to 1 s") for line in told.lines)
    assert _is(node)[2:] == (True, True)
