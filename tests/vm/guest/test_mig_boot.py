"""The MIG unit as it is installed: real adapters, the stand-in driver in the kernel, our NVML library as the node's.

The library and the kernel do not know of each other: the tests tell the machine behind NVML when the driver went.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodeagent.simulation.machine import BoardAt, Machine
from nodeagent.simulation.machine_library import library_path
from vm.guest import kernel
from vm.guest.test_service import LOG, NODE_FILE, converged, scraped, shown, systemctl, told, until

AGENT, MIG, CLIENT, BOOT = "nodeagent.service", "nodeagent-mig.service", "kubelet.service", "mig-boot.target"
DCGM = "nvidia-dcgm.service"
ANSWER = Path("/vm/results/gpu-client.json")
MACHINE = Path("/run/standin-machine")
UNITS = Path("/etc/systemd/system")
LIBRARIES = "/opt/nodeagent-test/python/lib:/opt/nodeagent-test/sources/nodeagent/simulation/lib"
NODE = """\
version: 1
modules: {nvidia: {}}
mig:
- {mode: enabled, gpus: [0], devices: {3g.20gb: 1, 1g.5gb: 2}}
- {mode: enabled, gpus: [1], devices: {2g.10gb: 3}}
"""
WANTED = (["1g.5gb", "1g.5gb", "3g.20gb"], ["2g.10gb", "2g.10gb", "2g.10gb"])
# Two boards that are reset when their mode changes, where the stand-in driver has its GPUs.
BOARDS = (BoardAt("A100-SXM4-40GB", "0000:07:00.0", 0), BoardAt("A100-SXM4-40GB", "0000:0f:00.0", 1))


@pytest.fixture(autouse=True)
def as_booted() -> None:
    """In place of the cleaning after each test: `node` does what these need."""


@pytest.fixture(scope="module", autouse=True)
def nvml_of_the_node() -> Iterator[None]:
    """The units find the simulator's library under the name of the driver's; below /opt the sandbox shows it."""
    assert library_path().name == "libnvidia-ml.so.1"
    # Named to come after test.conf, which sets the path of libraries for a Python alone.
    drop_in = f"[Service]\nEnvironment=NVMLSIM_MACHINE={MACHINE}\nEnvironment=LD_LIBRARY_PATH={LIBRARIES}\n"
    files = [UNITS / f"{unit}.d" / "with-nvml.conf" for unit in (AGENT, MIG, CLIENT)]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text(drop_in)
    systemctl("daemon-reload")
    yield
    for file in files:
        file.unlink()
    systemctl("daemon-reload")
    print(told())


@pytest.fixture
def node(booted_with: set[str]) -> Iterator[Machine]:
    """A node before its first boot with this node file; MIG is off."""
    power_off(booted_with)
    NODE_FILE.parent.mkdir(exist_ok=True)
    NODE_FILE.write_text(NODE)
    with Machine.create(str(MACHINE), BOARDS, "/dev", "595.45.04") as machine:
        yield machine
    power_off(booted_with)


def power_off(booted_with: set[str]) -> None:
    """Nothing of the agent runs, no module is in, and what lives in /dev and /run is gone."""
    systemctl("stop", BOOT, CLIENT, DCGM, AGENT, MIG)
    subprocess.run(["systemctl", "reset-failed"], check=True)
    kernel.remove_all_but(booted_with)
    for path in (*Path("/dev").glob("nvidia*"), *Path("/dev").glob("gdrdrv")):
        path.unlink()
    for directory in ("/dev/char", "/run/nodeagent"):
        shutil.rmtree(directory, ignore_errors=True)
    ANSWER.unlink(missing_ok=True)


def layouts(machine: Machine) -> tuple[list[str], ...]:
    return tuple(sorted(row.profile for row in machine.mig_layout(gpu.uuid).rows) for gpu in machine.gpus)


def seen_by_client() -> tuple[list[str], ...]:
    """The MIG devices of each GPU that the client found when it started."""
    return tuple(json.loads(ANSWER.read_text()).values())


def ended(unit: str) -> tuple[str, str, str]:
    return shown("Result", unit), shown("ExecMainStatus", unit), shown("ActiveState", unit)


@contextmanager
def job_on(machine: Machine, index: int) -> Iterator[None]:
    """A live process that computes on a GPU, as far as NVML knows."""
    with subprocess.Popen(["sleep", "infinity"]) as job:
        try:
            machine.start_process(machine.gpus[index].uuid, job.pid, "train", 1 << 30)
            yield
        finally:
            job.kill()


def test_at_boot_clients_find_the_layout_and_the_agent_takes_over(node: Machine) -> None:
    systemctl("start", BOOT)
    until(lambda: shown("ActiveState", CLIENT) == "active", "the client has started")
    assert ended(MIG) == ("success", "0", "active")
    assert seen_by_client() == WANTED
    assert layouts(node) == WANTED
    until(converged, "converged")
    assert (shown("NRestarts"), shown("ActiveState")) == ("0", "active")
    uuid = node.gpus[0].uuid
    until(lambda: f'nodeagent_gpu_mig_instances{{UUID="{uuid}",profile="1g.5gb"}} 2\n' in scraped(), "in the metrics")
    page = scraped()
    assert f'nodeagent_gpu_mig_instances{{UUID="{uuid}",profile="3g.20gb"}} 1\n' in page
    assert page.count("\nnodeagent_gpu_mig_device_info{") == 6
    assert "nodeagent_converged 1\n" in page


def test_after_a_reboot_the_instances_are_made_anew_before_the_client_starts(
    node: Machine, booted_with: set[str]
) -> None:
    systemctl("start", MIG)
    before = {row.uuid for gpu in node.gpus for row in node.mig_layout(gpu.uuid).rows}
    power_off(booted_with)
    node.set_driver_loaded(False)
    node.set_driver_loaded(True)
    assert layouts(node) == ([], [])
    systemctl("start", MIG, CLIENT)
    assert ended(MIG) == ("success", "0", "active")
    assert seen_by_client() == layouts(node) == WANTED
    assert before != set()
    # Whoever may use the GPUs finds them: directories that root makes in /dev are open to all.
    assert oct(os.stat("/dev/char").st_mode & 0o777) == "0o755"


def test_a_busy_gpu_keeps_neither_the_others_nor_the_clients_waiting(node: Machine) -> None:
    with job_on(node, 0):
        systemctl("start", MIG, CLIENT)
        assert ended(MIG) == ("success", "6", "active")
        assert layouts(node) == seen_by_client() == ([], WANTED[1])
        assert not node.mig_layout(node.gpus[0].uuid).enabled
    assert "process" in LOG.read_text()
    systemctl("start", AGENT)
    until(converged, "converged")
    assert layouts(node) == WANTED


def test_started_beside_a_service_that_starts_after_it_and_holds_a_gpu(node: Machine) -> None:
    """As when the unit is installed on a node at work: the service lets go, and is back once the unit is done."""
    subprocess.run(["/sbin/modprobe", "nvidia"], check=True)
    os.mknod("/dev/nvidia0", 0o020666, os.makedev(195, 0))
    systemctl("start", DCGM)
    process = shown("MainPID", DCGM)
    systemctl("start", MIG)
    assert ended(MIG) == ("success", "0", "active")
    assert layouts(node) == WANTED
    until(lambda: shown("ActiveState", DCGM) == "active", "back again")
    assert shown("MainPID", DCGM) != process
