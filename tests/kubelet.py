"""A kubelet's pod-resources service on a real unix socket, with messages that protoc made of the API's definition."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

import grpc
from grpc_tools import protoc

# The messages of kubernetes/kubelet pkg/apis/podresources/v1/api.proto, as far as the test double fills them in.
DEFINITION = """
syntax = "proto3";
package v1;
service PodResourcesLister {
  rpc List(ListPodResourcesRequest) returns (ListPodResourcesResponse) {}
  rpc GetAllocatableResources(AllocatableResourcesRequest) returns (AllocatableResourcesResponse) {}
}
message AllocatableResourcesRequest {}
message AllocatableResourcesResponse {
  repeated ContainerDevices devices = 1;
  repeated int64 cpu_ids = 2;
}
message ListPodResourcesRequest {}
message ListPodResourcesResponse { repeated PodResources pod_resources = 1; }
message PodResources { string name = 1; string namespace = 2; repeated ContainerResources containers = 3; }
message ContainerResources { string name = 1; repeated ContainerDevices devices = 2; repeated int64 cpu_ids = 3; }
message NUMANode { int64 ID = 1; }
message TopologyInfo { repeated NUMANode nodes = 1; }
message ContainerDevices { string resource_name = 1; repeated string device_ids = 2; TopologyInfo topology = 3; }
"""
Given = Mapping[tuple[str, str, str], Mapping[str, Sequence[str]]]  # (namespace, pod, container) -> resource -> ids


def made_by_protoc(definition: str = DEFINITION, name: str = "kubelet_api") -> tuple[ModuleType, ModuleType]:
    """The modules that protoc generates: messages, and the services' stubs."""
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / f"{name}.proto").write_text(definition)
        options = [f"-I{place}", f"--python_out={place}", f"--grpc_python_out={place}", f"{place}/{name}.proto"]
        assert protoc.main(["protoc", *options]) == 0
        sys.path.insert(0, place)
        try:
            return import_module(f"{name}_pb2"), import_module(f"{name}_pb2_grpc")
        finally:
            sys.path.remove(place)


MESSAGES, STUBS = made_by_protoc()


class Kubelet(STUBS.PodResourcesListerServicer):
    """Answers with `given`; refuses with `refusal`, a gRPC status, while it is set; is slow by `before`."""

    def __init__(self, given: Given) -> None:
        self.given = given
        self.refusal: grpc.StatusCode | None = None
        self.before = lambda: None
        self.asked = 0

    def List(self, request, context):  # noqa: N802 - the protocol's name
        self.asked += 1
        self.before()
        if self.refusal:
            context.abort(self.refusal, "not today")
        answer = MESSAGES.ListPodResourcesResponse()
        for (namespace, pod, container), devices in self.given.items():
            row = answer.pod_resources.add(name=pod, namespace=namespace).containers.add(name=container, cpu_ids=[1, 2])
            for resource, ids in devices.items():
                row.devices.add(resource_name=resource, device_ids=ids, topology={"nodes": [{"ID": 1}]})
        return answer

    def GetAllocatableResources(self, request, context):  # noqa: N802 - the protocol's name
        answer = MESSAGES.AllocatableResourcesResponse(cpu_ids=[0])
        for devices in self.given.values():
            for resource, ids in devices.items():
                answer.devices.add(resource_name=resource, device_ids=ids)
        return answer


@contextmanager
def serving(kubelet: Kubelet, socket: str) -> Iterator[None]:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    STUBS.add_PodResourcesListerServicer_to_server(kubelet, server)
    server.add_insecure_port(f"unix://{socket}")
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()
        Path(socket).unlink(missing_ok=True)
