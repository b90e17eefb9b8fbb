"""Node labels: on every simulated machine what gpu-feature-discovery's rules give, for every strategy and sharing."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent_process import agent_on, run_command
from cli_driver import Cli
from nodeagent.plan.convergence import goal_of, survey
from nodeagent.resources.labels import features_text, labels_of, parse_features
from nodeagent.resources.labels_gpu import family, value_of
from nodeagent.spec.labels import Labels, LabelSharing, MigStrategy, SharingStrategy
from nodeagent.spec.reader import read_spec
from nodeagent.state.gpu import MigMode
from nodeagent.state.health import Finding, Health, Subject, SubjectKind, Verdict
from nodeagent.state.node import Unknown
from sim_node import Told, sim_node, text_of

FILE = "/etc/kubernetes/node-feature-discovery/features.d/nodeagent.features"
BASE = "modules: {nvidia: {}, rdma: {}}\n"
N = "nvidia.com/"
# profile -> model, whole MiB, name of one slice, its MiB and multiprocessors, name of three slices
MACHINES = {
    "dgx-a100": ("NVIDIA-A100-SXM4-40GB", "40960", "1g.5gb", "4864", "14", "3g.20gb"),
    "gpu-server-4x-a100": ("NVIDIA-A100-PCIE-40GB", "40960", "1g.5gb", "4864", "14", "3g.20gb"),
    "dgx-h100": ("NVIDIA-H100-80GB-HBM3", "81559", "1g.10gb", "9984", "16", "3g.40gb"),
}
LAYOUTS = {
    "no MIG": "",
    "one profile on all": "mig: [{mode: enabled, gpus: all, devices: {1g: 3}}]\n",
    "one GPU": "mig: [{mode: enabled, gpus: [0], devices: {1g: 2}}]\n",
    "two profiles": "mig: [{mode: enabled, gpus: all, devices: {3g: 1, 1g: 2}}]\n",
    "empty": "mig: [{mode: enabled, gpus: all, devices: {}}]\n",
    "media": "mig: [{mode: enabled, gpus: [0], devices: {1g+me: 1}}]\n",
}
SHARINGS = {
    "none": LabelSharing(),
    "slices": LabelSharing(SharingStrategy.TIME_SLICING, {"gpu": 4, "mig-{one}": 2}),
    "renamed": LabelSharing(SharingStrategy.TIME_SLICING, {"gpu": 4, "mig-{one}": 2}, rename=True),
}
WHOLE, NO_MIG, INVALID = "whole", "whole without sharing", "invalid"
# (layout, strategy) -> what gpu.* describe, and which mig-* resources there are with how many devices on each GPU
CASES = {
    ("no MIG", "none"): (WHOLE, {}),
    ("no MIG", "single"): (WHOLE, {}),
    ("no MIG", "mixed"): (WHOLE, {}),
    ("one profile on all", "none"): (NO_MIG, {}),
    ("one profile on all", "single"): ("one", {}),
    ("one profile on all", "mixed"): (NO_MIG, {"one": 3}),
    ("one GPU", "none"): (WHOLE, {}),
    ("one GPU", "single"): (INVALID, {}),
    ("one GPU", "mixed"): (WHOLE, {"one": 2}),
    ("two profiles", "none"): (NO_MIG, {}),
    ("two profiles", "single"): (INVALID, {}),
    ("two profiles", "mixed"): (NO_MIG, {"one": 2, "three": 1}),
    ("empty", "none"): (NO_MIG, {}),
    ("empty", "single"): (INVALID, {}),
    ("empty", "mixed"): (NO_MIG, {}),
    ("media", "none"): (WHOLE, {}),
    ("media", "single"): (INVALID, {}),
    ("media", "mixed"): (WHOLE, {"media": 1}),
}


@pytest.fixture(scope="module", params=MACHINES)
def machine(request, tmp_path_factory):
    with sim_node(tmp_path_factory.mktemp("labels"), request.param) as node:
        node.converge(BASE)
        yield request.param, node


def with_replicas(sharing, one):
    return replace(sharing, replicas={key.format(one=one): count for key, count in sharing.replicas.items()})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_are_what_the_rules_give(machine, layout):
    name, node = machine
    model, memory, one, *_ = MACHINES[name]
    three = MACHINES[name][5]
    assert node.converge(BASE + "mig: [{mode: disabled, gpus: all}]\n").plan.converged
    assert node.converge(BASE + LAYOUTS[layout]).plan.converged
    spec = read_spec(node.write(BASE))
    state, _ = survey(node.observer, goal_of(spec))
    gpus = len(state.gpus)
    enabled = sum(gpu.mig_mode is MigMode.ENABLED for gpu in state.gpus.values())
    profiles = {"one": one, "three": three, "media": f"{one}.me"}
    for strategy in MigStrategy:
        described, resources = CASES[layout, strategy.value]
        for sharing_name, plain in SHARINGS.items():
            sharing = with_replicas(plain, one)
            found = labels_of(replace(spec, labels=Labels(mig_strategy=strategy, sharing=sharing)), state)
            shared = sharing_name != "none" and described in (WHOLE, "one")
            suffix = "-SHARED" if shared and sharing_name == "slices" else ""
            product = {INVALID: f"{model}-MIG-INVALID", "one": f"{model}-MIG-{one}{suffix}"}.get(
                described, model + suffix
            )
            count = {INVALID: 0, "one": 3 * gpus}.get(described, gpus)
            replicas = 0 if described in (INVALID, NO_MIG) else 4 if shared else 1
            strategy_name = "" if described == INVALID else "time-slicing" if shared else "none"
            assert found[f"{N}gpu.product"] == product
            assert found[f"{N}gpu.count"] == str(count)
            assert found[f"{N}gpu.replicas"] == str(replicas)
            assert found[f"{N}gpu.sharing-strategy"] == strategy_name
            assert found[f"{N}gpu.memory"] == {INVALID: "0", "one": MACHINES[name][3]}.get(described, memory)
            assert (f"{N}gpu.slices.gi" in found) == (described == "one")
            assert found.get(f"{N}mig.strategy") == (None if strategy is MigStrategy.NONE else strategy.value)
            assert {key for key in found if key.startswith(f"{N}mig-") and key.endswith(".count")} == {
                f"{N}mig-{profiles[kind]}.count" for kind in resources
            }
            for kind, each in resources.items():
                twice = sharing_name != "none" and kind == "one"
                ending = "-SHARED" if twice and sharing_name == "slices" else ""
                place = f"{N}mig-{profiles[kind]}."
                assert found[f"{place}product"] == f"{model}-MIG-{profiles[kind]}{ending}"
                assert found[f"{place}count"] == str(each * enabled)
                assert found[f"{place}replicas"] == ("2" if twice else "1")
                assert found[f"{place}sharing-strategy"] == ("time-slicing" if twice else "none")
                if kind != "three":
                    assert found[f"{place}memory"] == MACHINES[name][3]
                    assert found[f"{place}multiprocessors"] == MACHINES[name][4]
                    assert (found[f"{place}slices.gi"], found[f"{place}slices.ci"]) == ("1", "1")
            assert found[f"{N}mps.capable"] == "false"
            assert all(len(value) <= 63 and value == value_of(value) for value in found.values())


def test_what_is_the_same_whatever_the_strategy(machine):
    name, node = machine
    spec = read_spec(node.write(BASE + "labels: {}\n"))
    found = labels_of(spec, survey(node.observer, goal_of(spec))[0])
    version = node.node.profile.driver_version
    major, minor, revision = version.split(".")
    for key in ("cuda.driver-version", "cuda.driver"):
        assert (found[f"{N}{key}.major"], found[f"{N}{key}.minor"]) == (major, minor)
    assert found[f"{N}cuda.driver-version.revision"] == found[f"{N}cuda.driver.rev"] == revision
    assert found[f"{N}cuda.driver-version.full"] == version
    assert found[f"{N}cuda.runtime-version.full"] == {"535": "12.2", "550": "12.4"}[major]
    assert found[f"{N}gpu.machine"] == node.node.profile.product.replace(" ", "-")
    assert found[f"{N}gpu.mode"] == "compute"
    assert found[f"{N}mig.capable"] == "true"
    assert found[f"{N}gpu.family"] == ("hopper" if name == "dgx-h100" else "ampere")
    rdma = sum(bool(slot.rdma) for slot in node.node.profile.nics)
    assert found["nodeagent.io/rdma.count"] == str(rdma)
    assert found.get(f"{N}mofed.version") == (node.node.profile.ofed_version or None)
    assert found["nodeagent.io/rdma.stack"] == ("ofed" if node.node.profile.ofed_version else "inbox")
    assert found["nodeagent.io/health"] == "unknown"  # no health check has run


@pytest.mark.parametrize(
    ("capability", "name"),
    [((3, 5), "kepler"), ((5, 2), "maxwell"), ((6, 1), "pascal"), ((7, 0), "volta"), ((7, 5), "turing"),
     ((8, 0), "ampere"), ((8, 6), "ampere"), ((8, 9), "ada-lovelace"), ((9, 0), "hopper"), ((10, 0), "blackwell"),
     ((12, 0), "blackwell"), ((13, 0), "rubin"), ((4, 0), "undefined")],
)  # fmt: skip
def test_families(capability, name):
    assert family(*capability) == name


def test_values_are_legal():
    assert value_of("NVIDIA RTX™ A6000 (48 GB)") == "NVIDIA-RTX-A6000-48-GB"
    assert value_of("a" * 80) == "a" * 63
    assert value_of("-_.x._-") == "x"


def test_mps_and_mig_do_not_go_together(tmp_path):
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as node:
        section = BASE + "labels: {sharing: {strategy: mps, replicas: {gpu: 4}}}\n"
        node.converge(section)
        found, _ = parse_features(Path(node.node.directory + FILE).read_text())
        assert found[f"{N}mps.capable"] == "true"
        assert found[f"{N}gpu.sharing-strategy"] == "mps"
        outcome = node.converge(section + LAYOUTS["one GPU"])
        assert "mps does not go with MIG" in text_of(outcome.plan)


def test_the_file_changes_with_the_node_and_is_renewed_in_time(tmp_path):
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as node:
        section = BASE + "labels: {mig_strategy: mixed}\n"
        place = Path(node.node.directory + FILE)
        assert node.converge(section).plan.converged
        labels, expires = parse_features(place.read_text())
        assert 780 <= expires - time.time() <= 900
        assert not node.converge(section).results
        node.converge(section + LAYOUTS["one GPU"])
        assert parse_features(place.read_text())[0][f"{N}mig-1g.5gb.count"] == "2"
        node.converge(section + "mig: [{mode: disabled, gpus: all}]\n")
        stamp = labels.pop(f"{N}gfd.timestamp")
        back = parse_features(place.read_text())[0]
        assert int(back.pop(f"{N}gfd.timestamp")) >= int(stamp)
        assert back == labels
        place.write_text(features_text(labels, 5.0, time.time() + 300))
        told = Told()
        node.converge(section + "mig: [{mode: disabled, gpus: all}]\n", told)
        assert told.lines == [f"act update node labels {FILE}"]
        renewed, expires = parse_features(place.read_text())
        assert renewed[f"{N}gfd.timestamp"] == "5", "the labels did not change, so the time of their change stays"
        assert expires > time.time() + 800
        node.converge(BASE + "labels: {file: false}\n")
        assert not place.exists()


def test_auto_leaves_gpus_to_gpu_feature_discovery(tmp_path):
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as node:
        Path(node.node.directory + FILE).parent.mkdir(parents=True)
        Path(node.node.directory + FILE).with_name("gfd").write_text("nvidia.com/gpu.count=4\n")
        node.converge(BASE + "labels: {}\n")
        found, _ = parse_features(Path(node.node.directory + FILE).read_text())
        assert {key.split("/")[0] for key in found} == {"nodeagent.io"}
        node.converge(BASE + "labels: {gpus: on}\n")
        assert f"{N}gpu.count" in parse_features(Path(node.node.directory + FILE).read_text())[0]


def test_what_does_not_answer_degrades_the_node(tmp_path):
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as node:
        node.converge(BASE)
        spec = read_spec(node.write(BASE + "labels: {}\n"))
        state, _ = survey(node.observer, goal_of(spec))
        one = next(iter(state.gpus))
        left = {uuid: gpu for uuid, gpu in state.gpus.items() if uuid != one}
        silent = (Unknown(f"GPU {one}", "no answer"),)
        subject = Subject(SubjectKind.GPU, one)
        health = Health(tuple(Finding(subject, check, Verdict.FAILED) for check in ("gpu-answers", "quarantine")))
        found = labels_of(spec, replace(state, gpus=left, unknown=silent, health=health))
        assert (found["nodeagent.io/health"], found["nodeagent.io/gpus.silent"]) == ("failed", "1")
        assert found["nodeagent.io/quarantine"] == "true"
        assert found[f"{N}gpu.count"] == "3"


def test_the_verb_prints_them(tmp_path, capsys):
    file = tmp_path / "n.yaml"
    file.write_text("version: 1\nmodules: {nvidia: {}}\n")
    cli = Cli(tmp_path / "n", file, capsys)
    assert cli("apply", file=True) == 0
    assert cli("labels", "-o", "json", "--mig-strategy", "single", file=True) == 0
    found = json.loads(cli.out)
    assert int(found[f"{N}gpu.count"]) > 0
    assert found[f"{N}mig.strategy"] == "single"
    assert cli("labels", file=True) == 0
    assert f"{N}gpu.product" in cli.out


def test_the_running_agent_writes_the_verdict_of_its_health_checks(tmp_path):
    text = "version: 1\nmodules: {nvidia: {}}\nlabels: {}\nloop: {sample_seconds: 1}\n"
    with agent_on(tmp_path, text, profile="gpu-server-4x-a100") as agent:
        file = Path(f"{agent.root}{FILE}")

        def says(verdict):
            return file.exists() and parse_features(file.read_text())[0].get("nodeagent.io/health") == verdict

        agent.wait_until(lambda _: says("ok"))
        assert run_command("simulate", "xid", "79", "--gpu", "2", *agent.target).returncode == 0
        agent.wait_until(lambda _: says("failed"))
