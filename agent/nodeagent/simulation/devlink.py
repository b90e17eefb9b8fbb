"""`ports.Devlink` on the simulated kernel: the parameters of mlx5 and what it refuses.

Source: Documentation/networking/devlink/mlx5.rst, drivers/net/ethernet/mellanox/mlx5/core/devlink.c and
eswitch_offloads.c of Linux 6.1. Only physical functions that mlx5_core drives have devlink, as there.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from nodeagent.host.devlink import owed_reloads, record_reload
from nodeagent.host.netlink import refusal
from nodeagent.simulation.kernel_state import edited
from nodeagent.simulation.reactions import bound, unbound
from nodeagent.state.devlink import Cmode, DevlinkDevice, DevlinkParameter, EswitchMode, ParameterKind

if TYPE_CHECKING:
    from nodeagent.host.ports import Files
    from nodeagent.simulation.kernel import SimKernel
    from nodeagent.simulation.kernel_state import KernelState

DRIVER = "mlx5_core"
STEERING = ("dmfs", "smfs")
# (name, type, mode, value after the driver is loaded)
PARAMETERS = (
    ("enable_eth", ParameterKind.BOOL, Cmode.DRIVERINIT, "true"),
    ("enable_rdma", ParameterKind.BOOL, Cmode.DRIVERINIT, "true"),
    ("enable_roce", ParameterKind.BOOL, Cmode.DRIVERINIT, "true"),
    ("enable_vnet", ParameterKind.BOOL, Cmode.DRIVERINIT, "true"),
    ("event_eq_size", ParameterKind.U32, Cmode.DRIVERINIT, "4096"),
    ("flow_steering_mode", ParameterKind.STRING, Cmode.RUNTIME, "smfs"),
    ("io_eq_size", ParameterKind.U32, Cmode.DRIVERINIT, "1024"),
    ("max_macs", ParameterKind.U32, Cmode.DRIVERINIT, "128"),
)
_SIZES: Mapping[str, Callable[[int], bool]] = MappingProxyType(
    {
        "event_eq_size": lambda size: 64 <= size <= 4096,
        "io_eq_size": lambda size: 64 <= size <= 4096,
        "max_macs": lambda size: size > 0 and size & (size - 1) == 0,
    }
)


class SimulatedDevlink:
    """devlink of the simulated NICs."""

    def __init__(self, kernel: SimKernel, files: Files) -> None:
        self._kernel, self._files = kernel, files

    def read_all(self, addresses: Iterable[str]) -> Mapping[str, DevlinkDevice]:
        state, owed = self._kernel.state, owed_reloads(self._files)
        return {
            address: DevlinkDevice(address, mode_of(state, address), parameters(state, address), address in owed)
            for address in addresses
            if _has_devlink(state, address)
        }

    def set_eswitch_mode(self, address: str, mode: EswitchMode) -> None:
        def edit(state: KernelState) -> KernelState:
            _refuse_unknown(state, address)
            if state.vfs.get(address, 0) and mode is not mode_of(state, address):
                raise OSError(errno.EBUSY, "can't change mode while virtual functions are there")
            kept = None if mode is EswitchMode.LEGACY else mode.value
            return replace(state, eswitch=edited(state.eswitch, **{address: kept}))

        self._edit(f"set eswitch mode {mode} on", address, edit)

    def set_parameter(self, address: str, name: str, cmode: Cmode, value: str) -> None:
        def edit(state: KernelState) -> KernelState:
            _refuse_unknown(state, address)
            return with_parameter(state, address, (name, cmode), value)

        self._edit(f"set devlink parameter {name} to {value} on", address, edit)

    def reinitialize(self, address: str, values: tuple[tuple[str, str], ...]) -> None:
        """One change of the state, so that a refusal leaves everything as it was."""

        def edit(state: KernelState) -> KernelState:
            _refuse_unknown(state, address)
            for name, value in values:
                state = with_parameter(state, address, (name, Cmode.DRIVERINIT), value)
            slot = next(one for one in self._kernel.profile.nics if one.pci_address == address)
            state = bound(unbound(state, address), slot, DRIVER)
            return replace(state, eswitch=edited(state.eswitch, **{address: None}))

        record_reload(self._files, address, owed=True)
        try:
            self._edit("reload", address, edit)
        finally:
            record_reload(self._files, address, owed=False)

    def _edit(self, operation: str, address: str, edit: Callable[[KernelState], KernelState]) -> None:
        try:
            self._kernel.strike("devlink", address)
            self._kernel.change(edit)
        except OSError as error:  # netlink carries the driver's own words
            raise refusal(operation, address, error.errno or errno.EIO, error.strerror or "") from error


def _has_devlink(state: KernelState, address: str) -> bool:
    return state.drivers.get(address) == DRIVER


def _refuse_unknown(state: KernelState, address: str) -> None:
    if not _has_devlink(state, address):
        raise OSError(errno.ENODEV, "no such devlink instance")


def mode_of(state: KernelState, address: str) -> EswitchMode:
    return EswitchMode(state.eswitch.get(address, EswitchMode.LEGACY.value))


def parameters(state: KernelState, address: str) -> tuple[DevlinkParameter, ...]:
    kept = state.devlink.get(address, {})
    return tuple(
        DevlinkParameter(name, kind, ((cmode, kept.get(name, value)),)) for name, kind, cmode, value in PARAMETERS
    )


def with_parameter(state: KernelState, address: str, which: tuple[str, Cmode], value: str) -> KernelState:
    """OSError: EINVAL for an unknown name or a value out of bounds, EOPNOTSUPP for another mode; the kernel's words."""
    name, cmode = which
    known = next((one for one in PARAMETERS if one[0] == name), None)
    if known is None:
        raise OSError(errno.EINVAL, "no such parameter")
    if known[2] is not cmode:
        raise OSError(errno.EOPNOTSUPP, "parameter has no such mode")
    if name in _SIZES and not _SIZES[name](int(value)):
        raise OSError(errno.EINVAL, f"{name} value is out of range")
    if name == "flow_steering_mode" and value not in STEERING:
        raise OSError(errno.EINVAL, "bad parameter: supported values are dmfs, smfs")
    if name == "flow_steering_mode" and mode_of(state, address) is not EswitchMode.LEGACY:
        raise OSError(errno.EOPNOTSUPP, "moving to different steering mode is only allowed in legacy mode")
    merged = {**state.devlink.get(address, {}), name: value}
    return replace(state, devlink=edited(state.devlink, **{address: merged}))
