"""Which pod was given which device, asked of the kubelet (pod-resources API v1, GA since Kubernetes 1.28).

Sources: kubernetes/kubelet pkg/apis/podresources/v1/api.proto (names and numbers); NVIDIA/dcgm-exporter
internal/pkg/transformation/kubernetes.go (forms of device ids).
"""

from __future__ import annotations

import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import grpc

from nodeagent.errors import DeadlineError, GoneError, HostError
from nodeagent.kubernetes.protobuf import message_classes
from nodeagent.state.pods import PodFacts, PodUser

if TYPE_CHECKING:
    from collections.abc import Iterator

_ANSWER_BYTES = 16 << 20  # the kubelet's own limit for this answer
_RECONNECT_MILLISECONDS = 2000
_OPTIONS = (
    ("grpc.max_receive_message_length", _ANSWER_BYTES),
    ("grpc.default_authority", "localhost"),  # Go refuses a socket's path as an authority
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", _RECONNECT_MILLISECONDS),
)
_VENDOR = "nvidia.com/"
_REPLICA = "::"  # GPU-…::3 is the fourth share of a GPU that several pods get

MESSAGES = message_classes(
    "v1",
    "podresources/v1/api.proto",
    {
        "ListPodResourcesRequest": {},
        "ListPodResourcesResponse": {"pod_resources": (1, "repeated PodResources")},
        "PodResources": {
            "name": (1, "string"),
            "namespace": (2, "string"),
            "containers": (3, "repeated ContainerResources"),
        },
        "ContainerResources": {"name": (1, "string"), "devices": (2, "repeated ContainerDevices")},
        "ContainerDevices": {"resource_name": (1, "string"), "device_ids": (2, "repeated string")},
        "AllocatableResourcesRequest": {},
        "AllocatableResourcesResponse": {"devices": (1, "repeated ContainerDevices")},
    },
)
SERVICE = "v1.PodResourcesLister"


class KubeletPods:
    """One channel to the kubelet, kept over its restarts."""

    def __init__(self, socket: str, deadline_seconds: float = 5.0) -> None:
        self._socket, self._deadline = socket, deadline_seconds
        self._channel = grpc.insecure_channel(f"unix://{socket}", options=_OPTIONS)
        self._list = self._method("List", "ListPodResourcesRequest", "ListPodResourcesResponse")
        self._allocatable = self._method(
            "GetAllocatableResources", "AllocatableResourcesRequest", "AllocatableResourcesResponse"
        )

    def _method(self, name: str, request: str, response: str) -> Any:
        return self._channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=MESSAGES[request].SerializeToString,
            response_deserializer=MESSAGES[response].FromString,
        )

    def read(self) -> PodFacts:
        """As of now. GoneError: nobody listens. DeadlineError: no answer in time. HostError otherwise."""
        try:
            answer = self._list(MESSAGES["ListPodResourcesRequest"](), timeout=self._deadline)
        except grpc.RpcError as error:
            raise self._refusal(error) from error
        return PodFacts(MappingProxyType(users_by_device(answer)), time.time(), self._allocatable_gpus())

    def _allocatable_gpus(self) -> int | None:
        """None where the kubelet does not offer the call, as with its feature gate off."""
        try:
            answer = self._allocatable(MESSAGES["AllocatableResourcesRequest"](), timeout=self._deadline)
        except grpc.RpcError:
            return None
        ours = (given for given in answer.devices if given.resource_name.startswith(_VENDOR))
        return len({one for given in ours for one in given.device_ids})

    def _refusal(self, error: Any) -> HostError:
        about = ("ask for pods at", self._socket)
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            return GoneError(*about, "no kubelet answers there")
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineError(*about, f"no answer within {self._deadline:g} s")
        return HostError(*about, f"{error.code().name.lower()}: {error.details()}")

    def close(self) -> None:
        self._channel.close()


def users_by_device(answer: Any) -> dict[str, tuple[PodUser, ...]]:
    """Containers by device id, without the number of a share; each container once, sorted."""
    found: dict[str, set[PodUser]] = {}
    for device, user in _given(answer):
        found.setdefault(device.partition(_REPLICA)[0], set()).add(user)
    return {device: tuple(sorted(users)) for device, users in found.items()}


def _given(answer: Any) -> Iterator[tuple[str, PodUser]]:
    for pod in answer.pod_resources:
        for container in pod.containers:
            user = PodUser(pod.namespace, pod.name, container.name)
            yield from ((device, user) for given in container.devices for device in given.device_ids)
