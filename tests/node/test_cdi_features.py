"""CDI kinds of what goes with GPUs (GDRCopy, storage, RDMA, IMEX channels): they follow nodes and modules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent_process import run_command
from nodeagent.state.processes import DeviceNode
from schema_faults import faults
from sim_node import SimNode, sim_node, text_of

SCHEMA = json.loads((Path(__file__).parents[1] / "data" / "cdi" / "schema.json").read_text())
BASE = "modules: {nvidia: {%s}, rdma: {}%s}\ncdi: {}\n"
PLAIN = BASE % ("", "")
ALL = BASE % ("parameters: {CreateImexChannel0: 1}", ", gdrcopy: true, gds: true")
FEATURES = ("gdrcopy", "gds", "mofed", "imex")
CHANNELS = "/dev/nvidia-caps-imex-channels"


@pytest.fixture
def node(tmp_path):
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as found:
        yield found


def spec_of(node: SimNode, name: str):
    place = Path(f"{node.node.directory}/var/run/cdi/nodeagent-{name}.json")
    if not place.exists():
        return None
    document = json.loads(place.read_text())
    assert faults(document, SCHEMA["$defs"]["spec"], SCHEMA) == []
    assert document["containerEdits"]["env"] == ["NVIDIA_VISIBLE_DEVICES=void"], "no GPU by the way"
    return document


def devices(document):
    return {one["name"]: [n["path"] for n in one["containerEdits"]["deviceNodes"]] for one in document["devices"]}


def test_only_what_the_node_has_gets_a_kind(node):
    node.converge(PLAIN)
    assert [name for name in FEATURES if spec_of(node, name)] == ["mofed"]
    found = spec_of(node, "mofed")
    assert found["kind"] == "nvidia.com/mofed"
    assert devices(found) == {"all": [f"/dev/infiniband/{name}" for name in ("uverbs0", "uverbs1", "rdma_cm")]}


def test_they_come_with_their_modules_and_go_with_them(node):
    for path in ("/etc/cufile.json", "/run/udev/data"):
        place = Path(node.node.directory + path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("{}")
    node.converge(ALL)
    kinds = {name: spec_of(node, name)["kind"] for name in FEATURES}
    assert kinds == {
        "gdrcopy": "nvidia.com/gdrcopy",
        "gds": "nvidia.com/gds",
        "mofed": "nvidia.com/mofed",
        "imex": "nvidia.com/imex-channel",
    }
    assert devices(spec_of(node, "gdrcopy")) == {"all": ["/dev/gdrdrv"]}
    assert devices(spec_of(node, "gds")) == {"all": [f"/dev/nvidia-fs{minor}" for minor in range(16)]}
    mounts = spec_of(node, "gds")["containerEdits"]["mounts"]
    assert {one["hostPath"]: one["containerPath"] for one in mounts} == {
        "/etc/cufile.json": "/etc/cufile.json",
        "/run/udev": "/run/udev",
    }
    assert {"ro", "nosuid", "nodev", "rbind", "rprivate"} == set(mounts[0]["options"])
    assert devices(spec_of(node, "imex")) == {key: [f"{CHANNELS}/channel0"] for key in ("0", "all")}
    assert node.plan(ALL).converged
    node.converge(
        "modules: {rdma: {}, nvidia: {parameters: {CreateImexChannel0: 0}}, absent: [gdrdrv, nvidia_fs]}\ncdi: {}\n"
    )
    assert [name for name in FEATURES if spec_of(node, name)] == ["mofed"]


def test_what_is_not_there_is_not_mounted(node):
    node.converge(ALL)
    assert "mounts" not in spec_of(node, "gds")["containerEdits"]


def test_a_channel_that_leads_to_another_driver_is_left_out_and_said(node):
    """As a node made by hand with the major of nvidia-caps, or before the driver was loaded anew."""
    node.converge(ALL)
    major = node.host.files.device_node(f"{CHANNELS}/channel0").major
    node.host.files.make_device_node(DeviceNode(f"{CHANNELS}/channel1", major + 3, 1, 0o666))
    node.host.files.make_device_node(DeviceNode(f"{CHANNELS}/channel2", major, 2, 0o666))
    plan = node.converge(ALL).plan
    found = devices(spec_of(node, "imex"))
    assert set(found) == {"0", "2", "all"}
    assert found["all"] == [f"{CHANNELS}/channel0", f"{CHANNELS}/channel2"]
    told = f"IMEX channel 1 is left out: {CHANNELS}/channel1 has major {major + 3}, the driver's is {major}"
    assert told in text_of(plan)


def test_off_takes_each_back_and_auto_leaves_it_to_another_tools_file(node):
    node.converge(ALL)
    off = ", ".join(f"{name}: off" for name in FEATURES)
    node.converge(ALL.replace("cdi: {}", f"cdi: {{{off}}}"))
    assert [name for name in FEATURES if spec_of(node, name)] == []
    foreign = {"cdiVersion": "0.5.0", "kind": "nvidia.com/gds", "devices": [{"name": "all", "containerEdits": {}}]}
    Path(f"{node.node.directory}/var/run/cdi/other.json").write_text(json.dumps(foreign))
    plan = node.converge(ALL).plan
    assert [name for name in FEATURES if spec_of(node, name)] == ["gdrcopy", "mofed", "imex"]
    assert "cdi: nvidia.com/gds is left to /var/run/cdi/other.json" in text_of(plan)


def test_the_command_prints_lists_and_checks_them(node):
    place = ("--simulate", node.node.profile.name, "--simulate-dir", node.node.directory)
    refused = run_command("cdi", "generate", "--kind", "gdrcopy", *place)
    assert refused.returncode != 0
    assert "nvidia.com/gdrcopy: there is no such device" in refused.stderr
    node.converge(ALL)
    for name in FEATURES:
        done = run_command("cdi", "generate", "--kind", name, *place)
        assert json.loads(done.stdout) == spec_of(node, name)
    listed = json.loads(run_command("cdi", "list", "-o", "json", *place).stdout)["devices"]
    names = {one["name"] for one in listed if one["usable"]}
    assert {f"nvidia.com/{kind}=all" for kind in ("gdrcopy", "gds", "mofed")} | {"nvidia.com/imex-channel=0"} <= names
    assert run_command("cdi", "check", *place).returncode == 0
    node.host.files.remove("/dev/gdrdrv")
    checked = run_command("cdi", "check", *place)
    assert checked.returncode == 3
    assert "nodeagent-gdrcopy.json: /dev/gdrdrv is not there" in checked.stdout
