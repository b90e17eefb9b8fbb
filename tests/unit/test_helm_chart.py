"""The Helm chart, rendered by the real helm: least rights for a feature, Kubernetes schemas, fresh plain manifests."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from helm import CHART, ROOT, Document, container, helm, host_paths, kinds, only, pod, render, run
from nodeagent.spec.reader import parse_spec

PRESETS = sorted((CHART / "presets").glob("*.yaml"))
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
FEATURES = yaml.safe_load((CHART / "features.yaml").read_text())
SWITCHES = sorted(name for name, value in VALUES["features"].items() if isinstance(value, bool))
CHOICES = {"gpus": ("off", "watch", "manage"), "labels": ("off", "file", "api")}
NONE = dict.fromkeys(SWITCHES, False) | dict.fromkeys(CHOICES, "off")
MONITORING = {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}, "dashboards": {"enabled": True}}
EVERYTHING = {
    "namespace": {"create": True},
    "features": dict.fromkeys(SWITCHES, True) | {"gpus": "manage", "labels": "api"},
    "image": {"registry": "registry.internal:5000/mirror/", "digest": "sha256:" + "0" * 64},
    "imagePullSecrets": [{"name": "pull"}],
    "metrics": MONITORING,
    "proxy": {"http": "http://proxy:3128", "https": "http://proxy:3128", "exceptions": ".svc"},
    "trustedCa": {"configMap": "site-ca"},
    "driver": {"root": "/run/nvidia/driver", "files": ["/usr/bin/nvidia-smi"], "modules": "/opt/store/modules"},
    "podDisruptionBudget": {"enabled": True},
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "securityContext": {"seLinuxOptions": {"type": "spc_t"}},
    "probes": {"scheme": "HTTPS", "headers": [{"name": "Authorization", "value": "Basic x"}]},
    "files": {"counters.csv": "DCGM_FI_DEV_GPU_TEMP, gauge, x\n"},
    "args": ["--color=never"],
    "env": [{"name": "A", "value": "b"}],
    "nodeGroups": {"a100": {"nodeFile": {"version": 1, "mig": [{"layout": "all-balanced"}]}}, "rest": None},
}
# Not Kubernetes' own: their schemas belong to the Prometheus operator.
FOREIGN = {"ServiceMonitor", "PrometheusRule"}
API = {"ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}


def combinations() -> list[dict[str, object]]:
    """Each feature alone, each left out, none, all, each preset's, and every pair of choices."""
    alone = [NONE | {name: True} for name in SWITCHES]
    without = [dict.fromkeys(SWITCHES, True) | {"gpus": "manage", "labels": "api", name: False} for name in SWITCHES]
    chosen = [NONE | {"gpus": gpus, "labels": labels} for gpus, labels in itertools.product(*CHOICES.values())]
    presets = [VALUES["features"] | yaml.safe_load(path.read_text())["features"] for path in PRESETS]
    return [VALUES["features"], *alone, *without, *chosen, *presets]


def needs(features: dict[str, object]) -> list[Document]:
    """The rows of features.yaml that these features come to."""
    names = [
        name if value is True else f"{name}-{value}" for name, value in features.items() if value not in (False, "off")
    ]
    return [FEATURES[name] for name in ("always", *names)]


def test_helm_finds_nothing_to_complain_of() -> None:
    for path in (None, *PRESETS):
        done = run("lint", "--strict", str(CHART), *(("--values", str(path)) if path else ()))
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", ["1.28", "1.32", "1.37"])
def test_all_that_is_rendered_is_what_kubernetes_takes(version: str) -> None:
    for values in ({}, EVERYTHING, *(yaml.safe_load(path.read_text()) for path in PRESETS)):
        for document in render(values, version=version):
            if version == "1.28":  # a field of 1.30, which an older server leaves out
                _drop_app_armor(document)
            if document["kind"] not in FOREIGN:
                kubernetes_validate.validate(document, version, strict=True)


def _drop_app_armor(document: Document) -> None:
    if document["kind"] == "DaemonSet":
        container(document)["securityContext"].pop("appArmorProfile", None)


@pytest.mark.parametrize(
    "features", combinations(), ids=lambda one: ",".join(f"{k}={v}" for k, v in one.items() if v is not False)
)
def test_a_feature_brings_what_it_needs_and_no_more(features: dict[str, object]) -> None:
    documents = render({"features": features, "driver": {"library": ""}})
    daemon_set = only(documents, "DaemonSet")
    rows, security = needs(features), container(daemon_set)["securityContext"]
    privileged = any(row.get("privileged") for row in rows)
    assert security["privileged"] is privileged
    wanted = {name for row in rows for name in row.get("capabilities", ())}
    if not privileged:
        assert security["capabilities"]["drop"] == ["ALL"]
        assert set(security["capabilities"].get("add", ())) == wanted
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert ("appArmorProfile" in security) == any(row.get("unconfined") for row in rows)
        assert ("allowPrivilegeEscalation" in security) != ("SYS_ADMIN" in wanted)
    assert pod(daemon_set).get("hostPID", False) == any(row.get("hostPID") for row in rows)
    assert pod(daemon_set).get("hostNetwork", False) == any(row.get("hostNetwork") for row in rows)
    assert set(host_paths(daemon_set)) == {_host_path(one) for row in rows for one in row.get("mounts", ())}
    read_only = {one["name"] for row in rows for one in row.get("mounts", ()) if one.get("readOnly")} | {"node-file"}
    assert {one["name"] for one in container(daemon_set)["volumeMounts"] if one.get("readOnly")} == read_only
    assert (API & set(kinds(documents)) == API) == (features["labels"] == "api")
    assert pod(daemon_set)["automountServiceAccountToken"] is (features["labels"] == "api")


def _host_path(mount: dict[str, str]) -> str:
    return ("/var/lib/kubelet" if mount.get("below") == "kubelet" else "") + mount["path"]


def test_without_labels_over_the_api_the_pod_may_do_nothing_there() -> None:
    for values in ({}, {"features": {"labels": "file"}}, {"features": dict.fromkeys(SWITCHES, True)}):
        documents = render(values)
        assert kinds(documents) == ["ConfigMap", "DaemonSet", "ServiceAccount"]
        assert only(documents, "ServiceAccount")["automountServiceAccountToken"] is False


def test_over_the_api_it_may_get_and_patch_nodes_its_own_only() -> None:
    documents = render({"features": {"labels": "api"}})
    assert only(documents, "ClusterRole")["rules"] == [
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "patch", "watch"]}
    ]
    (subject,) = only(documents, "ClusterRoleBinding")["subjects"]
    account = only(documents, "ServiceAccount")["metadata"]
    assert (subject["name"], subject["namespace"]) == (account["name"], account["namespace"])
    (condition,) = only(documents, "ValidatingAdmissionPolicy")["spec"]["matchConditions"]
    assert f'"system:serviceaccount:gpu:{account["name"]}"' in condition["expression"]
    for values, version in (({"rbac": {"ownNodeOnly": False}}, "1.32"), ({}, "1.31")):
        older = render({"features": {"labels": "api"}} | values, version=version)
        assert API & set(kinds(older)) == {"ClusterRole", "ClusterRoleBinding"}


def test_the_taint_of_quarantine_is_allowed_where_it_is_asked_for_only() -> None:
    plain, tainting = (
        only(render({"features": {"labels": "api"}, "rbac": rbac}), "ValidatingAdmissionPolicy")["spec"]["validations"]
        for rbac in ({}, {"taint": True})
    )
    assert [one["expression"] for one in plain][1:] == ["object.spec == oldObject.spec"]
    assert tainting[0] == plain[0], "still its own node alone"
    text = " ".join(one["expression"] for one in tainting[1:])
    assert all(f"object.spec.{name} == oldObject.spec.{name}" in text for name in ("podCIDR", "unschedulable"))
    assert "t.key != 'nodeagent.io/quarantine'" in text
    assert "object.spec == oldObject.spec" not in text


def test_off_may_be_written_without_quotes() -> None:
    """YAML 1.1 makes false of it."""
    plain, quoted = (render({"features": {"gpus": off, "labels": off}}) for off in (False, "off"))
    assert plain == quoted


def test_one_group_over_the_api_is_enough_for_the_role_and_others_get_no_token() -> None:
    groups = {"one": {"features": {"labels": "api"}}, "two": {}}
    documents = render({"nodeGroups": groups})
    assert "ClusterRole" in kinds(documents)
    tokens = {one["metadata"]["name"]: pod(one)["automountServiceAccountToken"] for one in daemon_sets(documents)}
    assert tokens == {"site-nodeagent-one": True, "site-nodeagent-two": False}


def daemon_sets(documents: list[Document]) -> list[Document]:
    return [one for one in documents if one["kind"] == "DaemonSet"]


def test_each_group_has_its_file_its_nodes_and_its_settings() -> None:
    mig = {"version": 1, "mig": [{"layout": "all-balanced"}]}
    groups = {
        "a100": {"nodeSelector": {"kind": "a100"}, "nodeFile": mig, "resources": {"limits": {"memory": "1Gi"}}},
        "nics": {"features": {"gpus": "off"}, "nodeFileConfigMap": "mine"},
        "host": {"nodeFileOnHost": True, "tolerations": [], "features": {"network": False, "sysctls": False}},
    }
    documents = render({"nodeGroups": groups, "nodeFile": {"version": 1, "modules": {"rdma": {}}}})
    found = {one["spec"]["selector"]["matchLabels"]["nodeagent.io/group"]: one for one in daemon_sets(documents)}
    assert set(found) == set(groups)
    for name, one in found.items():
        assert (
            one["spec"]["template"]["metadata"]["labels"].items() >= one["spec"]["selector"]["matchLabels"].items()
        ), name
    (file,) = (one for one in documents if one["kind"] == "ConfigMap")
    assert file["metadata"]["name"] == "site-nodeagent-a100"
    assert yaml.safe_load(file["data"]["node.yaml"]) == mig
    sources = {name: next(v for v in pod(one)["volumes"] if v["name"] == "node-file") for name, one in found.items()}
    assert sources["a100"]["configMap"]["name"] == file["metadata"]["name"]
    assert sources["nics"]["configMap"]["name"] == "mine"
    assert sources["host"]["hostPath"]["path"] == "/etc/nodeagent"
    assert pod(found["a100"])["nodeSelector"] == {"kubernetes.io/os": "linux", "kind": "a100"}
    assert "/dev" not in host_paths(found["nics"])
    assert "tolerations" not in pod(found["host"])
    assert "hostNetwork" not in pod(found["host"]), "what is false in a group counts"
    assert pod(found["a100"])["hostNetwork"] is True
    assert container(found["a100"])["resources"]["limits"] == {"memory": "1Gi"}
    assert container(found["nics"])["resources"] == VALUES["resources"]


def test_a_site_without_the_internet() -> None:
    one = only(render({key: value for key, value in EVERYTHING.items() if key != "nodeGroups"}), "DaemonSet")
    assert container(one)["image"] == "registry.internal:5000/mirror/nodeagent@sha256:" + "0" * 64
    assert pod(one)["imagePullSecrets"] == [{"name": "pull"}]
    variables = {entry["name"]: entry.get("value") for entry in container(one)["env"]}
    assert {variables["NO_PROXY"], variables["no_proxy"]} == {".svc"}
    assert variables["HTTPS_PROXY"] == variables["https_proxy"] == "http://proxy:3128"
    assert variables["SSL_CERT_FILE"] == "/etc/ssl/nodeagent/ca.crt"
    paths = host_paths(one)
    assert paths["/run/nvidia/driver"] == "/host/run/nvidia/driver"  # for CDI
    assert paths["/opt/store/modules"] == "/lib/modules"
    assert paths["/run/nvidia/driver/usr/bin/nvidia-smi"] == "/usr/bin/nvidia-smi"
    assert paths["/run/nvidia/driver/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"] == "/usr/lib/libnvidia-ml.so.1"
    assert container(one)["readinessProbe"]["httpGet"] == {
        "path": "/readyz",
        "port": "metrics",
        "scheme": "HTTPS",
        "httpHeaders": [{"name": "Authorization", "value": "Basic x"}],
    }


def test_rules_and_dashboards_are_those_of_the_repository() -> None:
    documents = render({"metrics": MONITORING})
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yaml").read_text())
    assert only(documents, "PrometheusRule")["spec"] == rules
    boards = {
        name: json.loads(text)
        for one in documents
        if one["kind"] == "ConfigMap"
        for name, text in one["data"].items()
        if name.endswith(".json")
    }
    files = (ROOT / "deploy" / "grafana").glob("*.json")
    assert boards == {f"nodeagent-{path.name}": json.loads(path.read_text()) for path in files}
    monitor, service = only(documents, "ServiceMonitor"), only(documents, "Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    labels = only(documents, "DaemonSet")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()


@pytest.mark.parametrize("path", [None, *PRESETS], ids=lambda path: path.stem if path else "defaults")
def test_the_agent_takes_the_node_file_and_has_the_rights_for_it(path: Path | None) -> None:
    values = yaml.safe_load(path.read_text()) if path else {}
    documents = render(values)
    spec = parse_spec(only(documents, "ConfigMap")["data"]["node.yaml"], "node.yaml")
    features = VALUES["features"] | values.get("features", {})
    labels = "off" if spec.labels is None else "api" if spec.labels.api else "file"
    assert features["labels"] == labels
    assert spec.cdi is None or (features["cdi"] and spec.cdi.host_root == "/host")
    assert not (spec.mig and features["gpus"] != "manage")


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"features": {"gpu": "manage"}}, "gpu"),
        ({"features": {"gpus": "all"}}, "gpus"),
        ({"nodefile": {}}, "nodefile"),
        ({"nodeFile": ["version"]}, "nodeFile"),
        ({"podDisruptionBudget": {"minAvailable": "50%"}}, "minAvailable"),
        ({"nodeGroups": {"default": {}}}, "default"),
        ({"nodeGroups": {"a": {"metrics": {}}}}, "metrics"),
        ({"image": {"digest": "sha256:1"}}, "digest"),
    ],
)
def test_wrong_values_are_refused_with_their_key(values: dict[str, object], complaint: str) -> None:
    done = run("template", "site", str(CHART), values=values)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_the_plain_manifests_are_fresh(tmp_path: Path) -> None:
    """To renew: deploy/kubernetes/render."""
    script = ROOT / "deploy" / "kubernetes" / "render"
    subprocess.run([script, tmp_path], check=True, env={**os.environ, "HELM": helm()})
    rendered = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(rendered) == {path.name for path in PRESETS}
    assert rendered == {path.name: path.read_text() for path in script.parent.glob("*.yaml")}


def test_the_page_has_the_table_of_features() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    found = text.partition("<!-- features -->\n")[2].partition("<!-- /features -->")[0]
    assert found == "".join(f"{line}\n" for line in feature_table())


def feature_table() -> list[str]:
    """To renew: write these lines between the marks of docs/kubernetes.md."""
    head = ["| feature | for | gets | mounts of the host |", "|---|---|---|---|"]
    return head + [
        f"| {_title(name)} | {row['why']} | {_gets(row)} | {_mounted(row)} |" for name, row in FEATURES.items()
    ]


def _title(name: str) -> str:
    feature, _, value = name.partition("-")
    return "always" if name == "always" else f"`{feature}: {value or 'true'}`"


def _gets(row: Document) -> str:
    words = {
        "privileged": "privileged",
        "hostNetwork": "host network",
        "hostPID": "host PIDs",
        "unconfined": "no AppArmor",
    }
    token = ["get, patch and watch on nodes"] if row.get("token") else []
    return ", ".join([text for key, text in words.items() if row.get(key)] + row.get("capabilities", []) + token)


def _mounted(row: Document) -> str:
    mounts = row.get("mounts", ())
    return ", ".join(f"`{_host_path(one)}`" + (" (read)" if one.get("readOnly") else "") for one in mounts)


def test_the_versions_agree() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    assert chart["appVersion"] == found[1]
