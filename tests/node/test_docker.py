"""A real Docker takes our configuration and our specifications, and is told of them by the least disturbing way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from container_world import DRIVER_ROOT, edits_of, nodes_of
from docker_box import Box, serving
from docker_package import Docker, obtain
from nodeagent.host.paths import DOCKER_CONFIG
from nodeagent.plan.observing import Observer
from nodeagent.simulation.driver_installation import install_driver
from sim_node import SimNode, Told, sim_node, text_of

NODE = f"""
modules: {{nvidia: {{}}, rdma: {{}}}}
mig: [{{mode: enabled, gpus: [0], devices: {{3g: 1, 1g: 2}}}}]
cdi: {{driver_root: {DRIVER_ROOT}}}
"""
RUNTIMES = NODE + "runtimes: {containerd: off}\n"
LIVE = '{\n    "live-restore": true,\n    "log-driver": "json-file"\n}\n'
LOOK = (
    "/bin/sh",
    "-c",
    'for node in /dev/nvidia* /dev/nvidia-caps/* /dev/infiniband/*; do test ! -c "$node" || echo "$node"; done',
)
CONTROLS = {"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"}


@pytest.fixture(scope="module")
def docker() -> Docker:
    return obtain()


@contextmanager
def node_with(tmp_path: Path, docker: Docker, config: str, flags: str = "") -> Iterator[tuple[SimNode, Box]]:
    """A node on which this dockerd runs with this daemon.json and knows nothing of CDI, and the agent's view of it."""
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as node:
        install_driver(node.node.directory + DRIVER_ROOT, node.node.profile.driver_version)
        assert node.converge(NODE).plan.converged
        place = Path(node.node.directory + DOCKER_CONFIG)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(config)
        with serving(node.node.directory, tmp_path / "b", docker.path, docker.client, flags) as box:
            host = replace(node.host, runtimes=box.unit.runtimes(docker.path))
            yield replace(node, host=host, observer=Observer(host)), box


def text(node: SimNode) -> str:
    return Path(node.node.directory + DOCKER_CONFIG).read_text()


def test_docker_run_gets_devices_by_cdi_and_a_container_survives_the_restart(tmp_path: Path, docker: Docker) -> None:
    with node_with(tmp_path, docker, "{}\n") as (node, box):
        box.start("job")
        since = box.running("job")
        Path(node.node.directory + DOCKER_CONFIG).write_text(LIVE)  # which dockerd has not read yet
        with pytest.raises(AssertionError, match='could not select device driver "cdi"'):
            box.run(*LOOK, devices=("nvidia.com/gpu=0",))
        plan = text_of(node.plan(RUNTIMES))
        assert '"cdi": true' in plan
        assert "restart docker" in plan
        assert "which stops its containers" not in plan
        told = Told()
        assert node.converge(RUNTIMES, told).plan.converged
        assert box.unit.obeyed == ["reload", "restart"], "live-restore is in the file only"
        assert json.loads(text(node)) == {**json.loads(LIVE), "features": {"cdi": True}}
        assert Path(f"{node.node.directory}/var/lib/nodeagent/backup/etc_docker_daemon.json").read_text() == LIVE
        assert box.running("job") == since, "it goes on"

        gpus = Path(f"{node.node.directory}/var/run/cdi/nodeagent-gpu.json")
        rdma = gpus.with_name("nodeagent-rdma.json")
        assert set(box.run(*LOOK, devices=("nvidia.com/gpu=1",)).split()) == {"/dev/nvidia1", *CONTROLS}
        found = set(box.run(*LOOK, devices=("nvidia.com/gpu=0:1", "nodeagent.io/rdma=mlx5_1:1")).split())
        assert found == nodes_of(gpus, "0:1") | nodes_of(rdma, "mlx5_1:1")
        mounts = {mount["containerPath"] for edit in edits_of(gpus, "1") for mount in edit.get("mounts", ())}
        seen = box.run("/bin/sh", "-c", "cut -d' ' -f5 /proc/self/mountinfo", devices=("nvidia.com/gpu=1",))
        assert set(seen.split()) > mounts > set()
        with pytest.raises(AssertionError, match=r"unresolvable CDI devices nvidia\.com/gpu=9"):
            box.run(*LOOK, devices=("nvidia.com/gpu=9",))
        assert not box.run(*LOOK).split(), "who asks for nothing gets nothing"

        assert not node.converge(RUNTIMES).results
        wrapper = Path(f"{node.node.directory}/usr/bin/nvidia-container-runtime")
        wrapper.parent.mkdir(parents=True, exist_ok=True)
        wrapper.write_text("")
        told = Told()
        assert node.converge(RUNTIMES.replace("{containerd", "{nvidia_runtime: true, containerd"), told).plan.converged
        assert [line.split(":")[0] for line in told.lines][-1] == "act reload configuration of docker"
        assert box.unit.obeyed == ["reload", "restart", "reload"], "runtimes take force without a restart"
        assert "nvidia" in json.loads(box.docker("info", "-f", "{{json .Runtimes}}").stdout)
        assert box.running("job") == since


def test_a_configuration_that_dockerd_does_not_start_with_is_taken_back(tmp_path: Path, docker: Docker) -> None:
    """What the unit's own flags say, the file may not say as well: dockerd --validate does not know of them."""
    flags = "--cdi-spec-dir /etc/cdi --cdi-spec-dir /var/run/cdi"
    section = RUNTIMES.replace("cdi: {", "cdi: {directory: /run/nodeagent/cdi, ")
    with node_with(tmp_path, docker, LIVE, flags) as (node, box):
        box.start("job")
        since = box.running("job")
        told = Told()
        outcome = node.converge(section, told)
        assert "the unit is failed" in str(outcome.failures[0])
        assert told.lines[-1] == f"undo put back docker configuration {DOCKER_CONFIG}"
        assert "specified both as a flag and in the configuration file" in box.unit.log
        assert text(node) == LIVE
        assert box.unit.state == "active"
        assert box.running("job") == since


def test_a_file_that_dockerd_refuses_is_not_written(tmp_path: Path, docker: Docker) -> None:
    """A key of a newer Docker, say: this one would not start again, and runs only because nobody restarted it."""
    with node_with(tmp_path, docker, LIVE) as (node, box):
        wrong = LIVE.replace("{\n", '{\n    "key-of-another-release": 1,\n', 1)
        Path(node.node.directory + DOCKER_CONFIG).write_text(wrong)
        outcome = node.converge(RUNTIMES)
        assert "docker refuses it" in str(outcome.failures[0])
        assert "key-of-another-release" in str(outcome.failures[0])
        assert text(node) == wrong
        assert box.unit.obeyed == []


def test_without_live_restore_docker_is_left_alone_unless_the_policy_lets_it(tmp_path: Path, docker: Docker) -> None:
    with node_with(tmp_path, docker, "{}\n") as (node, box):
        box.start("job")
        assert "disruption.node is never" in text_of(node.converge(RUNTIMES).plan)
        assert box.running("job")[0]
        assert box.unit.obeyed == []
        assert node.converge("disruption: {node: allow}\n" + RUNTIMES).plan.converged
        assert not box.running("job")[0], "as was said"
        assert box.run(*LOOK, devices=("nvidia.com/gpu=2",)).split()
