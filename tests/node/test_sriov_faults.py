"""Virtual functions and devlink when things go wrong: refusals, a card that vanishes, a crash at every instant."""

from __future__ import annotations

import errno
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from mortal import in_child, mortal
from nodeagent.errors import GoneError
from nodeagent.host.devlink import owed_reloads
from nodeagent.host.files import LocalFiles
from nodeagent.host.sriov import SysfsFunctions
from nodeagent.plan.convergence import converge, goal_of
from nodeagent.plan.executor import Context
from nodeagent.plan.journal import Journal
from nodeagent.plan.observing import Observer
from nodeagent.simulation.node import open_node
from nodeagent.spec.reader import read_spec
from sim_node import SimNode, Told, sim_node, text_of

PROFILE, PF, OTHER, NIC = "gpu-server-4x-a100", "0000:61:00.0", "0000:e1:00.0", "enp97s0np0"
BEFORE = f"""\
modules: {{rdma: {{stack: inbox}}}}
disruption: {{nic: allow}}
links: [{{match: {NIC}, up: true, mtu: 4200}}]
sriov: [{{match: "{PF}", vfs: 2, eswitch_mode: legacy, vlan: 7, macs: ["02:00:00:00:61:00"]}}]
"""
AFTER = BEFORE.replace("legacy", "switchdev") + f'devlink: [{{match: "{PF}", parameters: {{max_macs: 64}}}}]\n'


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SimNode]:
    with sim_node(tmp_path, PROFILE, "in-process") as opened:
        opened.converge("modules: {rdma: {stack: inbox}}\n")
        yield opened


def test_a_busy_card_is_told_and_the_other_card_is_done(node: SimNode) -> None:
    node.node.kernel.fail("write", f"/sys/bus/pci/devices/{PF}/sriov_numvfs", errno.EBUSY, 20)
    wish = 'modules: {rdma: {stack: inbox}}\nsriov: [{match: "driver:mlx5_core", vfs: 2, trust: true}]\n'
    outcome = node.converge(wish)
    (failure,) = {str(failure.error) for failure in outcome.failures}
    assert failure.startswith(f"make 2 virtual functions on {PF}: device or resource busy (0 are there); ")
    assert (node.kernel.vfs, node.journal.exists()) == ({OTHER: 2}, False)
    assert [one.trust for one in node.host.links.vfs("enp225s0np0")] == [True, True]
    node.node.kernel.clear_faults()
    assert node.converge(wish).plan.converged
    assert node.kernel.vfs == {PF: 2, OTHER: 2}


def test_functions_that_cannot_be_made_anew_are_brought_back_as_they_were(node: SimNode) -> None:
    """The removal went through and the creation did not: the unit is undone, and it is said what is not as wished."""
    assert node.converge(BEFORE).plan.converged
    node.node.kernel.fail("devlink", PF, errno.EOPNOTSUPP, 20, ("lag is active",))
    outcome = node.converge(AFTER)
    assert {str(failure.error).partition(": ")[2] for failure in outcome.failures} == {"lag is active"}
    assert node.kernel.vfs == {PF: 2}
    node.node.kernel.clear_faults()
    assert node.converge(BEFORE).plan.converged
    assert [one.vlan for one in node.host.links.vfs(NIC)] == [7, 7]


@dataclass
class Unplugged:
    """A clock on which waiting lets the card vanish."""

    place: Path
    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        shutil.rmtree(self.place, ignore_errors=True)


def test_a_card_that_vanishes_while_functions_are_made_is_told_at_once(tmp_path: Path) -> None:
    place = tmp_path / "sys/bus/pci/devices" / PF
    place.mkdir(parents=True)
    for name, text in (("sriov_numvfs", "0"), ("sriov_totalvfs", "8"), ("sriov_drivers_autoprobe", "1")):
        (place / name).write_text(text)
    clock = Unplugged(place)
    with pytest.raises(GoneError, match=f"wait for the virtual functions of {PF}: the physical function is gone"):
        SysfsFunctions(LocalFiles(str(tmp_path)), clock).set_vf_count(PF, 2)
    assert clock.now < 1


def _run_once(directory: str, file: str, instant: int) -> int:
    host = mortal(open_node(PROFILE, directory).host("in-process"), instant, ("links", "files"))
    outcome = converge(goal_of(read_spec(file)), Context(Observer(host), Journal(host.files), Told()))
    return 0 if outcome.plan.converged and not outcome.failures else 1


def test_a_crash_at_any_instant_loses_nothing(node: SimNode) -> None:
    """Another eswitch mode and a reload of the card, on an interface with an address and functions with settings."""
    node.converge(BEFORE)
    node.node.use_interface(NIC, "10.1.0.1/24")
    deaths = 0
    for instant in range(1, 200, 7):
        assert node.converge(BEFORE + f'devlink: [{{match: "{PF}", parameters: {{max_macs: 128}}}}]\n').plan.converged
        file = node.write(AFTER)
        code = in_child(partial(_run_once, node.node.directory, file, instant))
        assert code in (0, -signal.SIGKILL)
        deaths += code != 0
        outcome = node.converge(AFTER)
        assert outcome.plan.converged, (instant, text_of(outcome.plan))
        assert (node.kernel.vfs, node.kernel.eswitch) == ({PF: 2}, {PF: "switchdev"}), instant
        assert node.kernel.devlink[PF]["max_macs"] == "64"
        assert next((one.mac, one.vlan) for one in node.host.links.vfs(NIC)) == ("02:00:00:00:61:00", 7), instant
        interface = node.kernel.interfaces[NIC]
        assert (interface.addresses, interface.mtu, interface.up) == (("10.1.0.1/24",), 4200, True), instant
        assert not node.journal.exists()
        assert not owed_reloads(node.host.files)
        if code == 0:
            break
    assert deaths > 3
