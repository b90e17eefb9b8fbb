"""What changes in the simulated kernel when a module comes or goes: device numbers, bound drivers, interfaces; pure.

Sources: linux Documentation/admin-guide/devices.txt (majors), fs/char_dev.c (dynamic majors), drivers/base/dd.c
(driver matching), drivers/infiniband/core (user_mad.c, uverbs_main.c: minors below major 231), ipoib_main.c (MTU).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nodeagent.simulation.kernel_state import Interface, KernelState, LoadedModule, Region, edited
from nodeagent.simulation.profiles import CARDS, vf_address
from nodeagent.simulation.refusals import (
    INFO,
    WARNING,
    ignored_parameters,
    owned_by_others,
    parameter_kinds,
    probe_lines,
    split_options,
    symbol_owners,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nodeagent.simulation.module_table import KnownModule
    from nodeagent.simulation.profiles import Profile, Slot
    from nodeagent.simulation.refusals import Insertion

MISC_MAJOR = 10
_FIRST_DYNAMIC, _DYNAMIC_MAJORS = 511, 128  # CHRDEV_MAJOR_DYN_EXT_START, down to 384

# Regions by module; major 0 asks for a dynamic one.
_REGIONS: Mapping[str, tuple[Region, ...]] = {
    "nvidia": (
        Region("nvidia", "nvidia", 195, 0, 248),
        Region("nvidiactl", "nvidia", 195, 255, 1),
        Region("nvidia-nvswitch", "nvidia", 0),
        Region("nvidia-nvlink", "nvidia", 0),
        Region("nvidia-caps", "nvidia", 0),
        Region("nvidia-caps-imex-channels", "nvidia", 0),
    ),
    "nvidia_modeset": (Region("nvidia-modeset", "nvidia_modeset", 195, 254, 1),),
    "nvidia_uvm": (Region("nvidia-uvm", "nvidia_uvm", 0),),
    "gdrdrv": (Region("gdrdrv", "gdrdrv", 0),),
    "nvidia_fs": (Region("nvidia-fs", "nvidia_fs", 0),),
    "nvidia_drm": (Region("drm", "nvidia_drm", 226),),
    "nouveau": (Region("drm", "nouveau", 226),),
    "ib_umad": (Region("infiniband_mad", "ib_umad", 231, 0, 128),),
    "ib_uverbs": (Region("infiniband_verbs", "ib_uverbs", 231, 192, 32),),
    "vfio": (Region("vfio", "vfio", 0),),
    "rdma_ucm": (Region("rdma_cm", "rdma_ucm", MISC_MAJOR, 122, 1),),
}

# Spelling of the PCI driver where it is not the module's name.
_DRIVER_NAMES: Mapping[str, str] = {"vfio_pci": "vfio-pci"}
_MODULES_OF_DRIVERS: Mapping[str, str] = {driver: module for module, driver in _DRIVER_NAMES.items()}

_IPOIB_MTU = 4092  # datagram mode


def driver_of(module: str) -> str:
    """Name of the PCI driver that a module registers."""
    return _DRIVER_NAMES.get(module, module)


def module_of(driver: str) -> str:
    return _MODULES_OF_DRIVERS.get(driver, driver)


def inserted(insertion: Insertion, exports: tuple[str, ...]) -> tuple[KernelState, tuple[tuple[int, str], ...]]:
    """The kernel with the module live, and what it printed."""
    state, name = insertion.state, insertion.name
    module = _loaded(insertion, exports)
    first = bool(module.taint) and not any(other.taint for other in state.modules.values())
    lines = (((WARNING, f"{name}: loading out-of-tree module taints kernel."),) if first else ()) + (
        *ignored_parameters(insertion),
        *_greeting(insertion),
    )
    state = replace(state, modules=edited(state.modules, **{name: module}), next_serial=state.next_serial + 1)
    state = _with_regions(state, name)
    for slot in insertion.profile.slots:
        if _probes(state, module, slot):
            state = bound(state, slot, driver_of(name))
    return _with_software(state, insertion.profile, name), lines


def removed(state: KernelState, profile: Profile, name: str) -> tuple[KernelState, tuple[tuple[int, str], ...]]:
    """The kernel without the module, its device numbers, its interfaces and its hold on PCI functions."""
    driver = driver_of(name)
    for address in [address for address, owner in state.drivers.items() if owner == driver]:
        state = unbound(state, address)
    state = replace(
        state,
        modules=edited(state.modules, **{name: None}),
        regions=tuple(region for region in state.regions if region.module != name),
        interfaces={key: item for key, item in state.interfaces.items() if item.driver != name},
    )
    state = _with_software(_with_markings(state, profile, name), profile, name)
    lines = ((INFO, "nvidia-modeset: Unloading"),) if name == "nvidia_modeset" else ()
    return (replace(state, unbind_locks=()) if name == "nvidia" else state), lines


def _with_markings(state: KernelState, profile: Profile, name: str) -> KernelState:
    """RoCE settings go with their device, and all of them with rdma_cm."""
    kept = () if name == "rdma_cm" else [slot.rdma for slot in rdma_slots(state, profile)]
    return replace(state, markings={rdma: item for rdma, item in state.markings.items() if rdma in kept})


def bound(state: KernelState, slot: Slot, driver: str) -> KernelState:
    """The function with this driver, and the interface that comes with it."""
    state = replace(state, drivers=edited(state.drivers, **{slot.pci_address: driver}))
    card = CARDS[slot.card]
    if not slot.netdev or driver != card.driver or slot.link_layer != "Ethernet":
        return state
    mac = state.vf_settings.get(slot.pci_address, {}).get("mac", (mac_of(slot),))[0]  # taken over when it is bound
    is_vf = slot.physfn != ""
    found = Interface(slot.netdev, driver, slot.pci_address, mac, max_mtu=card.max_mtu, is_vf=is_vf)
    return replace(state, interfaces=edited(state.interfaces, **{found.name: found}))


def unbound(state: KernelState, address: str) -> KernelState:
    """The function without a driver; its interfaces and virtual functions are gone with it."""
    virtual = [vf_address(address, index) for index in range(state.vfs.get(address, 0))]
    gone = (address, *virtual)
    parts = {name: part for name, part in state.parts.items() if part.parent in gone}
    netdevs = {part.netdev for part in parts.values()}
    return replace(
        state,
        parts=edited(state.parts, **dict.fromkeys(parts)),
        vdpa=edited(state.vdpa, **{name: None for name, (parent, _) in state.vdpa.items() if parent in gone}),
        drivers=edited(state.drivers, **dict.fromkeys(gone)),
        rdma_names=edited(state.rdma_names, **{address: None}),
        overrides=edited(state.overrides, **dict.fromkeys(virtual)),
        vf_settings=edited(state.vf_settings, **dict.fromkeys(virtual)),
        vfs=edited(state.vfs, **{address: None}),
        interfaces={
            key: item
            for key, item in state.interfaces.items()
            if item.pci_address not in gone and item.name not in netdevs
        },
    )


def matches(state: KernelState, slot: Slot, driver: str) -> bool:
    """Whether the driver would take this function (pci_match_device): an override names it, or its ids do."""
    override = state.overrides.get(slot.pci_address, "")
    if override:
        return override == driver
    card = CARDS[slot.card]
    return driver == card.driver or (driver == "nouveau" and card.vendor == "10de" and card.class_code == "030200")


def _probes(state: KernelState, module: LoadedModule, slot: Slot) -> bool:
    idle = module.name == "nouveau" and module.parameters.get("modeset") == "0"  # then it registers no driver
    return not idle and slot.pci_address not in state.drivers and matches(state, slot, driver_of(module.name))


def rdma_slots(state: KernelState, profile: Profile) -> tuple[Slot, ...]:
    """The functions that have an RDMA device now: bound to mlx5_core while mlx5_ib is there."""
    if "mlx5_ib" not in state.modules:
        return ()
    slots = (slot for slot in profile.nics if slot.rdma and state.drivers.get(slot.pci_address) == "mlx5_core")
    return tuple(replace(slot, rdma=state.rdma_names.get(slot.pci_address, slot.rdma)) for slot in slots)


def mac_of(slot: Slot) -> str:
    """A stable address with NVIDIA's (formerly Mellanox's) prefix for RDMA NICs, Intel's for the others."""
    vendor = "b8:ce:f6" if slot.rdma else "3c:ec:ef"
    function = int(slot.pci_address[-1])
    return f"{vendor}:{int(slot.pci_address[2:4], 16):02x}:{slot.pci_address[5:7]}:{function:02x}"


def _loaded(insertion: Insertion, exports: tuple[str, ...]) -> LoadedModule:
    known, file = insertion.known, insertion.file
    owners = symbol_owners(insertion.state)
    return LoadedModule(
        name=insertion.name,
        serial=insertion.state.next_serial,
        uses=tuple(sorted({owners[symbol] for symbol, _ in file.imports if symbol in owners})),
        gets=tuple(sorted({owners[symbol] for symbol in known.gets if symbol in owners})) if known else (),
        exports=exports,
        parameters=_parameters(insertion),
        readable=tuple(item.name for item in known.parameters if item.readable) if known else file.parameters,
        version=file.version,
        srcversion=file.srcversion,
        license=file.license,
        taint=_taint(known, file.license),
    )


def _taint(known: KnownModule | None, license_: str) -> str:
    proprietary = "P" if not any(word in license_ for word in ("GPL", "MPL")) else ""
    return proprietary + "OE" if known is None or known.out_of_tree else proprietary


def _parameters(insertion: Insertion) -> dict[str, str]:
    kinds = parameter_kinds(insertion)
    values = {item.name: item.default for item in insertion.known.parameters} if insertion.known else {}
    for name, value in split_options(insertion.options):
        if name in kinds:
            values[name] = _shown(kinds[name].value, value)
    return values


def _shown(kind: str, value: str | None) -> str:
    """A value as sysfs prints it: booleans as Y or N, numbers in decimal."""
    if kind == "bool":
        return "Y" if value is None or value[:1] in "yY1" or value[:2].lower() == "on" else "N"
    return str(int(value, 0)) if kind != "charp" and value and not _octal(value) else _from_octal(kind, value or "")


def _octal(value: str) -> bool:
    """Base 0 of kstrtol reads a leading zero as octal, which Python's int() refuses."""
    return len(value.lstrip("-")) > 1 and value.lstrip("-")[0] == "0" and value.lstrip("-")[1].isdigit()


def _from_octal(kind: str, value: str) -> str:
    return str(int(value, 8)) if kind != "charp" and _octal(value) else value


def _with_regions(state: KernelState, name: str) -> KernelState:
    given = state.majors_given
    regions = []
    for region in _REGIONS.get(name, ()):
        if not region.major:  # never the number it had before: that is what makes stale device nodes dangerous
            major, given = _FIRST_DYNAMIC - given % _DYNAMIC_MAJORS, given + 1
            regions.append(replace(region, major=major))
        else:
            regions.append(region)
    return replace(state, regions=(*state.regions, *regions), majors_given=given)


def _with_software(state: KernelState, profile: Profile, name: str) -> KernelState:
    """Interfaces without hardware, and those of IP over InfiniBand, which need three modules at once."""
    found = dict(state.interfaces)
    if name == "dummy" and "dummy" in state.modules:
        count = int(state.modules["dummy"].parameters.get("numdummies", "1"))
        found |= {f"dummy{step}": Interface(f"dummy{step}", "dummy", max_mtu=0) for step in range(count)}
    wanted = {item.name: item for item in _ipoib(state, profile)}
    kept = {key: item for key, item in found.items() if item.driver != "ib_ipoib" or key in wanted}
    return replace(state, interfaces={**wanted, **kept})


def _ipoib(state: KernelState, profile: Profile) -> Iterator[Interface]:
    if "ib_ipoib" not in state.modules:
        return
    for slot in rdma_slots(state, profile):
        if slot.link_layer == "InfiniBand":
            yield Interface(slot.netdev, "ib_ipoib", slot.pci_address, mac_of(slot), _IPOIB_MTU, max_mtu=_IPOIB_MTU)


def _greeting(insertion: Insertion) -> Iterator[tuple[int, str]]:
    """The lines a module prints when it starts, as far as anybody looks for them."""
    profile, name = insertion.profile, insertion.name
    if name == "nvidia":
        yield from probe_lines(len(owned_by_others(insertion.state, profile)))
        version = insertion.file.version
        flavour = "Open Kernel Module" if "GPL" in insertion.file.license else "Kernel Module"
        yield INFO, f"NVRM: loading NVIDIA UNIX {flavour} for x86_64  {version}  Release Build"
    if name == "nvidia_uvm":
        yield INFO, "nvidia-uvm: Loaded the UVM driver"
    if name == "mlx5_core":
        for slot in profile.nics:
            if slot.rdma:
                yield INFO, f"mlx5_core {slot.pci_address}: firmware version: {CARDS[slot.card].firmware}"
