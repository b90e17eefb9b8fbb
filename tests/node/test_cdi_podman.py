"""A real container runtime takes our specifications: the distribution's Podman, a container of an image made here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from container_world import DRIVER_ROOT, nodes_of
from nodeagent.simulation.driver_installation import install_driver
from podman_box import Podman
from sim_node import sim_node

SECTION = f"""
modules: {{nvidia: {{}}, rdma: {{}}}}
mig: [{{mode: enabled, gpus: [0], devices: {{3g: 1, 1g: 2}}}}]
cdi: {{driver_root: {DRIVER_ROOT}}}
"""
FOLDER = "/usr/lib/x86_64-linux-gnu"
LOOK = f"""
stat -c '%n %F %t:%T' /dev/nvidia* /dev/nvidia-caps/* /dev/infiniband/* 2>/dev/null
for file in {FOLDER}/libcuda.so.1 {FOLDER}/libnvidia-ml.so; do cat $file; done
(echo x > {FOLDER}/libcuda.so.1) 2>/dev/null && echo writable
echo "visible=$NVIDIA_VISIBLE_DEVICES libcuda=$NVIDIA_CTK_LIBCUDA_DIR"
"""
NUMBERS = {"null": "1:3", "zero": "1:5", "full": "1:7"}


@pytest.fixture
def ready(tmp_path):
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as node:
        install_driver(node.node.directory + DRIVER_ROOT, node.node.profile.driver_version)
        assert node.converge(SECTION).plan.converged
        yield node, Podman(node.node.directory, tmp_path / "podman")


def test_a_container_gets_the_nodes_and_libraries_of_what_it_asked_for_and_no_others(ready):
    node, podman = ready
    done = podman.run(["nvidia.com/gpu=0:1", "nodeagent.io/rdma=mlx5_1:1"], LOOK)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    given = {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in lines if line.startswith("/dev/") and ":" in line}
    files = Path(node.node.directory + "/var/run/cdi")
    wanted = nodes_of(files / "nodeagent-gpu.json", "0:1") | nodes_of(files / "nodeagent-rdma.json", "mlx5_1:1")
    assert {path for path, kind in given.items() if "directory" not in kind} == wanted
    for path in wanted:
        stand_in = "zero" if "caps" in path else "full" if "infiniband" in path else "null"
        assert given[path] == f"character special file {NUMBERS[stand_in]}"
    version = node.node.profile.driver_version
    assert [f"libcuda {version}", f"libnvidia-ml {version}"] == lines[-3:-1]
    assert lines[-1] == f"visible=void libcuda={FOLDER}"


def test_every_name_we_write_is_resolved_and_no_other_and_a_second_owner_breaks_both(ready):
    node, podman = ready
    file = Path(node.node.directory + "/var/run/cdi/nodeagent-gpu.json")
    names = [one["name"] for one in json.loads(file.read_text())["devices"]]
    everything = podman.run([f"nvidia.com/gpu={name}" for name in names], "ls /dev")
    assert everything.returncode == 0, everything.stderr
    assert {f"nvidia{number}" for number in range(4)} <= set(everything.stdout.split())
    unknown = podman.run(["nvidia.com/gpu=9"], "true")
    assert unknown.returncode != 0
    assert "nvidia.com/gpu=9" in unknown.stderr
    file.with_name("nvidia.json").write_text(file.read_text())
    torn = podman.run(["nvidia.com/gpu=1"], "true")
    assert torn.returncode != 0
    assert "nvidia.com/gpu=1" in torn.stderr


def test_what_goes_with_a_gpu_is_resolved_and_gives_its_nodes_and_files(ready):
    """As the device plugin names them beside a GPU: GDRCopy, GPUDirect Storage, RDMA devices, an IMEX channel."""
    node, podman = ready
    for path, text in (("etc/cufile.json", "settings\n"), ("run/udev/control", "udev\n")):
        place = Path(f"{node.node.directory}{DRIVER_ROOT}/{path}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    modules = "{nvidia: {parameters: {CreateImexChannel0: 1}}, rdma: {}, gdrcopy: true, gds: true}"
    assert node.converge(SECTION.replace("{nvidia: {}, rdma: {}}", modules)).plan.converged
    names = ["gpu=1", "imex-channel=0", "gdrcopy=all", "gds=all", "mofed=all"]
    done = podman.run(
        [f"nvidia.com/{name}" for name in names],
        "cd /dev; ls -d gdrdrv nvidia1 nvidia-fs0 nvidia-fs15 infiniband/* nvidia-caps-imex-channels/*; ls -d nvidia0; "
        "cat /etc/cufile.json /run/udev/control; echo $NVIDIA_VISIBLE_DEVICES",
    )
    lines = done.stdout.split()
    infiniband = {f"infiniband/{name}" for name in ("rdma_cm", "uverbs0", "uverbs1")}
    wanted = {"gdrdrv", "nvidia1", "nvidia-fs0", "nvidia-fs15", "nvidia-caps-imex-channels/channel0"} | infiniband
    assert wanted == set(lines[:-3]), done.stderr
    assert lines[-3:] == ["settings", "udev", "void"]
    assert "nvidia0" in done.stderr, "no other GPU"
