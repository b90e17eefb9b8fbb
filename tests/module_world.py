"""A tiny pure model of kernel modules for planning tests: files as on Debian, a kernel that refuses as Linux does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from nodeagent.plan.sequencer import Terms, sequence
from nodeagent.resources.base import Step, Wish
from nodeagent.resources.module_parameters import parse_options
from nodeagent.resources.module_steps import LoadModule, UnloadModule
from nodeagent.spec.schema import Disruption, Modules, NodeSpec, Policy
from nodeagent.state.gpu import NvidiaDriver
from nodeagent.state.modules import KernelModule, KernelPolicy, Liveness, ModuleFile
from nodeagent.state.network import PciFunction
from nodeagent.state.node import NodeState

RELEASE = "6.1.0-18-amd64"
VERMAGIC = f"{RELEASE} SMP preempt mod_unload modversions"
ALLOW = Terms(Disruption(Policy.ALLOW, Policy.ALLOW, Policy.ALLOW))
UNREADABLE = ("gdrdrv",)  # parameters with mode 0 in sysfs
PEER_API = (("ib_register_peer_memory_client", 0x1234),)

DRIVER_VERSION = "570.124.06"
PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "nvidia": (
        "NVreg_EnableStreamMemOPs",
        "NVreg_RestrictProfilingToAdminUsers",
        "NVreg_DeviceFileMode",
        "rm_firmware_active",
    ),
    "nvidia_uvm": ("uvm_disable_hmm", "uvm_enable_builtin_tests"),
    "nvidia_drm": ("modeset", "fbdev"),
    "gdrdrv": ("dbg_enabled", "info_enabled"),
    "mlx5_core": ("prof_sel", "debug_mask"),
    "ib_core": ("netns_mode",),
    "br_netfilter": (),
}
DEPENDS: Mapping[str, tuple[str, ...]] = {
    "nvidia": ("i2c_core",),
    "nvidia_uvm": ("i2c_core", "nvidia"),
    "nvidia_modeset": ("i2c_core", "nvidia", "video"),
    "nvidia_drm": ("i2c_core", "nvidia", "video", "nvidia_modeset", "drm", "drm_kms_helper"),
    "nvidia_peermem": ("ib_core", "ib_uverbs", "i2c_core", "nvidia"),
    "nv_peer_mem": ("ib_core", "i2c_core", "nvidia"),
    "gdrdrv": ("i2c_core", "nvidia"),
    "nvidia_fs": ("i2c_core", "nvidia"),
    "nouveau": ("drm", "drm_kms_helper", "i2c_core", "video"),
    "drm_kms_helper": ("drm",),
    "mlx5_core": ("psample", "tls", "mlxfw"),
    "mlx5_ib": ("psample", "tls", "mlxfw", "mlx5_core", "ib_core", "ib_uverbs"),
    "ib_uverbs": ("ib_core",),
    "ib_umad": ("ib_core",),
    "ib_cm": ("ib_core",),
    "iw_cm": ("ib_core",),
    "rdma_cm": ("ib_core", "ib_cm", "iw_cm"),
    "rdma_ucm": ("ib_core", "ib_cm", "iw_cm", "rdma_cm", "ib_uverbs"),
    "ib_ipoib": ("ib_core", "ib_cm"),
    "br_netfilter": ("llc", "stp", "bridge"),
    "bridge": ("llc", "stp"),
    "stp": ("llc",),
}
LEAVES = ("i2c_core", "video", "drm", "psample", "tls", "mlxfw", "ib_core", "llc")
DRIVER = ("nvidia", "nvidia_uvm", "nvidia_modeset", "nvidia_drm", "nvidia_peermem")


def module_file(name: str, **changes: object) -> ModuleFile:
    """The file of a module on the model's node; `changes` replace single fields."""
    in_driver = name in DRIVER
    file = ModuleFile(
        name=name,
        path=f"kernel/{name}.ko",
        version=DRIVER_VERSION if in_driver else "",
        srcversion=f"SRC{name.upper()}",
        vermagic=VERMAGIC,
        license="Dual MIT/GPL" if in_driver else "GPL",
        signer="Debian Secure Boot CA",
        parameters=PARAMETERS.get(name, ()),
        depends=DEPENDS.get(name, ()),
        imports=PEER_API if name == "nvidia_peermem" else (),
    )
    return replace(file, **changes)


def files(*changed: ModuleFile, without: Iterable[str] = ()) -> dict[str, ModuleFile]:
    """Every file of the model's node, some replaced or left out."""
    found = {name: module_file(name) for name in (*LEAVES, *DEPENDS)}
    found |= {file.name: file for file in changed}
    return {name: file for name, file in found.items() if name not in tuple(without)}


def node(*loaded: str, **changes: object) -> NodeState:
    """A node of the model with these modules, and all they need, loaded; `changes` replace fields of the state."""
    state = NodeState(kernel=KernelPolicy(release=RELEASE, boot_id="boot"), module_files=MappingProxyType(files()))
    state = replace(state, **changes)
    for name in loaded:
        for needed in (*state.module_files[name].depends, name):
            if needed not in state.modules:
                state = insert(state, needed, "")
    return state


def wants(**section: object) -> NodeSpec:
    """A node file with only a modules section."""
    return NodeSpec(version=1, modules=Modules(**section))


def gpu_function(address: str, driver: str) -> PciFunction:
    """An NVIDIA display function with this driver."""
    return PciFunction(address, "10de", "20b0", "030200", driver)


class RefusedError(AssertionError):
    """The model's kernel refuses what the plan asks for."""


def insert(state: NodeState, name: str, options: str) -> NodeState:
    """finit_module: refuses what is there already and what has unmet needs."""
    file, modules = state.module_files[name], dict(state.modules)
    if name in modules:
        raise RefusedError(f"{name}: EEXIST")
    if missing := [needed for needed in file.depends if needed not in modules]:
        raise RefusedError(f"{name}: ENOENT, unknown symbol of {missing}")
    modules[name] = KernelModule(name, Liveness.LIVE, 0, (), file.version, file.srcversion, _readable(file, options))
    for needed in file.depends:
        modules[needed] = _held(modules[needed], (*modules[needed].holders, name))
    driver = NvidiaDriver(file.version, "GPL" in file.license) if name == "nvidia" else state.driver
    recorded = {**state.loaded_options, name: options}
    return replace(state, modules=MappingProxyType(modules), loaded_options=recorded, driver=driver)


def remove(state: NodeState, name: str) -> NodeState:
    """delete_module: refuses under references."""
    modules = dict(state.modules)
    if name not in modules:
        raise RefusedError(f"{name}: ENOENT")
    if modules[name].refcount:
        raise RefusedError(f"{name}: EWOULDBLOCK, held by {modules[name].holders}")
    del modules[name]
    for other in modules.values():
        if name in other.holders:
            modules[other.name] = _held(other, tuple(one for one in other.holders if one != name))
    recorded = {key: value for key, value in state.loaded_options.items() if key != name}
    driver = None if name == "nvidia" else state.driver
    return replace(state, modules=MappingProxyType(modules), loaded_options=recorded, driver=driver)


def _held(found: KernelModule, holders: tuple[str, ...]) -> KernelModule:
    return replace(found, holders=holders, refcount=found.foreign_references + len(holders))


def _readable(file: ModuleFile, options: str) -> tuple[tuple[str, str], ...]:
    """Parameters as the kernel shows them: nvidia's without prefix and in decimal, all others with 0 as default."""
    if file.name in UNREADABLE:
        return ()
    given = parse_options(options)
    values = {name: given.get(name, "0") for name in file.parameters}
    return tuple(sorted((name.removeprefix("NVreg_"), value) for name, value in values.items()))


def apply(step: Step, state: NodeState) -> NodeState:
    """One step on the model."""
    if isinstance(step, LoadModule):
        return insert(state, step.subject.name, step.options)
    assert isinstance(step, UnloadModule), step
    return remove(state, step.subject.name)


def apply_wish(wish: Wish, state: NodeState) -> NodeState:
    """The wish put in sequence with all that stands on its claims, and carried out."""
    plan = sequence((wish,), state, ALLOW)
    assert not plan.blocked, plan.blocked
    for transition in plan.transitions:
        for step in transition.steps:
            state = apply(step, state)
    return state


def texts(wish: Wish) -> list[str]:
    """The steps as the plan prints them."""
    return [str(step) for step in wish.steps]


def loads(wish: Wish) -> list[str]:
    """The modules that are loaded, in order."""
    return [step.subject.name for step in wish.steps if isinstance(step, LoadModule)]


def only_obstacle(wish: Wish) -> str:
    """The text of the one thing in the way; nothing is done."""
    assert wish.steps == ()
    (found,) = wish.obstacles
    return f"{found.subject}: {found.problem}; {found.advice}"
