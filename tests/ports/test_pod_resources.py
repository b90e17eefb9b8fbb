"""The kubelet's pod-resources API, asked over a real socket of a real gRPC server."""

from __future__ import annotations

import os
import tempfile
import threading
import time

import grpc
import pytest

from kubelet import Kubelet, serving
from nodeagent.errors import DeadlineError, GoneError, HostError
from nodeagent.kubernetes.pod_resources import KubeletPods
from nodeagent.kubernetes.protobuf import message_classes
from nodeagent.state.pods import PodFacts, PodUser
from nodeagent.supervisor.pod_watch import PodWatch

TRAIN = PodUser("default", "train-7", "pytorch")
GIVEN = {
    ("default", "train-7", "pytorch"): {"nvidia.com/gpu": ["GPU-a"], "rdma/hca": ["mlx5_0"]},
    ("team", "web-1", "triton"): {"nvidia.com/mig-1g.10gb": ["MIG-b"]},
    ("team", "share-1", "x"): {"nvidia.com/gpu.shared": ["GPU-c::0", "GPU-c::1"]},
    ("team", "share-2", "x"): {"nvidia.com/gpu.shared": ["GPU-c::7"]},
}


@pytest.fixture
def socket():
    with tempfile.TemporaryDirectory(prefix="kubelet") as place:  # a socket's path has a hundred characters at most
        yield f"{place}/kubelet.sock"


@pytest.fixture
def client(socket):
    opened = KubeletPods(socket, deadline_seconds=2.0)
    yield opened
    opened.close()


def test_who_has_which_device(socket, client):
    with serving(Kubelet(GIVEN), socket):
        facts = client.read()
    assert facts.users["GPU-a"] == (TRAIN,)
    assert facts.users["MIG-b"] == (PodUser("team", "web-1", "triton"),)
    assert [user.pod for user in facts.users["GPU-c"]] == ["share-1", "share-2"], "each once, however many shares"
    assert facts.allocatable_gpus == 5, "what is not NVIDIA's does not count"
    assert abs(facts.read_unix_seconds - time.time()) < 60


def test_nobody_listens(client):
    with pytest.raises(GoneError, match=r"^ask for pods at \S+: no kubelet answers there$"):
        client.read()


def test_a_refusal_says_what_the_kubelet_said(socket, client):
    kubelet = Kubelet(GIVEN)
    kubelet.refusal = grpc.StatusCode.RESOURCE_EXHAUSTED
    with serving(kubelet, socket), pytest.raises(HostError, match="resource_exhausted: not today"):
        client.read()


def test_a_kubelet_that_hangs_is_not_waited_for(socket):
    kubelet, free = Kubelet(GIVEN), threading.Event()
    kubelet.before = free.wait
    client = KubeletPods(socket, deadline_seconds=0.2)
    with serving(kubelet, socket):
        with pytest.raises(DeadlineError, match=r"no answer within 0\.2 s"):
            client.read()
        free.set()
    client.close()


def test_a_thousand_pods_fit(socket, client):
    shares = {n: {"nvidia.com/gpu": [f"GPU-{n}::{m}" for m in range(50)]} for n in range(1000)}
    given = {("default", f"pod-{n}", "c"): one for n, one in shares.items()}
    with serving(Kubelet(given), socket):
        assert len(client.read().users) == 1000


def until(what):
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_watch_keeps_the_last_answer_over_a_restart(socket):
    watch = PodWatch(socket, 0.05)
    watch.look()
    assert watch.facts is None, "a node without a kubelet"
    kubelet = Kubelet(GIVEN)
    before = len(os.listdir("/proc/self/fd"))
    watch.start()
    with serving(kubelet, socket):
        until(lambda: watch.facts and watch.facts.users)
    until(lambda: watch.errors)
    assert watch.facts.users["GPU-a"] == (TRAIN,), "the kubelet is away, its answer stays"
    stale = watch.facts.read_unix_seconds
    kubelet.given = {}
    with serving(kubelet, socket):
        until(lambda: watch.facts.users == {})
        assert watch.facts.read_unix_seconds > stale
        watch.stop()
    until(lambda: len(os.listdir("/proc/self/fd")) <= before + 8)  # gRPC keeps its own poller, nothing per connection


def test_a_kubelet_that_never_answered_is_known_to_be_there(socket):
    with open(socket, "w"):
        watch = PodWatch(socket, 1.0)
        watch.look()
    assert watch.facts == PodFacts()
    assert watch.errors == 1
    watch.socket = ""
    watch.look()
    assert watch.facts is None


def test_tables_speak_the_protocol():
    """Scalars, lists, messages and maps, there and back; a field that the table lacks is passed over."""
    fields = {"a": (1, "string"), "b": (2, "repeated In"), "c": (3, "map string")}
    whole = message_classes("t", "whole", {"In": {"n": (1, "int64")}, "M": fields})
    part = message_classes("t", "part", {"M": {"c": (3, "map string")}})
    message = whole["M"](a="x", b=[{"n": 5}], c={"k": "v"})
    assert message.SerializeToString() == b"\n\x01x\x12\x02\x08\x05\x1a\x06\n\x01k\x12\x01v"
    assert dict(part["M"].FromString(message.SerializeToString()).c) == {"k": "v"}
