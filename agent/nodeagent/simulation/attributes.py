"""What a write to a file of the kernel does on the simulated node, and what the kernel refuses; pure.

Sources: linux drivers/pci/pci-sysfs.c and pci-driver.c (sriov_numvfs, driver_override, bind), drivers/base/bus.c,
net/core/dev.c (MTU), open-gpu-kernel-modules nv-procfs.c (unbindLock) and nv-pci.c (removal of a device in use).
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from nodeagent.host import paths
from nodeagent.host.roce_defaults import MODE, TOS
from nodeagent.simulation import congestion, roce_writes
from nodeagent.simulation.file_write import Write
from nodeagent.simulation.kernel_state import Interface, KernelState, edited
from nodeagent.simulation.profiles import Slot
from nodeagent.simulation.reactions import bound, matches, unbound
from nodeagent.simulation.refused import refused
from nodeagent.simulation.tree_pci import VFIO_PCI, pci_drivers, vfio_number
from nodeagent.simulation.virtual_functions import with_count
from nodeagent.state.processes import DeviceNumber

Handler = Callable[[Write], KernelState]

READ_ONLY = errno.EACCES  # what sysfs says of an attribute that cannot be written, to root as well
ABSENT = errno.ENOENT


def find_handler(path: str) -> tuple[Handler, re.Match[str]] | None:
    """What takes writes to this path; None where the kernel has no such writable file."""
    for pattern, handler in _HANDLERS.items():
        match = re.fullmatch(pattern, path)
        if match:
            return handler, match
    return None


def with_link(state: KernelState, name: str, *, mtu: int | None = None, up: bool | None = None) -> KernelState:
    """The interface with another MTU or state. OSError ENODEV, EINVAL outside its limits."""
    interface = state.interfaces.get(name)
    if interface is None:
        raise refused(errno.ENODEV)
    if mtu is not None and mtu_refusal(interface, mtu):
        raise refused(errno.EINVAL)
    size = interface.mtu if mtu is None else mtu
    changed = replace(interface, mtu=size, up=interface.up if up is None else up)
    if interface.carrier_up_to_mtu:
        changed = replace(changed, carrier=size <= interface.carrier_up_to_mtu)
    changed = changed if changed.up else without_uses(changed)
    return replace(state, interfaces=edited(state.interfaces, **{name: changed}))


def mtu_refusal(interface: Interface, mtu: int) -> str:
    """What dev_validate_mtu (net/core/dev.c) says by extended acknowledgement; empty where the MTU is possible."""
    if mtu < interface.min_mtu:
        return "mtu less than device minimum"
    return "mtu greater than device maximum" if interface.max_mtu and mtu > interface.max_mtu else ""


def without_uses(interface: Interface) -> Interface:
    """What a link keeps when it goes down: its IPv4 addresses (fib_disable_ip, addrconf_ifdown, neigh_ifdown)."""
    kept = tuple(address for address in interface.addresses if ":" not in address)
    down = replace(interface, addresses=kept, routes=(), neighbours=())
    return replace(down, default_route=False, gateway="", default_ours=False)


def _unbind(request: Write) -> KernelState:
    groups = request.match.groupdict()
    address = groups.get("address") or request.text.strip()
    driver = request.state.drivers.get(address)
    if driver is None or groups.get("driver", driver) != driver or request.text.strip() != address:
        raise refused(errno.ENODEV)
    number, gpus = DeviceNumber(195, -1), [slot.pci_address for slot in request.profile.gpus]
    if driver == "nvidia" and address in gpus:  # it drives NVSwitches too
        number = DeviceNumber(195, gpus.index(address))
    elif driver == VFIO_PCI:
        number = vfio_number(request.profile, request.state, address)
    if number in request.opened:
        raise refused(errno.ETIMEDOUT)  # the real write never returns: it waits in the kernel for the last close
    return unbound(request.state, address)


def _bind(request: Write) -> KernelState:
    slot = request.slot(request.text.strip())
    driver = request.match["driver"]
    if not matches(request.state, slot, driver):  # bind_store (drivers/base/bus.c) asks this first
        raise refused(errno.ENODEV)
    if slot.pci_address in request.state.drivers:
        raise refused(errno.EBUSY)
    return bound(request.state, slot, driver)


def _probe(request: Write) -> KernelState:
    slot = request.slot(request.text.strip())
    candidates = [driver for driver in pci_drivers(request.profile, request.state) if _takes(request, slot, driver)]
    return bound(request.state, slot, candidates[0]) if candidates else request.state


def _takes(request: Write, slot: Slot, driver: str) -> bool:
    return slot.pci_address not in request.state.drivers and matches(request.state, slot, driver)


def _override(request: Write) -> KernelState:
    slot = request.slot(request.match["address"])
    name = request.text.strip()
    return replace(request.state, overrides=edited(request.state.overrides, **{slot.pci_address: name or None}))


def _vfs(request: Write) -> KernelState:
    return with_count(request.state, request.slot(request.match["address"]), _number(request.text))


def _vf_probe(request: Write) -> KernelState:
    """sriov_drivers_autoprobe: whether new virtual functions get a driver at once."""
    address = request.slot(request.match["address"]).pci_address
    others = tuple(one for one in request.state.no_vf_probe if one != address)
    return replace(request.state, no_vf_probe=others if _number(request.text) else (*others, address))


def _mtu(request: Write) -> KernelState:
    return with_link(request.state, request.match["name"], mtu=_number(request.text))


def _flags(request: Write) -> KernelState:
    return with_link(request.state, request.match["name"], up=bool(_number(request.text) & 1))


def _unbind_lock(request: Write) -> KernelState:
    """1 takes the lock only while nobody uses the GPU; reading back tells."""
    address = request.match["address"]
    minor = [slot.pci_address for slot in request.profile.gpus].index(address)
    kept = tuple(locked for locked in request.state.unbind_locks if locked != address)
    take = _number(request.text) == 1 and DeviceNumber(195, minor) not in request.opened
    return replace(request.state, unbind_locks=(*kept, address) if take else kept)


def _firmware_path(request: Write) -> KernelState:
    return replace(request.state, firmware_path=request.text.strip())


def _modules_disabled(request: Write) -> KernelState:
    """A switch that goes one way only, until the next boot."""
    if _number(request.text) != 1:
        raise refused(errno.EINVAL)
    return replace(request.state, policy=replace(request.state.policy, modules_disabled=True))


def _number(text: str) -> int:
    try:
        return int(text.strip(), 0)
    except ValueError as error:
        raise refused(errno.EINVAL) from error


_ADDRESS = r"(?P<address>[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])"
_DRIVER = r"(?P<driver>[^/]+)"
_INTERFACE = r"(?P<name>[^/]+)"

_HANDLERS: Mapping[str, Handler] = {
    f"{paths.SYS_PCI_DEVICES}/{_ADDRESS}/driver/unbind": _unbind,
    f"{paths.SYS_PCI_DEVICES}/{_ADDRESS}/driver_override": _override,
    f"{paths.SYS_PCI_DEVICES}/{_ADDRESS}/sriov_numvfs": _vfs,
    f"{paths.SYS_PCI_DEVICES}/{_ADDRESS}/sriov_drivers_autoprobe": _vf_probe,
    f"{paths.SYS_PCI_DRIVERS}/{_DRIVER}/unbind": _unbind,
    f"{paths.SYS_PCI_DRIVERS}/{_DRIVER}/bind": _bind,
    paths.SYS_PCI_DRIVERS_PROBE: _probe,
    f"{paths.SYS_CLASS_NET}/{_INTERFACE}/mtu": _mtu,
    f"{paths.SYS_CLASS_NET}/{_INTERFACE}/flags": _flags,
    f"{paths.PROC_NVIDIA}/gpus/{_ADDRESS}/unbindLock": _unbind_lock,
    f"{paths.SYS_CONFIG_RDMA_CM}/(?P<rdma>[^/]+)/ports/1/{MODE}": roce_writes.set_mode,
    f"{paths.SYS_CONFIG_RDMA_CM}/(?P<rdma>[^/]+)/ports/1/{TOS}": roce_writes.set_tos,
    f"{paths.SYS_CLASS_INFINIBAND}/(?P<rdma>[^/]+)/tc/1/traffic_class": roce_writes.set_traffic_class,
    f"{paths.SYS_DEBUG_MLX5}/{_ADDRESS}/cc_params/(?P<name>[^/]+)": congestion.set_parameter,
    f"{paths.SYS_CLASS_NET}/(?P<netdev>[^/]+)/{congestion.SWITCH}": congestion.set_enabled,
    paths.SYS_FIRMWARE_PATH: _firmware_path,
    paths.PROC_MODULES_DISABLED: _modules_disabled,
}
