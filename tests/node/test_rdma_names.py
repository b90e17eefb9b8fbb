"""Names, holders and access of RDMA devices on a simulated node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nodeagent.cli import main
from nodeagent.errors import GoneError, HostError
from nodeagent.host.limit_facts import parse_memory_lock, read_memory_locks
from nodeagent.resources.rdma_access import findings
from nodeagent.simulation.kernel_state import FakeProcess, edited
from nodeagent.state.network import RdmaHolder, RdmaObject
from nodeagent.state.node import NodeState
from nodeagent.state.processes import DeviceNode, MemoryLock, Service
from sim_node import SimNode, sim_node, text_of

MODULES = "modules: {rdma: {stack: inbox}}\n"
JOB = FakeProcess(4_200_900, "train", "train --all", opens=((231, 192),), memory_regions=3)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SimNode]:
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as opened:
        opened.converge(MODULES)
        yield opened


def _start(node: SimNode) -> None:
    node.node.kernel.change(lambda state: replace(state, processes=edited(state.processes, **{str(JOB.pid): JOB})))


def _names(node: SimNode) -> set[str]:
    return set(node.host.files.names("/sys/class/infiniband"))


def test_names_by_rail_and_settings_follow(node: SimNode) -> None:
    wish = MODULES + 'roce: {devices: [{match: "rail:*", name: "ib{rail}", tos: 106}]}\n'
    node.converge(MODULES + 'roce: {devices: [{match: "rdma:mlx5_0", tos: 106}]}\n')
    outcome = node.converge(wish)
    assert outcome.plan.converged, text_of(outcome.plan)
    assert _names(node) == {"ib0", "ib1"}
    assert {kept[1] for kept in node.kernel.markings.values()} == {106}
    assert node.converge(wish).steps_taken == 0


def test_two_devices_exchange_their_names(node: SimNode) -> None:
    wish = f"{MODULES}roce: {{devices: [{{match: enp97s0np0, name: mlx5_1}}, {{match: enp225s0np0, name: mlx5_0}}]}}\n"
    outcome = node.converge(wish)
    assert outcome.plan.converged, text_of(outcome.plan)
    assert node.kernel.rdma_names == {"0000:61:00.0": "mlx5_1", "0000:e1:00.0": "mlx5_0"}
    assert node.converge(wish).steps_taken == 0


def test_a_device_in_use_keeps_its_name_and_its_function(node: SimNode) -> None:
    _start(node)
    assert node.host.links.rdma.holders() == {
        "mlx5_0": (RdmaHolder(JOB.pid, ((RdmaObject.CONTEXT, 1), (RdmaObject.MEMORY_REGION, 3))),),
        "mlx5_1": (),
    }
    plan = node.plan(MODULES + 'roce: {devices: [{match: "rail:*", name: "ib{rail}"}]}\n')
    assert f"process {JOB.pid} (train --all)" in text_of(plan)
    assert "has 1 context, 3 memory regions on mlx5_0" in text_of(plan)
    plan = node.plan(f'{MODULES}devlink: [{{match: "0000:61:00.0", parameters: {{enable_roce: false}}}}]\n')
    assert "has 1 context, 3 memory regions on mlx5_0" in text_of(plan)
    assert plan.transitions == ()


def test_the_port_refuses_as_the_kernel_does(node: SimNode) -> None:
    rdma = node.host.links.rdma
    with pytest.raises(HostError, match="rename to mlx5_1 mlx5_0: file exists"):
        rdma.rename("mlx5_0", "mlx5_1")
    with pytest.raises(GoneError, match="no such rdma device"):
        rdma.rename("mlx5_9", "ib9")


def test_nodes_are_opened_to_users_where_that_is_wanted(node: SimNode) -> None:
    path = "/dev/infiniband/uverbs0"
    shut = DeviceNode(path, 231, 192, 0o600)
    node.host.files.make_device_node(shut)
    assert node.converge(f"{MODULES}roce: {{netns: shared}}\n").steps_taken == 0
    assert node.host.files.device_node(path) == shut
    found = findings(node.observer.observe(()), (MemoryLock("slurmd.service", 7, 8 << 20),))
    assert [(one.subject, one.problem) for one in found] == [
        (path, "only some users may use it (mode 0600)"),
        ("slurmd.service", "its jobs may lock 8192 KiB of memory (process 7)"),
    ]
    wish = f"{MODULES}roce: {{user_access: true}}\n"
    assert node.converge(wish).plan.converged
    assert node.host.files.device_node(path) == replace(shut, mode=0o666)
    assert node.converge(wish).steps_taken == 0


def test_what_is_missing_is_found(node: SimNode) -> None:
    state = node.observer.observe(())
    assert list(findings(state, (MemoryLock("crio.service", 7, None),))) == []
    problems = [one.problem for one in findings(NodeState(rdma=state.rdma), ())]
    assert problems == ["it is missing", "there are fewer than devices"]


def test_limits_are_those_of_running_services(tmp_path: Path, node: SimNode) -> None:
    text = "Limit  Soft  Hard  Units\nMax locked memory         8388608              unlimited            bytes\n"
    assert parse_memory_lock(text) == 8 << 20
    assert parse_memory_lock(text.replace("8388608", "unlimited")) is None
    with pytest.raises(ValueError, match="no line"):
        parse_memory_lock("")
    (tmp_path / "node/proc/77").mkdir()
    (tmp_path / "node/proc/77/limits").write_text(text)
    services = (
        Service("slurmd.service", True, (77,)),
        Service("crio.service", False),
        Service("a.service", True, (5,)),
    )
    assert read_memory_locks(node.host.files, services) == (MemoryLock("slurmd.service", 77, 8 << 20),)


def test_the_commands(node: SimNode, capsys: pytest.CaptureFixture[str]) -> None:
    _start(node)
    place = ["--simulate", "gpu-server-4x-a100", "--simulate-dir", node.node.directory]
    assert main(["roce", "holders", "-o", "json", *place]) == 0
    (row,) = json.loads(capsys.readouterr().out)["holders"]
    assert (row["device"], row["objects"]) == ("mlx5_0", {"context": 1, "memory region": 3})
    assert main(["roce", "holders", *place]) == 0
    assert "train --all" in capsys.readouterr().out
    assert main(["roce", "access", *place]) == 0
    assert capsys.readouterr().out == "nothing keeps programs from using RDMA\n"
    node.host.files.make_device_node(DeviceNode("/dev/infiniband/rdma_cm", 10, 122, 0o600))
    assert main(["roce", "access", *place]) == 3
    assert "set roce.user_access: true" in capsys.readouterr().out
