"""Faults of a simulated node by name: what breaks, on which GPU or port, and how it is healed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from nodeagent.errors import UsageError
from nodeagent.simulation.kernel_state import KernelState, edited

if TYPE_CHECKING:
    from nodeagent.simulation.node import SimulatedNode

_SECOND_NS = 10**9
_UNAVAILABLE_EVENT = 0x4000  # nvmlEventTypeGpuUnavailableError


@dataclass(frozen=True)
class FaultKind:
    """A fault that can be made. `needs` is gpu, port, interface or "" for the node; `usual` the value without another.

    `heal` is what brings back the GPU; faults of the kernel are healed together.
    """

    text: str
    needs: str
    usual: float
    make: Callable[[SimulatedNode, str, float], None]
    heal: Callable[[SimulatedNode, str], None] = lambda _node, _where: None


def _counter(text: str, name: str, usual: int, well: int = 0) -> FaultKind:
    """A number of the machine behind NVML."""

    def make(node: SimulatedNode, uuid: str, value: float) -> None:
        node.machine.set_counter(uuid, name, round(value))

    return FaultKind(text, "gpu", usual, make, lambda node, uuid: node.machine.set_counter(uuid, name, well))


def _kernel(text: str, needs: str, usual: float, edit: Callable[[KernelState, str, float], KernelState]) -> FaultKind:
    """A change of the kernel's state."""
    return FaultKind(
        text, needs, usual, lambda node, where, value: node.kernel.change(lambda state: edit(state, where, value))
    )


def _lose(node: SimulatedNode, uuid: str, _value: float) -> None:
    node.machine.lose(uuid, lost=True)


def _hang(node: SimulatedNode, uuid: str, value: float) -> None:
    node.machine.hang(uuid, "*", value)


def _recover(node: SimulatedNode, uuid: str, value: float) -> None:
    node.machine.set_recovery_action(uuid, round(value))


def _carrier(state: KernelState, name: str, value: float) -> KernelState:
    found = replace(state.interfaces[name], carrier=not value)
    return replace(state, interfaces=edited(state.interfaces, **{name: found}))


FAULTS: Mapping[str, FaultKind] = MappingProxyType(
    {
        "lost": FaultKind(
            "the GPU falls off the bus", "gpu", 1, _lose, lambda node, uuid: node.machine.lose(uuid, lost=False)
        ),
        "hang": FaultKind(
            "calls about the GPU take so many seconds", "gpu", 60, _hang, lambda node, _: node.machine.clear_faults()
        ),
        "recovery-action": FaultKind(
            "what the driver wants done (1 reset, 2 reboot, 3 drain ...)", "gpu", 1, _recover,
            lambda node, uuid: node.machine.set_recovery_action(uuid, 0),
        ),
        "ecc": _counter("uncorrectable memory errors", "ecc_uncorrected", 1),
        "sram": _counter(
            "uncorrectable errors of memory on the chip, ever; 4 are too many", "sram_uncorrected_aggregate", 4
        ),
        "unavailable": FaultKind(
            "NVML says that the GPU became unavailable", "gpu", 1,
            lambda node, uuid, _value: node.machine.send_event(uuid, _UNAVAILABLE_EVENT, 0),
        ),
        "remap-pending": _counter("a row remapping waits for a reset", "remap_pending", 1),
        "remap-failed": _counter("a row remapping failed", "remap_failed", 1),
        "nvlink-down": _counter("NVLinks are down, a bit for each", "nvlinks_down", 1),
        "fabric-unhealthy": _counter("summary of the fabric's health (2 unhealthy, 3 limited)", "fabric_health", 2, 1),
        "pcie-width": _counter("lanes of the GPU's PCIe link", "pcie_width_now", 8),
        "power-brake": _counter(
            "nanoseconds for which power brake held the clocks down", "power_brake_ns", 3600 * _SECOND_NS
        ),
        "port-down": _kernel("the link of an interface is down", "interface", 1, _carrier),
        "port-rate": _kernel(
            "the rate of an RDMA port in Mb/s (25000, 100000, 200000)", "port", 25_000,
            lambda state, name, value: replace(state, port_rates={**state.port_rates, name: round(value)}),
        ),
        "port-errors": _kernel(
            "symbol errors of an RDMA port", "port", 100_000,
            lambda state, name, value: replace(
                state, port_errors={**state.port_errors, f"{name}/symbol_error": round(value)}
            ),
        ),
        "gid-lost": _kernel(
            "an RDMA port has no GIDs for its addresses", "port", 1,
            lambda state, name, _value: replace(state, lost_gids=(*state.lost_gids, name)),
        ),
        "nic-pcie-width": _kernel(
            "lanes of the PCIe link of a function", "pci", 8,
            lambda state, address, value: replace(state, pci_widths={**state.pci_widths, address: round(value)}),
        ),
        "clock-skew": _kernel(
            "the clock is so many seconds off", "", 2.5,
            lambda state, _where, value: replace(state, clock_offset_seconds=value),
        ),
        "clock-free": _kernel(
            "nobody keeps the clock", "", 1, lambda state, _where, _value: replace(state, clock_synchronized=False)
        ),
        "disk-full": _kernel(
            "so much of the disk is free (0 to 1)", "", 0.0001,
            lambda state, _where, value: replace(state, disks_free={**state.disks_free, "/": value}),
        ),
    }
)  # fmt: skip


def make_fault(node: SimulatedNode, kind: str, where: str, value: float | None = None) -> None:
    """Break something; `where` is a UUID, an interface, an RDMA device or a PCI address as the kind needs."""
    found = FAULTS.get(kind)
    if found is None:
        raise UsageError(f"simulate fault {kind}: there is no such fault; there are {', '.join(FAULTS)}")
    if found.needs and not where:
        raise UsageError(f"simulate fault {kind}: say which {found.needs}")
    if found.needs == "interface" and where not in node.kernel.state.interfaces:
        raise UsageError(
            f"simulate fault {kind}: no interface {where}; there are {', '.join(node.kernel.state.interfaces)}"
        )
    found.make(node, where, found.usual if value is None else value)


def report_xid(node: SimulatedNode, uuid: str, code: int, text: str = "", mig_uuid: str | None = None) -> None:
    """As the driver does: the line in the kernel's log, and the event of NVML."""
    gpu = next(gpu for gpu in node.machine.gpus if gpu.uuid == uuid)
    instance = ""
    if mig_uuid is not None:
        row = next(row for row in node.machine.mig_layout(uuid).rows if row.uuid == mig_uuid)
        instance = f" GPU-I:{row.gi_id:02d} GPU-CI:{row.ci_id or 0:02d}"
    place = gpu.pci_address.rpartition(".")[0]
    node.kernel.log(f"NVRM: Xid (PCI:{place}{instance}): {code}, {text or 'simulated'}")
    node.machine.xid(uuid, code, mig_uuid)


def heal(node: SimulatedNode) -> None:
    """Take back every fault; the driver wants nothing done any more."""
    node.kernel.clear_faults()
    node.machine.clear_faults()
    for gpu in node.machine.gpus:
        for kind in FAULTS.values():
            if kind.needs == "gpu":
                kind.heal(node, gpu.uuid)
    node.kernel.change(_healed)


def _healed(state: KernelState) -> KernelState:
    interfaces = {name: replace(found, carrier=True) for name, found in state.interfaces.items()}
    return replace(
        state,
        interfaces=interfaces,
        pci_widths={},
        port_rates={},
        port_errors={},
        lost_gids=(),
        clock_synchronized=True,
        clock_offset_seconds=0.0,
        disks_free={},
    )
