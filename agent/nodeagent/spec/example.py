"""Node files for typical machines, with comments: `nodeagent config example NAME` prints them, examples/ has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from nodeagent.errors import UsageError
from nodeagent.spec.example_kubernetes import CDI, KUBERNETES
from nodeagent.spec.render import Document, render

EVERY_KEY = "every-key"
CHECK = "Check it with `nodeagent config validate FILE`; see what it would change with `nodeagent plan --file FILE`."


@dataclass(frozen=True)
class Example:
    """A node file as a document, the machine it is for, and the comments that are special to it."""

    title: str
    document: Document
    notes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def example_text(name: str = EVERY_KEY) -> str:
    """The example as a commented node file; raises UsageError for a name that does not exist."""
    if name not in EXAMPLES:
        raise UsageError(f"print example {name}: no such example; expected one of {', '.join(EXAMPLES)}")
    example = EXAMPLES[name]
    return render(example.document, notes=example.notes, title=f"{example.title}\n{CHECK}")


_GPUDIRECT: Document = MappingProxyType(
    {
        "nvidia": {"flavor": "auto"},
        "rdma": {"drivers": ["mlx5_core", "mlx5_ib"]},
        "peermem": "auto",
        "gdrcopy": True,
        "absent": ["nouveau"],
    }
)

_DGX_A100 = Example(
    "DGX A100: eight A100-SXM4-40GB, ConnectX-6 NICs for the GPUs; two GPUs are divided for small jobs.",
    {
        "version": 1,
        "disruption": {"gpu": "when-idle", "nic": "when-idle", "node": "never"},
        "modules": _GPUDIRECT,
        "mig": [
            {"mode": "enabled", "gpus": [0, 1], "devices": {"3g.20gb": 1, "2g.10gb": 1, "1g.5gb": 2}},
            {"mode": "disabled", "gpus": [2, 3, 4, 5, 6, 7]},
        ],
        "links": [{"match": "driver:mlx5_core", "up": True, "mtu": 9000}],
        "metrics": {"listen": "127.0.0.1:9400"},
    },
    {
        "mig[0].mode": "For notebooks and inference: four instances on each of two GPUs.",
        "mig[1].mode": "For training: whole GPUs, with NVLink.",
        "modules.peermem": "auto decides between DMA-BUF and nvidia_peermem by what driver, kernel and NICs offer.",
        "links[0].mtu": "An RDMA path MTU of 4096 bytes needs at least 4200 bytes here, and as much on the switch.",
    },
)

_DGX_H100 = Example(
    "DGX H100: eight H100-SXM5-80GB, ConnectX-7 NICs; MIG mode changes without a reset of the GPU.",
    {
        "version": 1,
        "modules": {**_GPUDIRECT, "nvidia": {"flavor": "open"}, "gds": True},
        "mig": [
            {"mode": "enabled", "gpus": [7], "devices": {"1g.10gb": 7}},
            {"mode": "disabled", "gpus": [0, 1, 2, 3, 4, 5, 6]},
        ],
        "links": [{"match": "driver:mlx5_core", "up": True, "mtu": 4200}],
        "services": ["dcgm-collector.service"],
    },
    {
        "modules.gds": "GPUDirect Storage; nvidia_fs 2.17.5 and later need the open driver.",
        "links[0].mtu": "The least that an RDMA path MTU of 4096 bytes fits into.",
    },
)


def _like_h100(title: str, profile: str) -> Example:
    """The H100's file for a board whose smallest instance is called otherwise."""
    on_last = {"mode": "enabled", "gpus": [7], "devices": {profile: 7}}
    mig = [on_last, {"mode": "disabled", "gpus": [0, 1, 2, 3, 4, 5, 6]}]
    return replace(_DGX_H100, title=title, document={**_DGX_H100.document, "mig": mig})


_DGX_H200 = _like_h100("DGX H200: as a DGX H100, with 141 GB on each GPU.", "1g.18gb")
_DGX_B200 = _like_h100("DGX B200: eight B200, ConnectX-7 NICs.", "1g.23gb")

_SMALL = Example(
    "A small server with four GPUs: the driver and its metrics, nothing else.",
    {
        "version": 1,
        "modules": {"nvidia": {"uvm": True, "modeset": False}, "absent": ["nouveau"]},
        "metrics": {"listen": "127.0.0.1:9400"},
    },
    {"modules.nvidia.modeset": "Nothing is displayed on this machine."},
)

_SLURM = Example(
    "A Slurm node: jobs own the GPUs, so nothing is disturbed but an idle GPU, and parameters suit many short jobs.",
    {
        "version": 1,
        "disruption": {"gpu": "when-idle", "nic": "never", "node": "never"},
        "modules": {
            "nvidia": {"flavor": "auto", "parameters": {"RestrictProfilingToAdminUsers": 0}},
            "rdma": {"user_access": True},
            "peermem": "auto",
            "gdrcopy": True,
            "absent": ["nouveau"],
        },
        "mig": [{"mode": "disabled", "gpus": "all"}],
        "links": [{"match": "driver:mlx5_core", "up": True}],
        "services": ["nvidia-dcgm.service"],
        "metrics": {"listen": "0.0.0.0:9400"},
    },
    {
        "modules.nvidia.parameters": "Users may read performance counters (Nsight, CUPTI) without being root.",
        "metrics.listen": "Reachable from the cluster's Prometheus; keep it inside the management network.",
        "services": "Stopped before a step that needs quiet GPUs, started again after it.",
    },
)

_RDMA = Example(
    "A storage or CPU node with RDMA NICs and no GPU.",
    {
        "version": 1,
        "modules": {"rdma": {"stack": "inbox", "drivers": ["mlx5_core", "mlx5_ib"], "user_access": True}},
        "links": [{"match": "driver:mlx5_core", "up": True, "mtu": 9000}],
        "metrics": {"listen": "127.0.0.1:9400"},
    },
)

_EVERY_KEY = Example(
    "Every key there is. Only `version` is required: what a node file does not mention is left alone.",
    {
        "version": 1,
        "disruption": {"gpu": "when-idle", "nic": "when-idle", "node": "never"},
        "modules": {
            "nvidia": {
                "manage": "auto",
                "flavor": "auto",
                "uvm": True,
                "modeset": True,
                "drm": False,
                "reload_on_update": False,
                "parameters": {"EnableStreamMemOPs": 1},
            },
            "rdma": {"stack": "auto", "drivers": ["mlx5_core", "mlx5_ib"], "user_access": True, "ipoib": False},
            "peermem": "auto",
            "gdrcopy": True,
            "gds": False,
            "named": {"br_netfilter": {}, "ipmi_msghandler": {"parameters": {"panic_op": "none"}}},
            "absent": ["nouveau"],
        },
        "mig": [
            {"mode": "enabled", "gpus": [0, "0000:0f:00.0"], "devices": {"3g.20gb": 1, "1g.5gb": 4}},
            {
                "mode": "enabled",
                "gpus": [2],
                "instances": [{"profile": "4g", "start": 0, "compute": {"1c": 2, "2c": 1}}, {"profile": "1g+me"}],
                "drift": "report",
            },
            {"layout": "all-balanced", "gpus": [3]},
            {"mode": "disabled", "gpus": ["GPU-4d5bd23c-11a1-31b8-9b5c-0f7b1d2f7a10"]},
        ],
        "links": [
            {
                "match": "driver:mlx5_core",
                "up": True,
                "mtu": 9000,
                "tx_queue_length": 10000,
                "rings": {"rx": 8192, "tx": 8192},
                "channels": {"combined": 32},
                "coalescing": {
                    "adaptive_rx": False,
                    "adaptive_tx": False,
                    "rx_usecs": 8,
                    "rx_frames": 128,
                    "tx_usecs": 16,
                    "tx_frames": 32,
                },
                "pause": {"rx": False, "tx": False, "autoneg": False},
                "features": {"lro": False, "hw-tc-offload": False},
                "private_flags": {"rx_cqe_compress": False},
                "ipv4": {"arp_ignore": 1, "arp_announce": 2, "arp_filter": 0, "rp_filter": 2, "accept_local": 0},
                "qos": {"setup": "lossless-dscp26-prio3"},
            },
            {
                "match": "rail:*",
                "name": "rail{rail}",
                "addresses": ["10.0.{rail}.5/24"],
                "routes": [
                    {"to": "default", "via": "10.0.{rail}.254", "table": "10{rail}", "source": "10.0.{rail}.5"},
                    {"to": "10.64.0.0/16", "via": "10.0.{rail}.254", "metric": 100},
                ],
                "rules": [{"source": "10.0.{rail}.5", "table": "10{rail}", "priority": 1000}],
            },
            {
                "match": "0000:e1:00.0",
                "mtu": 1500,
                "qos": {
                    "trust": "dscp",
                    "dscp": {"26": 3, "48": 6},
                    "pfc": [3],
                    "ets": {
                        "bandwidth": [50, 0, 0, 50, 0, 0, 0, 0],
                        "strict": [6],
                        "classes": [0, 1, 2, 3, 4, 5, 6, 7],
                    },
                    "max_rate_mbps": [0, 0, 0, 0, 0, 0, 1000, 0],
                    "buffers": {
                        "of_priority": [0, 0, 0, 1, 0, 0, 0, 0],
                        "bytes": [98304, 163840, 0, 0, 0, 0, 0, 0],
                    },
                    "dcbx": "host",
                },
            },
        ],
        "guard": {"changes": "automatic", "seconds": 60, "interfaces": ["eno1"]},
        "pcie": {"max_read_request": 4096, "relaxed_ordering": True, "acs_redirect": True},
        "roce": {
            "devices": [
                {
                    "match": "rail:*",
                    "name": "mlx5_{rail}",
                    "mode": "v2",
                    "tos": 106,
                    "traffic_class": 106,
                    "congestion": {
                        "cnp_dscp": 48,
                        "cnp_priority": 6,
                        "ecn": [3],
                        "parameters": {"np_min_time_between_cnps": 4, "rp_ai_rate": 5},
                    },
                },
            ],
            "user_access": True,
            "netns": "shared",
        },
        "devlink": [{"match": "0000:3b:00.0", "parameters": {"enable_roce": True, "flow_steering_mode": "smfs"}}],
        "sriov": [
            {
                "match": "0000:3b:00.0",
                "vfs": 2,
                "driver": "default",
                "eswitch_mode": "legacy",
                "trust": True,
                "spoofchk": False,
                "link_state": "auto",
                "vlan": 0,
                "max_rate_mbps": 0,
                "macs": ["02:00:00:00:3b:00", "02:00:00:00:3b:01"],
            },
            {"match": "0000:af:00.0", "vfs": 1, "driver": "vfio-pci", "guids": ["02:00:00:00:00:00:af:00"]},
        ],
        "sandbox": {"workload": "container", "devices": "gpus", "driver": "vfio-pci"},
        "cdi": CDI,
        "runtimes": {
            "containerd": "auto",
            "crio": "auto",
            "docker": "auto",
            "podman": "auto",
            "nvidia_runtime": False,
        },
        "labels": {
            "gpus": "auto",
            "own": True,
            "mig_strategy": "mixed",
            "sharing": {"strategy": "time-slicing", "replicas": {"gpu": 4, "mig-1g.5gb": 2}, "rename": False},
            "timestamp": True,
            "file": True,
            "features_file": "",
            "api": False,
            "follow": False,
            "taint": False,
            "mig_config_file": "",
        },
        "kubernetes": KUBERNETES,
        "services": ["dcgm-collector.service"],
        "metrics": {
            "listen": "127.0.0.1:9400",
            "web_config_file": "",
            "textfile": "",
            "counters_file": "",
            "job_mapping_dir": "",
            "dcgm": "on",
            "host_label": "Hostname",
            "instance_copies": False,
            "node_exporter_names": False,
            "operator_names": True,
            "dcgm_names": "both",
            "otlp_endpoint": "http://127.0.0.1:4318/v1/metrics",
            "pod_resources_socket": "none",
        },
        "validation": {"interval_seconds": 60, "gpu_trials": "at-start", "deadline_seconds": 30, "ready_files": "off"},
        "health": {
            "expect": {
                "gpus": 4,
                "nvlinks": 12,
                "ports": ["mlx5_0/1"],
                "port_rate_gbps": 200,
                "persistence_mode": True,
            },
            "limits": {
                "window_seconds": 600,
                "temperature_margin_celsius": 5,
                "throttle_warning_ratio": 0.1,
                "throttle_failed_ratio": 0.6,
                "ecc_corrected_per_hour": 1000,
                "remapped_rows": 512,
                "retired_pages": 63,
                "nvlink_errors_per_minute": 1,
                "pcie_replays_per_minute": 0,
                "port_down_seconds": 120,
                "port_flaps": 3,
                "port_errors_per_minute": {"symbol_error": 600},
                "clock_offset_seconds": 0.1,
                "disk_free_mib": 2500,
            },
            "damping": {
                "bad_cycles": 1,
                "of_cycles": 1,
                "hold_seconds": 60,
                "quiet_seconds": 600,
                "burst_seconds": 180,
            },
            "ignore": ["numa"],
            "ignore_xids": [43],
            "disks": ["/"],
            "webhooks": [
                {
                    "url": "https://hooks.example.org/nodes",
                    "tell_from": "failed",
                    "token_file": "",
                    "timeout_seconds": 5,
                }
            ],
            "history_rows": 100000,
            "history_days": 90,
        },
        "remediation": {
            "mode": "dry-run",
            "rules": [
                {
                    "checks": ["recovery-action"],
                    "recoveries": ["reset-gpu"],
                    "at_least": "failed",
                    "quarantine": True,
                    "actions": ["reset-gpu", "ask-reboot"],
                    "approval": True,
                }
            ],
            "limits": {
                "window_seconds": 86400,
                "attempts": 1,
                "per_device": 2,
                "per_node": 4,
                "systemic_ratio": 0.5,
                "settle_seconds": 60,
                "verify_seconds": 300,
                "cooldown_seconds": 60,
            },
            "quarantine": {"lift_after_seconds": 600, "slurm": True, "slurm_node": "gpu17"},
            "reload": ["nvidia"],
        },
        "loop": {
            "interval_seconds": 300,
            "sample_seconds": 15,
            "backoff_seconds": 1,
            "nvml_deadline_seconds": 10,
        },
    },
)

EXAMPLES: Mapping[str, Example] = MappingProxyType(
    {
        EVERY_KEY: _EVERY_KEY,
        "dgx-a100": _DGX_A100,
        "dgx-h100": _DGX_H100,
        "dgx-h200": _DGX_H200,
        "dgx-b200": _DGX_B200,
        "small-4-gpu": _SMALL,
        "slurm-gpu-node": _SLURM,
        "rdma-only": _RDMA,
    }
)
