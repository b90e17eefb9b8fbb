"""GPUs and NICs given to virtual machines on a simulated node and back, with whoever is in the way."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.errors import HostError
from nodeagent.host.pci_facts import read_pci
from nodeagent.simulation.companions import plugged_in
from sim_node import PERSISTENCED, SimNode, Told, sim_node, text_of

GPU, OTHER = "0000:21:00.0", "0000:41:00.0"
AUDIO, USB = "0000:21:00.1", "0000:21:00.2"
MODULES = "modules: {nvidia: {flavor: auto}, rdma: {stack: inbox}}\n"
NIC = "0000:61:00.0"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SimNode]:
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as opened:
        assert opened.converge(MODULES).plan.converged
        yield opened


def _file(workload: str, devices: str = "gpus", more: str = "") -> str:
    return f"{MODULES}{more}sandbox: {{workload: {workload}, devices: {devices}}}\n"


def _one(workload: str) -> str:
    return _file(workload, f'["{GPU}"]')


def _drivers(node: SimNode) -> dict[str, str]:
    return {one.address: one.driver for one in read_pci(node.host.files).values() if one.vendor == "10de"}


def test_all_gpus_go_to_virtual_machines_and_come_back(node: SimNode) -> None:
    outcome = node.converge(_file("vm-passthrough"))
    assert outcome.plan.converged, text_of(outcome.plan)
    assert set(_drivers(node).values()) == {"vfio-pci"}
    assert outcome.state.gpus == {}
    assert node.converge(_file("vm-passthrough")).steps_taken == 0
    outcome = node.converge(_file("container"))
    assert outcome.plan.converged, text_of(outcome.plan)
    assert set(_drivers(node).values()) == {"nvidia"}
    assert {one.driver_override for one in read_pci(node.host.files).values()} == {""}
    assert len(outcome.state.gpus) == 4


def test_one_gpu_goes_alone_and_the_others_work_on(node: SimNode) -> None:
    job = node.node.start_job(1, "train", 1 << 30)
    outcome = node.converge(_one("vm-passthrough"))
    assert outcome.plan.converged, text_of(outcome.plan)
    assert [address for address, driver in _drivers(node).items() if driver == "vfio-pci"] == [GPU]
    assert len(outcome.state.gpus) == 3
    assert str(job) in node.kernel.processes


def test_a_gpu_with_a_job_is_refused_and_the_job_is_named(node: SimNode) -> None:
    job = node.node.start_job(0, "train", 1 << 30)
    before = node.everything()
    outcome = node.converge(_one("vm-passthrough"), told := Told())
    assert not [line for line in told.lines if "0000:21" in line]
    assert f"process {job} (train --gpu 0), computes on GPU 0" in text_of(outcome.plan)
    assert _drivers(node)[GPU] == "nvidia"
    assert before[1] == node.everything()[1]
    node.node.end_job(job)
    assert node.converge(_one("vm-passthrough")).plan.converged


def test_the_daemon_lets_go_for_the_moment_and_comes_back(node: SimNode) -> None:
    node.host.services.start(PERSISTENCED)
    told = Told()
    assert node.converge(_one("vm-passthrough"), told).plan.converged
    assert PERSISTENCED in node.kernel.services
    steps = [line for line in told.lines if PERSISTENCED in line]
    assert len(steps) == 2


def test_sound_and_usb_of_the_card_go_along_and_come_back(node: SimNode) -> None:
    node.node.kernel.change(lambda state: plugged_in(state, GPU))
    before = _drivers(node)
    assert (before[AUDIO], before[USB]) == ("snd_hda_intel", "xhci_hcd")
    told = Told()
    outcome = node.converge(_one("vm-passthrough"), told)
    assert outcome.plan.converged, text_of(outcome.plan)
    assert [line for line in told.lines if "0000:21" in line] == [
        f"act take {AUDIO} from snd_hda_intel",
        f"act take {USB} from xhci_hcd",
        f"act take {GPU} from nvidia",
        f"act give {AUDIO} to vfio-pci",
        f"act give {USB} to vfio-pci",
        f"act give {GPU} to vfio-pci",
    ]
    assert node.converge(_one("container")).plan.converged
    assert _drivers(node) == before


def test_a_virtual_machine_that_has_the_gpu_keeps_it(node: SimNode) -> None:
    node.converge(_one("vm-passthrough"))
    group = read_pci(node.host.files)[GPU].iommu_group
    with open(f"{node.node.directory}/dev/vfio/{group}", "rb") as device:
        machine = subprocess.Popen(["sleep", "600"], stdin=device)
    try:
        plan = node.plan(_one("container"))
        assert plan.transitions == ()
        assert f"through VFIO (group {group})" in text_of(plan)
        assert f"process {machine.pid} (sleep 600)" in text_of(plan)
        with pytest.raises(HostError):  # the simulated kernel refuses what the real one would wait for
            node.host.links.functions.set_driver(GPU, "")
    finally:
        machine.kill()
        machine.wait()
    assert node.converge(_one("container")).plan.converged


def test_what_fails_in_the_middle_is_put_back(node: SimNode) -> None:
    node.node.kernel.change(lambda state: plugged_in(state, GPU))
    before = _drivers(node)
    node.node.kernel.fail("write", f"/sys/bus/pci/devices/{USB}/driver/unbind", errno.EBUSY)
    outcome = node.converge(_one("vm-passthrough"))
    assert outcome.failures
    assert _drivers(node) == before


def test_a_nic_goes_where_nobody_uses_it(node: SimNode) -> None:
    node.host.links.set_up("enp97s0np0", True)
    node.node.use_interface("enp97s0np0", "10.1.0.1/24")
    text = _file("vm-passthrough", f'["{NIC}"]')
    assert "address 10.1.0.1/24 on enp97s0np0" in text_of(node.converge(text).plan)
    assert read_pci(node.host.files)[NIC].driver == "mlx5_core"
    text = _file("vm-passthrough", '["id:15b3:101d"]', "disruption: {nic: allow}\n")
    assert node.converge(text).plan.converged
    assert read_pci(node.host.files)[NIC].driver == "vfio-pci"
