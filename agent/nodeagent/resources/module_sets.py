"""Module sets by meaning: which modules belong to the GPU and the RDMA stack, in which order, and who depends on them.

The tables only rank and name; what really depends on what comes from the module files and the running kernel. Sources:
open-gpu-kernel-modules kernel-open/, gdrcopy src/gdrdrv, gds-nvidia-fs src/, nv_peer_memory, mlnx-ofa_kernel
ofed_scripts/mod_load_funcs, doca-driver-build entrypoint/internal/config, k8s-driver-manager cmd/driver-manager.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from nodeagent.resources.base import Disturbs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nodeagent.state.node import NodeState


class ModuleSet(StrEnum):
    """Names that stand for a whole set on the command line and in units."""

    NVIDIA = "nvidia"
    RDMA = "rdma"
    OFED = "ofed"  # the same modules as rdma; the usual name where the stack comes from OFED
    PEERMEM = "peermem"
    GDRCOPY = "gdrcopy"
    GDS = "gds"


NVIDIA = "nvidia"
NOUVEAU = "nouveau"
NVIDIA_PEERMEM = "nvidia_peermem"
NV_PEER_MEM = "nv_peer_mem"
GDRDRV = "gdrdrv"
NVIDIA_FS = "nvidia_fs"
NVIDIA_UVM = "nvidia_uvm"
NVIDIA_MODESET = "nvidia_modeset"
NVIDIA_DRM = "nvidia_drm"
OFED_MARK = "mlx_compat"  # every OFED module depends on it, no inbox module does (openibd tells them apart so)
DUMMY_P2P = "nv_p2p_dummy"  # a gdrdrv built against this never reaches a GPU (gdrcopy issue 334)
PEER_API_OWNERS = ("ib_uverbs", "ib_core")  # OFED 24.10 and later, and before

# Built with the driver from one source tree: all of them must have the version of the loaded nvidia.
SAME_BUILD = (NVIDIA_UVM, NVIDIA_MODESET, NVIDIA_DRM, NVIDIA_PEERMEM)

# Where nvidia uses them it finds them only if they came first.
HELPERS = ("i2c_core", "ipmi_msghandler", "ipmi_devintf", "video")

# In the order of unloading. nvidia_drm and nv_peer_mem are in it although peers' lists forget them.
GPU_STACK = (
    NVIDIA_FS, GDRDRV, NVIDIA_PEERMEM, NV_PEER_MEM, "nvidia_vgpu_vfio", NVIDIA_DRM, NVIDIA_MODESET, NVIDIA_UVM, NVIDIA,
)  # fmt: skip

STORAGE = (
    "ib_iser", "ib_isert", "ib_srp", "ib_srpt", "nvme_rdma", "nvmet_rdma", "rpcrdma", "xprtrdma", "rds_rdma",
    "rnbd_client", "rnbd_server", "ko2iblnd",
)  # fmt: skip

THIRD_PARTY_RDMA = (
    "bnxt_re", "efa", "erdma", "iw_cxgb4", "hfi1", "hns_roce_hw_v2", "ionic_rdma", "irdma", "ib_qib", "mana_ib",
    "ocrdma", "qedr", "rdma_rxe", "siw", "vmw_pvrdma",
)  # fmt: skip

# In the order of unloading: users of the stack first, so that a refusal comes while the NICs still work; openibd takes
# mlx5_ib and mlx5_core first and may leave a host without NICs.
RDMA_STACK = (
    *STORAGE, *THIRD_PARTY_RDMA, "ib_ipoib", "rdma_ucm", "rdma_cm", "iw_cm", "ib_cm",
    "mlx5_vdpa", "mlx5_fwctl", "mlx5_dpll", "mlx5_vfio_pci", "mlx5_ib", "mlx5_core",
    "ib_uverbs", "ib_umad", "ib_core", "mlxfw", "mlxdevm", OFED_MARK,
)  # fmt: skip

MEMBERS = MappingProxyType(
    {
        ModuleSet.NVIDIA: GPU_STACK,
        ModuleSet.RDMA: RDMA_STACK,
        ModuleSet.OFED: RDMA_STACK,
        ModuleSet.PEERMEM: (NVIDIA_PEERMEM, NV_PEER_MEM),
        ModuleSet.GDRCOPY: (GDRDRV,),
        ModuleSet.GDS: (NVIDIA_FS,),
    }
)

UNLOAD_ORDER = (*GPU_STACK, *RDMA_STACK, *reversed(HELPERS))

# The whole node: RDMA before nvidia before what joins the two.
LOAD_ORDER = (
    OFED_MARK, "mlxdevm", "mlxfw", "mlx5_core", "ib_core", "ib_uverbs", "mlx5_ib", "ib_umad", "ib_ipoib",
    "ib_cm", "iw_cm", "rdma_cm", "rdma_ucm", "mlx5_vdpa", "mlx5_fwctl", "mlx5_dpll", "mlx5_vfio_pci",
    *THIRD_PARTY_RDMA, *STORAGE, *HELPERS,
    NVIDIA, NVIDIA_UVM, NVIDIA_MODESET, NVIDIA_DRM, "nvidia_vgpu_vfio", NVIDIA_PEERMEM, NV_PEER_MEM, GDRDRV, NVIDIA_FS,
)  # fmt: skip

# Never both: the second registers the same peer client; nouveau keeps the devices from nvidia.
CONFLICTS = MappingProxyType(
    {NVIDIA: (NOUVEAU,), NVIDIA_PEERMEM: (NV_PEER_MEM,), NV_PEER_MEM: (NVIDIA_PEERMEM,)},
)

_DRIVER_PACKAGES = "install the NVIDIA modules for this kernel (nvidia-open, nvidia-kernel-dkms, linux-modules-nvidia)"
_RDMA_PACKAGES = "install linux-modules-extra for this kernel, or DOCA-OFED (mlnx-ofed-kernel-dkms)"
PACKAGES = MappingProxyType(
    {
        **dict.fromkeys((NVIDIA, NVIDIA_UVM, NVIDIA_MODESET, NVIDIA_DRM), _DRIVER_PACKAGES),
        NVIDIA_PEERMEM: "it comes with the NVIDIA driver where RDMA headers with the peer memory API are installed",
        NV_PEER_MEM: "install nvidia-peer-memory-dkms, or set modules.peermem to auto",
        GDRDRV: "install gdrdrv-dkms",
        NVIDIA_FS: "install nvidia-fs-dkms",
        **dict.fromkeys(RDMA_STACK, _RDMA_PACKAGES),
    }
)

_GPU_FAMILY = frozenset((*GPU_STACK, NOUVEAU))
_RDMA_FAMILY = frozenset(RDMA_STACK)
_NETWORK_CLASS, _DISPLAY_CLASS = "02", "03"  # PCI base classes (PCI Code and ID Assignment Specification)


def canonical(name: str) -> str:
    """The kernel's spelling of a module name: `-` and `_` are equal to modprobe, sysfs has `_`."""
    return name.strip().replace("-", "_")


def load_rank(name: str) -> int:
    """Place in the load order of the whole node; what no table names comes behind RDMA and before nvidia."""
    return LOAD_ORDER.index(name) if name in LOAD_ORDER else LOAD_ORDER.index(HELPERS[0])


def unload_rank(name: str) -> int:
    """Place in the unload order; what no table names goes first, since it can only be a user of the stacks."""
    return UNLOAD_ORDER.index(name) if name in UNLOAD_ORDER else -1


def serves(names: Iterable[str], state: NodeState) -> Disturbs:
    """Whose work stops when these modules go: by family, else by the PCI functions they drive."""
    for name in names:
        if name in _GPU_FAMILY:
            return Disturbs.GPU
        if name in _RDMA_FAMILY:
            return Disturbs.NIC
        classes = {_base_class(f.class_code) for f in state.pci.values() if canonical(f.driver) == name}
        if _NETWORK_CLASS in classes:
            return Disturbs.NIC
        if _DISPLAY_CLASS in classes:
            return Disturbs.GPU
    return Disturbs.NOTHING


def nvidia_gpus(state: NodeState) -> dict[str, str]:
    """Driver ("" when none) per PCI address of every NVIDIA display function."""
    return {
        address: canonical(function.driver)
        for address, function in sorted(state.pci.items())
        if function.vendor == "10de" and _base_class(function.class_code) == _DISPLAY_CLASS
    }


def _base_class(class_code: str) -> str:
    return class_code.lower().removeprefix("0x")[:2]


def is_open_license(text: str) -> bool:
    """Whether a modinfo license is that of the open NVIDIA modules ("Dual MIT/GPL"; the others say "NVIDIA")."""
    return "GPL" in text


def release_number(text: str) -> tuple[int, ...]:
    """Leading numbers of a version or kernel release: 5.15.0-91-generic is (5, 15, 0)."""
    numbers: list[int] = []
    for part in text.split("-", 1)[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)
