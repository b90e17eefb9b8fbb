"""A pod that was given a GPU or a part of one keeps it, though it computes nothing yet."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from agent_process import run_command
from kubelet import Given, Kubelet, serving
from nodeagent.host.paths import KUBELET_POD_RESOURCES, LOG_PODS, SYS_CGROUP
from nodeagent.kubernetes.pod_asking import PodAsker
from sim_node import GIB, SimNode, sim_node, text_of

DRIVER = "modules: {nvidia: {modeset: false}}\n"
LAYOUT = DRIVER + "mig: [{mode: enabled, gpus: [0], devices: {3g.20gb: 2}}]\n"
OTHER = LAYOUT.replace("3g.20gb: 2", "1g.5gb: 7")
WHOLE = DRIVER + "mig: [{mode: enabled, gpus: [0, 1, 2], devices: {7g.40gb: 1}}]\n"
UID = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def node() -> Iterator[SimNode]:
    with (
        tempfile.TemporaryDirectory(prefix="p") as place,
        sim_node(Path(place), "gpu-server-4x-a100", "in-process") as made,
    ):
        made.observer.pods = PodAsker(lambda path: made.node.directory + path)
        yield made


@contextmanager
def kubelet(node: SimNode, given: Given) -> Iterator[Kubelet]:
    socket = Path(node.node.directory + KUBELET_POD_RESOURCES)
    socket.parent.mkdir(parents=True, exist_ok=True)
    found = Kubelet(given)
    with serving(found, str(socket)):
        yield found


def train(*ids: str) -> Given:
    return {("default", "train-7", "main"): {"nvidia.com/gpu": ids}}


def devices(node: SimNode, index: int = 0) -> list[str]:
    return [row.uuid for row in node.mig()[index].rows]


def uuid(node: SimNode, index: int) -> str:
    return node.node.machine.gpus[index].uuid


def test_a_mig_device_stays_until_its_pod_is_gone(node: SimNode) -> None:
    assert node.converge(LAYOUT).plan.converged
    first, second = devices(node)
    with kubelet(node, train(second)) as found:
        outcome = node.converge(OTHER)
        assert not outcome.results
        said = text_of(outcome.plan)
        assert "in use: 3g.20gb at 4 by pod default/train-7 (without a process so far)" in said
        assert "end these pods, or wish for 1 x 3g.20gb + 4 x 1g.5gb, which can be had now" in said
        part = node.converge(LAYOUT.replace("{3g.20gb: 2}", "{3g.20gb: 1, 1g.5gb: 3}"))
        assert part.plan.converged
        assert second in devices(node), "what is beside it may change"
        assert first not in devices(node)
        found.given = {}
        assert node.converge(OTHER).plan.converged
        assert len(devices(node)) == 7


def test_a_whole_gpu_stays_and_the_others_are_done(node: SimNode) -> None:
    assert node.converge(DRIVER).plan.converged
    with kubelet(node, train(f"{uuid(node, 1)}::3")):
        outcome = node.converge(WHOLE)
        said = text_of(outcome.plan)
        assert "by pod default/train-7, was given GPU 1 or a part of it" in said
        assert [len(devices(node, index)) for index in range(3)] == [1, 0, 1]
        assert node.converge("disruption: {gpu: allow}\n" + WHOLE).plan.converged, "as the file says"


def test_a_pod_with_a_process_is_told_by_the_process_alone(node: SimNode) -> None:
    assert node.converge(LAYOUT).plan.converged
    row = node.mig()[0].rows[0]
    node.node.start_mig_job(0, row.uuid, "serve.py", GIB)
    with kubelet(node, {}):
        said = text_of(node.plan(OTHER))
    assert "serve.py" in said
    assert "without a process" not in said


def test_a_kubelet_that_does_not_say_is_waited_for_and_one_that_is_away_is_not(node: SimNode) -> None:
    assert node.converge(LAYOUT).plan.converged
    first = devices(node)[0]
    with kubelet(node, train(first)) as found:
        found.refusal = grpc.StatusCode.INTERNAL
        before = devices(node)
        plan = node.converge(DRIVER + "mig: [{layout: all-disabled}]\n").plan
        assert "a pod, perhaps (ask for pods at" in text_of(plan)
        assert devices(node) == before
        found.refusal = None
        assert "pod default/train-7" in text_of(node.plan(OTHER))
    Path(node.node.directory + KUBELET_POD_RESOURCES).touch()  # what a kubelet that crashed leaves behind
    assert "pod default/train-7" in text_of(node.plan(OTHER)), "its pods go on"
    node.observer.pods = PodAsker(lambda path: node.node.directory + path)
    assert node.converge(OTHER).plan.converged, "after a boot, before the kubelet"


@pytest.mark.parametrize(
    "group",
    [
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{0}.slice",
        "kubepods/besteffort/pod{1}",
        "systemd/kubepods/pod{1}",
    ],
)
def test_a_pod_that_is_over_but_listed_is_not_in_the_way(node: SimNode, group: str) -> None:
    """Older kubelets list pods that have ended until somebody deletes them."""
    assert node.converge(LAYOUT).plan.converged
    root = node.node.directory
    logs, alive = Path(f"{root}{LOG_PODS}/default_train-7_{UID}"), Path(root + SYS_CGROUP)
    other = "99999999-2222-3333-4444-555555555555"

    def below(name: str) -> Path:
        return alive / group.format(name.replace("-", "_"), name)

    with kubelet(node, train(*devices(node))):
        below(other).mkdir(parents=True)
        assert "train-7" in text_of(node.plan(OTHER)), "it starts: no logs yet"
        logs.mkdir(parents=True)
        below(UID).mkdir()
        assert "train-7" in text_of(node.plan(OTHER)), "it runs"
        below(UID).rmdir()
        assert "train-7" not in text_of(node.plan(OTHER)), "it is over"
        shutil.rmtree(alive / group.split("/", maxsplit=1)[0])
        assert "train-7" in text_of(node.plan(OTHER)), "no cgroup can be seen, so that nothing is known"


def test_mig_verbs_show_pods_and_fit_around_them(node: SimNode) -> None:
    assert node.converge(LAYOUT).plan.converged
    second = devices(node)[1]
    target = ("--simulate", "gpu-server-4x-a100", "--simulate-dir", node.node.directory)
    with kubelet(node, train(second)):
        shown = run_command("mig", "show", *target)
        assert re.search(rf"{second}.* pod default/train-7 \(without a process so far\)", shown.stdout), shown
        fitting = run_command("mig", "fit", "1g.5gb=4", *target)
        assert "3g.20gb at 4 by pod default/train-7 (without a process so far)" in fitting.stdout, fitting
        refused = run_command("mig", "fit", "7g.40gb=1", "--gpus", "0", *target)
        assert "they do not fit beside what is in use" in refused.stdout, refused


def test_the_socket_none_asks_nobody(node: SimNode) -> None:
    assert node.converge(LAYOUT).plan.converged
    with kubelet(node, train(*devices(node))) as found:
        assert "train-7" not in text_of(node.plan("metrics: {pod_resources_socket: none}\n" + OTHER))
        assert found.asked == 0
        assert node.converge(LAYOUT).plan.converged
        assert found.asked == 0, "nothing to do, nobody to ask"
