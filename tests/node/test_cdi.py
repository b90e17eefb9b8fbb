"""CDI specifications on simulated machines: what is in them, that they follow the node, and who else writes any."""

from __future__ import annotations

import json
import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from agent_process import run_command
from nodeagent.plan.convergence import goal_of, survey
from nodeagent.simulation.driver_installation import install_driver, remove_driver
from nodeagent.spec.reader import read_spec
from nodeagent.state.node import Unknown
from schema_faults import faults
from sim_node import SimNode, Told, sim_node, text_of

SCHEMA = json.loads((Path(__file__).parents[1] / "data" / "cdi" / "schema.json").read_text())
SMALL = "gpu-server-4x-a100"
PROFILES = ("dgx-a100", "dgx-h100", SMALL)
BASE = "modules: {nvidia: {}, rdma: {}}\n"
FULL = BASE + "cdi: {management: on, names: [index, uuid, type-index]}\n"
MIG = "mig: [{mode: enabled, gpus: [0], devices: {3g: 1, 1g: 2}}]\n"
GPU_FILE, RDMA_FILE, MANAGEMENT_FILE = (f"/var/run/cdi/nodeagent-{kind}.json" for kind in ("gpu", "rdma", "management"))


@pytest.fixture
def node(tmp_path):
    with sim_node(tmp_path, SMALL, "in-process") as found:
        yield found


def spec_at(node: SimNode, path: str):
    place = Path(node.node.directory + path)
    return json.loads(place.read_text()) if place.exists() else None


def devices(document):
    return {one["name"]: [n["path"] for n in one["containerEdits"]["deviceNodes"]] for one in document["devices"]}


def put(node: SimNode, path: str, text: str) -> Path:
    place = Path(node.node.directory + path)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    return place


@pytest.mark.parametrize("profile", PROFILES)
def test_every_machine_gets_specifications_that_fit_the_schema_and_need_only_what_is_there(tmp_path, profile):
    with sim_node(tmp_path, profile, "in-process") as node:
        outcome = node.converge(FULL + MIG)
        assert not node.plan(FULL + MIG).transitions
        assert not [one for one in outcome.plan.obstacles if one.unit.startswith("cdi")]
        for path in (GPU_FILE, RDMA_FILE, MANAGEMENT_FILE):
            document = spec_at(node, path)
            assert faults(document, SCHEMA["$defs"]["spec"], SCHEMA) == []
            assert stat.S_IMODE(os.stat(node.node.directory + path).st_mode) == 0o644
            assert len(devices(document)) == len(document["devices"]), "a name is there twice"
            for edits in [document.get("containerEdits", {}), *(one["containerEdits"] for one in document["devices"])]:
                for needed in [m["hostPath"] for m in edits.get("mounts", ())] + [
                    n["path"] for n in edits.get("deviceNodes", ())
                ]:
                    assert os.path.exists(node.node.directory + needed), needed


def test_mig_devices_have_nvmls_index_also_after_one_in_the_middle_went(node):
    node.converge(FULL + MIG)
    before = devices(spec_at(node, GPU_FILE))
    assert {"0:0", "0:1", "0:2", "mig0:1"} <= set(before)
    assert all(len(nodes) == 3 for name, nodes in before.items() if ":" in name)
    assert len({tuple(nodes) for name, nodes in before.items() if name.startswith("0:")}) == 3
    node.converge(FULL + "mig: [{mode: enabled, gpus: [0], devices: {1g: 2}}]\n")
    after = devices(spec_at(node, GPU_FILE))
    assert len([name for name in after if name.startswith("0:")]) == 2
    gone = set(before) - set(after)
    assert {name.split("-")[0] for name in gone if name.startswith("MIG")} == {"MIG"}
    for name in set(before) & set(after) - {"all"}:
        assert before[name] == after[name], f"{name} means something else now"


def test_all_holds_every_node_once_and_mig_nodes_are_made(node):
    node.converge(FULL + MIG)
    found = devices(spec_at(node, GPU_FILE))
    everything = [path for name, nodes in found.items() if name != "all" for path in nodes]
    assert sorted(found["all"]) == sorted(set(everything))
    caps = [path for path in found["all"] if "nvidia-caps" in path]
    assert caps
    assert all(node.host.files.device_node(path).mode == 0o444 for path in caps)


def test_rdma_devices_by_name_address_and_port(node):
    node.converge(FULL)
    found = devices(spec_at(node, RDMA_FILE))
    assert set(found) == {"mlx5_0", "mlx5_0:1", "0000:61:00.0", "mlx5_1", "mlx5_1:1", "0000:e1:00.0", "all"}
    assert found["mlx5_1"] == [f"/dev/infiniband/{name}" for name in ("uverbs1", "issm1", "umad1", "rdma_cm")]
    assert "containerEdits" not in spec_at(node, RDMA_FILE)


def test_an_rdma_device_without_uverbs_is_left_out_and_says_why(node):
    node.converge(FULL)
    os.unlink(node.node.directory + "/dev/infiniband/uverbs0")
    outcome = node.converge(FULL)
    assert set(devices(spec_at(node, RDMA_FILE))) == {"mlx5_1", "mlx5_1:1", "0000:e1:00.0", "all"}
    assert "mlx5_0 is left out: it has no uverbs node; ib_uverbs makes it" in outcome.plan.remarks


def test_specification_goes_with_the_driver_and_comes_back(node):
    node.converge(FULL)
    assert spec_at(node, GPU_FILE)
    node.converge("modules: {rdma: {}, absent: [nvidia, nvidia_uvm, nvidia_modeset]}\ncdi: {management: on}\n")
    assert spec_at(node, GPU_FILE) is None
    assert spec_at(node, MANAGEMENT_FILE) is None
    node.converge(FULL)
    assert devices(spec_at(node, GPU_FILE))["3"] == ["/dev/nvidia3"]


def test_another_driver_on_disk_than_loaded_is_said_and_nothing_is_written(node):
    version = node.node.profile.driver_version
    remove_driver(node.node.directory, version)
    install_driver(node.node.directory, "595.71.05")
    plan = node.converge(FULL).plan
    assert spec_at(node, GPU_FILE) is None
    assert f"no libraries of the loaded driver {version} below /; there is 595.71.05" in text_of(plan)


def test_a_library_that_comes_or_goes_changes_the_specification(node):
    node.converge(FULL)
    version = node.node.profile.driver_version
    lost = f"/usr/lib/x86_64-linux-gnu/libnvidia-encode.so.{version}"
    assert lost in json.dumps(spec_at(node, GPU_FILE))
    os.unlink(node.node.directory + lost)
    told = Told()
    node.converge(FULL, told)
    assert lost not in json.dumps(spec_at(node, GPU_FILE))
    assert told.lines == [
        f"act update cdi specification {GPU_FILE}",
        f"act update cdi specification {MANAGEMENT_FILE}",
    ]


def test_hook_makes_links_where_it_is_there_and_mounts_do_else(node):
    node.converge(FULL)
    at = {mount["containerPath"] for mount in spec_at(node, GPU_FILE)["containerEdits"]["mounts"]}
    assert {f"/usr/lib/x86_64-linux-gnu/libcuda.so{end}" for end in ("", ".1")} <= at
    put(node, "/usr/bin/nvidia-cdi-hook", "#!/bin/sh\n")
    node.converge(FULL)
    edits = spec_at(node, GPU_FILE)["containerEdits"]
    assert not {"/usr/lib/x86_64-linux-gnu/libcuda.so.1"} & {mount["containerPath"] for mount in edits["mounts"]}
    by_name = {hook["args"][1]: hook for hook in edits["hooks"]}
    assert "libcuda.so.1::/usr/lib/x86_64-linux-gnu/libcuda.so" in by_name["create-symlinks"]["args"]
    assert by_name["update-ldcache"]["args"][:4] == [
        "nvidia-cdi-hook", "update-ldcache", "--folder", "/usr/lib/x86_64-linux-gnu",
    ]  # fmt: skip


def test_driver_root_is_the_hosts_side_only(node):
    root = "/run/nvidia/driver"
    install_driver(node.node.directory + root, node.node.profile.driver_version)
    node.converge(BASE + f"cdi: {{driver_root: {root}}}\n")
    for mount in spec_at(node, GPU_FILE)["containerEdits"]["mounts"]:
        assert mount["hostPath"].startswith(f"{root}/usr/") or mount["hostPath"].startswith(f"{root}/lib/")
        assert mount["containerPath"].startswith(("/usr/", "/lib/"))


def test_in_a_container_the_drivers_files_are_looked_for_in_the_mount_and_named_as_on_the_node(node):
    node.converge(BASE + "cdi: {}\n")
    as_service = spec_at(node, GPU_FILE)
    remove_driver(node.node.directory, node.node.profile.driver_version)
    at_host = node.node.directory + "/host"
    install_driver(at_host, node.node.profile.driver_version)
    os.rename(f"{at_host}/usr/lib", f"{at_host}/usr/elsewhere")
    os.symlink("/usr/elsewhere", f"{at_host}/usr/lib")  # as the node means it: below the mount
    node.converge(BASE + "cdi: {host_root: /host}\n")
    assert spec_at(node, GPU_FILE) == as_service


FOREIGN = json.dumps(
    {
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "devices": [{"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0"}]}}],
    }
)


def test_auto_leaves_gpus_to_another_tools_file_and_says_what_it_lacks(node):
    node.converge(FULL)
    put(node, "/etc/cdi/nvidia.yaml", FOREIGN)  # JSON is YAML
    outcome = node.converge(FULL)
    assert spec_at(node, GPU_FILE) is None
    assert any(
        "cdi: nvidia.com/gpu is left to /etc/cdi/nvidia.yaml; it lacks 1, 2, 3" in text for text in outcome.plan.remarks
    )
    assert not node.plan(FULL).transitions


def test_on_beside_a_file_of_equal_rank_is_an_obstacle_with_advice(node):
    place = put(node, "/var/run/cdi/nvidia.yaml", FOREIGN)
    wanted = BASE + "cdi: {gpus: on}\n"
    found = [one for one in node.converge(wanted).plan.obstacles if one.unit == "cdi/gpu"]
    assert "defines nvidia.com/gpu too" in found[0].problem
    assert "nvidia-cdi-refresh" in found[0].advice
    assert spec_at(node, GPU_FILE) is None
    place.unlink()
    assert node.converge(wanted).plan.converged
    put(node, "/etc/cdi/nvidia.yaml", FOREIGN)  # a lower rank is merely shadowed
    assert node.plan(wanted).converged


def test_off_takes_back_what_was_written(node):
    node.converge(FULL)
    node.converge(BASE + "cdi: {gpus: off, rdma: off, mofed: off}\n")
    assert os.listdir(node.node.directory + "/var/run/cdi") == []


def test_gpus_that_cannot_be_read_leave_the_file_as_it_is(node):
    node.converge(FULL)
    before = spec_at(node, GPU_FILE)
    goal = goal_of(read_spec(node.write(FULL)))
    state, _ = survey(node.observer, goal)
    blind = replace(state, gpus={}, unknown=(Unknown("GPUs", "no answer"),))
    wishes = goal.wishes(blind)
    assert not [step for wish in wishes for step in wish.steps if step.unit == "cdi/gpu"]
    assert any("cannot be read" in one.problem for wish in wishes for one in wish.obstacles)
    assert spec_at(node, GPU_FILE) == before


def test_a_missing_node_fails_its_device_and_no_other(node):
    node.converge(FULL)
    goal = goal_of(read_spec(node.write("cdi: {}\n")))
    node.host.files.remove("/dev/nvidia2")
    state, plan = survey(node.observer, goal)
    quiet = replace(state, driver=replace(state.driver, parameters=(("ModifyDeviceFiles", "0"),)))
    wish = goal.wishes(quiet)
    steps = [step for one in wish for step in one.steps if step.unit == "cdi/gpu"]
    assert len(steps) == 1
    names = {one["name"] for one in json.loads(steps[0].text)["devices"]}
    assert "2" not in names
    assert {"0", "1", "3", "all"} <= names
    assert any("2 is left out: /dev/nvidia2 is missing" in remark for one in wish for remark in one.remarks)
    assert plan.transitions, "where nodes may be made, it is made"


def test_killed_half_way_the_next_run_ends_right(node):
    """The file is replaced as one: a writer that dies leaves the old one, and what it owes is nothing."""
    node.converge(FULL)
    put(node, GPU_FILE, "{")
    assert node.converge(FULL).plan.converged
    assert faults(spec_at(node, GPU_FILE), SCHEMA["$defs"]["spec"], SCHEMA) == []


def test_check_in_a_container_looks_below_the_host_root_and_says_what_it_cannot_see(node, tmp_path):
    """As the chart mounts it: /usr and /lib/firmware alone, with the node's own /dev."""
    node.converge(BASE + "cdi: {}\n")
    version, root = node.node.profile.driver_version, node.node.directory

    def check(*words):
        place = ("--simulate", node.node.profile.name, "--simulate-dir", root)
        done = run_command("cdi", "check", *place, "-o", "json", *words)
        found = json.loads(done.stdout)
        return done.returncode, [one["text"] for one in found["findings"]], found["notSeen"], done.stderr

    assert check() == (0, [], [], "")
    os.makedirs(f"{root}/host/lib")
    shutil.move(f"{root}/usr", f"{root}/host/usr")
    shutil.copytree(f"{root}/lib/firmware", f"{root}/host/lib/firmware", symlinks=True)
    code, texts, _, _ = check()
    assert (code, any("libcuda" in text for text in texts)) == (3, True), "what it said before"
    assert check("--host-root", "/host") == (0, [], [], "")
    other = json.loads(FOREIGN.replace("nvidia.com/gpu", "example.com/x"))
    other["containerEdits"] = {"mounts": [{"hostPath": "/run/x/socket", "containerPath": "/s"}]}
    put(node, "/etc/cdi/other.json", json.dumps(other))
    code, texts, hidden, said = check("--host-root", "/host")
    assert (code, texts, hidden) == (0, [], ["/run/x/socket"])
    assert "1 path of the node cannot be seen from here, such as /run/x/socket" in said
    library = next(Path(f"{root}/host/usr/lib").rglob(f"libcuda.so.{version}"))
    library.unlink()
    code, texts, _, _ = check("--host-root", "/host")
    assert (code, len(texts)) == (3, 1)
    assert f"libcuda.so.{version} is not there" in texts[0]
    Path(f"{root}/dev/nvidia0").unlink()
    assert any("/dev/nvidia0 is not there" in text for text in check("--host-root", "/host")[1])
