"""The running agent and its node object, over HTTPS as in a cluster: labels, what is followed, the taint, trouble."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent_process import PROFILE, Agent, agent_on
from https_node import NodeServer
from nodeagent.host.paths import CDI_DYNAMIC
from nodeagent.kubernetes.node_api import MANAGED, TAINT, TAINTED
from nodeagent.simulation.faults import heal, make_fault
from nodeagent.simulation.node import open_node

FILE = """\
version: 1
modules: {nvidia: {modeset: false}, rdma: {}}
labels: {api: true, follow: true, mig_strategy: mixed}
cdi: {}
validation: {}
health: {damping: {hold_seconds: 0, quiet_seconds: 1}, ignore: [port-state, gpu-count, acs, numa]}
loop: {interval_seconds: 3600, sample_seconds: 1, backoff_seconds: 0.2, nvml_deadline_seconds: 2}
"""
PATIENCE_SECONDS = 60.0
QUIET_SECONDS = 2.5  # more than two rounds, of a second each, that would come if one led to the next
DEPLOY = "nvidia.com/gpu.deploy."
THEIRS = {"kubernetes.io/hostname": "gpu-1", "example.com/rack": "r7"}


@contextmanager
def cluster(directory: Path, monkeypatch: pytest.MonkeyPatch, text: str = FILE) -> Iterator[tuple[Agent, NodeServer]]:
    """An agent on a simulated node that is the node `gpu-1` of a cluster."""
    open_node(PROFILE, str(directory / "n"))
    server = NodeServer(directory / "n")
    server.metadata["labels"] = dict(THEIRS)
    with server.serve() as access:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", access.host)
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(access.port))
        monkeypatch.setenv("NODE_NAME", access.node)
        with agent_on(directory, text) as agent:
            agent.wait_converged()
            wait(agent, lambda: server.labels.get("nvidia.com/gpu.count") == "4")
            yield agent, server
            assert agent.stop() == 0


def wait(agent: Agent, wanted: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not wanted():
        assert agent.process.poll() is None, agent.log.read_text()
        assert time.monotonic() < until, agent.log.read_text()[-4000:]
        time.sleep(0.1)


def comes_to_rest(agent: Agent, server: NodeServer) -> None:
    """What is under way comes to its end, and then the node object is neither read nor written for some rounds."""
    seen, since = len(server.requests), time.monotonic()

    def is_quiet() -> bool:
        nonlocal seen, since
        if len(server.requests) != seen:
            seen, since = len(server.requests), time.monotonic()
        return time.monotonic() - since >= QUIET_SECONDS

    wait(agent, is_quiet)


def test_labels_come_follow_the_node_and_go_and_nothing_else_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cluster(tmp_path, monkeypatch) as (agent, server):
        wait(agent, lambda: server.labels.get("nodeagent.io/health") == "ok")
        assert {key: server.labels[key] for key in THEIRS} == THEIRS
        assert "nvidia.com/gpu.product" in server.metadata["annotations"][MANAGED]
        comes_to_rest(agent, server)
        passes = agent.status()["passes"]
        agent.ask_for("reconcile")
        agent.wait_until(lambda found: found["passes"] > passes)
        comes_to_rest(agent, server)

        server.change({"nodeagent.io/health": None, "nvidia.com/gpu.count": "9", "example.com/new": "1"})
        wait(agent, lambda: server.labels.get("nodeagent.io/health") and server.labels["nvidia.com/gpu.count"] == "4")
        assert server.labels["example.com/new"] == "1"

        server.rotate("secret-2")
        agent.write(FILE.replace("labels: {", "labels: {own: false, "))
        wait(agent, lambda: not any(key.startswith("nodeagent.io/") for key in server.labels))
        assert server.labels["nvidia.com/gpu.count"] == "4"
        agent.write(FILE.replace("api: true, follow: true", "api: false"))
        wait(agent, lambda: server.labels == {**THEIRS, "example.com/new": "1"})
        wait(agent, lambda: MANAGED not in server.metadata["annotations"])
        comes_to_rest(agent, server)
    assert server.labels == {**THEIRS, "example.com/new": "1"}


def test_mig_config_is_followed_through_whatever_happens_to_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cluster(tmp_path, monkeypatch) as (agent, server):

        def followed(name: str, state: str = "success") -> None:
            server.change({"nvidia.com/mig.config": name})
            wait(agent, lambda: server.labels.get("nvidia.com/mig.config.state") == state)

        followed("all-1g.5gb")
        assert server.labels["nvidia.com/mig-1g.5gb.count"] == "28"
        server.cut()  # what changes while nobody listens is made up for
        server.labels["nvidia.com/mig.config"] = "all-3g.20gb"
        server.tell()
        wait(agent, lambda: server.labels.get("nvidia.com/mig-3g.20gb.count") == "8")
        assert "nvidia.com/mig-1g.5gb.count" not in server.labels, "ours that is true no longer goes"
        server.bookmark()
        server.forget_history()
        server.cut()
        watches = server.requests.count("WATCH")
        wait(agent, lambda: server.requests.count("WATCH") >= watches + 2)  # 410, then anew
        followed("no-such-layout", "failed")
        followed("all-disabled")
        wait(agent, lambda: server.labels.get("nvidia.com/gpu.count") == "4")
        server.change({"nvidia.com/mig.config": None})
        wait(agent, lambda: "nvidia.com/mig.config.state" not in server.labels)


def test_what_the_operator_runs_is_left_to_it_and_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster(tmp_path, monkeypatch) as (agent, server):
        folder, ready = Path(f"{agent.root}{CDI_DYNAMIC}"), Path(f"{agent.root}/run/nvidia/validations/driver-ready")

        def shows_dcgm() -> bool:
            return "DCGM_FI_DEV_GPU_TEMP" in agent.fetch("/metrics")

        def ours() -> list[bool]:
            labelled = "nvidia.com/gpu.count" in server.labels
            return [any(folder.glob("*gpu*")), shows_dcgm(), labelled, ready.exists()]

        wait(agent, lambda: all(ours()))
        components = ("container-toolkit", "dcgm-exporter", "gpu-feature-discovery", "operator-validator")
        server.change({f"{DEPLOY}{one}": "true" for one in components})
        wait(agent, lambda: not any(ours()))
        assert "nodeagent_gpu_up" in agent.fetch("/metrics"), "our own names are nobody else's"
        server.change({f"{DEPLOY}dcgm-exporter": "paused-for-driver-upgrade", f"{DEPLOY}container-toolkit": "false"})
        wait(agent, lambda: ours() == [True, False, False, False])
        server.change({f"{DEPLOY}operands": "false"})
        wait(agent, lambda: all(ours()))
        assert server.labels[f"{DEPLOY}dcgm-exporter"] == "paused-for-driver-upgrade", "the operator's own stay"


TAINTING = (
    FILE.replace("labels: {api: true, follow: true", "labels: {api: true, taint: true")
    + """\
remediation:
  mode: "on"
  rules: [{recoveries: [reset-gpu], quarantine: true, actions: []}]
  limits: {settle_seconds: 0, systemic_ratio: 1}
  quarantine: {lift_after_seconds: 1}
"""
)
FOREIGN = [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]


def test_a_node_in_quarantine_is_tainted_and_no_other_taint_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cluster(tmp_path, monkeypatch, TAINTING) as (agent, server):
        server.change(taints=FOREIGN)
        node = open_node(PROFILE, str(agent.root))
        added = {"key": "example.com/drain", "effect": "NoExecute"}

        def interfere(patch: dict[str, Any]) -> None:
            if "spec" in patch and added not in server.taints:
                server.change(taints=[*server.taints, added])

        server.meanwhile = interfere
        make_fault(node, "recovery-action", node.machine.gpus[1].uuid, 1)
        wait(agent, lambda: dict(TAINT) in server.taints)
        wait(agent, lambda: server.labels.get("nodeagent.io/quarantine") == "true")
        assert [one for one in server.taints if one != dict(TAINT)] == [*FOREIGN, added]
        assert server.conflicts == 1, "what somebody else does meanwhile is not undone"
        comes_to_rest(agent, server)

        heal(node)
        wait(agent, lambda: dict(TAINT) not in server.taints)
        assert server.taints == [*FOREIGN, added]
        wait(agent, lambda: TAINTED not in server.metadata["annotations"])
        assert server.spec["podCIDR"] == "10.1.0.0/24"


def test_an_api_in_trouble_is_spared_and_told_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster(tmp_path, monkeypatch) as (agent, server):
        server.rights = frozenset({"get", "patch"})  # an older cluster role, without watch
        server.throttle = 2
        server.cut()
        server.change({"nvidia.com/gpu.count": None})
        wait(agent, lambda: server.labels.get("nvidia.com/gpu.count") == "4")
        wait(agent, lambda: "the node object is read now and then" in agent.log.read_text())
        server.admit = lambda _old, _new: "denied by policy: the agent may change its own node only"
        agent.write(FILE.replace("labels: {", "labels: {own: false, "))
        wait(agent, lambda: "denied by policy: the agent may change its own node only" in agent.log.read_text())
        server.admit = lambda _old, _new: ""
        wait(agent, lambda: not any(key.startswith("nodeagent.io/") for key in server.labels))
