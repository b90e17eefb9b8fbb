"""A kubelet's device manager on real unix sockets, with messages that protoc made of the API's definition.

It does what kubernetes/kubernetes pkg/kubelet/cm/devicemanager does: refuses wrong versions and names, dials back to
the registered endpoint, keeps one stream per resource, counts devices as unhealthy when it ends, admits pods with
GetPreferredAllocation and Allocate, keeps its checkpoint, and removes every other file of its directory when it starts.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from kubelet import made_by_protoc

# kubernetes/kubelet pkg/apis/deviceplugin/v1beta1/api.proto, without its comments and gogoproto options.
DEFINITION = """
syntax = "proto3";
package v1beta1;
service Registration { rpc Register(RegisterRequest) returns (Empty) {} }
message DevicePluginOptions { bool pre_start_required = 1; bool get_preferred_allocation_available = 2; }
message RegisterRequest {
  string version = 1; string endpoint = 2; string resource_name = 3; DevicePluginOptions options = 4;
}
message Empty {}
service DevicePlugin {
  rpc GetDevicePluginOptions(Empty) returns (DevicePluginOptions) {}
  rpc ListAndWatch(Empty) returns (stream ListAndWatchResponse) {}
  rpc GetPreferredAllocation(PreferredAllocationRequest) returns (PreferredAllocationResponse) {}
  rpc Allocate(AllocateRequest) returns (AllocateResponse) {}
  rpc PreStartContainer(PreStartContainerRequest) returns (PreStartContainerResponse) {}
}
message ListAndWatchResponse { repeated Device devices = 1; }
message TopologyInfo { repeated NUMANode nodes = 1; }
message NUMANode { int64 ID = 1; }
message Device { string ID = 1; string health = 2; TopologyInfo topology = 3; }
message PreStartContainerRequest { repeated string devices_ids = 1; }
message PreStartContainerResponse {}
message PreferredAllocationRequest { repeated ContainerPreferredAllocationRequest container_requests = 1; }
message ContainerPreferredAllocationRequest {
  repeated string available_deviceIDs = 1; repeated string must_include_deviceIDs = 2; int32 allocation_size = 3;
}
message PreferredAllocationResponse { repeated ContainerPreferredAllocationResponse container_responses = 1; }
message ContainerPreferredAllocationResponse { repeated string deviceIDs = 1; }
message AllocateRequest { repeated ContainerAllocateRequest container_requests = 1; }
message ContainerAllocateRequest { repeated string devices_ids = 1; }
message CDIDevice { string name = 1; }
message AllocateResponse { repeated ContainerAllocateResponse container_responses = 1; }
message ContainerAllocateResponse {
  map<string, string> envs = 1; repeated Mount mounts = 2; repeated DeviceSpec devices = 3;
  map<string, string> annotations = 4; repeated CDIDevice cdi_devices = 5;
}
message Mount { string container_path = 1; string host_path = 2; bool read_only = 3; }
message DeviceSpec { string container_path = 1; string host_path = 2; string permissions = 3; }
"""
MESSAGES, STUBS = made_by_protoc(DEFINITION, "deviceplugin_api")
CHECKPOINT = "kubelet_internal_checkpoint"
PATIENCE_SECONDS = 90.0
DIAL_SECONDS = 10.0
QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


class AdmissionError(Exception):
    """UnexpectedAdmissionError of a pod."""


@dataclass
class Endpoint:
    """A plugin that registered: its connection, and the devices it listed last."""

    name: str
    prefers: bool
    channel: grpc.Channel
    devices: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    lists: int = 0
    stopped: bool = False
    call: object = None


def is_extended_resource_name(name: str) -> bool:
    """helper.IsExtendedResourceName: not native, no quota prefix, and `requests.NAME` is a qualified name."""
    prefix, slash, short = f"requests.{name}".partition("/")
    native = "kubernetes.io/" in name or not slash
    return not native and 0 < len(short) <= 63 and bool(QUALIFIED.fullmatch(short) and PREFIX.fullmatch(prefix))


class DeviceManager(STUBS.RegistrationServicer):
    """The kubelet's half. `resources` are the plugins registered now; `given` maps pods to resources to ids."""

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)
        self.resources: dict[str, Endpoint] = {}
        self.given: dict[str, dict[str, list[str]]] = {}
        self.answers: dict[str, list] = {}
        self.refused: list[str] = []
        self.registered = 0
        self._lock = threading.RLock()
        self._server: grpc.Server | None = None
        self._streams: list[threading.Thread] = []
        self._dials: list[threading.Thread] = []

    def start(self) -> None:
        """As the kubelet: nothing of what was in the directory outlives its start but the checkpoint."""
        for entry in self.directory.iterdir():
            if entry.name != CHECKPOINT:
                entry.unlink()
        checkpoint = self.directory / CHECKPOINT
        self.given = json.loads(checkpoint.read_text()) if checkpoint.exists() else {}
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
        STUBS.add_RegistrationServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix://{self.directory}/kubelet.sock")
        self._server.start()

    def stop(self) -> None:
        if self._server:
            self._server.stop(None).wait()
        for dial in self._dials:
            dial.join()
        for endpoint in list(self.resources.values()):
            self._end(endpoint)
        for stream in self._streams:
            stream.join()
        self._server, self.resources, self._streams, self._dials = None, {}, [], []

    def restart(self) -> None:
        self.stop()
        self.start()

    def Register(self, request, context):  # noqa: N802 - the protocol's name
        if request.version != "v1beta1":
            text = f'requested API version "{request.version}" is not supported by kubelet'
            self._refuse(context, f"{text}. Supported versions are [v1beta1]")
        if not is_extended_resource_name(request.resource_name):
            self._refuse(context, f'the ResourceName "{request.resource_name}" is invalid')
        self.registered += 1
        dial = threading.Thread(target=self._dial, args=(request,))
        self._dials.append(dial)
        dial.start()
        return MESSAGES.Empty()

    def _refuse(self, context, text: str) -> None:
        self.refused.append(text)
        context.abort(grpc.StatusCode.UNKNOWN, text)

    def _dial(self, request) -> None:
        options = (("grpc.use_local_subchannel_pool", 1),)
        channel = grpc.insecure_channel(f"unix://{self.directory}/{request.endpoint}", options=options)
        try:
            grpc.channel_ready_future(channel).result(timeout=DIAL_SECONDS)
        except grpc.FutureTimeoutError:
            channel.close()
            return
        endpoint = Endpoint(request.endpoint, request.options.get_preferred_allocation_available, channel)
        endpoint.call = STUBS.DevicePluginStub(channel).ListAndWatch(MESSAGES.Empty())
        stream = threading.Thread(target=self._listen, args=(endpoint,))
        with self._lock:
            older = self.resources.get(request.resource_name)
            self.resources[request.resource_name] = endpoint
            self._streams.append(stream)
        stream.start()
        if older:
            self._end(older)

    def _listen(self, endpoint: Endpoint) -> None:
        try:
            for answer in endpoint.call:
                seen = {d.ID: (d.health, tuple(n.ID for n in d.topology.nodes)) for d in answer.devices}
                assert len(seen) == len(answer.devices), "an id is listed twice"
                with self._lock:
                    endpoint.devices, endpoint.lists = seen, endpoint.lists + 1
        except grpc.RpcError:
            pass
        self._end(endpoint)

    def _end(self, endpoint: Endpoint) -> None:
        """Its devices are unhealthy from now on."""
        with self._lock:
            endpoint.stopped = True
            endpoint.devices = {number: ("Unhealthy", numa) for number, (_, numa) in endpoint.devices.items()}
        endpoint.call.cancel()
        endpoint.channel.close()

    def healthy(self, resource: str) -> set[str]:
        with self._lock:
            endpoint = self.resources.get(resource)
            return (
                {number for number, (health, _) in endpoint.devices.items() if health == "Healthy"}
                if endpoint
                else set()
            )

    def listed(self, resource: str) -> set[str]:
        with self._lock:
            endpoint = self.resources.get(resource)
            return set(endpoint.devices) if endpoint and not endpoint.stopped else set()

    def free(self, resource: str) -> set[str]:
        taken = {number for devices in self.given.values() for number in devices.get(resource, ())}
        return self.healthy(resource) - taken

    def admit(self, pod: str, resource: str, count: int):
        """The container's answer of Allocate. AdmissionError as the kubelet fails a pod."""
        free = sorted(self.free(resource))
        if len(free) < count:
            raise AdmissionError(f"Insufficient {resource}: requested {count}, available {len(free)}")
        stub = STUBS.DevicePluginStub(self.resources[resource].channel)
        chosen = self._preferred(stub, resource, free, count)
        request = MESSAGES.AllocateRequest(container_requests=[{"devices_ids": chosen}])
        try:
            answer = stub.Allocate(request, timeout=PATIENCE_SECONDS)
        except grpc.RpcError as error:
            raise AdmissionError(f"Allocate failed due to {error.details()}") from error
        self.given.setdefault(pod, {}).setdefault(resource, []).extend(chosen)
        (self.directory / CHECKPOINT).write_text(json.dumps(self.given))
        self.answers.setdefault(pod, []).append(answer.container_responses[0])
        return answer.container_responses[0]

    def _preferred(self, stub, resource: str, free: list[str], count: int) -> list[str]:
        """What the plugin prefers as far as it is free, filled up from the rest."""
        if not self.resources[resource].prefers:
            return free[:count]
        wish = {"available_deviceIDs": free, "must_include_deviceIDs": [], "allocation_size": count}
        request = MESSAGES.PreferredAllocationRequest(container_requests=[wish])
        answer = stub.GetPreferredAllocation(request, timeout=PATIENCE_SECONDS).container_responses
        preferred = [number for number in (answer[0].deviceIDs if answer else ()) if number in free]
        return [*preferred, *(number for number in free if number not in preferred)][:count]

    def end_pod(self, pod: str) -> None:
        self.given.pop(pod, None)


def until(what, explain=lambda: "") -> None:
    """Wait for it; fail after a while."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.01)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
