"""Plans of the section `links`: least change, the order of steps, and what cannot become steps."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from nodeagent.resources.base import Disturbs, Obstacle, Step
from nodeagent.resources.links import SetLinkMtu, SetLinkUp, merge, plan
from nodeagent.spec.links import LinkEntry
from nodeagent.spec.schema import Disruption, Modules, NodeSpec, Policy, RdmaModules
from nodeagent.state.modules import KernelModule, Liveness
from nodeagent.state.network import Netdev
from nodeagent.state.node import NodeState
from nodeagent.state.things import netdev

NICS = tuple(
    Netdev(
        f"ens{n}", 1500, True, True, "", f"0000:{n}b:00.0", "mlx5_core", 68, 9978, ("address 10.0.0.1/24",) * (n - 1)
    )
    for n in (1, 2)
)
LO = Netdev("lo", 65536, True, uses=("address 127.0.0.1/8",))
LOADED = {"mlx5_core": KernelModule("mlx5_core", Liveness.LIVE)}


def _state(*netdevs: Netdev, modules: Mapping[str, KernelModule] | None = None) -> NodeState:
    return NodeState(netdevs={found.name: found for found in netdevs}, modules=LOADED if modules is None else modules)


def _spec(*entries: LinkEntry, nic: Policy = Policy.WHEN_IDLE, modules: Modules | None = None) -> NodeSpec:
    return NodeSpec(version=1, links=entries, disruption=Disruption(nic=nic), modules=modules)


def _texts(spec: NodeSpec, state: NodeState) -> list[str]:
    return [str(step) for step in plan(spec, state).steps]


def _obstacle(spec: NodeSpec, state: NodeState) -> Obstacle:
    wish = plan(spec, state)
    assert wish.steps == ()
    (obstacle,) = wish.obstacles
    return obstacle


def test_nothing_is_wanted_nothing_is_done() -> None:
    assert plan(_spec(), _state(*NICS)).steps == ()
    assert plan(_spec(LinkEntry("ens*", up=True, mtu=1500)), _state(*NICS)).steps == ()
    assert plan(_spec(LinkEntry("ens*")), _state(*NICS)).steps == ()


def test_mtu_of_an_idle_interface_disturbs_nothing_that_of_a_used_one_does() -> None:
    idle, used = plan(_spec(LinkEntry("driver:mlx5_core", mtu=9000)), _state(*NICS, LO)).steps
    assert isinstance(idle, SetLinkMtu)
    assert (idle.subject, idle.unit, idle.mtu, idle.before) == (netdev("ens1"), "links/ens1", 9000, 1500)
    assert (idle.disturbs, idle.claims) == (Disturbs.NOTHING, ())
    assert (used.subject, used.disturbs, used.claims) == (netdev("ens2"), Disturbs.NIC, (netdev("ens2"),))
    assert str(idle) == "set mtu of ens1 to 9000 (is 1500)"


@pytest.mark.parametrize(
    ("match", "names"),
    [
        ("ens1", ["ens1"]), ("ens*", ["ens1", "ens2"]), ("ens[2-9]", ["ens2"]), ("driver:mlx5_core", ["ens1", "ens2"]),
        ("0000:2B:00.0", ["ens2"]), ("*", ["ens1", "ens2"]), ("lo", ["lo"]),
    ],
)  # fmt: skip
def test_selectors(match: str, names: list[str]) -> None:
    steps = plan(_spec(LinkEntry(match, mtu=2000)), _state(*NICS, LO)).steps
    assert [step.subject.name for step in steps] == names


def test_the_mtu_changes_before_the_interface_goes_up_and_after_it_went_down() -> None:
    down = Netdev("ens5", 1500, False, uses=("part of bond0",))
    assert _texts(_spec(LinkEntry("ens5", up=True, mtu=9000)), _state(down)) == [
        "set mtu of ens5 to 9000 (is 1500)", "set ens5 up",
    ]  # fmt: skip
    assert _texts(_spec(LinkEntry("ens1", up=False, mtu=9000)), _state(*NICS)) == [
        "set ens1 down", "set mtu of ens1 to 9000 (is 1500)",
    ]  # fmt: skip
    steps = plan(_spec(LinkEntry("ens5", up=True, mtu=9000)), _state(down)).steps
    assert {step.disturbs for step in steps} == {Disturbs.NOTHING}


def test_entries_that_agree_are_one_wish() -> None:
    spec = _spec(LinkEntry("ens*", up=True), LinkEntry("ens1", mtu=9000), LinkEntry("driver:mlx5_core", up=True))
    assert _texts(spec, _state(*NICS)) == ["set mtu of ens1 to 9000 (is 1500)"]
    assert merge((LinkEntry("a", mtu=1), LinkEntry("b", mtu=2))) is None


def test_entries_that_contradict_each_other_stop_that_interface_alone() -> None:
    wish = plan(_spec(LinkEntry("ens*", mtu=9000), LinkEntry("ens1", up=False, mtu=4200)), _state(*NICS))
    assert [step.subject.name for step in wish.steps] == ["ens2"]
    (obstacle,) = wish.obstacles
    assert obstacle.subject == netdev("ens1")
    assert obstacle.problem == (
        "entries contradict each other: `ens*` wants mtu 9000, `ens1` wants down and mtu 4200"
    )  # fmt: skip


def test_an_mtu_the_device_cannot_have() -> None:
    obstacle = _obstacle(_spec(LinkEntry("ens1", mtu=9979)), _state(*NICS))
    assert (obstacle.problem, obstacle.advice) == ("mtu 9979 is not possible", "it takes 68 to 9978 bytes")
    assert not obstacle.waits


@pytest.mark.parametrize("entry", [LinkEntry("eth0", mtu=9000), LinkEntry("eth0", up=False)])
def test_the_default_route_is_left_alone_unless_allowed(entry: LinkEntry) -> None:
    state = _state(Netdev("eth0", 1500, True, uses=("default route",)))
    obstacle = _obstacle(_spec(entry), state)
    assert obstacle.problem == "it has the default route, and the node could become unreachable"
    (step,) = plan(_spec(entry, nic=Policy.ALLOW), state).steps
    assert step.disturbs is Disturbs.NIC


def test_an_entry_that_matches_nothing_says_what_there_is() -> None:
    obstacle = _obstacle(_spec(LinkEntry("eno*", up=True)), _state(*NICS, LO))
    assert (obstacle.problem, obstacle.advice) == ("no interface matches", "interfaces here: ens1, ens2")
    assert not obstacle.waits
    assert _obstacle(_spec(LinkEntry("eno*")), _state()).advice == "interfaces here: none"


@pytest.mark.parametrize("match", ["driver:mlx5_core", "ens*"])
def test_an_entry_waits_for_a_driver_that_will_be_loaded(match: str) -> None:
    spec = _spec(LinkEntry(match, up=True), modules=Modules(rdma=RdmaModules()))
    obstacle = _obstacle(spec, _state(LO, modules={}))
    assert obstacle.waits
    assert "mlx5_core" in obstacle.problem
    assert not _obstacle(_spec(LinkEntry("driver:igb"), modules=Modules(rdma=RdmaModules())), _state(LO)).waits


STEPS = [
    SetLinkMtu(subject=netdev("ens1"), unit="links/ens1", mtu=9000, before=1500),
    SetLinkUp(subject=netdev("ens1"), unit="links/ens1", up=False),
]


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_undo_is_the_opposite_and_satisfied_looks_at_the_node(step: Step) -> None:
    undo = step.undo()
    assert undo is not None
    assert undo.satisfied(_state(*NICS))
    assert not step.satisfied(_state(*NICS))
    assert step.satisfied(_state(Netdev("ens1", 9000, False)))
    assert not step.satisfied(_state())
    assert (undo.subject, undo.unit) == (step.subject, step.unit)
