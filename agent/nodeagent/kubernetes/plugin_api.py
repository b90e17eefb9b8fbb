"""The kubelet's device plugin API v1beta1: messages, service names, and what a resource may be called.

Sources: kubernetes/kubelet pkg/apis/deviceplugin/v1beta1/api.proto and constants.go (names, numbers);
kubernetes/kubernetes pkg/apis/core/v1/helper (IsExtendedResourceName).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from nodeagent.kubernetes.protobuf import message_classes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nodeagent.state.offers import Grant, OfferedDevice

VERSION = "v1beta1"
KUBELET_SOCKET = "kubelet.sock"
REGISTRATION, PLUGIN = "v1beta1.Registration", "v1beta1.DevicePlugin"
HEALTHY, UNHEALTHY = "Healthy", "Unhealthy"
# DOMAIN/NAME, and not of kubernetes.io itself; the quota's name `requests.NAME` bounds it too.
RESOURCE_NAME = re.compile(
    r"^(?!(?:[^/]*\.)?kubernetes\.io/)[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
)

MESSAGES = message_classes(
    "v1beta1",
    "deviceplugin/v1beta1/api.proto",
    {
        "Empty": {},
        "DevicePluginOptions": {
            "pre_start_required": (1, "bool"),
            "get_preferred_allocation_available": (2, "bool"),
        },
        "RegisterRequest": {
            "version": (1, "string"),
            "endpoint": (2, "string"),
            "resource_name": (3, "string"),
            "options": (4, "DevicePluginOptions"),
        },
        "NUMANode": {"ID": (1, "int64")},
        "TopologyInfo": {"nodes": (1, "repeated NUMANode")},
        "Device": {"ID": (1, "string"), "health": (2, "string"), "topology": (3, "TopologyInfo")},
        "ListAndWatchResponse": {"devices": (1, "repeated Device")},
        "PreStartContainerRequest": {"devices_ids": (1, "repeated string")},
        "PreStartContainerResponse": {},
        "ContainerPreferredAllocationRequest": {
            "available_deviceIDs": (1, "repeated string"),
            "must_include_deviceIDs": (2, "repeated string"),
            "allocation_size": (3, "int32"),
        },
        "PreferredAllocationRequest": {"container_requests": (1, "repeated ContainerPreferredAllocationRequest")},
        "ContainerPreferredAllocationResponse": {"deviceIDs": (1, "repeated string")},
        "PreferredAllocationResponse": {"container_responses": (1, "repeated ContainerPreferredAllocationResponse")},
        "ContainerAllocateRequest": {"devices_ids": (1, "repeated string")},
        "AllocateRequest": {"container_requests": (1, "repeated ContainerAllocateRequest")},
        "Mount": {"container_path": (1, "string"), "host_path": (2, "string"), "read_only": (3, "bool")},
        "DeviceSpec": {"container_path": (1, "string"), "host_path": (2, "string"), "permissions": (3, "string")},
        "CDIDevice": {"name": (1, "string")},
        "ContainerAllocateResponse": {
            "envs": (1, "map string"),
            "mounts": (2, "repeated Mount"),
            "devices": (3, "repeated DeviceSpec"),
            "annotations": (4, "map string"),
            "cdi_devices": (5, "repeated CDIDevice"),
        },
        "AllocateResponse": {"container_responses": (1, "repeated ContainerAllocateResponse")},
    },
)


def options_message(prefers: bool) -> Any:
    return MESSAGES["DevicePluginOptions"](get_preferred_allocation_available=prefers)


def list_message(devices: Iterable[OfferedDevice]) -> Any:
    """The full list, as every message of ListAndWatch has it."""
    answer = MESSAGES["ListAndWatchResponse"]()
    for device in devices:
        row = answer.devices.add(ID=device.id, health=HEALTHY if device.healthy else UNHEALTHY)
        for node in device.numa_nodes:
            row.topology.nodes.add(ID=node)
    return answer


def grant_message(grant: Grant) -> Any:
    return MESSAGES["ContainerAllocateResponse"](
        envs=dict(grant.envs),
        mounts=[{"container_path": m.container_path, "host_path": m.host_path, "read_only": m.read_only}
                for m in grant.mounts],
        devices=[{"container_path": n.container_path, "host_path": n.host_path, "permissions": n.permissions}
                 for n in grant.nodes],
        annotations=dict(grant.annotations),
        cdi_devices=[{"name": name} for name in grant.cdi_devices],
    )  # fmt: skip


def endpoint_of(resource: str) -> str:
    """The name of our socket for a resource; ours, so that another plugin's for the same can be told from it."""
    return f"nodeagent-{resource.replace('/', '_')}.sock"
