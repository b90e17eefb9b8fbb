"""A real kubelet and CRI-O give pods what the agent offers, and the API server counts it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_process import Agent, agent_on, run_command
from cluster.kube import Cluster
from cluster.programs import until
from container_world import DRIVER_ROOT, nodes_of
from nodeagent.host.control_client import ask
from nodeagent.simulation.faults import heal, make_fault
from nodeagent.simulation.node import open_node

GPU, SMALL, BIG = "nvidia.com/gpu", "nvidia.com/mig-1g.5gb", "nvidia.com/mig-3g.20gb"
FILE = f"""\
version: 1
modules: {{nvidia: {{modeset: false}}, rdma: {{}}}}
mig: [{{mode: enabled, gpus: [0], devices: {{3g.20gb: 1, 1g.5gb: 1}}}}]
cdi: {{driver_root: {DRIVER_ROOT}}}
kubernetes: {{gpus: {{mig_strategy: mixed}}}}
metrics: {{}}
health: {{damping: {{hold_seconds: 0, quiet_seconds: 1}}}}
loop: {{interval_seconds: 3600, sample_seconds: 1, backoff_seconds: 0.2, nvml_deadline_seconds: 2}}
"""
NICS = ["enp97s0np0", "enp225s0np0"]
SHARED = {"configList": [{"resourceName": "hca", "rdmaHcaMax": 5, "selectors": {"ifNames": NICS}}]}
FUNCTIONS = {"resourceList": [{"resourceName": "rail_vf", "selectors": {"pfNames": NICS}}]}
NETWORK = f"""\
version: 1
modules: {{nvidia: {{modeset: false}}, rdma: {{stack: inbox}}}}
mig: [{{layout: all-disabled}}]
links: [{{match: enp97s0np0, up: true}}, {{match: enp225s0np0, up: true}}]
roce: {{netns: shared}}
sriov: [{{match: "0000:61:00.0", vfs: 2}}, {{match: "0000:e1:00.0", vfs: 2}}]
cdi: {{driver_root: {DRIVER_ROOT}}}
kubernetes:
  network: {{rdma_config_file: /etc/shared.json, sriov_config_file: /etc/vf.json, sriov_prefix: nvidia.com}}
loop: {{interval_seconds: 2, sample_seconds: 1, backoff_seconds: 0.2, nvml_deadline_seconds: 2}}
"""
LOOK = "for node in /dev/nvidia* /dev/nvidia-caps/* /dev/infiniband/*; do test ! -c $node || echo $node; done"


@pytest.fixture
def agent(cluster: Cluster) -> Iterator[Agent]:
    with agent_on(cluster.node.parent, FILE) as agent:
        agent.wait_converged()
        yield agent
        cluster.end("--all")


def counted(cluster: Cluster, agent: Agent, **wanted: int) -> None:
    """Wait until the API server has so many of each: gpu, small and big."""
    names = {"gpu": GPU, "small": SMALL, "big": BIG}
    found = {name: cluster.allocatable(names[name]) for name in wanted}

    def there() -> bool:
        found.update({name: cluster.allocatable(names[name]) for name in wanted})
        return found == wanted

    until(there, lambda: f"{found}\n{ask(str(agent.root), 'GET', '/v1/offers')}\n{cluster.kubelet.end_of_log()}")


def test_pods_get_gpus_and_mig_devices(cluster: Cluster, agent: Agent) -> None:
    counted(cluster, agent, gpu=3, small=1, big=1)
    cluster.run("train", {GPU: 2}, LOOK)
    cluster.run("small", {SMALL: 1}, LOOK)
    given = cluster.printed("train")
    assert len([one for one in given if one[-1].isdigit()]) == 2, given
    assert "/dev/nvidia0" not in given, "the one that is divided"
    uuid = next(one for gpu in ask(str(agent.root), "GET", "/v1/state")["gpus"] for one in _small(gpu))
    assert set(cluster.printed("small")) == nodes_of(Path(agent.root / "var/run/cdi/nodeagent-gpu.json"), uuid)


def _small(gpu: dict) -> list[str]:
    return [one for part in gpu["instances"] if part["profile"].startswith("1g") for one in part["devices"]]


def test_more_than_there_is_waits_until_another_pod_ends(cluster: Cluster, agent: Agent) -> None:
    counted(cluster, agent, gpu=3)
    cluster.run("first", {GPU: 2})
    cluster.wait("first")
    cluster.run("second", {GPU: 2})
    until(lambda: "Insufficient nvidia.com/gpu" in cluster.kubectl("describe", "pod", "second"))
    assert cluster.phase("second") == "Pending"
    cluster.end("first")
    cluster.wait("second")


def test_a_pod_stands_in_the_way_by_name_and_is_on_its_gpus_metrics(cluster: Cluster, agent: Agent) -> None:
    counted(cluster, agent, small=1, big=1)
    cluster.run("train-7", {BIG: 1})
    cluster.wait("train-7")
    agent.serves('pod="train-7"')
    agent.write(FILE.replace("{3g.20gb: 1, 1g.5gb: 1}", "{1g.5gb: 7}"))
    agent.wait_until(lambda found: found["condition"] != "converged")
    done = run_command("plan", *agent.target, "--file", str(agent.file))
    assert "pod default/train-7" in done.stdout, done.stdout
    cluster.end("train-7")
    counted(cluster, agent, small=7, big=0, gpu=3)
    agent.take_over(FILE)
    counted(cluster, agent, small=1, big=1)


def test_a_sick_gpu_is_not_given_away_until_it_is_well(cluster: Cluster, agent: Agent) -> None:
    counted(cluster, agent, gpu=3)
    node = open_node(agent.profile, str(agent.root))
    uuid = node.machine.gpus[2].uuid
    make_fault(node, "remap-failed", uuid, None)
    counted(cluster, agent, gpu=2)
    heal(node)
    counted(cluster, agent, gpu=3)
    node.machine.close()


def test_a_kubelet_that_restarts_finds_what_it_had(cluster: Cluster, agent: Agent) -> None:
    counted(cluster, agent, gpu=3, small=1)
    cluster.run("stays", {GPU: 1})
    cluster.wait("stays")
    cluster.kubelet.stop()
    cluster.kubelet.start()
    counted(cluster, agent, gpu=3, small=1)
    cluster.run("next", {GPU: 2}, LOOK)
    assert len([one for one in cluster.printed("next") if one[-1].isdigit()]) == 2
    assert cluster.phase("stays") == "Running"


def test_an_agent_that_ends_takes_its_offers_along_and_brings_them_back(cluster: Cluster) -> None:
    for _ in range(2):
        with agent_on(cluster.node.parent, FILE) as agent:
            agent.wait_converged()
            counted(cluster, agent, gpu=3)
            assert agent.stop() == 0
            until(lambda: cluster.allocatable(GPU) == 0, cluster.kubelet.end_of_log)


def test_pods_get_rdma_devices_and_a_function_near_their_gpu(cluster: Cluster) -> None:
    """By the files of both plugins as they are, in the node's /etc."""
    for name, content in (("shared.json", SHARED), ("vf.json", FUNCTIONS)):
        (cluster.node / "etc" / name).write_text(json.dumps(content))
    with agent_on(cluster.node.parent, NETWORK) as agent:
        agent.wait_converged()
        wanted = {GPU: 4, "nvidia.com/rail_vf": 4, "rdma/hca": 5}
        until(lambda: {name: cluster.allocatable(name) for name in wanted} == wanted, cluster.kubelet.end_of_log)
        nodes = {f"/dev/infiniband/{path.name}" for path in (cluster.node / "dev/infiniband").iterdir()}
        for path in nodes:
            cluster.show(path)
        cluster.run("shared", {"rdma/hca": 1}, LOOK)
        given = set(cluster.printed("shared"))
        assert {"/dev/infiniband/rdma_cm", "/dev/infiniband/uverbs0"} <= given <= nodes
        cluster.run("pair", {GPU: 1, "nvidia.com/rail_vf": 1}, "env; " + LOOK)
        printed = cluster.printed("pair")
        (function,) = (word.partition("=")[2] for word in printed if word.startswith("PCIDEVICE_NVIDIA_COM_RAIL_VF="))
        (gpu,) = (int(word[-1]) for word in printed if word.startswith("/dev/nvidia") and word[-1].isdigit())
        assert function.startswith("0000:61" if gpu < 2 else "0000:e1"), "of the same NUMA node"
        cluster.end("--all")
        assert agent.stop() == 0
