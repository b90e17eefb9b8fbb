"""Observed states with GPUs, MIG devices and where they are, made from few words."""

from __future__ import annotations

from nodeagent.state.containers import CdiFile, Containers
from nodeagent.state.gpu import ComputeInstance, Gpu, GpuInstance, MigMode, Placement
from nodeagent.state.network import PciFunction
from nodeagent.state.node import NodeState
from nodeagent.state.processes import DeviceNode

UVM = DeviceNode("/dev/nvidia-uvm", 500, 0, 0o666)


def gpu(index: int, *profiles: str, mig: bool = False) -> Gpu:
    """`1g.5gb` is a GPU instance with one compute instance that fills it, `1c.3g.20gb` one with a part."""
    instances = tuple(
        GpuInstance(
            one.removeprefix("1c."), 0, Placement(n, 1), n + 1, (ComputeInstance(one, 0, f"MIG-{index}-{n}", index=n),)
        )
        for n, one in enumerate(profiles)
    )
    mode = MigMode.ENABLED if mig or profiles else MigMode.DISABLED
    return Gpu(f"GPU-{index}", index, index, f"0000:0{index}:00.0", "A100", 40 << 30, mode, mode, instances=instances)


def function(address: str, *path: str, numa: int = 0, code: str = "030200", vendor: str = "10de") -> PciFunction:
    return PciFunction(address, vendor, "2000", code, numa_node=numa, path=(*path, address))


def node(*gpus: Gpu, cdi: tuple[str, ...] = (), **more) -> NodeState:
    pci = {one.pci_address: function(one.pci_address, f"root{one.index // 2}", numa=one.index // 2) for one in gpus}
    files = (CdiFile("/etc/cdi/x.json", "", "nvidia.com/gpu", cdi),) if cdi else ()
    nodes = {UVM.path: UVM}
    pci |= more.pop("pci", {})
    return NodeState(
        gpus={one.uuid: one for one in gpus},
        pci=pci,
        device_nodes=nodes,
        containers=Containers(cdi_files=files),
        **more,
    )
