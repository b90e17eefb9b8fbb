"""Everything about a module that can be known to fail before anything is touched; each check returns a problem or None.

Sources: kernel/module/main.c (what finit_module refuses), kernel_lockdown(7), modprobe.d(5), drivers.md sections 7 to 9
for the NVIDIA and RDMA modules (nv.c, nvidia-peermem.c, gdrdrv Makefile, nvfs-core.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from nodeagent.resources.module_graph import hard_needs
from nodeagent.resources.module_parameters import REFUSED, unknown_parameter
from nodeagent.resources.module_sets import (
    CONFLICTS,
    DUMMY_P2P,
    GDRDRV,
    MEMBERS,
    NOUVEAU,
    NVIDIA,
    NVIDIA_FS,
    OFED_MARK,
    PACKAGES,
    SAME_BUILD,
    ModuleSet,
    canonical,
    is_open_license,
    nvidia_gpus,
    release_number,
)
from nodeagent.resources.peer_memory import driver_is_open, lacking
from nodeagent.spec.schema import Flavor, Modules, RdmaStack
from nodeagent.state.modules import Liveness

if TYPE_CHECKING:
    from collections.abc import Collection

    from nodeagent.resources.module_wishes import Wanted
    from nodeagent.state.modules import ModuleFile
    from nodeagent.state.node import NodeState

REFUSING_COMMANDS = ("false", "true", "exit", ":")
FS_NEEDS_OPEN = (2, 17, 5)  # nvidia_fs imports GPL-only symbols of nvidia from this version on
VFIO = "vfio_pci"


class Problem(NamedTuple):
    """Why a wish cannot become steps; `waits` where time may solve it."""

    text: str
    advice: str = ""
    waits: bool = False


class Context(NamedTuple):
    """What checks look at besides the module: the section, the state, and what this plan takes away or loads anew."""

    modules: Modules
    state: NodeState
    leaving: Collection[str] = ()
    reloading: Collection[str] = ()


def before_load(wanted: Wanted, context: Context) -> Problem | None:
    """The first reason why this module, with all it needs, cannot be inserted."""
    state = context.state
    file = state.module_files.get(wanted.name)
    if file is None:
        return _missing(wanted.name, state)
    if canonical(wanted.asked) != wanted.name and file.blacklisted:
        return Problem(
            f"{wanted.asked} is an alias of blacklisted module {wanted.name}", f"ask for {wanted.name} itself"
        )
    return _wanted_parameters(wanted, file) or with_needs(wanted.name, context)


def with_needs(name: str, context: Context) -> Problem | None:
    """The first problem of this module, or of all it needs that is not loaded yet."""
    for needed in (*hard_needs(name, context.state.module_files), name):
        if needed != name and is_present(needed, context.state):
            continue
        problem = _single(needed, context)
        if problem is not None:
            return problem if needed == name else problem._replace(text=f"needs module {needed}: {problem.text}")
    return None


def is_present(name: str, state: NodeState) -> bool:
    """Whether the module needs no loading: it is live, or part of the kernel."""
    file = state.module_files.get(name)
    return state.is_loaded(name) or (file is not None and file.builtin)


def _single(name: str, context: Context) -> Problem | None:
    problem = file_problem(name, context.state)
    if problem is not None:
        return problem
    if name in map(canonical, context.modules.absent):
        return Problem("modules.absent does not allow it", "take it out there, or drop what needs it")
    return _conflict(name, context) or _fit(name, context.state.module_files[name], context)


def file_problem(name: str, state: NodeState) -> Problem | None:
    """Why the kernel or the configuration would refuse this one file."""
    loaded = state.modules.get(name)
    if loaded is not None and loaded.liveness in (Liveness.COMING, Liveness.GOING):
        return Problem(f"is {loaded.liveness} in the kernel", "if it stays so, read the kernel log", waits=True)
    file = state.module_files.get(name)
    if file is None:
        return _missing(name, state)
    return _forbidden(file, state) or _unfit(file, state)


def _missing(name: str, state: NodeState) -> Problem:
    release = state.kernel.release or "this kernel"
    default = "install the package that holds it, or run depmod"
    return Problem(f"no file for kernel {release}", PACKAGES.get(name, default))


def _forbidden(file: ModuleFile, state: NodeState) -> Problem | None:
    """Refusals by the administrator: sysctl, kernel command line, install command."""
    if state.kernel.modules_disabled:
        return Problem("kernel.modules_disabled is 1, nothing can be loaded any more", "reboot")
    if file.name in map(canonical, state.kernel.command_line_blacklist):
        return Problem("module_blacklist on the kernel command line forbids it", "change the boot loader and reboot")
    command = file.install_command.split()
    if command and command[0].rsplit("/", 1)[-1] in REFUSING_COMMANDS:
        advice = f"remove the line `install {file.name} {file.install_command}` from modprobe.d"
        return Problem(f"its install command is {file.install_command}", advice)
    return None


def _unfit(file: ModuleFile, state: NodeState) -> Problem | None:
    """Refusals by the kernel: signature, lockdown; and one of ours, a build for another release.

    With CONFIG_MODVERSIONS the kernel ignores the release in the version magic and goes by the CRC of each symbol
    (kernel/module/version.c, same_magic). Layouts that no CRC covers may differ, so the agent wants the same release.
    """
    release, kernel = next(iter(file.vermagic.split()), ""), state.kernel
    if release and kernel.release and release != kernel.release:
        advice = (
            f"install the build for {kernel.release}, or reboot into {release}; "
            "the agent loads no build for another release, even if this kernel would"
        )
        return Problem(f"{file.path} is built for kernel {release}, running is {kernel.release}", advice)
    if file.signer:
        return None
    if kernel.signature_enforced:
        return Problem("is not signed, and the kernel enforces signatures", "sign it with an enrolled key (mokutil)")
    if kernel.lockdown not in ("", "none"):
        return Problem(f"is not signed, and kernel lockdown is {kernel.lockdown}", "sign it, or disable Secure Boot")
    return None


def _wanted_parameters(wanted: Wanted, file: ModuleFile) -> Problem | None:
    """Whether the wanted parameters exist and may be given: the kernel would only warn and go on without them."""
    if wanted.clashes:
        return Problem(f"two places want parameter {', '.join(wanted.clashes)} differently", "keep one of them")
    for name, _ in wanted.parameters:
        if (wanted.name, name) in REFUSED:
            return Problem(f"parameter {name} {REFUSED[wanted.name, name]}", "leave it out")
        unknown = unknown_parameter(name, file)
        if unknown:
            return Problem(unknown, "the kernel would only warn and go on without it")
    return None


def _conflict(name: str, context: Context) -> Problem | None:
    """Modules that must not be in at the same time, unless this plan takes them away."""
    state = context.state
    if name == NVIDIA:
        return _gpu_owner(context)
    for other in CONFLICTS.get(name, ()):
        if state.is_loaded(other) and other not in context.leaving:
            return Problem(f"excludes module {other}, which is loaded", f"put {other} into modules.absent")
    return None


def _gpu_owner(context: Context) -> Problem | None:
    gpus = nvidia_gpus(context.state)
    nouveau = [address for address, driver in gpus.items() if driver == NOUVEAU]
    if context.state.is_loaded(NOUVEAU) and NOUVEAU not in context.leaving and (nouveau or not gpus):
        where = ", ".join(nouveau) or "the GPUs"
        return Problem(f"nouveau drives {where}", "put nouveau into modules.absent, and into modprobe.d as blacklist")
    if gpus and all(driver == VFIO for driver in gpus.values()):
        return Problem(
            f"vfio-pci holds every GPU ({', '.join(gpus)})", "unbind them from vfio-pci, or drop modules.nvidia"
        )
    return None


def _fit(name: str, file: ModuleFile, context: Context) -> Problem | None:
    """What must match between this module and the others of its stack."""
    modules, state = context.modules, context.state
    if name == NVIDIA and modules.nvidia is not None:
        return _flavor(modules.nvidia.flavor, file)
    if name == GDRDRV and DUMMY_P2P in hard_needs(name, state.module_files):
        return Problem(f"was built against {DUMMY_P2P} and reaches no GPU", "rebuild gdrdrv with the driver's sources")
    if name == NVIDIA_FS:
        return _gpl_only(file, context)
    if name in MEMBERS[ModuleSet.PEERMEM] and (reason := lacking(name, modules, state)):
        return Problem(f"will not work: {reason}", "let modules.peermem decide (auto)")
    if name in SAME_BUILD and NVIDIA not in context.reloading:
        return _same_build(file, state)
    if name.startswith("mlx5_") and modules.rdma is not None:
        return _stack(modules.rdma.stack, name, state)
    return None


def _flavor(flavor: Flavor, file: ModuleFile) -> Problem | None:
    if flavor is Flavor.AUTO or not file.license or is_open_license(file.license) == (flavor is Flavor.OPEN):
        return None
    found = Flavor.OPEN if is_open_license(file.license) else Flavor.PROPRIETARY
    advice = f"install the {flavor} build, or set modules.nvidia.flavor to {found} or auto"
    return Problem(f"{file.path} is the {found} build (license {file.license}), wanted is {flavor}", advice)


def _gpl_only(file: ModuleFile, context: Context) -> Problem | None:
    version = release_number(file.version)
    if driver_is_open(context.modules, context.state) is not False or "GPL" not in file.license:
        return None
    if version and version < FS_NEEDS_OPEN:
        return None
    text = f"version {file.version or 'unknown'} is GPL-only and cannot link to the proprietary driver"
    return Problem(text, "install the open driver, or nvidia-fs older than 2.17.5")


def _same_build(file: ModuleFile, state: NodeState) -> Problem | None:
    driver = state.modules.get(NVIDIA)
    loaded = driver.version if driver else ""
    if not loaded or not file.version or loaded == file.version:
        return None
    advice = "reload the driver (nodeagent modules reload nvidia)"
    return Problem(f"version {file.version} on disk does not fit nvidia {loaded} that is loaded", advice)


def _stack(stack: RdmaStack, name: str, state: NodeState) -> Problem | None:
    found = RdmaStack.OFED if OFED_MARK in hard_needs(name, state.module_files) else RdmaStack.INBOX
    if stack in (RdmaStack.AUTO, found):
        return None
    advice = "install DOCA-OFED" if stack is RdmaStack.OFED else "remove OFED's modules and run depmod"
    return Problem(f"modprobe would take the {found} stack, modules.rdma.stack is {stack}", advice)
