"""A real containerd takes our configuration and our specifications: containers started by the kubelet's interface."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from container_world import DRIVER_ROOT, edits_of, nodes_of
from containerd_box import Site, serving
from containerd_package import obtain
from nodeagent.host.paths import CONTAINERD_CONFIG
from nodeagent.plan.observing import Observer
from nodeagent.simulation.container_runtimes import SimulatedRuntimes
from nodeagent.simulation.driver_installation import install_driver
from sim_node import sim_node

SECTION = """
modules: {{nvidia: {{}}, rdma: {{}}}}
mig: [{{mode: enabled, gpus: [0], devices: {{3g: 1, 1g: 2}}}}]
cdi: {{driver_root: {root}, directory: {directory}}}
runtimes: {{containerd: on}}
"""
OFF, ON = "enable_cdi = false", "enable_cdi = true"
OWN_DIRECTORY = "/run/nodeagent/cdi"
LOOK = (
    r"stat -c '%n %F' /dev/nvidia* /dev/nvidia-caps/* /dev/infiniband/* 2>/dev/null; cut -d' ' -f5 /proc/self/mountinfo"
)
TABLE = '[plugins."io.containerd.grpc.v1.cri"]\n'
# Pods get a negative score otherwise, which a machine without CAP_SYS_RESOURCE cannot give.
UNPRIVILEGED = "restrict_oom_score_adj = true"
CONTROLS = {"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"}


@pytest.fixture(scope="module")
def containerd():
    return obtain()


@pytest.fixture
def default(containerd):
    """What containerd itself gives as its configuration, CDI being off."""
    return containerd.default.replace(ON, OFF).replace("restrict_oom_score_adj = false", UNPRIVILEGED)


@pytest.fixture
def configured(tmp_path, containerd):
    """A node after `apply` with this configuration of containerd, and what is needed to start containerd on it."""
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as node:
        install_driver(node.node.directory + DRIVER_ROOT, node.node.profile.driver_version)
        SimulatedRuntimes(node.node.directory).install("containerd", containerd.version)

        def apply(text, directory="/var/run/cdi"):
            place = Path(node.node.directory + CONTAINERD_CONFIG)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
            assert node.converge(SECTION.format(root=DRIVER_ROOT, directory=directory)).plan.converged
            containerd.runtimes.verify("containerd", CONTAINERD_CONFIG, place.read_text())
            return site(place.read_text(), directory)

        def site(text, directory="/var/run/cdi"):
            work = tmp_path / "c"
            return Site(
                containerd.programs, text, pause_of(containerd.read(text)), node.node.directory, directory, work
            )

        yield apply, site


def test_a_container_survives_the_restart_by_which_containerd_learns_of_cdi(tmp_path, containerd, default):
    section = SECTION.format(root=DRIVER_ROOT, directory="/var/run/cdi")
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as node:
        directory = node.node.directory
        install_driver(directory + DRIVER_ROOT, node.node.profile.driver_version)
        assert node.converge(section.replace("runtimes: {containerd: on}\n", "")).plan.converged
        place = Path(directory + CONTAINERD_CONFIG)
        place.parent.mkdir(parents=True)
        place.write_text(default)
        pause = pause_of(containerd.read(default))
        site = Site(containerd.programs, default, pause, directory, "/var/run/cdi", tmp_path / "c", str(place))
        with serving(site) as box:
            job = box.start("job", [])
            begun = box.ask(job, "cat /proc/1/stat")
            host = replace(node.host, runtimes=box.unit.runtimes(containerd.programs))
            agent = replace(node, host=host, observer=Observer(host))
            assert agent.converge(section).plan.converged
            assert box.unit.obeyed == ["restart"]
            assert box.ask(job, "cat /proc/1/stat").split()[21] == begun.split()[21], "the same process goes on"
            assert look(box, "gpu", ["nvidia.com/gpu=1"])[0] == {"/dev/nvidia1", *CONTROLS}
            assert not agent.converge(section).results
            assert box.unit.obeyed == ["restart"], "what is so already is not restarted"


def cri_of(text):
    """The table of the CRI plugin that has CDI's keys, of what containerd says that it read."""
    return next(table for table in tomllib.loads(text)["plugins"].values() if "enable_cdi" in table)


def pause_of(text):
    """The image of a pod's first process: `sandbox_image`, or from configuration version 3 on a pinned `sandbox`."""
    return re.search(r"(?m)^ *sandbox(?:_image)? = ['\"](.+)['\"]$", text)[1]


def look(box, name, devices, annotations=None):
    """The device nodes and the mount points that a container finds."""
    lines = box.ask(box.start(name, devices, annotations), LOOK).splitlines()
    nodes = {line.split()[0] for line in lines if line.endswith("character special file")}
    return nodes, {line for line in lines if " " not in line}


def mounts_of(file, name):
    return {mount["containerPath"] for edit in edits_of(file, name) for mount in edit.get("mounts", ())}


def test_pods_get_the_nodes_and_libraries_of_what_they_asked_for_and_no_others(configured, containerd, default):
    apply, _ = configured
    site = apply(default)
    assert cri_of(containerd.read(site.config))["enable_cdi"] is True
    gpus = Path(site.node + "/var/run/cdi/nodeagent-gpu.json")
    rdma = gpus.with_name("nodeagent-rdma.json")
    with serving(site) as box:
        nodes, bare = look(box, "nothing", [])
        assert not nodes
        nodes, mounts = look(box, "gpu", ["nvidia.com/gpu=1"])
        assert nodes == {"/dev/nvidia1", *CONTROLS}
        assert mounts - bare == mounts_of(gpus, "1") > set()
        nodes, mounts = look(box, "mig", ["nvidia.com/gpu=0:1", "nodeagent.io/rdma=mlx5_1:1"])
        assert nodes == nodes_of(gpus, "0:1") | nodes_of(rdma, "mlx5_1:1") > {"/dev/nvidia0", *CONTROLS}
        assert len([path for path in nodes if path.startswith("/dev/nvidia-caps/")]) == 2
        assert mounts - bare == mounts_of(gpus, "0:1")
        nodes, mounts = look(box, "all", ["nvidia.com/gpu=all"])
        assert nodes == nodes_of(gpus, "all") > {f"/dev/nvidia{number}" for number in range(4)}
        assert mounts - bare == mounts_of(gpus, "all")
        nodes, mounts = look(box, "rdma", ["nodeagent.io/rdma=mlx5_0:1"])
        assert nodes == nodes_of(rdma, "mlx5_0:1")
        assert mounts == bare
        assert look(box, "noted", [], {"cdi.k8s.io/test": "nvidia.com/gpu=2"})[0] == {"/dev/nvidia2", *CONTROLS}
        with pytest.raises(grpc.RpcError, match=r"nvidia\.com/gpu=9"):
            box.start("unknown", ["nvidia.com/gpu=9"])


def test_the_packages_own_file_and_a_directory_of_our_own_work_as_well(configured, containerd):
    apply, _ = configured
    shipped = containerd.shipped or f"version = 2\n{TABLE}"
    site = apply(shipped.replace(TABLE, f"{TABLE}    {UNPRIVILEGED}\n"), OWN_DIRECTORY)
    read = cri_of(containerd.read(site.config))
    assert read["enable_cdi"] is True
    assert OWN_DIRECTORY in read["cdi_spec_dirs"]
    with serving(site) as box:
        container = box.start("gpu", ["nvidia.com/gpu=3"])
        said = box.ask(container, "cat /usr/lib/x86_64-linux-gnu/libcuda.so.1; ls /dev; echo $NVIDIA_VISIBLE_DEVICES")
    assert said.startswith("libcuda ")
    assert {"nvidia3", "void"} <= set(said.split())
    assert "nvidia0" not in said.split()


def test_without_our_key_containerd_gives_nothing(configured, default):
    apply, site = configured
    changed = apply(default).config
    before = site(changed.replace(ON, OFF))
    with serving(before) as box:
        nodes, mounts = look(box, "gpu", ["nvidia.com/gpu=1"])
    assert not nodes
    assert not {path for path in mounts if "libcuda" in path}


@pytest.mark.parametrize(
    ("main", "site"),
    [
        (f"{TABLE}max_container_log_line_size = 99\n", "oom_score = -1\n"),
        ("", f"{TABLE}{OFF}\nmax_concurrent_downloads = 7\n"),
        (f"{TABLE}{OFF}\nmax_container_log_line_size = 99\n", f"{TABLE}max_concurrent_downloads = 7\n"),
        (f"{TABLE}{ON}\n", f"{TABLE}{OFF}\nmax_concurrent_downloads = 7\n"),
    ],
    ids=["main", "import", "both", "import-turns-it-off"],
)
def test_what_is_imported_stays_and_containerd_reads_the_one_key_more(tmp_path, containerd, main, site):
    """containerd's own word for it, because its versions join an imported table with the main file's in two ways."""
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as node:
        SimulatedRuntimes(node.node.directory).install("containerd", containerd.version)
        file = Path(node.node.directory + CONTAINERD_CONFIG)
        (file.parent / "conf.d").mkdir(parents=True)
        file.write_text(f'version = 2\nimports = ["conf.d/*.toml"]\n{main}')
        (file.parent / "conf.d/10-site.toml").write_text(f"version = 2\n{site}")
        before = tomllib.loads(containerd.dump(file))
        assert node.converge("runtimes: {containerd: on}\n").plan.converged
        after = tomllib.loads(containerd.dump(file))
    table = next(found for found in before["plugins"].values() if "enable_cdi" in found)
    table["enable_cdi"] = True
    del after["imports"], before["imports"]  # files in any order, ours among them
    assert after == before
