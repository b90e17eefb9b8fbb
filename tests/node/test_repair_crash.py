"""The agent dies at every instant of a repair: nothing is lost, nothing is done twice, and what is owed comes back."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from mortal import in_child, mortal
from nodeagent.host.lock import node_lock
from nodeagent.host.paths import REBOOT_REQUEST, REMEDIATION
from nodeagent.plan.convergence import converge, goal_of
from nodeagent.plan.executor import Context
from nodeagent.plan.journal import Journal
from nodeagent.plan.observing import Observer
from nodeagent.simulation.node import open_node
from nodeagent.spec.reader import read_spec
from nodeagent.state.health import NODE, Finding, Health, Recovery, Subject, SubjectKind, Verdict
from nodeagent.state.repair import Quarantine, RepairMemory
from nodeagent.supervisor.repair import Repairs
from sim_node import PERSISTENCED, SimNode, Told, loaded, sim_node

PROFILE = "gpu-server-4x-a100"
NEVER = 1_000_000
# A reload of the driver has many instants, which test_crash.py tries one by one.
STRIDE = {Recovery.RESET_GPU: 1, Recovery.REBIND_NIC: 1, Recovery.RELOAD_DRIVER: 7}
MODULES = "modules: {nvidia: {drm: true}, gdrcopy: true, rdma: {}}\n"
REPAIR = """\
remediation:
  mode: "on"
  rules:
    - {recoveries: [reset-gpu], actions: [reset-gpu], approval: false}
    - {recoveries: [reload-driver], actions: [reload-modules], approval: false}
    - {recoveries: [rebind-nic], actions: [rebind-nic], approval: false}
  limits: {settle_seconds: 0, systemic_ratio: 1}
"""


def finding_of(node: SimNode, recovery: Recovery) -> Finding:
    gpu = node.node.machine.gpus[0]
    found = node.observer.observe(())
    nic = next(one for one in found.netdevs.values() if one.driver == "mlx5_core")
    node.host.nvml.release()
    subjects = {
        Recovery.RESET_GPU: Subject(SubjectKind.GPU, gpu.uuid, gpu.pci_address),
        Recovery.RELOAD_DRIVER: NODE,
        Recovery.REBIND_NIC: Subject(SubjectKind.PORT, "mlx5_0/1", nic.pci_address),
    }
    return Finding(subjects[recovery], "some-check", Verdict.FAILED, recovery=recovery)


def run_once(directory: str, file: str, finding: Finding, instant: int) -> int:
    """A pass of the agent, with a fuse; 0 when the node is then as the file says."""
    host = mortal(open_node(PROFILE, directory).host("in-process"), instant)
    with node_lock(directory):
        spec = read_spec(file)
        context = Context(Observer(host), Journal(host.files), Told())
        repairs = Repairs(host, lambda: spec, lambda _entry: None)
        repairs.consider(Health((finding,), time.time()))
        repairs.act(context.observer, context)
        outcome = converge(goal_of(spec), context)
    return 0 if outcome.plan.converged and not outcome.failures else 1


@pytest.mark.parametrize("recovery", [Recovery.RESET_GPU, Recovery.RELOAD_DRIVER, Recovery.REBIND_NIC])
def test_killed_before_and_after_every_change_of_a_repair(tmp_path: Path, recovery: Recovery) -> None:
    with sim_node(tmp_path, PROFILE, "in-process") as node:
        layout = "mig: [{gpus: [0], mode: enabled, devices: {3g.20gb: 1, 1g.5gb: 2}}]\n"
        assert node.converge(MODULES + layout).plan.converged
        node.host.services.start(PERSISTENCED)
        nics = [one.name for one in node.observer.observe(()).netdevs.values() if one.driver == "mlx5_core"]
        for name in nics:
            node.host.links.set_up(name, up=True)
            node.host.links.set_mtu(name, 9000)
        kept = layout if recovery is Recovery.RELOAD_DRIVER else ""  # else no file names the instances any more
        file = node.write(MODULES + kept + REPAIR)
        node.host.nvml.release()
        finding, uuid = finding_of(node, recovery), node.uuid(0)
        before = (loaded(node.kernel), node.instances(), node.kernel.interfaces, node.kernel.services.keys())
        died = 0
        for instant in range(1, NEVER, STRIDE[recovery]):
            resets = node.node.machine.resets(uuid)
            Path(node.node.directory + REMEDIATION).unlink(missing_ok=True)
            code = in_child(partial(run_once, node.node.directory, file, finding, instant))
            if code == 0:
                break
            assert code == -signal.SIGKILL, instant
            died += 1
            assert in_child(partial(run_once, node.node.directory, file, finding, NEVER)) == 0, instant
            assert node.node.machine.resets(uuid) - resets <= 1, instant
            after = (loaded(node.kernel), node.instances(), node.kernel.interfaces, node.kernel.services.keys())
            assert after == before, instant
            assert not node.journal.exists(), instant
        assert died > 5
        if recovery is Recovery.RESET_GPU:
            assert node.node.machine.resets(uuid) >= died // 2
        assert os.path.exists(node.node.directory + REMEDIATION)


def test_a_slurm_that_does_not_answer_holds_up_no_request_for_a_reboot(tmp_path: Path) -> None:
    """The node has no scontrol: the drain is refused and rests for a minute, the request comes with the next pass."""
    with sim_node(tmp_path, PROFILE, "in-process") as node:
        slurm = MODULES + 'remediation: {mode: "on", quarantine: {slurm: true, slurm_node: gpu17}}\n'
        spec, told = read_spec(node.write(slurm)), Told()
        context = Context(node.observer, Journal(node.host.files), told)
        repairs = Repairs(node.host, lambda: spec, lambda _entry: None)
        repairs.memory = RepairMemory(quarantines=(Quarantine(NODE, "some-check", 1.0),))
        repairs.act(node.observer, context)
        assert "scontrol" in told.lines[-1]
        assert not repairs.is_due
        repairs.memory = replace(repairs.memory, reboot_asked="some-check")
        assert repairs.is_due
        repairs.act(node.observer, context)
        assert "some-check" in (node.host.files.read_optional(REBOOT_REQUEST) or "")
        assert not repairs.is_due
        assert len([line for line in told.lines if "scontrol" in line]) == 1
