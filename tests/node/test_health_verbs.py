"""Verbs health, events and report, with a running agent and without; a hang of NVML in any call stops nobody else."""

from __future__ import annotations

import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_process import PATIENCE_SECONDS, PROFILE, Agent, agent_on, run_command
from nodeagent.cli.events import since_seconds
from nodeagent.cli.report import LEFT_OUT, without_secrets
from nodeagent.errors import UsageError
from nodeagent.host.control_client import ask
from nodeagent.simulation.node import SimulatedNode, open_node

FILE = """\
version: 1
modules: {nvidia: {modeset: false}, rdma: {}}
health:
  damping: {hold_seconds: 0, quiet_seconds: 3}
  webhooks: [{url: "https://hooks.example.org/T000/very-secret?key=abcdef"}]
loop: {interval_seconds: 3600, sample_seconds: 0.5, backoff_seconds: 0.2, nvml_deadline_seconds: 1}
"""


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    text = FILE.replace("sample_seconds: 0.5", "sample_seconds: 1")
    with agent_on(tmp_path_factory.mktemp("a"), text) as found:
        found.hears("READY=1")
        found.wait_until(lambda status: status["condition"] == "converged")
        yield found


@pytest.fixture
def node(agent: Agent) -> Iterator[SimulatedNode]:
    found = open_node(PROFILE, str(agent.root))
    yield found
    found.machine.close()


def verb(agent: Agent, *words: str) -> tuple[int, str]:
    done = run_command(*words, *agent.target)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout


def health(agent: Agent) -> dict[str, Any]:
    return ask(str(agent.root), "GET", "/v1/health")


def problems(agent: Agent) -> set[str]:
    return {one["check"] for one in health(agent)["findings"] if one["verdict"] != "ok"}


def wait_for(agent: Agent, wanted: set[str]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while problems(agent) != wanted:
        assert time.monotonic() < until, problems(agent)
        time.sleep(0.1)


def test_an_xid_is_seen_explained_and_kept(agent: Agent, node: SimulatedNode) -> None:
    assert verb(agent, "health", "--wait", "90")[0] == 0
    assert verb(agent, "simulate", "xid", "95", "--gpu", "2")[0] == 0
    wait_for(agent, {"xid"})
    code, text = verb(agent, "health")
    assert code == 4
    assert "uncontained memory error" in text
    assert verb(agent, "health", "--nagios")[0] == 2
    assert verb(agent, "health", "--gpu", "0,1")[0] == 0
    assert verb(agent, "health", "--gpu", "2", "--fail-on", "failed")[0] == 4
    code, text = verb(agent, "events", "--kind", "xid", "-o", "json")
    assert code == 0
    assert json.loads(text)[-1]["code"] == 95
    assert json.loads(text)[-1]["subject"]["name"] == node.machine.gpus[2].uuid
    assert verb(agent, "health", "--acknowledge", "2")[0] == 0
    wait_for(agent, set())


def test_the_errors_of_a_switch_can_be_acknowledged(agent: Agent, node: SimulatedNode) -> None:
    node.kernel.log("nvidia-nvswitch2: SXid (PCI:0000:c6:00.0): 20034, Fatal, Link 28 LTSSM Fault Up")
    wait_for(agent, {"xid"})
    code, text = verb(agent, "health", "--acknowledge", "nvswitch9")
    assert (code, text) == (2, "")
    assert verb(agent, "health", "--acknowledge", "nvswitch2")[0] == 0
    wait_for(agent, set())


def test_metrics_tell_the_same(agent: Agent) -> None:
    text = agent.serves("nodeagent_health_node_verdict 0")
    assert 'nodeagent_health_verdict{kind="node",check="clock"} 0' in text


def test_a_hang_of_any_call_leaves_everybody_else_alive(agent: Agent, node: SimulatedNode) -> None:
    uuid = node.machine.gpus[1].uuid
    node.machine.hang(uuid, "*", PATIENCE_SECONDS)
    _silent(agent)
    passes = agent.status()["passes"]
    agent.ask_for("reconcile")
    agent.wait_until(lambda status: status["passes"] > passes)
    assert "nodeagent_health_node_verdict 3" in agent.serves("nodeagent_health_node_verdict 3")
    node.machine.clear_faults()


def _silent(agent: Agent) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while "gpu-answers" not in problems(agent):
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_report_has_everything_and_no_secrets(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "report.tar.gz"
    code, _ = verb(agent, "report", "--output-file", str(path), "--file", str(agent.file))
    assert code == 0
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers()}
        texts = [(archive.extractfile(member) or path.open("rb")).read().decode() for member in archive.getmembers()]
    assert names >= {
        "node.yaml",
        "status.json",
        "plan.txt",
        "health.json",
        "events.json",
        "metrics.prom",
        "kernel.log",
        "missing.json",
    }
    assert not any("abcdef" in text or "very-secret" in text for text in texts)
    assert verb(agent, "report", "--output-file", str(path))[0] == 2


def test_without_an_agent_health_looks_itself(tmp_path: Path) -> None:
    where = ("--simulate", PROFILE, "--simulate-dir", str(tmp_path / "n"))
    (tmp_path / "node.yaml").write_text("version: 1\nmodules: {nvidia: {modeset: false}}\n")
    file = ("--file", str(tmp_path / "node.yaml"))
    assert run_command("apply", *where, *file).returncode == 0
    assert run_command("health", *where, *file).returncode == 0
    assert run_command("events", *where).returncode == 1
    assert run_command("simulate", "xid", "79", "--gpu", "0", *where).returncode == 0
    assert run_command("simulate", "fault", "ecc", "--gpu", "3", *where).returncode == 0
    done = run_command("health", "-o", "json", *where, *file)
    assert done.returncode == 4
    bad = {(one["check"], one["verdict"]) for one in json.loads(done.stdout)["findings"] if one["verdict"] != "ok"}
    assert bad == {("xid", "failed"), ("ecc", "warning")}


@pytest.mark.parametrize("what", ["79", "xid 94", "12028", "row-remap"])
def test_explanations(what: str) -> None:
    done = run_command("health", "--explain", what, "-o", "json")
    assert done.returncode == 0
    assert json.loads(done.stdout)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("79", "means          the GPU has fallen off the bus"),
        ("43", "verdict        none by itself; it is kept in the history"),
        ("998", "Xid            998, which the catalogue does not have"),
        ("sram", "well again  never: the count is for good"),
    ],
)
def test_explanations_are_for_people(what: str, said: str) -> None:
    done = run_command("health", "--explain", what)
    assert said in done.stdout, done.stdout
    assert "\nknown" not in done.stdout


def test_an_explanation_of_nothing() -> None:
    assert run_command("health", "--explain", "weather").returncode == 2


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("password: hunter2secret", "hunter2secret"),
        ("  api_key = 'hunter2secret'", "hunter2secret"),
        ('  "token": "hunter2secret",', "hunter2secret"),
        ("url: https://user:hunter2secret@host/x", "hunter2secret"),
        ("url: https://host/x?sig=hunter2secret", "hunter2secret"),
        ("url: https://host/T00/hunter2secret", "hunter2secret"),
        ('"command": "app --api-token hunter2secret x"', "hunter2secret"),
        ("Authorization: Bearer hunter2secret", "hunter2secret"),
    ],
)
def test_secrets_are_left_out(text: str, secret: str) -> None:
    assert secret not in without_secrets(text)
    assert LEFT_OUT in without_secrets(text)


def test_where_a_secret_lies_is_no_secret() -> None:
    assert without_secrets("token_file: /etc/nodeagent/hook.token") == "token_file: /etc/nodeagent/hook.token"


def test_since() -> None:
    assert since_seconds("2h", 10_000.0) == 2800.0
    assert since_seconds("", 10_000.0) == 0.0
    assert since_seconds("2026-11-22T12:00:00+00:00", 0.0) == 1795348800.0
    with pytest.raises(UsageError, match="expected 30m"):
        since_seconds("yesterday", 0.0)
