"""What the loaded NVIDIA driver shows below /proc/driver/nvidia; pure.

Source: open-gpu-kernel-modules kernel-open/nvidia/nv-procfs.c and nv.c (nv_register_chrdev, version strings).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodeagent.host import paths
from nodeagent.simulation import tree_capabilities
from nodeagent.simulation.profiles import CARDS
from nodeagent.simulation.tree_entry import Entries, Entry, Tree, line
from nodeagent.state.processes import DeviceNode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nodeagent.simulation.kernel_state import KernelState, LoadedModule
    from nodeagent.simulation.profiles import Profile, Slot

_SHOWN_AS = {"RestrictProfilingToAdminUsers": "RmProfilingAdminOnly"}
_QUOTED = frozenset({"CoherentGPUMemoryMode", "ExcludedGpus", "RegistryDwords", "RegistryDwordsPerDevice"})
_FS_NODES = 16
_IMEX = "nvidia-caps-imex-channels"


def render(profile: Profile, state: KernelState, uuids: Mapping[str, str]) -> Tree:
    tree = dict(_graphics_nodes(profile, state))
    if "nvidia_fs" in state.modules:
        tree.update(_storage(state))
    driver = state.modules.get("nvidia")
    if driver is None:
        return tree
    tree[f"{paths.PROC_NVIDIA}/version"] = Entry(_version(driver))
    tree[f"{paths.PROC_NVIDIA}/params"] = Entry(_parameters(driver))
    tree[paths.PROC_NVIDIA_CAP_MINORS] = tree_capabilities.minors()
    if driver.parameters.get("NVreg_CreateImexChannel0") == "1":
        tree.update(_channel(state))
    tree[f"{paths.PROC_NVIDIA}/registry"] = line('Binary: ""')
    for minor, slot in enumerate(profile.gpus):
        if state.drivers.get(slot.pci_address) == "nvidia":
            tree.update(_gpu(state, slot, minor, uuids))
    return tree


def _version(driver: LoadedModule) -> str:
    flavour = "Open Kernel Module" if "GPL" in driver.license else "Kernel Module"
    return (
        f"NVRM version: NVIDIA UNIX {flavour} for x86_64  {driver.version}  Release Build  (builder@simulation)\n"
        "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
    )


def _parameters(driver: LoadedModule) -> str:
    rows = []
    for name, value in driver.parameters.items():
        short = name.removeprefix("NVreg_")
        shown = f'"{value}"' if short in _QUOTED else value
        rows.append(f"{_SHOWN_AS.get(short, short)}: {shown}\n")
    return "".join(rows)


def _gpu(state: KernelState, slot: Slot, minor: int, uuids: Mapping[str, str]) -> Entries:
    folder = f"{paths.PROC_NVIDIA}/gpus/{slot.pci_address}"
    driver = state.modules["nvidia"]
    rows = (
        ("Model", CARDS[slot.card].product),
        ("IRQ", 100 + minor),
        ("GPU UUID", uuids.get(slot.pci_address, "GPU-????????-????-????-????-????????????")),
        ("Video BIOS", "92.00.45.00.03"),
        ("Bus Type", "PCIe"),
        ("DMA Size", "52 bits"),
        ("DMA Mask", "0xfffffffffffff"),
        ("Bus Location", slot.pci_address),
        ("Device Minor", minor),
        ("GPU Firmware", driver.version if "GPL" in driver.license else "N/A"),
        ("GPU Excluded", "No"),
    )
    yield f"{folder}/information", Entry("".join(f"{key + ':':<16} {value}\n" for key, value in rows))
    yield f"{folder}/unbindLock", line(int(slot.pci_address in state.unbind_locks))


def _graphics_nodes(profile: Profile, state: KernelState) -> Entries:
    """Nodes of display drivers, which devtmpfs makes."""
    region = next((region for region in state.regions if region.name == "drm"), None)
    driver = "nvidia" if "nvidia_drm" in state.modules else "nouveau"
    gpus = profile.gpus if region else ()
    cards = [slot for slot in gpus if state.drivers.get(slot.pci_address) == driver]
    for number, _ in enumerate(cards):
        for name, minor in ((f"card{number}", number), (f"renderD{128 + number}", 128 + number)):
            path = f"{paths.DEV_DRI}/{name}"
            yield path, Entry(node=DeviceNode(path, 226, minor, 0o660))


def _storage(state: KernelState) -> Entries:
    region = next(region for region in state.regions if region.name == "nvidia-fs")
    for minor in range(_FS_NODES):
        path = f"{paths.DEV}/nvidia-fs{minor}"
        yield path, Entry(node=DeviceNode(path, region.major, minor, 0o600))


def _channel(state: KernelState) -> Entries:
    """IMEX channel 0, which the driver makes where its parameter says so (nv-caps-imex.c: open to all, by devtmpfs)."""
    region = next(region for region in state.regions if region.name == _IMEX)
    path = f"{paths.DEV_NVIDIA_CAPS_IMEX}/channel0"
    yield path, Entry(node=DeviceNode(path, region.major, 0, 0o666))
