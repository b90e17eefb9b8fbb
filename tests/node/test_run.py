"""`nodeagent run` on a simulated node, as systemd and a person meet it: a real process, real signals, real sockets."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent_process import FILE, PATIENCE_SECONDS, PROFILE, Agent, agent_on, is_alive, run_command, workers_of
from nodeagent.host.nvml import InProcessNvml
from nodeagent.host.paths import CONTROL_SOCKET, JOURNAL
from nodeagent.simulation.kernel_state import edited
from nodeagent.simulation.machine_library import library_path
from nodeagent.simulation.node import SimulatedNode, open_node


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """One agent for the tests that leave it running."""
    with agent_on(tmp_path_factory.mktemp("a")) as found:
        found.hears("READY=1")
        found.wait_converged()
        yield found


@pytest.fixture
def agent(shared: Agent) -> Agent:
    """The running agent, converged on the usual file."""
    if shared.file.read_text() != FILE:
        shared.take_over(FILE)
    return shared


@pytest.fixture
def node(agent: Agent) -> Iterator[SimulatedNode]:
    """The agent's node from outside."""
    found = open_node(PROFILE, str(agent.root))
    yield found
    found.machine.close()


def test_ready_comes_after_the_first_look_and_then_it_converges(agent: Agent) -> None:
    ready = next(message for message in agent.manager.heard if message.startswith("READY=1"))
    assert "STATUS=waiting" in ready
    status = agent.wait_converged()
    assert status["pid"] == agent.process.pid
    assert status["simulated"] == PROFILE
    assert status["lastPass"]["gpus"] == 4
    assert status["nvmlPid"] in workers_of(agent.process.pid)
    said = agent.log.read_text()
    assert "load module nvidia" in said
    assert "converged: 4 GPUs, 2 RDMA devices; metrics on http://127.0.0.1:" in said


def test_metrics_carry_what_the_machine_measures(agent: Agent, node: SimulatedNode) -> None:
    agent.wait_until(lambda _: "DCGM_FI_DEV_GPU_TEMP{" in agent.fetch("/metrics"))
    families = {family.name: family for family in text_string_to_metric_families(agent.fetch("/metrics"))}
    uuids = {gpu.uuid for gpu in node.machine.gpus}
    for name in ("DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_POWER_USAGE"):
        values = {sample.labels["UUID"]: sample.value for sample in families[name].samples}
        assert set(values) == uuids
        assert all(value > 0 for value in values.values())
    assert families["nodeagent_converged"].samples[0].value == 1
    assert agent.fetch("/healthz") == "ok\n"
    assert agent.fetch("/readyz") == "ready\n"


def test_status_and_show_come_from_the_agent(agent: Agent) -> None:
    status = run_command("status", *agent.target)
    assert status.returncode == 0, status.stderr
    assert status.stdout.startswith(f"simulated node {PROFILE}: converged\n")
    assert f"process {agent.process.pid}" in status.stdout
    show = run_command("show", *agent.target)
    assert "as the agent saw it" in show.stdout
    assert "3g.20gb" in show.stdout


def test_plan_beside_the_agent_takes_its_nvml_session_for_ours(agent: Agent, tmp_path: Path) -> None:
    same = run_command("plan", *agent.target, "--file", str(agent.file))
    assert same.returncode == 0, same.stdout + same.stderr
    other = tmp_path / "other.yaml"
    other.write_text(FILE.replace("gpus: [0]", "gpus: [0, 1]"))
    plan = run_command("plan", *agent.target, "--file", str(other))
    assert plan.returncode == 3
    assert "blocked" not in plan.stdout
    assert plan.stdout.count("let go of NVML") == 1
    assert "unload module gdrdrv" in plan.stdout


def test_a_second_agent_is_refused_and_told_by_whom(agent: Agent) -> None:
    for verb in ("run", "apply"):
        second = run_command(verb, *agent.target, "--file", str(agent.file))
        assert second.returncode == 75
        assert f"held by process {agent.process.pid};" in second.stderr


def test_a_changed_file_is_taken_over(agent: Agent, node: SimulatedNode) -> None:
    passes = agent.rest()
    agent.write(FILE.replace("{3g.20gb: 1, 1g.5gb: 1}", "{1g.5gb: 3}"))
    status = agent.wait_converged(passes)
    assert "node file changed" in status["lastPass"]["reasons"]
    layout = node.machine.mig_layout(node.machine.gpus[0].uuid)
    assert [row.profile for row in layout.rows] == ["1g.5gb"] * 3


def test_a_bad_file_leaves_the_last_good_one_in_force(agent: Agent) -> None:
    agent.write("version: 1\nmodules: {nvidiaa: {}}\n")
    status = agent.wait_until(lambda found: bool(found["specError"]))
    assert "node.yaml:2:" in status["specError"]
    shown = run_command("status", *agent.target)
    assert shown.returncode == 3
    assert "not in force, the last good one is: " in shown.stdout
    agent.file.unlink()
    agent.wait_until(lambda found: "cannot be read" in found["specError"])
    agent.write(FILE)
    agent.wait_until(lambda found: found["specError"] == "" and found["condition"] == "converged")
    agent.settle()


def test_hup_reads_the_file_again_and_says_so(agent: Agent) -> None:
    before = len(agent.manager.heard)
    agent.process.send_signal(signal.SIGHUP)
    assert "MONOTONIC_USEC=" in agent.hears("RELOADING=1", before)
    agent.hears("READY=1", before)
    agent.wait_until(lambda found: found["condition"] == "converged" and "reload" in found["lastPass"]["reasons"])


def test_keys_that_cannot_change_while_it_runs_are_told(agent: Agent) -> None:
    agent.write(FILE.replace("nvml_deadline_seconds: 2", "nvml_deadline_seconds: 3"))
    status = agent.wait_until(lambda found: bool(found["needsRestart"]))
    assert status["needsRestart"] == ["loop.nvml_deadline_seconds"]
    shown = run_command("status", *agent.target)
    assert "loop.nvml_deadline_seconds comes into force with the next start" in shown.stdout


def test_drift_is_repaired_with_the_next_pass(agent: Agent, node: SimulatedNode) -> None:
    passes = agent.rest()
    node.kernel.set_link("enp97s0np0", mtu=1500)
    with node.kernel.transaction() as draft:
        draft.state = replace(draft.state, modules=edited(draft.state.modules, gdrdrv=None))
    agent.ask_for("reconcile")
    status = agent.wait_converged(passes)
    assert status["lastPass"]["reasons"] == ["asked"]
    assert status["lastPass"]["stepsTaken"] >= 2
    assert node.kernel.state.interfaces["enp97s0np0"].mtu == 9000
    assert "gdrdrv" in node.kernel.state.modules


def test_a_layout_changed_by_somebody_else_wakes_the_agent(agent: Agent, node: SimulatedNode) -> None:
    """The interval is an hour: it is NVML's event that tells, collected with the next telemetry."""
    passes = agent.rest()
    uuid = node.machine.gpus[0].uuid
    before = {row.placement for row in node.machine.mig_layout(uuid).rows}
    other = InProcessNvml(library_path(), node.nvml_environment)
    other.destroy_gpu_instance(uuid, max(before))
    other.release()
    status = agent.wait_until(lambda found: found["passes"] > passes and found["condition"] == "converged")
    assert status["lastPass"]["reasons"] == ["mig layout changed"]
    assert {row.placement for row in node.machine.mig_layout(uuid).rows} == before


def test_a_job_blocks_only_what_it_stands_on_until_it_ends(agent: Agent, node: SimulatedNode) -> None:
    job = node.start_job(1, "train.py", 1 << 30)
    agent.write(FILE.replace("gpus: [0]", "gpus: [0, 1, 2]"))
    status = agent.wait_until(lambda found: found["condition"] == "blocked")
    assert str(job) in str(status["lastPass"]["plan"]["blocked"])
    shown = run_command("status", *agent.target)
    assert shown.returncode == 3
    assert f"process {job} (train.py" in shown.stdout
    modes = [node.machine.mig_layout(gpu.uuid).enabled for gpu in node.machine.gpus]
    assert modes == [True, False, True, False]
    node.end_job(job)
    agent.ask_for("reconcile")
    agent.wait_converged(status["passes"])


def test_what_fails_waits_and_is_tried_again(agent: Agent, node: SimulatedNode) -> None:
    failed = agent.status()["failuresTotal"].get("links/enp97s0np0", 0)
    node.kernel.fail("insert", "gdrdrv", 5, 2)
    with node.kernel.transaction() as draft:
        draft.state = replace(draft.state, modules=edited(draft.state.modules, gdrdrv=None))
    agent.ask_for("reconcile")
    status = agent.wait_until(lambda found: found["condition"] == "failing")
    assert "load module gdrdrv" in str(status["postponed"])
    agent.wait_converged(status["passes"])  # by itself, after the wait
    assert agent.status()["failuresTotal"].get("links/enp97s0np0", 0) == failed


def test_a_gpu_that_hangs_is_named_and_the_others_go_on(agent: Agent, node: SimulatedNode) -> None:
    uuid = node.machine.gpus[3].uuid
    node.machine.hang(uuid, "*", 3600)
    agent.ask_for("reconcile")
    agent.wait_until(lambda found: any(uuid in text for text in found["lastPass"]["unknown"]))
    assert agent.status()["lastPass"]["gpus"] == 3

    def up(_: dict[str, object]) -> bool:
        families = {family.name: family for family in text_string_to_metric_families(agent.fetch("/metrics"))}
        values = {sample.labels["UUID"]: sample.value for sample in families["nodeagent_gpu_up"].samples}
        return values == {gpu.uuid: float(gpu.uuid != uuid) for gpu in node.machine.gpus}

    agent.wait_until(up)  # with the next reading of the telemetry
    node.machine.clear_faults()
    passes = agent.status()["passes"]
    agent.process.send_signal(signal.SIGHUP)

    def well(found: dict[str, object]) -> bool:
        last = found["lastPass"]
        assert isinstance(last, dict)
        if last["gpus"] != 4:
            agent.ask_for("reconcile")  # the fence stands for a while
            time.sleep(0.5)
        return bool(last["gpus"] == 4 and found["condition"] == "converged" and found["passes"] != passes)

    agent.wait_until(well)


def test_term_ends_it_cleanly(tmp_path: Path) -> None:
    with agent_on(tmp_path) as agent:
        agent.wait_converged()
        workers = workers_of(agent.process.pid)
        assert workers
        started = time.monotonic()
        assert agent.stop() == 0
        assert time.monotonic() - started < 60  # a service manager waits for 90 s
        assert not any(is_alive(pid) for pid in workers)
        assert not (tmp_path / "n" / JOURNAL.lstrip("/")).exists()
        assert not (tmp_path / "n" / CONTROL_SOCKET.lstrip("/")).exists()
        assert agent.log.read_text().endswith("stopped; the node stays as it is\n")
    assert agent.manager.words() == ["READY=1", "STOPPING=1"]
    check = run_command("check", *agent.target, "--file", str(agent.file))
    assert check.returncode == 0, check.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_amid_steps_leaves_nothing_half_done(tmp_path: Path, number: signal.Signals) -> None:
    with agent_on(tmp_path) as agent:
        agent.wait_until(lambda found: bool(found["step"]))
        assert agent.stop(number) == 0
        assert not (tmp_path / "n" / JOURNAL.lstrip("/")).exists()
    assert run_command("apply", *agent.target, "--file", str(agent.file)).returncode == 0


def test_a_killed_agent_is_no_agent_and_the_next_one_recovers(tmp_path: Path) -> None:
    with agent_on(tmp_path) as agent:
        agent.wait_until(lambda found: "MIG" in found["step"] or found["condition"] == "converged")
        workers = workers_of(agent.process.pid)
        agent.process.kill()
        agent.process.wait(PATIENCE_SECONDS)
    assert (tmp_path / "n" / CONTROL_SOCKET.lstrip("/")).exists()
    until = time.monotonic() + PATIENCE_SECONDS
    while any(is_alive(pid) for pid in workers) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(is_alive(pid) for pid in workers)
    direct = run_command("status", *agent.target, "--file", str(agent.file))
    assert "no agent is running, looking at the node directly" in direct.stderr
    with agent_on(tmp_path) as second:
        second.hears("READY=1")
        second.wait_converged()
        assert not (tmp_path / "n" / JOURNAL.lstrip("/")).exists()
        assert second.stop() == 0


def test_a_damaged_journal_is_told_and_nothing_is_touched(tmp_path: Path) -> None:
    open_node(PROFILE, str(tmp_path / "n")).machine.close()
    journal = tmp_path / "n" / JOURNAL.lstrip("/")
    journal.parent.mkdir(parents=True, exist_ok=True)
    journal.write_text('{"checksum": "0", "entr')
    with agent_on(tmp_path) as agent:
        agent.hears("READY=1")
        status = agent.wait_until(lambda found: found["passes"] > 0)
        assert status["condition"] == "failing"
        assert "line 1, byte" in status["trouble"]
        assert status["lastPass"]["stepsTaken"] == 0
        journal.unlink()
        agent.ask_for("reconcile")
        agent.wait_converged()
        assert agent.stop() == 0


def test_it_does_not_start_with_a_bad_file_or_a_taken_port(tmp_path: Path) -> None:
    with agent_on(tmp_path, "version: 2\n") as agent:
        assert agent.process.wait(PATIENCE_SECONDS) == 2
        assert "version 2 is not known" in agent.log.read_text()
    with agent_on(tmp_path) as first:
        port = first.wait_until(lambda found: bool(found["metrics"]))["metrics"]
        other = tmp_path / "other"
        other.mkdir()
        with agent_on(other, FILE, "--listen", port) as second:
            assert second.process.wait(PATIENCE_SECONDS) == 1
            assert f"listen on {port}: the port is in use" in second.log.read_text()
