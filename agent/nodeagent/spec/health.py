"""Section `health` of the node file: what is expected of the node, from where on it is ill, and who is told.

Defaults are those of NVIDIA's DCGM where it has one (modules/health/DcgmHealthWatch.cpp), else of the peers named in
docs/health.md, else our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from nodeagent.spec.keys import absolute_path, key

CHECK_NAMES = (  # nodeagent.health.check_table says what each looks at
    "gpu-on-bus",
    "gpu-answers",
    "recovery-action",
    "xid",
    "ecc",
    "sram",
    "gpu-notice",
    "row-remap",
    "retired-pages",
    "temperature",
    "clocks",
    "nvlink",
    "nvlink-errors",
    "fabric",
    "pcie-link",
    "pcie-errors",
    "persistence",
    "mig-device",
    "driver",
    "gpu-count",
    "port-state",
    "port-flaps",
    "port-rate",
    "port-errors",
    "gid",
    "nic-power",
    "nic-module",
    "nic-access",
    "nic-firmware",
    "kernel-log",
    "kernel-hang",
    "memory",
    "storage",
    "clock",
    "disk",
    "acs",
    "numa",
    "peermem",
    "drift-modules",
    "drift-qos",
    "drift-roce",
    "drift-links",
    "drift-mig",
    "drift-sriov",
)


class TellFrom(StrEnum):
    """How bad a change must be to be told; a return to ok of what was told is told as well."""

    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class HealthExpect:
    """What the node must have; what is left out is taken from the machine itself."""

    gpus: int | None = key(
        "GPUs the node must have; left out: as many as PCI shows, and no fewer than it ever had.",
        default=None,
        minimum=0,
        maximum=64,
        example="8",
    )
    nvlinks: int | None = key(
        "Active NVLinks of each GPU; left out: as many as it ever had up.",
        default=None,
        minimum=0,
        maximum=64,
        example="18",
    )
    ports: tuple[str, ...] = key(
        "RDMA ports that must be active, such as mlx5_0/1; left out: those that ever were.",
        default=(),
        example="[mlx5_0/1, mlx5_1/1]",
        pattern=r"^[A-Za-z0-9_.-]+/\d{1,3}$",
        expected="DEVICE/PORT such as mlx5_0/1",
    )
    port_rate_gbps: float | None = key(
        "Rate of each RDMA port in Gb/s; left out: the highest of the node's ports with the same kind of card.",
        default=None,
        minimum=0,
        maximum=10000,
        example="400",
    )
    persistence_mode: bool | None = key(
        "Whether persistence mode must be on; left out: it is not looked at.", default=None, example="true"
    )


@dataclass(frozen=True)
class HealthLimits:
    """From where on something is wrong. Rates are over `window_seconds`."""

    window_seconds: float = key(
        "Window over which rates and shares are taken.", default=600.0, minimum=1, maximum=86400
    )
    temperature_margin_celsius: int = key(
        "A warning when a GPU is this close to slowing down.", default=5, minimum=0, maximum=50
    )
    throttle_warning_ratio: float = key(
        "A warning when clocks were held down by heat or power brake for this part of the window.",
        default=0.1,
        minimum=0,
        maximum=1,
    )
    throttle_failed_ratio: float = key("A failure from this part on.", default=0.6, minimum=0, maximum=1)
    ecc_corrected_per_hour: float = key(
        "A warning when a GPU corrects more memory errors than this.", default=1000.0, minimum=0, maximum=1e12
    )
    remapped_rows: int = key(
        "A warning when this many rows of a GPU were remapped for uncorrectable errors.",
        default=512,
        minimum=1,
        maximum=100000,
    )
    retired_pages: int = key(
        "A failure when this many pages of a GPU are retired (before Ampere); a warning three before it.",
        default=63,
        minimum=1,
        maximum=1000,
    )
    nvlink_errors_per_minute: float = key(
        "A warning when a GPU's NVLinks replay or recover more often.", default=1.0, minimum=0, maximum=1e9
    )
    pcie_replays_per_minute: float = key(
        "A warning when a GPU's PCIe link replays more often; 0: by generation and width, as DCGM does.",
        default=0.0,
        minimum=0,
        maximum=1e9,
    )
    port_down_seconds: float = key(
        "A port that is down is a warning at once and a failure after this time.",
        default=120.0,
        minimum=0,
        maximum=86400,
    )
    port_flaps: int = key(
        "A warning when a port went down this often within the window.", default=3, minimum=1, maximum=1000
    )
    port_errors_per_minute: Mapping[str, float] = key(
        "A warning when a port's error counter grows faster; counters that are not named keep their defaults.",
        factory=lambda: MappingProxyType({}),
        minimum=0,
        maximum=1e12,
        example="{symbol_error: 600}",
        key_pattern=r"^[a-z][a-z0-9_]*$",
        key_expected="the name of a counter such as symbol_error",
    )
    clock_offset_seconds: float = key(
        "A warning when the clock is this far off.", default=0.1, minimum=0, maximum=86400
    )
    disk_free_mib: int = key(
        "A warning when a disk has less room than this, a failure at a fifth of it.",
        default=2500,
        minimum=0,
        maximum=1 << 40,
    )


@dataclass(frozen=True)
class HealthDamping:
    """How a verdict settles, so that what comes and goes is one trouble and not many."""

    bad_cycles: int = key(
        "How many of the last `of_cycles` looks must be bad before a verdict becomes worse.",
        default=1,
        minimum=1,
        maximum=100,
    )
    of_cycles: int = key("See `bad_cycles`.", default=1, minimum=1, maximum=100)
    hold_seconds: float = key(
        "How long all must be well before a verdict becomes better.", default=60.0, minimum=0, maximum=86400
    )
    quiet_seconds: float = key(
        "How long a GPU must be without another Xid before a past one counts no more.",
        default=600.0,
        minimum=0,
        maximum=604800,
    )
    burst_seconds: float = key(
        "Errors of one GPU with no longer silence between them are one incident.",
        default=180.0,
        minimum=0,
        maximum=86400,
    )


@dataclass(frozen=True)
class HealthWebhook:
    """Somebody who is told of changes with an HTTP POST of JSON."""

    url: str = key(
        "Where to.",
        example='"https://hooks.example.org/nodes"',
        pattern=r"^https?://[^\s@]+$",
        expected="an http or https URL without user and password",
    )
    tell_from: TellFrom = key("How bad a change must be to be told.", default=TellFrom.WARNING)
    token_file: str = absolute_path(
        "File with a bearer token for the Authorization header.", example='"/etc/nodeagent/hook.token"', last_slash=True
    )
    timeout_seconds: float = key("How long one attempt may take.", default=5.0, minimum=0.1, maximum=60)


@dataclass(frozen=True)
class Health:
    """What is looked at, when it is ill, and who is told."""

    expect: HealthExpect = key("What the node must have.", factory=HealthExpect)
    limits: HealthLimits = key("From where on something is wrong.", factory=HealthLimits)
    damping: HealthDamping = key("How verdicts settle.", factory=HealthDamping)
    ignore: tuple[str, ...] = key(
        "Checks that are not made; `nodeagent health` names them.",
        default=(),
        example="[numa, acs]",
        choices=CHECK_NAMES,
        expected="the name of a check such as pcie-link",
    )
    ignore_xids: tuple[int, ...] = key(
        "Xids that are kept in the history and make no verdict.", default=(), example="[43]", minimum=1, maximum=999
    )
    disks: tuple[str, ...] = key(
        "Paths whose disks must have room.",
        default=("/",),
        pattern=r"^/[^\x00]*$",
        expected="an absolute path",
    )
    webhooks: tuple[HealthWebhook, ...] = key("Who is told of changes.", default=())
    history_rows: int = key("How many events are kept.", default=100_000, minimum=100, maximum=10_000_000)
    history_days: float = key("How long they are kept.", default=90.0, minimum=0.01, maximum=3650)
