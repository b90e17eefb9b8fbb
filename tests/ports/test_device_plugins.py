"""Device plugins at a kubelet of our own over real sockets: registration, lists, refusals, restarts, no leaks."""

from __future__ import annotations

import os
import random
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace

import grpc
import pytest

from kubelet_devices import MESSAGES, STUBS, AdmissionError, DeviceManager, open_files, until
from nodeagent.errors import HostError, UnsupportedError
from nodeagent.kubernetes import plugin_server
from nodeagent.kubernetes.plugin_server import Act, PluginServer, Standing, due
from nodeagent.kubernetes.plugins import DevicePlugins
from nodeagent.state.offers import Grant, Mount, NodeAccess, Offer, OfferedDevice

RESOURCE = "example.com/device"
SOCKET = "nodeagent-example.com_device.sock"


@dataclass(frozen=True)
class Last:
    """Grants with everything an answer can hold, prefers the last ones."""

    def grant(self, ids):
        if len(ids) > 3:
            raise HostError("allocate", RESOURCE, "four are too many")
        return Grant(
            envs={"IDS": ",".join(ids)},
            mounts=(Mount("/in", "/out"),),
            nodes=(NodeAccess("/dev/a", "/dev/b", "r"),),
            annotations={"k": "v"},
            cdi_devices=tuple(f"example.com/x={one}" for one in ids),
        )

    def prefer(self, available, must, size):
        return tuple(sorted(available)[-size:])


def offer(*ids: str, unhealthy: tuple[str, ...] = (), resource: str = RESOURCE) -> Offer:
    return Offer(resource, tuple(OfferedDevice(one, one not in unhealthy, (1,)) for one in ids), Last())


@pytest.fixture
def place():
    with tempfile.TemporaryDirectory(prefix="dp") as found:
        yield found


@contextmanager
def both(place, *offers: Offer):
    """A kubelet and our plugins at it."""
    kubelet, plugins = DeviceManager(place), DevicePlugins(place, seconds=0.05)
    plugins.publish(offers, "test")
    kubelet.start()
    plugins.start()
    try:
        yield kubelet, plugins
    finally:
        plugins.stop()
        kubelet.stop()


def test_a_pod_gets_what_the_plugin_grants(place):
    with both(place, offer("a", "b", "c", unhealthy=("c",))) as (kubelet, plugins):
        until(lambda: kubelet.listed(RESOURCE) == {"a", "b", "c"})
        assert kubelet.healthy(RESOURCE) == {"a", "b"}
        assert kubelet.resources[RESOURCE].devices["a"] == ("Healthy", (1,))
        answer = kubelet.admit("pod", RESOURCE, 1)
        assert dict(answer.envs) == {"IDS": "b"}, "as it prefers"
        assert [one.name for one in answer.cdi_devices] == ["example.com/x=b"]
        assert (answer.mounts[0].container_path, answer.mounts[0].host_path, answer.mounts[0].read_only) == (
            "/in",
            "/out",
            True,
        )
        assert (answer.devices[0].host_path, answer.devices[0].permissions) == ("/dev/b", "r")
        assert dict(answer.annotations) == {"k": "v"}
        assert plugins.rows()[0] == {
            "resource": RESOURCE,
            "devices": 3,
            "healthy": 2,
            "registered": True,
            "watched": True,
            "registrations": 1,
            "unhealthy": [{"id": "c", "reason": ""}],
            "problem": "",
        }


def test_changes_reach_the_kubelet_and_only_changes(place):
    with both(place, offer("a")) as (kubelet, plugins):
        until(lambda: kubelet.healthy(RESOURCE) == {"a"})
        plugins.publish([offer("a", "b", unhealthy=("a",))], "test")
        until(lambda: kubelet.healthy(RESOURCE) == {"b"})
        plugins.publish([offer("a", "b")], "test")
        until(lambda: kubelet.healthy(RESOURCE) == {"a", "b"})
        told = kubelet.resources[RESOURCE].lists
        for _ in range(20):
            plugins.publish([offer("a", "b")], "test")
        plugins.publish([offer("a")], "test")
        until(lambda: kubelet.listed(RESOURCE) == {"a"})
        assert kubelet.resources[RESOURCE].lists == told + 1
        assert kubelet.registered == 1


def test_what_is_not_offered_any_more_ends_with_an_empty_list(place):
    other = "example.com/other"
    with both(place, offer("a"), offer("x", resource=other)) as (kubelet, plugins):
        until(lambda: kubelet.listed(RESOURCE) == {"a"} and kubelet.listed(other) == {"x"})
        plugins.publish([offer("y", resource="example.com/second")], "somebody else")
        plugins.publish([offer("a")], "test")
        until(lambda: kubelet.resources[other].stopped)
        assert kubelet.resources[other].devices == {}
        until(lambda: kubelet.listed("example.com/second") == {"y"})
        assert kubelet.listed(RESOURCE) == {"a"}


def test_wrong_requests_are_refused_with_their_reason(place):
    with both(place, offer("a", "b", "c", "d", "e", unhealthy=("e",))) as (kubelet, _):
        until(lambda: kubelet.listed(RESOURCE))
        with pytest.raises(AdmissionError, match="four are too many"):
            kubelet.admit("pod", RESOURCE, 4)
        stub = STUBS.DevicePluginStub(kubelet.resources[RESOURCE].channel)
        for ids, reason in (
            (["z"], "there is no such device; offered are a, b, c, d, e"),
            (["e"], "it is not healthy"),
            (["a", "a"], "asked for twice"),
        ):
            with pytest.raises(grpc.RpcError) as refusal:
                stub.Allocate(MESSAGES.AllocateRequest(container_requests=[{"devices_ids": ids}]), timeout=60)
            assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert reason in refusal.value.details()
        assert not stub.GetDevicePluginOptions(MESSAGES.Empty()).pre_start_required
        stub.PreStartContainer(MESSAGES.PreStartContainerRequest(devices_ids=["a"]))


def test_a_kubelet_that_starts_later_and_again(place):
    plugins = DevicePlugins(place, seconds=0.05)
    plugins.publish([offer("a", "b")], "test")
    plugins.start()
    kubelet = DeviceManager(place)
    time.sleep(0.2)
    assert os.listdir(place) == [], "nothing is put into a directory without a kubelet"
    kubelet.start()
    until(lambda: kubelet.healthy(RESOURCE) == {"a", "b"})
    kubelet.admit("pod", RESOURCE, 1)
    kubelet.restart()
    until(lambda: kubelet.free(RESOURCE) == {"a"})
    assert kubelet.given == {"pod": {RESOURCE: ["b"]}}, "from its checkpoint"
    plugins.stop()
    kubelet.stop()
    assert SOCKET not in os.listdir(place)


def test_a_socket_that_is_removed_is_made_again(place):
    with both(place, offer("a")) as (kubelet, _):
        until(lambda: kubelet.healthy(RESOURCE) == {"a"})
        os.unlink(f"{place}/{SOCKET}")
        until(lambda: kubelet.registered == 2 and kubelet.healthy(RESOURCE) == {"a"})
        assert os.path.exists(f"{place}/{SOCKET}")


def test_names_that_no_kubelet_takes(place):
    for name in ("gpu", "kubernetes.io/gpu", "x.kubernetes.io/gpu", "a.b/" + "c" * 64, "a.b/c d", "a.b/-c"):
        with pytest.raises(UnsupportedError, match="not a name of a resource"):
            PluginServer(place, offer(resource=name))


def test_a_refusal_of_the_kubelet_is_told(place, caplog):
    with both(place) as (_, plugins):
        old = MESSAGES.RegisterRequest(version="v1alpha", endpoint="x", resource_name=RESOURCE)
        with grpc.insecure_channel(f"unix://{place}/kubelet.sock") as channel:
            with pytest.raises(grpc.RpcError, match="not supported by kubelet"):
                STUBS.RegistrationStub(channel).Register(old)
            bad = MESSAGES.RegisterRequest(version="v1beta1", endpoint="x", resource_name="kubernetes.io/x")
            with pytest.raises(grpc.RpcError, match="is invalid"):
                STUBS.RegistrationStub(channel).Register(bad)
        plugins.publish([offer(resource="a..b/c")], "test")
        until(lambda: plugins.errors > 1)
        assert plugins.rows()[0]["problem"].endswith('unknown: the ResourceName "a..b/c" is invalid')
        assert caplog.text.count("is invalid") == 1, "said once"


HERE, THERE = (1, 2, 3), (1, 2, 4)
GOOD = Standing(ours=HERE, ours_made=HERE, kubelet=THERE, registered_with=THERE)


@pytest.mark.parametrize(
    ("standing", "act"),
    [
        (GOOD, Act.NOTHING),
        (replace(GOOD, kubelet=None), Act.NOTHING),
        (replace(GOOD, ours=None), Act.SERVE),
        (replace(GOOD, ours=THERE), Act.SERVE),
        (Standing(kubelet=THERE), Act.SERVE),
        (replace(GOOD, registered_with=None), Act.REGISTER),
        (replace(GOOD, kubelet=HERE), Act.REGISTER),
        (replace(GOOD, unwatched_seconds=plugin_server.UNWATCHED_SECONDS + 1), Act.REGISTER),
    ],
)
def test_what_is_due(standing, act):
    assert due(standing) is act


def test_registered_and_not_listened_to_registers_again_with_growing_patience(place):
    kubelet, server = DeviceManager(place), PluginServer(place, offer("a"))
    kubelet.start()
    now = 0.0
    server.attend(now)
    until(lambda: server.service.is_watched)
    first = kubelet.resources[RESOURCE]
    first.call.cancel()
    until(lambda: not server.service.is_watched)
    server.attend(1.0)
    assert server.registrations == 1, "it may be about to come back"
    server.attend(1.5 + plugin_server.UNWATCHED_SECONDS)
    assert server.registrations == 2
    until(lambda: server.service.is_watched and kubelet.healthy(RESOURCE) == {"a"})
    server.close()
    kubelet.stop()


@pytest.mark.parametrize("seed", range(3))
def test_no_stale_device_and_no_leak_in_random_sequences(place, seed):
    chance = random.Random(seed)
    kubelet = DeviceManager(place)
    threads, files = threading.active_count(), open_files()
    plugins = DevicePlugins(place, seconds=0.02)
    kubelet.start()
    plugins.start()
    for _ in range(12):
        ids = tuple(f"d{n}" for n in range(chance.randrange(6)))
        sick = tuple(one for one in ids if chance.random() < 0.3)
        plugins.publish([offer(*ids, unhealthy=sick)], "test")
        happening = chance.randrange(4)
        if happening == 0:
            kubelet.restart()
        elif happening == 1 and os.path.exists(f"{place}/{SOCKET}"):
            os.unlink(f"{place}/{SOCKET}")
        elif happening == 2:  # our own crash: sockets stay, streams end
            plugins.stop()
            plugins = DevicePlugins(place, seconds=0.02)
            plugins.publish([offer(*ids, unhealthy=sick)], "test")
            plugins.start()
        wanted = set(ids) - set(sick)
        until(
            lambda: kubelet.listed(RESOURCE) == set(ids) and kubelet.healthy(RESOURCE) == wanted,  # noqa: B023
            lambda: f"{kubelet.resources} {plugins.rows()}",  # noqa: B023
        )
    plugins.stop()
    kubelet.stop()
    until(lambda: threading.active_count() <= threads, lambda: str(threading.enumerate()))
    until(lambda: open_files() <= files + 12, lambda: str(open_files()))  # gRPC keeps pollers, nothing per connection
