"""Repair on a simulated node, end to end: declared, asked for, held back under a job, done, proved, and remembered."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent_process import PROFILE, Agent, agent_on, run_command
from fake_scontrol import install_scontrol, slurm_node
from nodeagent.host.control_client import ask
from nodeagent.host.paths import FEATURES_FILE, REBOOT_REQUEST, REMEDIATION
from nodeagent.simulation.faults import heal, make_fault
from nodeagent.simulation.machine import ResetRoute
from nodeagent.simulation.node import SimulatedNode, open_node

FILE = """\
version: 1
modules: {{nvidia: {{modeset: false}}, rdma: {{}}}}
mig:
  - {{mode: enabled, gpus: [0]}}
labels: {{gpus: "off"}}
health: {{damping: {{hold_seconds: 0, quiet_seconds: 3}}, ignore: [port-state, gpu-count, acs, numa]}}
remediation:
  mode: {mode}
  rules: [{{recoveries: [reset-gpu], quarantine: true, actions: [reset-gpu, ask-reboot], approval: {approval}}}]
  limits: {{settle_seconds: 0, verify_seconds: {verify}, cooldown_seconds: 0, systemic_ratio: 1}}
  quarantine: {{lift_after_seconds: 1, slurm: true, slurm_node: gpu17}}
loop: {{interval_seconds: 3600, sample_seconds: 1, backoff_seconds: 0.2, nvml_deadline_seconds: 2}}
"""
PATIENCE_SECONDS = 90.0


def text(mode: str = "on", approval: str = "true", verify: int = 30) -> str:
    return FILE.format(mode=mode, approval=approval, verify=verify)


def repair(agent: Agent) -> dict[str, Any]:
    """What the agent says, once it listens."""
    agent.wait_until(bool)
    return ask(str(agent.root), "GET", "/v1/repair")


def wait(agent: Agent, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    until = time.monotonic() + PATIENCE_SECONDS
    while not wanted(found := repair(agent)):
        assert time.monotonic() < until, f"{json.dumps(found, indent=1)}\n{agent.log.read_text()[-4000:]}"
        time.sleep(0.2)
    return found


def stands(standing: str) -> Callable[[dict[str, Any]], bool]:
    return lambda found: any(one["standing"] == standing for one in found["decisions"])


def simulated(agent: Agent) -> SimulatedNode:
    return open_node(PROFILE, str(agent.root))


def test_a_gpu_that_wants_a_reset_is_asked_about_kept_from_work_and_reset_when_nobody_has_it(tmp_path: Path) -> None:
    open_node(PROFILE, str(tmp_path / "n"))
    install_scontrol(tmp_path / "n", "gpu17")
    with agent_on(tmp_path, text()) as agent:
        agent.wait_converged()
        node = simulated(agent)
        uuid = node.machine.gpus[2].uuid
        job = node.start_job(2, "train.py", 1 << 30)
        make_fault(node, "recovery-action", uuid, 1)

        found = wait(agent, lambda one: stands("asks")(one) and one["slurmDrain"] and one["decisions"][0]["inTheWay"])
        (decision,) = found["decisions"]
        assert decision["name"] == uuid
        assert "train.py" in decision["inTheWay"][0]
        assert found["taints"]
        features = Path(f"{agent.root}{FEATURES_FILE}")
        agent.wait_until(lambda _: "nodeagent.io/quarantine=true" in features.read_text())
        assert slurm_node(tmp_path / "n") == ("IDLE+DRAIN", f"nodeagent: gpu {uuid}: recovery-action")
        health = ask(str(agent.root), "GET", "/v1/health")
        assert any(one["check"] == "quarantine" and one["verdict"] == "failed" for one in health["findings"])

        shown = run_command("repair", "plan", *agent.target)
        assert (shown.returncode, "in the way" in shown.stdout, "train.py" in shown.stdout) == (0, True, True)
        assert run_command("repair", "approve", "nonsense", *agent.target).returncode == 1
        assert run_command("repair", "approve", decision["id"], *agent.target).returncode == 0
        wait(agent, stands("ready"))
        time.sleep(2)  # it is approved, and still nothing happens while the job is there
        assert node.machine.resets(uuid) == 0

        node.end_job(job)
        agent.ask_for("reconcile")
        found = wait(agent, lambda one: any(tried["outcome"] == "healed" for tried in one["attempts"]))
        assert node.machine.resets(uuid) == 1
        found = wait(agent, lambda one: not one["quarantines"] and not one["slurmDrain"])
        assert slurm_node(tmp_path / "n") == ("IDLE", "")
        assert not found["decisions"]
        agent.wait_until(lambda _: "nodeagent.io/quarantine" not in features.read_text())
        assert agent.stop() == 0
    history = run_command("repair", "history", *agent.target).stdout
    for words in ("approved by user 0", "begun", "healed", "gets work again", "lift our drain"):
        assert words in history, history


def test_instances_that_no_file_names_are_given_back_after_the_reset(tmp_path: Path) -> None:
    with agent_on(tmp_path, text(approval="false")) as agent:
        agent.wait_converged()
        node = simulated(agent)
        uuid = node.machine.gpus[0].uuid
        agent.write(text(approval="false").replace("gpus: [0]}", "gpus: [0], devices: {3g.20gb: 1, 1g.5gb: 2}}"))
        agent.wait_until(lambda _: len(node.machine.mig_layout(uuid).rows) == 3)
        agent.write(text(approval="false"))  # they stay, as the file does not mention them any more
        agent.wait_until(lambda found: found["condition"] == "converged")
        before = sorted((row.profile, row.placement.start) for row in node.machine.mig_layout(uuid).rows)
        resets = node.machine.resets(uuid)
        make_fault(node, "recovery-action", uuid, 1)
        wait(agent, lambda one: any(tried["outcome"] == "healed" for tried in one["attempts"]))
        assert node.machine.resets(uuid) == resets + 1
        assert sorted((row.profile, row.placement.start) for row in node.machine.mig_layout(uuid).rows) == before


def test_what_a_reset_cannot_heal_asks_for_a_reboot_and_is_not_tried_again_after_a_restart(tmp_path: Path) -> None:
    with agent_on(tmp_path, text(approval="false", verify=1)) as agent:
        agent.wait_converged()
        node = simulated(agent)
        uuid = node.machine.gpus[1].uuid
        node.machine.set_reset_route(uuid, ResetRoute.REBOOT)
        make_fault(node, "recovery-action", uuid, 1)
        found = wait(agent, lambda one: bool(one["rebootAsked"]))
        assert [(one["action"], one["outcome"]) for one in found["attempts"]] == [("reset-gpu", "failed")]
        request = Path(f"{agent.root}{REBOOT_REQUEST}")
        until = time.monotonic() + PATIENCE_SECONDS
        while not request.exists():
            assert time.monotonic() < until
            time.sleep(0.2)
        assert "recovery-action" in request.read_text()
        assert agent.stop() == 0
    with agent_on(tmp_path, text(approval="false", verify=1)) as agent:
        found = wait(agent, lambda one: bool(one["decisions"]))
        time.sleep(2)
        assert len(repair(agent)["attempts"]) == 1
        heal(node)
        wait(agent, lambda one: not one["rebootAsked"] and not request.exists())


def test_off_dry_run_paused_and_damaged_do_nothing(tmp_path: Path) -> None:
    with agent_on(tmp_path, text("dry-run", "false")) as agent:
        agent.wait_converged()
        node = simulated(agent)
        uuid = node.machine.gpus[3].uuid
        make_fault(node, "recovery-action", uuid, 1)
        found = wait(agent, lambda one: stands("dry-run")(one) and one["decisions"][0]["steps"])
        assert f"reset {uuid}" in found["decisions"][0]["steps"]
        assert run_command("repair", "pause", *agent.target).returncode == 0
        agent.write(text("on", "false"))
        wait(agent, stands("paused"))
        agent.write(text("off", "false"))
        wait(agent, lambda one: one["mode"] == "off" and not one["decisions"])
        assert agent.stop() == 0
    memory = Path(f"{agent.root}{REMEDIATION}")
    memory.write_text(memory.read_text().replace('"paused": "by', '"paused": "xy'))
    with agent_on(tmp_path, text("on", "false")) as agent:
        found = wait(agent, lambda one: "checksum" in one["trouble"])
        agent.wait_converged()
        time.sleep(2)
        assert not repair(agent)["decisions"]
        assert node.machine.resets(uuid) == 0
