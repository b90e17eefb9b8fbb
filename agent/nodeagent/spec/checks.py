"""What no single key shows: keys of a node file that contradict each other. Each check's docstring is its rule.

Sources: the drivers' own dependencies (modinfo), NVIDIA's GPUDirect RDMA and MIG guides, open-gpu-kernel-modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nodeagent.spec import health_checks, kubernetes_checks, network_checks, pcie_checks, roce_checks
from nodeagent.spec.decode import INCOMPLETE, Path
from nodeagent.spec.findings import Finding
from nodeagent.spec.keys import keys_of
from nodeagent.spec.links import LinkEntry
from nodeagent.spec.schema import Flavor, MigEntry, Modules, NodeSpec, PeerMemory, RdmaStack
from nodeagent.state.gpu import MigMode

MODULES = ("modules",)
NVIDIA = ("modules", "nvidia")
RDMA = ("modules", "rdma")
OF_THE_DRIVER = {"nvidia_uvm": "uvm", "nvidia_modeset": "modeset", "nvidia_drm": "drm"}
PEER_MODULES = (PeerMemory.NVIDIA_PEERMEM, PeerMemory.NV_PEER_MEM)


def check(spec: NodeSpec) -> Iterator[Finding]:
    """Every contradiction and every hint in a node file whose single values are right."""
    for rule in RULES:
        yield from rule(spec)


def driver_parts(spec: NodeSpec) -> Iterator[Finding]:
    """`modules.nvidia.drm` needs `modeset`: nvidia_drm depends on nvidia_modeset."""
    nvidia = spec.modules.nvidia if spec.modules else None
    if nvidia and nvidia.drm and not nvidia.modeset:
        problem = "nvidia_drm depends on nvidia_modeset; expected modeset: true, or drm: false"
        yield Finding((*NVIDIA, "drm"), problem, ((*NVIDIA, "modeset"),))


def needs_driver(spec: NodeSpec) -> Iterator[Finding]:
    """`gdrcopy`, `gds` and any `peermem` but none need `modules.nvidia`; `peermem` also needs `modules.rdma`."""
    if not spec.modules:
        return
    modules = spec.modules
    wanted = {"peermem": modules.peermem is not PeerMemory.NONE, "gdrcopy": modules.gdrcopy, "gds": modules.gds}
    for name, needed in wanted.items():
        if needed and not modules.nvidia:
            yield Finding((*MODULES, name), f"{name} needs the NVIDIA driver; expected modules.nvidia: {{}}", (NVIDIA,))
    if wanted["peermem"] and not modules.rdma:
        problem = "peer memory needs an RDMA stack; expected modules.rdma: {}, or peermem: none"
        yield Finding((*MODULES, "peermem"), problem, (RDMA,))


def peer_memory_builds(spec: NodeSpec) -> Iterator[Finding]:
    """`peermem: dma-buf` needs the open driver, `peermem: nv_peer_mem` needs the ofed stack."""
    modules = spec.modules or Modules()
    place = (*MODULES, "peermem")
    if modules.peermem is PeerMemory.DMA_BUF and modules.nvidia and modules.nvidia.flavor is Flavor.PROPRIETARY:
        problem = "only the open NVIDIA modules export GPU memory by DMA-BUF; expected flavor: open or auto"
        yield Finding(place, problem, ((*NVIDIA, "flavor"),))
    if modules.peermem is PeerMemory.NV_PEER_MEM and modules.rdma and modules.rdma.stack is RdmaStack.INBOX:
        problem = "nv_peer_mem works with the OFED stack only; expected stack: ofed or auto, or peermem: auto"
        yield Finding(place, problem, ((*RDMA, "stack"),))


def gds_license(spec: NodeSpec) -> Iterator[Finding]:
    """Hint: nvidia_fs from 2.17.5 on is GPL-only and does not link to the proprietary driver."""
    modules = spec.modules or Modules()
    if modules.gds and modules.nvidia and modules.nvidia.flavor is Flavor.PROPRIETARY:
        problem = "nvidia_fs 2.17.5 and later cannot link to the proprietary driver; expected flavor: open or auto"
        yield Finding((*MODULES, "gds"), problem, ((*NVIDIA, "flavor"),), is_hint=True)


def open_needs_firmware(spec: NodeSpec) -> Iterator[Finding]:
    """`flavor: open` cannot run with `EnableGpuFirmware: 0`: the open driver always needs the GSP firmware."""
    nvidia = spec.modules.nvidia if spec.modules else None
    if nvidia and nvidia.flavor is Flavor.OPEN and nvidia.parameters.get("EnableGpuFirmware") in {"0", "0x0", "0x00"}:
        problem = "the open driver always needs the GSP firmware; expected EnableGpuFirmware other than 0"
        yield Finding((*NVIDIA, "parameters", "EnableGpuFirmware"), problem, ((*NVIDIA, "flavor"),))


def obsolete_parameters(spec: NodeSpec) -> Iterator[Finding]:
    """Hint: `OpenRmEnableUnsupportedGpus` is ignored by today's drivers."""
    nvidia = spec.modules.nvidia if spec.modules else None
    if nvidia and "OpenRmEnableUnsupportedGpus" in nvidia.parameters:
        place = (*NVIDIA, "parameters", "OpenRmEnableUnsupportedGpus")
        yield Finding(place, "today's drivers ignore this parameter; expected it to be left out", is_hint=True)


def wanted_and_absent(spec: NodeSpec) -> Iterator[Finding]:
    """A module cannot be both wanted and in `modules.absent`."""
    modules = spec.modules or Modules()
    wanted = wanted_modules(modules)
    for index, name in enumerate(modules.absent):
        if name in wanted:
            problem = f"{name} is also wanted by {'.'.join(map(str, wanted[name]))}; expected one or the other"
            yield Finding((*MODULES, "absent", index), problem, (wanted[name],))


def wanted_modules(modules: Modules) -> dict[str, Path]:
    """Every module the file certainly wants, with the place that wants it."""
    wanted: dict[str, Path] = {name: (*MODULES, "named", name) for name in modules.named}
    if modules.gdrcopy:
        wanted["gdrdrv"] = (*MODULES, "gdrcopy")
    if modules.gds:
        wanted["nvidia_fs"] = (*MODULES, "gds")
    if modules.peermem in PEER_MODULES:
        wanted[modules.peermem.value] = (*MODULES, "peermem")
    if modules.nvidia:
        wanted["nvidia"] = NVIDIA
        switches = ((name, key) for name, key in OF_THE_DRIVER.items() if getattr(modules.nvidia, key))
        wanted.update({name: (*NVIDIA, key) for name, key in switches})
    if modules.rdma:
        wanted["ib_core"] = RDMA
        wanted.update(dict.fromkeys(modules.rdma.drivers, (*RDMA, "drivers")))
        if modules.rdma.user_access:
            wanted.update(dict.fromkeys(("ib_uverbs", "rdma_ucm", "ib_umad"), (*RDMA, "user_access")))
        if modules.rdma.ipoib:
            wanted["ib_ipoib"] = (*RDMA, "ipoib")
    return wanted


def nouveau(spec: NodeSpec) -> Iterator[Finding]:
    """Module nouveau and the NVIDIA driver cannot both be wanted: only one of them can drive a GPU."""
    modules = spec.modules or Modules()
    if "nouveau" in modules.named and (modules.nvidia or "nvidia" in modules.named):
        problem = "nouveau and nvidia cannot drive the same GPUs; expected only one of them"
        yield Finding((*MODULES, "named", "nouveau"), problem, (NVIDIA,))


def two_peer_modules(spec: NodeSpec) -> Iterator[Finding]:
    """nvidia_peermem and nv_peer_mem cannot both be wanted: both register the same peer memory client."""
    modules = spec.modules or Modules()
    wanted = [name for name in PEER_MODULES if name in wanted_modules(modules)]
    for name in PEER_MODULES:
        if len(wanted) == len(PEER_MODULES) and name in modules.named:
            problem = "nvidia_peermem and nv_peer_mem exclude each other; expected only one of them"
            yield Finding((*MODULES, "named", name.value), problem, ((*MODULES, "peermem"),))
            return


def named_twice(spec: NodeSpec) -> Iterator[Finding]:
    """`modules.named` cannot hold nvidia, nor a part of the driver that `modules.nvidia` switches off."""
    modules = spec.modules or Modules()
    if not modules.nvidia:
        return
    if "nvidia" in modules.named:
        problem = "nvidia has a section of its own; expected its parameters in modules.nvidia.parameters"
        yield Finding((*MODULES, "named", "nvidia"), problem, (NVIDIA,))
    for name, key in OF_THE_DRIVER.items():
        if name in modules.named and not getattr(modules.nvidia, key):
            problem = f"{name} is named here and switched off by modules.nvidia.{key}; expected {key}: true"
            yield Finding((*MODULES, "named", name), problem, ((*NVIDIA, key),))


def builtin_tests(spec: NodeSpec) -> Iterator[Finding]:
    """`uvm_enable_builtin_tests` is refused: it opens test ioctls of nvidia_uvm to every user."""
    modules = spec.modules or Modules()
    places: list[tuple[Path, tuple[str, ...]]] = [
        ((*MODULES, "named", name, "parameters"), tuple(entry.parameters)) for name, entry in modules.named.items()
    ]
    if modules.nvidia:
        places.append(((*NVIDIA, "parameters"), tuple(modules.nvidia.parameters)))
    for place, names in places:
        if "uvm_enable_builtin_tests" in names:
            problem = "opens the test ioctls of nvidia_uvm to every user; expected it to be left out"
            yield Finding((*place, "uvm_enable_builtin_tests"), problem)


def one_entry_per_gpu(spec: NodeSpec) -> Iterator[Finding]:
    """A GPU can be named by one entry of `mig` only, and `all` names every GPU."""
    owners: dict[str, int] = {}
    for index, entry in enumerate(spec.mig):
        for place, name in _named_gpus(index, entry):
            other = owners.get(name, owners.get("all", 0 if name == "all" and owners else None))
            if other is None:
                owners[name] = index
            elif other != index:
                problem = f"{name} overlaps with mig[{other}].gpus; expected each GPU in one entry"
                yield Finding(place, problem, (("mig", other, "gpus"),))


def _named_gpus(index: int, entry: MigEntry) -> Iterator[tuple[Path, str]]:
    place = ("mig", index, "gpus")
    if isinstance(entry.gpus, str):
        yield place, entry.gpus
    else:
        yield from (((*place, number), name) for number, name in enumerate(entry.gpus))


def mig_devices(spec: NodeSpec) -> Iterator[Finding]:
    """`mig[].devices` wants `mode: enabled`, and at least one count above 0; no devices at all are written `{}`."""
    for index, entry in enumerate(spec.mig):
        place = ("mig", index, "devices")
        if entry.devices and entry.mode is MigMode.DISABLED:
            problem = "GPU instances need MIG mode; expected mode: enabled, or no devices"
            yield Finding(place, problem, (("mig", index, "mode"),))
        if entry.devices and not any(entry.devices.values()):
            problem = "every count is 0; expected a count above 0, or {} for no GPU instances"
            yield Finding(place, problem, ((*place, INCOMPLETE),))


def mig_instances(spec: NodeSpec) -> Iterator[Finding]:
    """`mig[].instances` wants `mode: enabled`, and two instances cannot have the same start."""
    for index, entry in enumerate(spec.mig):
        place = ("mig", index, "instances")
        if entry.instances and entry.mode is MigMode.DISABLED:
            problem = "GPU instances need MIG mode; expected mode: enabled, or no instances"
            yield Finding(place, problem, (("mig", index, "mode"),))
        starts: dict[int, int] = {}
        for number, one in enumerate(entry.instances or ()):
            first = number if one.start is None else starts.setdefault(one.start, number)
            if first != number:
                problem = f"start {one.start} is also that of instances[{first}]; expected different memory slices"
                yield Finding((*place, number, "start"), problem, ((*place, first, "start"),))


def mig_one_of(spec: NodeSpec) -> Iterator[Finding]:
    """An entry of `mig` has at most one of `devices`, `instances` and `layout`; without a layout it needs `mode`."""
    for index, entry in enumerate(spec.mig):
        place: Path = ("mig", index)
        given = [key for key in ("devices", "instances", "layout") if getattr(entry, key) is not None]
        if len(given) > 1:
            others = tuple((*place, key) for key in given[:-1])
            yield Finding((*place, given[-1]), f"{' and '.join(given)} exclude each other; expected one", others)
        if entry.mode is None and entry.layout is None:
            problem = "key mode is missing; expected such as mode: enabled, or a layout"
            yield Finding((*place, "mode"), problem, ((*place, "layout"),))
        wanted = MigMode.DISABLED if entry.layout == "all-disabled" else MigMode.ENABLED
        if entry.layout is not None and entry.mode not in (None, wanted):
            problem = f"layout {entry.layout} wants mode: {wanted}; expected the mode to be left out"
            yield Finding((*place, "mode"), problem, ((*place, "layout"),))


def one_entry_per_link(spec: NodeSpec) -> Iterator[Finding]:
    """Two entries of `links` cannot have the same `match`."""
    seen: dict[str, int] = {}
    for index, entry in enumerate(spec.links):
        first = seen.setdefault(entry.match, index)
        if first != index:
            problem = f"{entry.match} is also the match of links[{first}]; expected one entry"
            yield Finding(("links", index, "match"), problem, (("links", first, "match"),))


def idle_link(spec: NodeSpec) -> Iterator[Finding]:
    """Hint: an entry of `links` with nothing but `match` wants nothing."""
    wishes = {key.name: key.default for key in keys_of(LinkEntry) if key.name != "match"}
    for index, entry in enumerate(spec.links):
        if all(getattr(entry, name) == default for name, default in wishes.items()):
            places: tuple[Path, ...] = tuple(("links", index, name) for name in wishes)
            problem = f"this entry wants nothing; expected one of {', '.join(wishes)}"
            yield Finding(("links", index), problem, places, is_hint=True)


def listen_port(spec: NodeSpec) -> Iterator[Finding]:
    """The port of `metrics.listen` is at most 65535."""
    port = spec.metrics.listen.rpartition(":")[2]
    if port.isdecimal() and int(port) > 65535:
        yield Finding(("metrics", "listen"), f"port {port} does not exist; expected 0 to 65535")


RULES: tuple[Callable[[NodeSpec], Iterator[Finding]], ...] = (
    driver_parts,
    needs_driver,
    peer_memory_builds,
    gds_license,
    open_needs_firmware,
    obsolete_parameters,
    wanted_and_absent,
    nouveau,
    two_peer_modules,
    named_twice,
    builtin_tests,
    one_entry_per_gpu,
    mig_devices,
    mig_instances,
    mig_one_of,
    one_entry_per_link,
    idle_link,
    *network_checks.RULES,
    *pcie_checks.RULES,
    *roce_checks.RULES,
    *kubernetes_checks.RULES,
    *health_checks.RULES,
    listen_port,
)
