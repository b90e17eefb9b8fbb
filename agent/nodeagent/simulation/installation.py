"""A simulated node's directory as it is before anything runs: whose it is, its module files, its first state."""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import replace

from nodeagent.errors import HostError
from nodeagent.host import paths
from nodeagent.simulation.driver_installation import install_driver
from nodeagent.simulation.kernel import PRIVATE
from nodeagent.simulation.kernel_state import FORMAT, KernelState, LoadedModule, Policy
from nodeagent.simulation.module_files import ModuleSource, write_tree
from nodeagent.simulation.module_table import KnownModule, known_modules, symbol_crc
from nodeagent.simulation.profiles import CARDS, RELEASE, VERMAGIC, Profile
from nodeagent.simulation.reactions import bound

_MARK = f"nodeagent simulated node, format {FORMAT}, profile "
_COMMAND_LINE = f"BOOT_IMAGE=/boot/vmlinuz-{RELEASE} root=UUID=5eed ro iommu=pt quiet"
_MANAGEMENT_ADDRESS = "192.0.2.10/24"  # from the block for documentation, RFC 5737


def claim(wanted: Profile, place: str) -> None:
    """Mark an empty directory as ours, or see that it is ours already; anything else is never written to."""
    mark = os.path.join(place, PRIVATE, "made-by")
    text = _MARK + wanted.name
    if os.path.exists(mark):
        with open(mark, encoding="utf-8") as file:
            found = file.read().strip()
        if found != text:
            raise HostError("open simulated node", place, f"it is a {found}", f"wanted is {text}; remove the directory")
        return
    os.makedirs(place, exist_ok=True)
    if set(os.listdir(place)) - {PRIVATE}:
        raise HostError("make simulated node", place, "the directory is not empty", "give one that is, or a new one")
    os.makedirs(os.path.join(place, PRIVATE), exist_ok=True)
    temporary = f"{mark}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text + "\n")
    os.rename(temporary, mark)


def install(wanted: Profile, place: str) -> None:
    """Write module files and indexes, modprobe's configuration, driver libraries. HostError if depmod is missing."""
    write_tree(place, RELEASE, [_source(module) for module in known_modules(wanted).values()])
    install_driver(place, wanted.driver_version)
    for folder in (paths.MODPROBE_CONFIG[0], paths.RUN_DIRECTORY, paths.STATE_DIRECTORY, paths.DEV):
        os.makedirs(place + folder, exist_ok=True)
    for name, text in wanted.modprobe.items():
        with open(f"{place}{paths.MODPROBE_CONFIG[0]}/{name}", "w", encoding="utf-8") as file:
            file.write(text)


def first_state(wanted: Profile) -> KernelState:
    """A node just booted: the management interface is up and has the default route, nothing else is loaded."""
    slot = next(slot for slot in wanted.nics if not slot.rdma)
    driver = CARDS[slot.card].driver
    built = known_modules(wanted)[driver]
    module = LoadedModule(driver, 1, version=built.version, srcversion=built.srcversion, license=built.license)
    blank = KernelState(
        profile=wanted.name,
        boot_id=str(uuid.uuid4()),
        booted_at=time.time(),
        policy=Policy(_COMMAND_LINE),
        modules={driver: module},
        next_serial=2,
    )
    state = bound(blank, slot, driver)
    used = replace(state.interfaces[slot.netdev], up=True, addresses=(_MANAGEMENT_ADDRESS,), default_route=True)
    return replace(state, interfaces={slot.netdev: used})


def _source(module: KnownModule) -> ModuleSource:
    return ModuleSource(
        name=module.name,
        version=module.version,
        srcversion=module.srcversion,
        vermagic=VERMAGIC,
        license=module.license,
        description=module.description,
        softdep=module.softdep,
        parameters={parameter.name: parameter.kind.value for parameter in module.parameters},
        aliases=module.aliases,
        exports={symbol: symbol_crc(symbol) for symbol in module.exports},
        imports={symbol: symbol_crc(symbol) for symbol in module.imports},
        directory=module.folder,
        file_name=module.file_stem,
    )
