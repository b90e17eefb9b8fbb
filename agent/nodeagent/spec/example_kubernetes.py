"""Sections `cdi` and `kubernetes` of the example with every key."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

CDI: Mapping[str, Any] = MappingProxyType(
    {
        "gpus": "auto",
        "management": "off",
        "rdma": "auto",
        "gdrcopy": "auto",
        "gds": "auto",
        "mofed": "auto",
        "imex": "auto",
        "names": ["index", "uuid"],
        "directory": "",
        "driver_root": "",
        "host_root": "",
        "additional_gids": False,
    }
)
KUBERNETES: Mapping[str, Any] = MappingProxyType(
    {
        "gpus": {
            "offer": "auto",
            "mig_strategy": "mixed",
            "device_list": ["cdi-cri"],
            "device_id": "uuid",
            "pass_device_specs": True,
            "gdrcopy": True,
            "gds": False,
            "mofed": False,
            "imex": {"channels": [0], "required": False},
            "shared_allocation": "distributed",
            "sharing": {
                "strategy": "time-slicing",
                "replicas": {"gpu": 4, "mig-1g.5gb": 2},
                "rename": False,
                "fail_above_one": True,
            },
            "mps_directory": "",
            "config_file": "",
            "config_directory": "/opt/node/plugin-configs",
        },
        "network": {
            "offer": "auto",
            "rdma_config_file": "/opt/node/rdma-shared.json",
            "sriov_config_file": "/opt/node/sriov-plugin.json",
            "sriov_prefix": "nvidia.com",
            "cdi": False,
        },
        "plugin_directory": "",
    }
)
