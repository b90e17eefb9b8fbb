"""Labels on the node object: a real HTTPS server, the operator's labels followed, nothing of others touched."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from https_node import NodeServer
from nodeagent.errors import DeniedError, GoneError, HostError
from nodeagent.kubernetes.api_client import access_from
from nodeagent.kubernetes.node_api import MANAGED, NodeApi
from nodeagent.plan.convergence import converge, goal_of
from nodeagent.plan.executor import Context
from nodeagent.plan.journal import Journal
from nodeagent.resources.operator_components import runs_with_operator
from nodeagent.resources.operator_labels import MigConfigState, follow, mig_config_state, relevant
from nodeagent.resources.ownership import owned
from nodeagent.spec.containers import Cdi, Component, Runtimes
from nodeagent.spec.kubernetes import Kubernetes, PluginGpus
from nodeagent.spec.labels import Labels
from nodeagent.spec.reader import read_spec
from nodeagent.spec.schema import Modules, NodeSpec, NvidiaModules, RdmaModules
from nodeagent.supervisor.node_labels import NodeLabels
from nodeagent.supervisor.status import Identity, Pass, Status
from sim_node import Told, sim_node

DEPLOY = "nvidia.com/gpu.deploy."


@pytest.fixture
def server(tmp_path):
    return NodeServer(tmp_path)


def test_our_labels_are_set_changed_and_removed_and_others_stay(server):
    with server.serve() as access:
        api = NodeApi(access)
        assert api.publish({"nvidia.com/gpu.count": "4", "nodeagent.io/health": "ok"})
        assert server.labels == {
            "kubernetes.io/hostname": "gpu-1", "nvidia.com/gpu.count": "4", "nodeagent.io/health": "ok",
        }  # fmt: skip
        assert not api.publish({"nvidia.com/gpu.count": "4", "nodeagent.io/health": "ok"})
        assert server.requests == ["GET", "PATCH", "GET"], "what is so already is not written"
        server.labels["nvidia.com/theirs"] = "x"
        assert api.publish({"nvidia.com/gpu.count": "8"})
        assert server.labels == {
            "kubernetes.io/hostname": "gpu-1", "nvidia.com/gpu.count": "8", "nvidia.com/theirs": "x",
        }  # fmt: skip
        assert server.metadata["annotations"] == {MANAGED: "nvidia.com/gpu.count"}


def test_a_renewed_token_is_taken_and_a_wrong_one_is_said(server):
    with server.serve() as access:
        api = NodeApi(access)
        api.read()
        server.accepted = "secret-2"
        with pytest.raises(DeniedError, match=r"the api answers 401 \(Unauthorized\); the token is not accepted"):
            api.read()
        server.token.write_text("secret-2")
        assert api.read().labels["kubernetes.io/hostname"] == "gpu-1"


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [(403, DeniedError, "needs get, patch and watch"), (404, GoneError, "NODE_NAME"), (500, HostError, "answers 500")],
)
def test_refusals_say_what_would_help(server, status, kind, words):
    with server.serve() as access:
        server.refuse = status
        with pytest.raises(kind, match=words):
            NodeApi(access).publish({})


def test_a_server_of_another_authority_is_not_spoken_to(server, tmp_path):
    (tmp_path / "other").mkdir()
    other = NodeServer(tmp_path / "other")
    with server.serve() as access:
        with pytest.raises(HostError, match="certificate"):
            NodeApi(replace(access, authority_file=str(other.authority))).read()
        assert server.requests == [], "the token was not shown to it"


def test_no_api_no_token():
    with pytest.raises(GoneError, match="KUBERNETES_SERVICE_HOST is not set"):
        access_from({"NODE_NAME": "gpu-1"})
    with pytest.raises(GoneError, match="NODE_NAME is not set"):
        access_from({"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert access_from({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "NODE_NAME": "a"}).port == 443


@pytest.mark.parametrize(
    ("labels", "theirs"),
    [
        ({}, False),
        ({f"{DEPLOY}container-toolkit": "true"}, True),
        ({f"{DEPLOY}container-toolkit": "paused-for-driver-upgrade"}, True),
        ({f"{DEPLOY}container-toolkit": "false"}, False),
        ({f"{DEPLOY}container-toolkit": "pre-installed"}, False),
        ({f"{DEPLOY}container-toolkit": "true", f"{DEPLOY}operands": "false"}, False),
    ],
)
def test_who_runs_a_component(labels, theirs):
    assert runs_with_operator("container-toolkit", labels) is theirs
    spec = NodeSpec(version=1, cdi=Cdi(), runtimes=Runtimes(docker=Component.ON), labels=Labels(follow=True))
    found = follow(spec, labels, (), None).spec
    assert (found.cdi.gpus is Component.OFF) is theirs
    assert (found.runtimes.containerd is Component.OFF) is theirs
    assert found.runtimes.docker is Component.ON, "what the file says outright counts"
    assert found.cdi.rdma is Component.AUTO, "RDMA devices are not the toolkit's"
    assert found.labels.gpus is Component.AUTO


@pytest.mark.parametrize("mine", list(Component))
@pytest.mark.parametrize("value", ["true", "pre-installed", "false", "paused-for-driver-upgrade"])
def test_driver_and_device_plugin_are_left_to_the_operator_that_runs_them(mine, value):
    modules = Modules(nvidia=NvidiaModules(manage=mine), rdma=RdmaModules(), gdrcopy=True, gds=True)
    spec = NodeSpec(version=1, modules=modules, kubernetes=Kubernetes(gpus=PluginGpus(offer=mine)))
    found = follow(spec, {f"{DEPLOY}driver": value, f"{DEPLOY}device-plugin": value}, (), None).spec
    theirs = value in ("true", "paused-for-driver-upgrade")
    expected = Component.OFF if mine is Component.AUTO and theirs else mine
    assert found.modules.nvidia.manage is found.kubernetes.gpus.offer is expected
    left = owned(found).modules
    assert (left == Modules(rdma=RdmaModules())) == (expected is Component.OFF)
    assert (left == found.modules) == (expected is not Component.OFF)


def test_a_driver_that_is_not_ours_is_neither_loaded_nor_changed(tmp_path):
    text = "modules: {nvidia: {manage: %s, drm: true}, gdrcopy: true, rdma: {}}\n"
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as node:
        theirs, ours = (node.plan(text % manage) for manage in ("off", "auto"))
        subjects = {str(step.subject) for plan in (theirs, ours) for one in plan.transitions for step in one.steps}
        assert "module nvidia_drm" in subjects
        assert not any("nvidia" in str(step.subject) for one in theirs.transitions for step in one.steps)


def test_the_label_names_one_of_the_device_plugins_files():
    gpus = PluginGpus(config_file="/etc/plugin.yaml", config_directory="/etc/plugins")
    spec = NodeSpec(version=1, kubernetes=Kubernetes(gpus=gpus), labels=Labels(api=True, follow=True))

    def file_of(labels, of=spec):
        return follow(of, relevant(labels), (), None).spec.kubernetes.gpus.config_file

    label = "nvidia.com/device-plugin.config"
    assert file_of({label: "shared-4"}) == "/etc/plugins/shared-4"
    assert file_of({label: ""}) == file_of({}) == "/etc/plugin.yaml"
    alone = replace(spec, kubernetes=Kubernetes(gpus=replace(gpus, config_directory="")))
    assert file_of({label: "shared-4"}, alone) == "/etc/plugin.yaml"


def test_states_of_a_mig_configuration():
    fine = follow(NodeSpec(version=1), {"nvidia.com/mig.config": "all-1g.5gb"}, (), None)

    def state(followed=fine, *, seen=True, units=(), failed=()):
        return mig_config_state(followed, seen=seen, open_units=units, failed=failed, gpus=())

    assert state(seen=False) is MigConfigState.PENDING
    assert state(units=["mig/GPU-1"]) is MigConfigState.PENDING
    assert state(units=["links/eth0"]) is MigConfigState.SUCCESS
    assert state(units=["mig/GPU-1"], failed=["mig/GPU-1"]) is MigConfigState.FAILED
    assert state(follow(NodeSpec(version=1), {"nvidia.com/mig.config": "x"}, (), "version: v1\nmig-configs: {}\n")) is (
        MigConfigState.FAILED
    )


PARTED = """\
version: v1
mig-configs:
  all-disabled: [{devices: all, mig-enabled: false}]
  half: [{devices: [0], mig-enabled: true, mig-devices: {"3g.20gb": 2}}, {devices: [1, 2, 3], mig-enabled: false}]
"""


def test_the_label_mig_config_is_followed_and_its_state_told(tmp_path, server):
    """As MIG manager does it, but level-triggered: the label, the layout and the state are compared again and again."""
    section = "labels: {api: true, follow: true, mig_strategy: mixed, mig_config_file: /etc/mig.yaml}\n"
    text = "modules: {nvidia: {}}\n" + section
    with server.serve() as access, sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as node:
        node.converge(text)
        node.host.files.replace("/etc/mig.yaml", PARTED)
        status = Status(Identity(1, "gpu-1", "", str(node.file), 0.0))
        reloads = []
        labels = NodeLabels(NodeApi(access), lambda: status, lambda: reloads.append(1), node.host.files.read_optional)

        def run_pass():
            nonlocal status
            spec = labels.overridden(read_spec(str(node.file))) if reloads else read_spec(str(node.file))
            labels.spec = labels.spec or spec
            reloads.clear()
            outcome = converge(goal_of(spec), Context(node.observer, Journal(node.host.files), Told()))
            status = replace(status, last=Pass(outcome, ("test",), time.time(), 0.1), passes=status.passes + 1)

        run_pass()
        labels.round()
        assert server.labels["nvidia.com/gpu.count"] == "4"
        assert "nvidia.com/mig.config.state" not in server.labels
        server.labels["nvidia.com/mig.config"] = "half"
        labels.round()
        assert reloads
        labels.overridden(read_spec(str(node.file)))
        labels.round()
        assert server.labels["nvidia.com/mig.config.state"] == "pending"
        reloads.append(1)
        run_pass()
        labels.round()
        assert server.labels["nvidia.com/mig.config.state"] == "success"
        assert server.labels["nvidia.com/mig-3g.20gb.count"] == "2"
        assert node.instances()[0] == ["3g.20gb", "3g.20gb"]
        server.labels["nvidia.com/mig.config"] = "no-such"
        labels.round()
        labels.overridden(read_spec(str(node.file)))
        labels.round()
        assert server.labels["nvidia.com/mig.config.state"] == "failed"
        assert node.instances()[0] == ["3g.20gb", "3g.20gb"], "a name that is not there changes nothing"
        del server.labels["nvidia.com/mig.config"]
        labels.round()
        labels.overridden(read_spec(str(node.file)))
        labels.round()
        assert "nvidia.com/mig.config.state" not in server.labels


def test_an_api_that_is_away_is_complained_of_once_and_made_up_for(tmp_path, server, caplog):
    status = Status(Identity(1, "gpu-1", "", "f", 0.0))
    with server.serve() as access:
        labels = NodeLabels(NodeApi(access), lambda: status, lambda: None, lambda _path: None)
        labels.spec = NodeSpec(version=1, labels=Labels(api=True, follow=True))
        server.refuse = 500
        labels.round()
        labels.round()
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        server.refuse = 0
        labels.round()
        server.refuse = 500
        labels.round()
        assert len(caplog.records) == 2
