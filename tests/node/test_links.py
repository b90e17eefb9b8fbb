"""The section `links` on a simulated node: settings, names, addresses, routes and rules, and what devices refuse."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nodeagent.plan.journal import Entry, Phase, decode, encode
from nodeagent.resources.base import Step
from nodeagent.simulation.kernel_state import Interface, edited
from nodeagent.state.link_settings import Group, fulfils
from sim_node import SimNode, Told, sim_node, text_of

BASE = "modules:\n  rdma: {stack: inbox}\n  named: {mlx5_core: {}}\n"
NICS = ("enp97s0np0", "enp225s0np0")
PCI = ("0000:61:00.0", "0000:e1:00.0")
ALL = """links:
- match: driver:mlx5_core
  up: true
  tx_queue_length: 5000
  rings: {rx: 8192, tx: 2048}
  channels: {combined: 32}
  coalescing: {adaptive_rx: false, rx_usecs: 4}
  pause: {rx: false, tx: false}
  features: {lro: true, tso: false}
  private_flags: {rx_cqe_compress: true}
  ipv4: {arp_ignore: 1, arp_announce: 2, rp_filter: 2}
- match: "rail:*"
  addresses: ["10.0.{rail}.5/24"]
  routes:
  - {to: default, via: "10.0.{rail}.254", table: "10{rail}", source: "10.0.{rail}.5"}
  - {to: 10.64.0.0/16, via: "10.0.{rail}.254", metric: 1}
  rules: [{source: "10.0.{rail}.5", table: "10{rail}"}]
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SimNode]:
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as opened:
        opened.converge(BASE)
        yield opened


def _interface(node: SimNode, name: str = NICS[0]) -> Interface:
    return node.kernel.interfaces[name]


def _edit(node: SimNode, name: str, **changes: object) -> None:
    def edit(found: Interface) -> Interface:
        return replace(found, **changes)

    node.node.kernel.change(
        lambda state: replace(state, interfaces=edited(state.interfaces, **{name: edit(state.interfaces[name])}))
    )


def test_everything_a_file_says_of_an_interface_comes_true_and_stays(node: SimNode) -> None:
    file = BASE + ALL.replace("metric: 1}", 'table: "20{rail}"}')
    outcome = node.converge(file)
    assert outcome.plan.converged, text_of(outcome.plan)
    assert not outcome.failures
    found = _interface(node)
    assert found.up
    assert found.settings == {
        "private_flags.rx_cqe_compress": 1, "channels.combined": 32, "rings.rx": 8192, "rings.tx": 2048,
        "coalescing.adaptive_rx": 0, "coalescing.rx_usecs": 4, "pause.rx": 0, "pause.tx": 0, "features.rx-lro": 1,
        "features.tx-tcp-segmentation": 0, "features.tx-tcp6-segmentation": 0, "device.tx_queue_length": 5000,
        "ipv4.arp_ignore": 1, "ipv4.arp_announce": 2, "ipv4.rp_filter": 2,
    }  # fmt: skip
    assert found.addresses == ("10.0.0.5/24",)
    assert found.routes == (
        "0.0.0.0/0 via 10.0.0.254 table 100 source 10.0.0.5 ours", "10.64.0.0/16 via 10.0.0.254 table 200 ours",
    )  # fmt: skip
    assert _interface(node, NICS[1]).addresses == ("10.0.1.5/24",)
    assert sorted(node.kernel.rules) == [
        "from 10.0.0.5/32 table 100 priority 1000 ours", "from 10.0.1.5/32 table 101 priority 1000 ours",
    ]  # fmt: skip
    marks = node.marks()
    assert node.converge(file).results == ()
    assert node.marks() == marks


def test_rails_that_want_the_same_route_are_told_and_nothing_else_is_held_up(node: SimNode) -> None:
    outcome = node.converge(BASE + ALL)
    text = text_of(outcome.plan)
    assert f"{NICS[1]} and {NICS[0]} want a route of the same destination, table and metric" in text
    assert "give each rail a table or a metric of its own" in text


def test_a_larger_or_smaller_wish_changes_only_what_differs(node: SimNode) -> None:
    first = BASE + f'links: [{{match: {NICS[0]}, up: true, addresses: ["10.1.0.1/24", "fd00::1/64"]}}]\n'
    assert node.converge(first).plan.converged
    _edit(node, NICS[0], routes=("10.9.0.0/16 via 10.1.0.254", "10.8.0.0/16 via 10.1.0.254 ours"))
    told = Told()
    second = first.replace("10.1.0.1/24", "10.1.0.2/24").replace("]}]", "], routes: []}]")
    blocked = node.converge(second)
    assert "address 10.1.0.1/24 on enp97s0np0" in text_of(blocked.plan)
    outcome = node.converge("disruption: {nic: allow}\n" + second, told)
    assert outcome.plan.converged, text_of(outcome.plan)
    added = told.lines.index("act add address 10.1.0.2/24 to enp97s0np0")
    assert told.lines.index("act remove address 10.1.0.1/24 from enp97s0np0") > added
    assert _interface(node).addresses == ("fd00::1/64", "10.1.0.2/24")
    assert _interface(node).routes == ("10.9.0.0/16 via 10.1.0.254",)


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ("rings: {rx: 16384}", "rings.rx 16384 is not possible: it takes up to 8192; limits here: rx 8192, tx 8192"),
        ("channels: {rx: 4}", "channels.rx 4 is not possible: the driver does not have it; it has combined"),
        ("pause: {autoneg: true}", "pause.autoneg 1 is not possible: it is fixed at 0"),
        ("features: {highdma: false}", "features.highdma 0 is not possible: it is fixed at 1"),
        ("private_flags: {bogus: true}", "private_flags.bogus 1 is not possible: the driver does not have it"),
    ],
)
def test_what_a_device_cannot_have_is_explained_and_the_rest_is_done(node: SimNode, wish: str, told: str) -> None:
    outcome = node.converge(BASE + f"links: [{{match: {NICS[0]}, up: true, {wish}}}, {{match: {NICS[1]}, up: true}}]\n")
    assert told in text_of(outcome.plan)
    assert not outcome.plan.transitions
    assert _interface(node).up
    assert _interface(node, NICS[1]).up
    assert _interface(node).settings == {}


def test_a_ring_that_the_driver_rounds_up_is_as_wished(node: SimNode) -> None:
    file = BASE + "links: [{match: driver:mlx5_core, rings: {rx: 5000}}]\n"
    outcome = node.converge(file)
    assert (outcome.failures, outcome.plan.converged) == ((), True)
    assert _interface(node).settings == {"rings.rx": 8192}
    assert node.plan(file).converged


@pytest.mark.parametrize(
    ("wanted", "taken", "others"),
    [(500, (500, 504, 512), (496, 505, 508, 1000, 1024)), (1, (1, 8, 32), (0, 2, 16)), (1024, (1024,), (1032, 2048))],
)
def test_a_ring_is_right_where_a_driver_rounds_it_up(
    wanted: int, taken: tuple[int, ...], others: tuple[int, ...]
) -> None:
    """To a power of two, a multiple of 8 (igb) or of 32 (ice); nothing else is rounded."""
    assert {now for now in (*taken, *others) if fulfils(Group.RINGS, now, wanted)} == set(taken)
    assert not any(fulfils(Group.COALESCING, now, wanted) for now in others)


def test_a_busy_or_lost_interface_fails_alone(node: SimNode) -> None:
    node.node.kernel.fail("settings", NICS[0], errno.EBUSY)
    outcome = node.converge(BASE + "links: [{match: driver:mlx5_core, up: true, rings: {rx: 2048}}]\n")
    assert [str(one) for one in outcome.failures] == [
        "set rings of enp97s0np0: rx 2048 (is 1024): device or resource busy"
    ]
    assert _interface(node, NICS[1]).settings == {"rings.rx": 2048}
    assert _interface(node, NICS[1]).up
    assert not _interface(node).settings

    def vanish(_: object, step: Step) -> None:
        if str(step).startswith(f"set rings of {NICS[0]}"):
            node.node.kernel.change(
                lambda state: replace(state, interfaces=edited(state.interfaces, **{NICS[0]: None}))
            )

    outcome = node.converge(
        BASE + "links: [{match: driver:mlx5_core, up: true, rings: {rx: 4096}}]\n", Told(before=vanish)
    )
    assert [str(one) for one in outcome.failures] == ["set rings of enp97s0np0: rx 4096 (is 1024): no such device"]
    assert _interface(node, NICS[1]).settings == {"rings.rx": 4096}


def test_settings_lost_with_the_driver_come_back_with_the_file(node: SimNode) -> None:
    file = BASE + ALL.replace("metric: 1}", 'table: "20{rail}"}')
    node.converge(file)
    before = node.kernel.interfaces
    node.node.kernel.remove("mlx5_ib")
    node.node.kernel.remove("mlx5_core")
    assert node.converge(file).plan.converged
    assert node.kernel.interfaces == before


RENAMED = BASE + 'links: [{match: "rail:*", name: "rail{rail}", up: true, mtu: 9000}]\n'


def test_names_follow_rails(node: SimNode) -> None:
    outcome = node.converge(RENAMED)
    assert outcome.plan.converged, text_of(outcome.plan)
    assert {one.name: one.pci_address for one in node.kernel.interfaces.values() if one.driver == "mlx5_core"} == {
        "rail0": PCI[0], "rail1": PCI[1]
    }  # fmt: skip
    assert _interface(node, "rail1").mtu == 9000
    assert node.observer.observe(()).rdma["mlx5_0"].ports[0].netdev == "rail0"


def test_swapped_names_are_put_right_and_a_taken_one_is_told(node: SimNode) -> None:
    node.converge(RENAMED)
    swapped = BASE + f'links: [{{match: "{PCI[0]}", name: rail1}}, {{match: "{PCI[1]}", name: rail0}}]\n'
    outcome = node.converge(swapped)
    assert outcome.plan.converged, text_of(outcome.plan)
    assert _interface(node, "rail1").pci_address == PCI[0]
    taken = node.converge(BASE + f'links: [{{match: "{PCI[0]}", name: rail0}}]\n')
    assert f"another interface is called rail0; rename that one as well ({PCI[1]})" in text_of(taken.plan)
    both = node.converge(BASE + "links: [{match: driver:mlx5_core, name: nic}]\n")
    assert "rail0, rail1 shall all be called nic" in text_of(both.plan)


def test_every_step_survives_the_journal(node: SimNode) -> None:
    plan = node.plan(BASE + ALL.replace("metric: 1}", 'table: "20{rail}"}'))
    steps = [step for transition in plan.transitions for step in transition.steps]
    assert len(steps) > 20
    entries = [Entry(Phase.ACT, one) for step in steps for one in (step, step.undo()) if one is not None]
    assert list(decode(encode(entries, ""))) == entries


def test_what_could_not_be_read_is_told_with_its_reason_and_the_rest_is_done(node: SimNode) -> None:
    """One group of settings fails in every look: the other groups, and everything else, go on."""
    node.node.kernel.fail("read settings", "rings", errno.EIO, 100)
    wish = f"links: [{{match: {NICS[0]}, up: true, rings: {{rx: 2048}}, channels: {{combined: 8}}}}]\n"
    outcome = node.converge(BASE + wish)
    text = text_of(outcome.plan)
    assert "its rings are not known: read settings of the interfaces: input/output error" in text
    assert "does not offer" not in text
    assert (_interface(node).up, _interface(node).settings) == (True, {"channels.combined": 8})
    node.node.kernel.clear_faults()
    assert node.converge(BASE + wish).plan.converged
    assert _interface(node).settings["rings.rx"] == 2048


def test_addresses_that_could_not_be_read_are_not_written_and_the_rest_is_done(node: SimNode) -> None:
    node.node.kernel.fail("read addressing", "all", errno.ENOBUFS, 100)
    wish = f'links: [{{match: {NICS[0]}, up: true, mtu: 9000, addresses: ["10.1.0.1/24"], rules: []}}]\n'
    outcome = node.converge(BASE + wish)
    assert "its addresses, routes and rules are not known: read addresses, routes and rules: no buffer" in text_of(
        outcome.plan
    )
    found = _interface(node)
    assert (found.mtu, found.up, found.addresses) == (9000, True, ())
    node.node.kernel.clear_faults()
    assert node.converge(BASE + wish).plan.converged
    assert _interface(node).addresses == ("10.1.0.1/24",)
