"""Node labels of GPUs as gpu-feature-discovery gives them; pure.

Source of every key and rule: NVIDIA/k8s-device-plugin internal/lm (nvml.go, resource.go, mig-strategy.go) and
docs/gpu-feature-discovery/README.md, read at v0.20.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nodeagent.spec.labels import Labels, LabelSharing, MigStrategy, SharingStrategy
from nodeagent.state.gpu import ComputeInstance, Gpu, GpuInstance, MigMode, MigProfile
from nodeagent.state.node import NodeState

PREFIX = "nvidia.com"
TIMESTAMP = f"{PREFIX}/gfd.timestamp"
LIMIT = 63
_STRIPPED = re.compile(r"[^A-Za-z0-9_. -]")
_FAMILIES = {1: "tesla", 2: "fermi", 3: "kepler", 5: "maxwell", 6: "pascal", 9: "hopper", 10: "blackwell"}
_LATER_FAMILIES = {12: "blackwell", 13: "rubin"}
_MODES = {"030000": "graphics", "030200": "compute"}

Pairs = dict[str, str]


@dataclass(frozen=True)
class MigDevice:
    """A MIG device with what it stands on."""

    gpu: Gpu
    instance: GpuInstance
    compute: ComputeInstance

    @property
    def profile(self) -> str:
        """As it appears in names: `+` is no letter of a label."""
        return self.compute.profile.replace("+", ".")


def value_of(text: str) -> str:
    """A text as the value of a label: odd characters dropped, blanks as dashes, letters or digits at both ends."""
    return _STRIPPED.sub("", text).strip().replace(" ", "-")[:LIMIT].strip("-_.")


def gpu_labels(section: Labels, state: NodeState) -> Pairs:
    """All labels but the timestamp; none without a GPU that answers. ValueError where sharing and MIG do not go."""
    gpus = sorted(state.gpus.values(), key=lambda one: one.index)
    if not gpus or state.driver is None:
        return {}
    return {
        f"{PREFIX}/gpu.machine": value_of(state.containers.machine) or "unknown",
        **_versions(state.driver.version, gpus[0].cuda_version),
        f"{PREFIX}/mig.capable": _yes(any(gpu.mig_mode is not MigMode.UNSUPPORTED for gpu in gpus)),
        f"{PREFIX}/mps.capable": _yes(_mps_capable(section.sharing, gpus)),
        **_whole_gpus(section, gpus),
        **_mig(section, gpus),
        f"{PREFIX}/gpu.mode": _mode(gpus, state),
        **_clique(gpus),
    }


def _yes(value: bool) -> str:
    return "true" if value else "false"


def _versions(driver: str, cuda: tuple[int, int]) -> Pairs:
    major, minor, revision = (*driver.split("."), "", "")[:3]
    found = {
        "cuda.driver.major": major,
        "cuda.driver.minor": minor,
        "cuda.driver.rev": revision,
        "cuda.driver-version.major": major,
        "cuda.driver-version.minor": minor,
        "cuda.driver-version.revision": revision,
        "cuda.driver-version.full": driver,
        "cuda.runtime.major": str(cuda[0]),
        "cuda.runtime.minor": str(cuda[1]),
        "cuda.runtime-version.major": str(cuda[0]),
        "cuda.runtime-version.minor": str(cuda[1]),
        "cuda.runtime-version.full": f"{cuda[0]}.{cuda[1]}",
    }
    return {f"{PREFIX}/{name}": value for name, value in found.items()}


def _mps_capable(sharing: LabelSharing, gpus: Iterable[Gpu]) -> bool:
    if sharing.strategy is not SharingStrategy.MPS:
        return False
    if any(gpu.mig_mode is MigMode.ENABLED for gpu in gpus):
        raise ValueError("mps does not go with MIG: a GPU has MIG enabled")
    return True


def _replicas(sharing: LabelSharing, resource: str) -> int:
    return sharing.replicas.get(resource, 1) if sharing.strategy is not SharingStrategy.NONE else 1


def _base(resource: str, parts: Sequence[str], count: int, sharing: LabelSharing | None) -> Pairs:
    """Product, count, replicas and strategy; `sharing` None where it is switched off."""
    replicas = 0 if sharing is None else _replicas(sharing, resource)
    shared = sharing is not None and replicas > 1
    suffix = ("SHARED",) if shared and sharing is not None and not sharing.rename else ()
    strategy = sharing.strategy.value if shared and sharing is not None else SharingStrategy.NONE.value
    return _of(
        resource,
        {
            "product": "-".join(value_of(part) for part in (*parts, *suffix)),
            "count": str(count),
            "replicas": str(replicas),
            "sharing-strategy": strategy,
        },
    )


def _of(resource: str, values: Mapping[str, str]) -> Pairs:
    return {f"{PREFIX}/{resource}.{name}": value for name, value in values.items()}


def _whole_gpus(section: Labels, gpus: Sequence[Gpu]) -> Pairs:
    """Those with MIG first, without sharing; whole ones override them, the last model wins."""
    result: Pairs = {}
    for enabled in (True, False):
        for gpu in (one for one in gpus if (one.mig_mode is MigMode.ENABLED) is enabled):
            count = sum(one.product == gpu.product for one in gpus)
            result |= _base("gpu", (gpu.product,), count, None if enabled else section.sharing)
            memory = gpu.memory_total_bytes >> 20
            result |= _of("gpu", {"memory": str(memory)} if memory else {})
            result |= _architecture(gpu.compute_capability)
    return result


def _architecture(capability: tuple[int, int]) -> Pairs:
    major, minor = capability
    if not major:
        return {}
    return _of("gpu", {"family": family(major, minor), "compute.major": str(major), "compute.minor": str(minor)})


def family(major: int, minor: int) -> str:
    """The architecture's name by compute capability."""
    if major == 7:
        return "volta" if minor < 5 else "turing"
    if major == 8:
        return "ampere" if minor < 9 else "ada-lovelace"
    return _FAMILIES.get(major) or _LATER_FAMILIES.get(major, "undefined")


def mig_devices(gpus: Iterable[Gpu]) -> tuple[MigDevice, ...]:
    """Every MIG device of GPUs with MIG enabled."""
    return tuple(
        MigDevice(gpu, instance, compute)
        for gpu in gpus
        if gpu.mig_mode is MigMode.ENABLED
        for instance in gpu.instances
        for compute in instance.compute_instances
    )


def _mig(section: Labels, gpus: Sequence[Gpu]) -> Pairs:
    if section.mig_strategy is MigStrategy.NONE:
        return {}
    by_strategy = {MigStrategy.SINGLE: _single, MigStrategy.MIXED: _mixed}
    name = {f"{PREFIX}/mig.strategy": section.mig_strategy.value}
    return name | by_strategy[section.mig_strategy](section.sharing, gpus)


def _single(sharing: LabelSharing, gpus: Sequence[Gpu]) -> Pairs:
    enabled = [gpu for gpu in gpus if gpu.mig_mode is MigMode.ENABLED]
    if not enabled:
        return {}
    devices = mig_devices(enabled)
    empty = any(not mig_devices((gpu,)) for gpu in enabled)
    if empty or len(enabled) < len(gpus) or len({device.profile for device in devices}) != 1:
        product = f"{value_of(enabled[0].product)}-MIG-INVALID"
        none = {"count": "0", "replicas": "0", "memory": "0", "sharing-strategy": ""}
        return _of("gpu", {"product": product, **none})
    return _resource("gpu", devices, sharing)


def _mixed(sharing: LabelSharing, gpus: Sequence[Gpu]) -> Pairs:
    devices = mig_devices(gpus)
    result: Pairs = {}
    for profile in sorted({device.profile for device in devices}):
        result |= _resource(f"mig-{profile}", [one for one in devices if one.profile == profile], sharing)
    return result


def _resource(resource: str, devices: Sequence[MigDevice], sharing: LabelSharing) -> Pairs:
    first = devices[0]
    base = _base(resource, (first.gpu.product, "MIG", first.profile), len(devices), sharing)
    return base | _of(resource, _attributes(first))


def _attributes(device: MigDevice) -> Pairs:
    """As nvmlDeviceGetAttributes has them: a compute instance has its share of multiprocessors, engines are shared."""
    found = next((one for one in device.gpu.profiles if one.profile_id == device.instance.profile_id), None)
    if found is None:
        return {}
    slices = device.compute.placement.size or found.slice_count
    return {
        "memory": str(found.memory_mib),
        "multiprocessors": str(_share(found, slices)),
        "slices.gi": str(found.slice_count),
        "slices.ci": str(slices),
        "engines.copy": str(found.copy_engines),
        "engines.decoder": str(found.media.decoders),
        "engines.encoder": str(found.media.encoders),
        "engines.jpeg": str(found.media.jpegs),
        "engines.ofa": str(found.media.ofas),
    }


def _share(profile: MigProfile, slices: int) -> int:
    return profile.multiprocessors * slices // profile.slice_count if profile.slice_count else 0


def _mode(gpus: Iterable[Gpu], state: NodeState) -> str:
    codes = {state.pci[gpu.pci_address].class_code for gpu in gpus if gpu.pci_address in state.pci}
    return _MODES.get(next(iter(codes)), "unknown") if len(codes) == 1 else "unknown"


def _clique(gpus: Iterable[Gpu]) -> Pairs:
    found = {gpu.fabric for gpu in gpus}
    fabric = next(iter(found)) if len(found) == 1 else ""
    return _of("gpu", {"clique": fabric}) if fabric else {}
