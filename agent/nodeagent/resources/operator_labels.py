"""Doing as the labels say that a GPU Operator, or its user, puts on the node; pure.

Sources: NVIDIA/gpu-operator controllers/state_manager.go (gpu.deploy.*, gpu.workload.config),
NVIDIA/k8s-driver-manager cmd/driver-manager (paused values), NVIDIA/mig-parted deployments (nvidia.com/mig.config
and its state).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from nodeagent.errors import SpecError, UsageError
from nodeagent.resources.operator_components import DEPLOY, give_way, runs_with_operator
from nodeagent.spec.mig_parted import entries_for, parse_parted
from nodeagent.spec.sandbox import Workload
from nodeagent.spec.schema import MigEntry, NodeSpec
from nodeagent.state.gpu import Gpu

MIG_CONFIG, MIG_STATE = "nvidia.com/mig.config", "nvidia.com/mig.config.state"
WORKLOAD = "nvidia.com/gpu.workload.config"
PLUGIN_CONFIG = "nvidia.com/device-plugin.config"  # NVIDIA/k8s-device-plugin cmd/config-manager
FOLLOWED = frozenset({MIG_CONFIG, WORKLOAD, PLUGIN_CONFIG})


class MigConfigState(StrEnum):
    """As MIG manager says it. rebooting: a GPU waits for a reboot, which the agent leaves to whoever may do it."""

    PENDING = "pending"
    REBOOTING = "rebooting"
    SUCCESS = "success"
    FAILED = "failed"


@dataclass(frozen=True)
class Followed:
    """The node file as the labels change it. `mig_config` is the name followed, `problem` why it cannot be."""

    spec: NodeSpec
    mig_config: str = ""
    problem: str = ""


def relevant(labels: Mapping[str, str]) -> dict[str, str]:
    """Those labels that change what the agent does."""
    return {key: value for key, value in labels.items() if key in FOLLOWED or key.startswith(DEPLOY)}


def follow(spec: NodeSpec, labels: Mapping[str, str], gpus: Iterable[Gpu], parted: str | None) -> Followed:
    """Leave to the operator what it runs where the file says auto, and take the MIG layout that a label names.

    `parted` is the text of nvidia-mig-parted's file, None without one.
    """
    spec = _with_plugin_config(_for_workload(give_way(spec, labels), labels), labels)
    name = labels.get(MIG_CONFIG, "")
    if not name or runs_with_operator("mig-manager", labels):
        return Followed(spec)
    try:
        return Followed(replace(spec, mig=_entries(spec, name, gpus, parted)), name)
    except (SpecError, UsageError) as error:
        return Followed(spec, name, str(error))


def _for_workload(spec: NodeSpec, labels: Mapping[str, str]) -> NodeSpec:
    """What the GPUs are for, where the file has a section for it; other values say nothing."""
    if spec.sandbox is None:
        return spec
    wanted = labels.get(WORKLOAD, "")
    return replace(spec, sandbox=replace(spec.sandbox, workload=Workload(wanted))) if wanted in set(Workload) else spec


def _with_plugin_config(spec: NodeSpec, labels: Mapping[str, str]) -> NodeSpec:
    """The file of NVIDIA's device plugin that the label names; one that is not there is told by whoever reads it."""
    name = labels.get(PLUGIN_CONFIG, "")
    if not name or spec.kubernetes is None or not spec.kubernetes.gpus.config_directory:
        return spec
    gpus = spec.kubernetes.gpus
    gpus = replace(gpus, config_file=f"{gpus.config_directory}/{name}")
    return replace(spec, kubernetes=replace(spec.kubernetes, gpus=gpus))


def _entries(spec: NodeSpec, name: str, gpus: Iterable[Gpu], parted: str | None) -> tuple[MigEntry, ...]:
    if parted is None:
        return (MigEntry(layout=name),)
    file = spec.labels.mig_config_file if spec.labels else ""
    return entries_for(parse_parted(parted, file).config(name), gpus)


def mig_config_state(
    followed: Followed, *, seen: bool, open_units: Iterable[str], failed: Iterable[str], gpus: Iterable[Gpu]
) -> MigConfigState:
    """`seen`: a pass has ended since the label was taken over; units are those still to do, and those that failed or
    cannot be done at all.

    Level-triggered: what waits for a job to end is pending until it has, and a repaired failure becomes success.
    """
    if followed.problem:
        return MigConfigState.FAILED
    if not seen:
        return MigConfigState.PENDING
    if any(gpu.needs_reboot for gpu in gpus):
        return MigConfigState.REBOOTING
    if any(unit.startswith("mig") for unit in failed):
        return MigConfigState.FAILED
    waiting = any(unit.startswith("mig") for unit in open_units)
    return MigConfigState.PENDING if waiting else MigConfigState.SUCCESS
