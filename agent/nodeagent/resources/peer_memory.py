"""How NICs reach GPU memory: decides between DMA-BUF, nvidia_peermem and nv_peer_mem, and says why.

Sources: open-gpu-kernel-modules kernel-open/nvidia-peermem and nvidia/nv-dmabuf.c, nv_peer_memory README,
mlnx-ofa_kernel drivers/infiniband/core/peer_mem.c, the GPU Operator's page on GPUDirect RDMA.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.resources.module_graph import hard_needs
from nodeagent.resources.module_sets import (
    NV_PEER_MEM,
    NVIDIA,
    NVIDIA_PEERMEM,
    OFED_MARK,
    PEER_API_OWNERS,
    is_open_license,
    release_number,
)
from nodeagent.spec.schema import Flavor, Modules, PeerMemory

if TYPE_CHECKING:
    from nodeagent.state.node import NodeState

DMA_BUF_KERNEL = (5, 12)  # ib_umem_dmabuf_get came with 5.12
PEER_API = "ib_register_peer_memory_client"


@dataclass(frozen=True)
class PeerChoice:
    """The decision: `module` to load ("" where none is needed), `why`, and `problem` where nothing will do."""

    module: str = ""
    why: str = ""
    problem: str = ""
    advice: str = ""


def choose(modules: Modules, state: NodeState) -> PeerChoice:
    """The way that fits the wish on this node; pure."""
    if modules.peermem is PeerMemory.NONE:
        return PeerChoice()
    if modules.peermem is PeerMemory.AUTO:
        return _auto(modules, state)
    way = modules.peermem
    reason = _LACKING[way](modules, state)
    if reason:
        return PeerChoice(problem=f"{way} will not work: {reason}", advice="set modules.peermem to auto")
    return PeerChoice(module=_MODULE[way], why=f"peer memory: {way}, as modules.peermem says")


def _auto(modules: Modules, state: NodeState) -> PeerChoice:
    """DMA-BUF where it works: nothing has to be loaded and no OFED reload can break it. Else a module that fits."""
    reasons: list[str] = []
    for way in (PeerMemory.DMA_BUF, PeerMemory.NVIDIA_PEERMEM, PeerMemory.NV_PEER_MEM):
        reason = _LACKING[way](modules, state)
        if not reason:
            because = f" ({'; '.join(reasons)})" if reasons else f" ({_dma_buf_reason(state)})"
            return PeerChoice(module=_MODULE[way], why=f"peer memory: {way}{because}")
        reasons.append(f"no {way}: {reason}")
    return PeerChoice(
        problem="no way to peer memory: " + "; ".join(reasons),
        advice="use the open driver on kernel 5.12 or newer, or install OFED and a driver built against it",
    )


def _dma_buf_reason(state: NodeState) -> str:
    release = state.kernel.release or "release unknown"
    return f"the driver is open and kernel {release} shares DMA-BUF memory with RDMA, so that no module is needed"


def driver_is_open(modules: Modules, state: NodeState) -> bool | None:
    """Whether the driver in force after this plan is the open one; None while there is no driver to ask."""
    file = state.module_files.get(NVIDIA)
    on_disk = is_open_license(file.license) if file and file.license else None
    loaded = state.driver.is_open if state.driver is not None and state.is_loaded(NVIDIA) else None
    wanted = modules.nvidia.flavor if modules.nvidia else Flavor.AUTO
    if loaded is None or (wanted is not Flavor.AUTO and on_disk == (wanted is Flavor.OPEN)):
        return on_disk
    return loaded


def _without_dma_buf(modules: Modules, state: NodeState) -> str:
    is_open = driver_is_open(modules, state)
    if is_open is None:
        return "the NVIDIA driver is neither loaded nor on disk"
    if not is_open:
        return "the NVIDIA driver is proprietary, only the open one exports memory"
    release = release_number(state.kernel.release)
    if release and release < DMA_BUF_KERNEL:
        return f"kernel {state.kernel.release} is older than 5.12"
    return ""


def _without_nvidia_peermem(_modules: Modules, state: NodeState) -> str:
    file = state.module_files.get(NVIDIA_PEERMEM)
    if state.is_loaded(NVIDIA_PEERMEM):
        return ""
    if file is None:
        return "module nvidia_peermem is not on disk"
    needs = hard_needs(NVIDIA_PEERMEM, state.module_files)
    if PEER_API not in dict(file.imports) and not {*PEER_API_OWNERS, state.kernel.peer_memory_owner} & set(needs):
        return "nvidia_peermem was built without the peer memory API of an RDMA stack, its init would refuse silently"
    rdma = set(needs) - {NVIDIA, *hard_needs(NVIDIA, state.module_files)}
    if not state.kernel.peer_memory_owner and all(state.is_loaded(name) for name in rdma):
        return "the loaded RDMA stack does not export ib_register_peer_memory_client"
    return ""


def _without_nv_peer_mem(_modules: Modules, state: NodeState) -> str:
    if state.is_loaded(NV_PEER_MEM):
        return ""
    if NV_PEER_MEM not in state.module_files:
        return "module nv_peer_mem is not on disk"
    if not (state.is_loaded(OFED_MARK) or OFED_MARK in hard_needs("ib_core", state.module_files)):
        return "nv_peer_mem needs the RDMA stack of OFED"
    return ""


def lacking(module: str, modules: Modules, state: NodeState) -> str:
    """Why a peer memory module would refuse to load, "" if it would not, or is no such module."""
    way = next((way for way, name in _MODULE.items() if name == module and name), None)
    return _LACKING[way](modules, state) if way else ""


_LACKING = {
    PeerMemory.DMA_BUF: _without_dma_buf,
    PeerMemory.NVIDIA_PEERMEM: _without_nvidia_peermem,
    PeerMemory.NV_PEER_MEM: _without_nv_peer_mem,
}
_MODULE = {
    PeerMemory.DMA_BUF: "",
    PeerMemory.NVIDIA_PEERMEM: NVIDIA_PEERMEM,
    PeerMemory.NV_PEER_MEM: NV_PEER_MEM,
}
