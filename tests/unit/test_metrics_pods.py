"""Pods on GPU lines: whom the kubelet gave the device, else whose processes are on it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from metrics_view import NODE, full_view
from nodeagent.host.files import LocalFiles
from nodeagent.host.pod_names import PodNames
from nodeagent.metrics.exposition import plain_text
from nodeagent.metrics.render import blocks
from nodeagent.state.pods import PodFacts, PodUser
from nodeagent.state.processes import Process

UID = "0a1b2c3d-0000-1111-2222-333344445555"
WEB = PodUser("team", "web-1", "triton")


def lines(view, name: str, *parts: str) -> list[str]:
    found = [line for line in plain_text(blocks(view)).decode().splitlines() if line.startswith(name)]
    return [line for line in found if all(part in line for part in parts)]


def labels_of(line: str) -> dict[str, str]:
    return dict(re.findall(r'(\w+)="([^"]*)"', line))


def with_pods(*ids: str):
    return replace(full_view(), pods=PodFacts(dict.fromkeys(ids, (WEB,)), 5.0))


def test_a_gpu_of_one_pod_carries_it():
    (line,) = lines(full_view(), "DCGM_FI_DEV_GPU_TEMP", 'UUID="GPU-0"')
    found = labels_of(line)
    assert (found["namespace"], found["pod"], found["container"]) == ("default", "train-7", "pytorch")


@pytest.mark.parametrize("name", ["MIG-1", "MIG-GPU-1/1/0", "nvidia4/gi1"])
def test_every_form_of_an_instances_id(name):
    (line,) = lines(with_pods(name), "DCGM_FI_DEV_FB_USED", 'GPU_I_ID="1"')
    assert labels_of(line)["pod"] == "web-1"
    assert not any("web-1" in other for other in lines(with_pods(name), "DCGM_FI_DEV_FB_USED") if other != line)


def test_a_gpu_by_its_device_file():
    (line,) = lines(with_pods("nvidia3"), "DCGM_FI_DEV_GPU_TEMP", 'UUID="GPU-0"')
    assert labels_of(line)["pod"] == "web-1"


def test_a_shared_device_names_none_and_lists_all():
    (line,) = lines(full_view(), "DCGM_FI_DEV_FB_USED", 'GPU_I_ID="2"')
    assert "pod" not in labels_of(line)
    found = lines(full_view(), "nodeagent_gpu_pod_info", 'GPU_I_ID="2"')
    assert [labels_of(line)["pod"] for line in found] == ["share-1", "share-2"]


def test_without_a_kubelets_answer_processes_tell():
    process = Process(11, "python", container="c" * 64, pod_uid=UID, pod="default/train-9")
    view = replace(full_view(), pods=None, node=replace(NODE, processes={11: process}))
    (line,) = lines(view, "DCGM_FI_DEV_GPU_TEMP", 'UUID="GPU-0"')
    assert (labels_of(line)["namespace"], labels_of(line)["pod"]) == ("default", "train-9")
    assert labels_of(lines(view, "nodeagent_gpu_process_info", 'pid="11"')[0])["pod"] == "train-9"
    assert lines(view, "nodeagent_pods_timestamp_seconds") == []


def test_the_age_of_the_answer():
    assert lines(full_view(), "nodeagent_pods_timestamp_seconds") == ["nodeagent_pods_timestamp_seconds 1790000090.0"]


def test_names_of_pods_by_their_uid(tmp_path):
    for name in (f"default_train-7_{UID}", "kube-system_etcd_d41d8cd98f00b204e9800998ecf8427e", "not-a-pod"):
        (tmp_path / "var/log/pods" / name).mkdir(parents=True)
    names = PodNames(LocalFiles(str(tmp_path)))
    assert names[UID] == "default/train-7"
    assert names["d41d8cd98f00b204e9800998ecf8427e"] == "kube-system/etcd"
    assert names[""] == names["other"] == ""
    assert PodNames(LocalFiles(str(tmp_path / "none")))[UID] == ""


def test_a_process_says_its_pods_name():
    process = Process(7, "python", "train.py", container="c" * 64, pod_uid=UID)
    assert str(process).endswith(f"(pod {UID})")
    assert str(replace(process, pod="default/train-7")).endswith("(pod default/train-7)")
