"""A network that survives: what stands on an interface comes back after its driver was reloaded."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from nodeagent.host.ports import Links
from nodeagent.plan.journal import Phase
from nodeagent.plan.observing import Observer
from nodeagent.resources.base import Step
from nodeagent.resources.link_restore import RestoreLink, RestoreRdmaName
from nodeagent.simulation.kernel_state import edited
from nodeagent.state.link_settings import Group, Values
from sim_node import SimNode, Told, sim_node, text_of

PF, NIC, OTHER = "0000:61:00.0", "enp97s0np0", "enp225s0np0"
BASE = "disruption: {nic: allow}\nmodules:\n  rdma: {stack: inbox}\n  named: {mlx5_core: {}}\n"
RELOAD = BASE.replace("{mlx5_core: {}}", "{mlx5_core: {parameters: {prof_sel: 1}}}")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SimNode]:
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as opened:
        opened.converge(
            BASE + f"links: [{{match: {NIC}, up: true, mtu: 9000, qos: {{setup: lossless-dscp26-prio3}}}}]\n"
        )
        opened.converge(BASE + f'sriov: [{{match: "{PF}", vfs: 2, trust: true, macs: ["02:00:00:00:61:00"]}}]\n')
        opened.node.use_interface(NIC, "10.1.0.1/24", default_route=True)
        opened.node.use_interface("enp97s0v0", "10.2.0.1/24")
        yield opened


def _network(node: SimNode) -> object:
    kernel = node.kernel
    return kernel.interfaces, kernel.vfs, node.host.links.vfs(NIC), kernel.drivers, kernel.overrides


def test_everything_on_the_interfaces_comes_back_after_a_reload(node: SimNode) -> None:
    before = _network(node)
    told = Told()
    outcome = node.converge(RELOAD, told)
    assert outcome.plan.converged, text_of(outcome.plan)
    assert not outcome.failures
    assert _network(node) == before
    assert (
        f"restore restore {NIC}: mtu 9000, up, settings, address 10.1.0.1/24, default route via 10.1.0.254"
        in told.lines
    )
    assert node.kernel.modules["mlx5_core"].parameters["prof_sel"] == "1"
    assert not node.journal.exists()


def test_a_used_network_is_left_alone_unless_it_is_allowed(node: SimNode) -> None:
    before = _network(node)
    outcome = node.converge(RELOAD.replace("allow", "when-idle"))
    assert outcome.results == ()
    assert f"default route on {NIC}" in text_of(outcome.plan)
    assert _network(node) == before


def test_a_crash_at_any_step_is_made_good_by_the_next_run(node: SimNode) -> None:
    before = _network(node)

    def crash(phase: Phase, step: Step) -> None:
        if phase is Phase.RESTORE and str(step).startswith(f"restore {NIC}"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        node.converge(RELOAD, Told(before=crash))
    assert not node.kernel.vfs
    assert node.journal.exists()
    outcome = node.converge(RELOAD)
    assert outcome.plan.converged, text_of(outcome.plan)
    assert _network(node) == before


def test_functions_that_are_made_anew_get_their_addresses_back(node: SimNode) -> None:
    file = BASE + f'sriov: [{{match: "{PF}", vfs: 4}}]\n'
    outcome = node.converge(file)
    assert outcome.plan.converged, text_of(outcome.plan)
    assert node.kernel.interfaces["enp97s0v0"].addresses == ("10.2.0.1/24",)


def test_cards_are_brought_back_at_once(node: SimNode) -> None:
    """Each of the two waits in its first step until the other has begun: one after the other they would not get on."""
    node.node.use_interface("enp225s0np0", "10.3.0.1/24")
    node.converge(BASE + "links: [{match: enp225s0np0, up: true}]\n")
    before = _network(node)
    links, meeting = node.host.links, threading.Barrier(2, timeout=60)

    class Meeting:
        def __getattr__(self, name: str) -> object:
            return getattr(links, name)

        def await_link(self, netdev: str, pci_address: str) -> None:
            if netdev in (NIC, "enp225s0np0"):
                meeting.wait()
            links.await_link(netdev, pci_address)

    node.observer = Observer(replace(node.host, links=cast("Links", Meeting())))
    outcome = node.converge(RELOAD)
    assert outcome.plan.converged, text_of(outcome.plan)
    assert not outcome.failures
    assert _network(node) == before


def _set_up_by_others(node: SimNode) -> None:
    """What no node file mentions: settings, a name of an RDMA device, a permanent neighbour, a sysctl."""
    links = node.host.links
    links.settings.write(NIC, Group.PRIVATE_FLAGS, (("rx_cqe_compress", 1),))
    links.settings.write(NIC, Group.CHANNELS, (("combined", 7),))
    links.settings.write(NIC, Group.RINGS, (("rx", 4096),))
    links.settings.write(NIC, Group.COALESCING, (("adaptive_rx", 0), ("rx_usecs", 33)))
    links.settings.write(NIC, Group.FEATURES, (("rx-lro", 1),))
    links.settings.write(NIC, Group.DEVICE, (("tx_queue_length", 5000),))
    links.settings.write(NIC, Group.IPV4, (("arp_ignore", 1),))
    device = links.rdma.await_device(PF)
    links.rdma.rename(device, "storage0")
    changed = replace(node.kernel.interfaces[NIC], neighbours=("10.1.0.9 at 02:00:00:00:00:09",))
    node.node.kernel.change(lambda state: replace(state, interfaces=edited(state.interfaces, **{NIC: changed})))


def test_what_others_set_comes_back_too_and_only_that_is_written(node: SimNode) -> None:
    _set_up_by_others(node)
    before, written = _network(node), []
    settings = node.host.links.settings

    class Noted:
        def __getattr__(self, name: str) -> object:
            return getattr(settings, name)

        def write(self, netdev: str, group: Group, values: Values) -> None:
            written.append((netdev, group, values))
            settings.write(netdev, group, values)

    node.host.links.settings = Noted()
    told = Told()
    outcome = node.converge(RELOAD, told)
    assert outcome.plan.converged, text_of(outcome.plan)
    assert not outcome.failures
    assert _network(node) == before
    assert node.host.links.rdma.await_device(PF) == "storage0"
    assert f"restore restore the name storage0 of the rdma device of {PF}" in told.lines
    assert written == [
        (NIC, Group.PRIVATE_FLAGS, (("rx_cqe_compress", 1),)),
        (NIC, Group.CHANNELS, (("combined", 7),)),
        (NIC, Group.RINGS, (("rx", 4096),)),
        (NIC, Group.COALESCING, (("rx_usecs", 33), ("adaptive_rx", 0))),
        (NIC, Group.FEATURES, (("rx-lro", 1),)),
        (NIC, Group.DEVICE, (("tx_queue_length", 5000),)),
    ]


def test_settings_that_the_new_driver_refuses_are_told_and_the_rest_is_back(node: SimNode) -> None:
    _set_up_by_others(node)
    node.node.kernel.fail("settings", NIC, errno.EBUSY)
    outcome = node.converge(RELOAD)
    (failure,) = outcome.failures
    assert str(failure).startswith(f"restore restore {NIC}: mtu 9000, up, settings")
    found = node.kernel.interfaces[NIC]
    assert found.addresses == ("10.1.0.1/24",)
    assert found.default_route
    assert found.settings["rings.rx"] == 4096
    assert "private_flags.rx_cqe_compress" not in found.settings
    assert node.journal.exists()  # it is still owed
    assert node.converge(RELOAD).plan.converged
    assert node.kernel.interfaces[NIC].settings["private_flags.rx_cqe_compress"] == 1


def test_a_crash_before_the_settings_are_back_is_made_good(node: SimNode) -> None:
    _set_up_by_others(node)
    before = _network(node)

    def crash(phase: Phase, step: Step) -> None:
        if phase is Phase.RESTORE and isinstance(step, RestoreLink | RestoreRdmaName):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        node.converge(RELOAD, Told(before=crash))
    outcome = node.converge(RELOAD)
    assert outcome.plan.converged, text_of(outcome.plan)
    assert _network(node) == before
    assert node.host.links.rdma.await_device(PF) == "storage0"
    assert not node.journal.exists()


def test_functions_of_one_card_are_brought_back_at_once(node: SimNode) -> None:
    """As for cards; with a shared IOMMU group they would be one lane, and this test would wait in vain."""
    before = _network(node)
    links, meeting = node.host.links, threading.Barrier(2, timeout=60)
    functions = links.functions

    class Meeting:
        def __getattr__(self, name: str) -> object:
            return getattr(functions, name)

        def set_driver(self, address: str, driver: str) -> None:
            meeting.wait()
            functions.set_driver(address, driver)

    links.functions = Meeting()
    outcome = node.converge(RELOAD)
    assert outcome.plan.converged, text_of(outcome.plan)
    assert not outcome.failures
    assert _network(node) == before
