"""The Helm chart in a cluster: what it asks for is granted, all else is refused, and the agent in it works."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import helm
from cluster.kube import Cluster, import_image
from cluster.obtain import container
from cluster.programs import ADDRESS, NODE, access, until
from container_world import DRIVER_ROOT
from nodeagent.host.paths import SERVICE_ACCOUNT

NAMESPACE, RELEASE = "gpu", "site"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:site-nodeagent"
TOKEN = {"sources": [{"serviceAccountToken": {"path": "token"}}, {"configMap": {"name": "kube-root-ca.crt"}}]}
VALUES: dict[str, Any] = {
    "image": {"registry": "localhost", "repository": "nodeagent", "tag": "1", "pullPolicy": "Never"},
    "driver": {"library": ""},
    "features": {"services": False, "devicePlugins": True, "labels": "api"},
    "nodeFile": {
        "version": 1,
        "modules": {"nvidia": {}},
        "mig": [{"layout": "all-disabled"}],
        "labels": {"api": True},
        "cdi": {"driver_root": DRIVER_ROOT},
        "kubernetes": {},
    },
    # The simulated node; its kubelet is the cluster's.
    "args": ["--simulate", "gpu-server-4x-a100", "--simulate-dir", "/sim", "--file", "/etc/nodeagent/node.yaml"],
    "extraVolumes": [{"name": "sim", "hostPath": {"path": "/run/k/n"}}, {"name": "token", "projected": TOKEN}],
    "extraVolumeMounts": [
        {"name": "sim", "mountPath": "/sim"},
        {"name": "token", "mountPath": f"/sim{SERVICE_ACCOUNT}"},
    ],
    # Without kube-proxy there is no way to the service's address.
    "env": [
        {"name": "KUBERNETES_SERVICE_HOST", "value": ADDRESS},
        {"name": "KUBERNETES_SERVICE_PORT", "value": "6443"},
    ],
    "resources": {"limits": {"memory": "512Mi"}},
}


@pytest.fixture(scope="module")
def image(cluster: Cluster) -> str:
    root = container()
    path = "/opt/nodeagent/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    changes = ('ENTRYPOINT ["nodeagent"]', f"ENV PATH={path}", "ENV PYTHONDONTWRITEBYTECODE=1")
    import_image(cluster.work, root, "localhost/nodeagent:1", *changes)
    return "localhost/nodeagent:1"


def run_helm(cluster: Cluster, *words: str, values: Mapping[str, Any] | None = None) -> str:
    """What the real helm prints of an operation on the cluster."""
    given = [] if values is None else ["--values", "-"]
    done = subprocess.run(
        [helm.helm(), *words, "--namespace", NAMESPACE, *given],
        input=yaml.safe_dump(values or {}),
        env={**os.environ, "KUBECONFIG": cluster.admin},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def release(cluster: Cluster, image: str) -> Iterator[str]:
    """The chart, installed as README says, and running."""
    words = ("--create-namespace", "--wait", "--timeout", "120s")
    try:
        run_helm(cluster, "install", RELEASE, str(helm.CHART), *words, values=VALUES)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{told(cluster)}") from error
    yield image
    run_helm(cluster, "uninstall", RELEASE, "--wait")
    until(lambda: not cluster.get("pods", "--namespace", NAMESPACE)["items"], lambda: told(cluster))


def told(cluster: Cluster) -> str:
    pods = cluster.kubectl("describe", "pods", "--namespace", NAMESPACE)
    logs = sorted(Path("/var/log/pods").glob(f"{NAMESPACE}_*/*/*.log"))
    return pods + "\n".join(path.read_text()[-6000:] for path in logs)


def labels(cluster: Cluster) -> dict[str, str]:
    return dict(cluster.get("node", NODE)["metadata"]["labels"])


def pod_name(cluster: Cluster) -> str:
    (pod,) = cluster.get("pods", "--namespace", NAMESPACE)["items"]
    return str(pod["metadata"]["name"])


def ready(cluster: Cluster) -> tuple[int, int]:
    """How many pods are ready by their probe, of how many."""
    (found,) = cluster.get("daemonsets", "--namespace", NAMESPACE)["items"]
    return found["status"]["numberReady"], found["status"]["desiredNumberScheduled"]


def test_the_agent_in_its_pod_offers_gpus_and_labels_its_node(cluster: Cluster, release: str) -> None:
    until(lambda: cluster.allocatable("nvidia.com/gpu") == 4, lambda: told(cluster))
    until(lambda: labels(cluster).get("nvidia.com/gpu.count") == "4", lambda: told(cluster))
    assert labels(cluster)["nvidia.com/gpu.product"].startswith("NVIDIA-A100")
    until(lambda: ready(cluster) == (1, 1), lambda: told(cluster))
    (pod,) = cluster.get("pods", "--namespace", NAMESPACE)["items"]
    assert [one["restartCount"] for one in pod["status"]["containerStatuses"]] == [0]
    with urllib.request.urlopen(f"http://{ADDRESS}:9400/metrics", timeout=30) as answer:
        assert b"DCGM_FI_DEV_GPU_TEMP" in answer.read()
    cluster.run("job", {"nvidia.com/gpu": 1}, "ls /dev")
    given = cluster.printed("job")
    assert sum(name.removeprefix("nvidia").isdigit() for name in given) == 1, given
    cluster.end("job")


def test_a_changed_node_file_is_taken_over_without_a_restart(cluster: Cluster, release: str) -> None:
    until(lambda: cluster.allocatable("nvidia.com/gpu") == 4, lambda: told(cluster))
    name = pod_name(cluster)
    layout = [{"mode": "enabled", "gpus": [0], "devices": {"1g.5gb": 7}}]
    changed = {"mig": layout, "kubernetes": {"gpus": {"mig_strategy": "mixed"}}}
    values = VALUES | {"nodeFile": VALUES["nodeFile"] | changed}
    run_helm(cluster, "upgrade", RELEASE, str(helm.CHART), values=values)
    until(lambda: cluster.allocatable("nvidia.com/mig-1g.5gb") == 7, lambda: told(cluster))
    assert cluster.allocatable("nvidia.com/gpu") == 3
    assert pod_name(cluster) == name


def test_the_agents_token_may_label_its_own_node_and_nothing_else(cluster: Cluster, release: str) -> None:
    words = ("--bound-object-kind", "Pod", "--bound-object-name", pod_name(cluster))
    token = cluster.kubectl("create", "token", "--namespace", NAMESPACE, "site-nodeagent", *words).strip()
    cluster.kubectl("apply", "-f", "-", given={"apiVersion": "v1", "kind": "Node", "metadata": {"name": "other"}})
    as_agent = ("--kubeconfig", access(cluster.work, "agent", token))

    def tries(*request: str) -> str:
        return cluster.try_kubectl(*as_agent, *request).stderr

    assert not tries("label", "node", NODE, "nodeagent.io/tried=1")
    others = ("label", "--overwrite", "node", "other")
    number = itertools.count()  # a policy is in force a moment after it was made
    until(lambda: "the node that its pod is on, and no other" in tries(*others, f"a.b/c={next(number)}"))
    cordon = ("patch", "node", NODE, "-p", json.dumps({"spec": {"unschedulable": True}}))
    assert "the agent may change labels and annotations of a node, and nothing else" in tries(*cordon)
    for forbidden in (("get", "pods", "-A"), ("get", "secrets", "-A"), ("delete", "node", NODE), ("get", "nodes")):
        assert "forbidden" in tries(*forbidden), forbidden
    cluster.kubectl("delete", "node", "other")


def test_an_uninstalled_chart_leaves_nothing_offered(cluster: Cluster, image: str) -> None:
    until(lambda: cluster.allocatable("nvidia.com/gpu") == 0)
    for kind in ("clusterroles", "clusterrolebindings", "validatingadmissionpolicies"):
        found = cluster.get(kind)["items"]
        assert not [one for one in found if "nodeagent" in one["metadata"]["name"]], kind


@pytest.mark.parametrize("preset", ["instead", "beside", "driven", "watch"])
def test_the_api_server_takes_the_manifests_as_they_are(cluster: Cluster, preset: str) -> None:
    file = helm.ROOT / "deploy" / "kubernetes" / f"{preset}.yaml"
    cluster.kubectl("create", "namespace", "nodeagent")
    said = cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(file))
    assert "daemonset.apps/nodeagent created (server dry run)" in said
    roles = [one for one in yaml.safe_load_all(file.read_text()) if one and one["kind"].startswith("ClusterRole")]
    assert bool(roles) == (preset == "driven"), "no cluster role in node-only mode"
    cluster.kubectl("delete", "namespace", "nodeagent")
