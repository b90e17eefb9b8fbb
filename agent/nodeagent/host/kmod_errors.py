"""Why the kernel refused to insert or remove a module: errno and its log lines in, one error with cause and advice out.

Sources: linux kernel/module/main.c, signing.c, version.c, kernel/params.c (messages of 5.15 to 6.12), finit_module(2),
delete_module(2); open-gpu-kernel-modules kernel-open/nvidia/nv.c and nv-pci.c for the NVRM lines. Pure.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from nodeagent.errors import BusyError, DeniedError, GoneError, HostError, UnsupportedError
from nodeagent.state.modules import ModuleFile


class Operation(StrEnum):
    """What was asked of the kernel."""

    LOAD = "load"
    UNLOAD = "unload"


@dataclass(frozen=True)
class Cause:
    """What an errno comes down to; `reason` may name groups of the line's pattern, {module} and {path}."""

    error: type[HostError]
    reason: str
    advice: str = ""


@dataclass(frozen=True)
class Evidence:
    """A kernel line that makes an errno of a load more precise; no errno given means any of them."""

    line: re.Pattern[str]
    cause: Cause
    errnos: tuple[int, ...] = ()


SIGNATURE_ADVICE = (
    "sign the module with a key the kernel trusts (mokutil --import), or boot without enforced signatures"
)
BAD_SIGNATURE = Cause(DeniedError, "the kernel does not accept its signature", SIGNATURE_ADVICE)
REBUILD = "install or build the module for the running kernel, then run depmod -a"
FREE_GPU = "unload the driver that owns the GPUs (nouveau, vfio-pci) and blacklist it"
NO_MODULES = Cause(
    UnsupportedError, "this kernel cannot load or unload modules", "build what is needed into the kernel"
)

CAUSES: dict[tuple[Operation, int], Cause] = {
    (Operation.LOAD, errno.EPERM): Cause(
        DeniedError,
        "the kernel does not permit it",
        "check CAP_SYS_MODULE, sysctl kernel.modules_disabled, lockdown, and module_blacklist= at boot",
    ),
    (Operation.LOAD, errno.EACCES): Cause(DeniedError, "no permission to read {path} or refused by a security module"),
    (Operation.LOAD, errno.EKEYREJECTED): BAD_SIGNATURE,
    (Operation.LOAD, errno.ENOKEY): BAD_SIGNATURE,
    (Operation.LOAD, errno.ENOPKG): BAD_SIGNATURE,
    (Operation.LOAD, errno.EBADMSG): BAD_SIGNATURE,
    (Operation.LOAD, errno.ENODATA): BAD_SIGNATURE,
    (Operation.LOAD, errno.ENOEXEC): Cause(
        UnsupportedError, "{path} was built for another kernel or is no module file", REBUILD
    ),
    (Operation.LOAD, errno.ENOENT): Cause(
        UnsupportedError,
        "it needs a symbol that nothing loaded exports",
        "load its dependencies first; a proprietary module cannot use GPL-only symbols",
    ),
    (Operation.LOAD, errno.EINVAL): Cause(
        UnsupportedError,
        "refused by its own init function, or bad parameters",
        "nvidia_peermem says so when it was built without the RDMA stack's peer memory interface",
    ),
    (Operation.LOAD, errno.EEXIST): Cause(
        HostError, "already loaded", "compare srcversion of what is loaded with the file, and unload it first"
    ),
    (Operation.LOAD, errno.EBUSY): Cause(
        BusyError, "it, or a module it needs, is still being loaded or unloaded", "try again in a moment"
    ),
    (Operation.LOAD, errno.EAGAIN): Cause(BusyError, "the kernel asks to try again"),
    (Operation.LOAD, errno.ENODEV): Cause(UnsupportedError, "its init function found no device"),
    (Operation.LOAD, errno.ENXIO): Cause(UnsupportedError, "its init function found no device"),
    (Operation.LOAD, errno.EIO): Cause(HostError, "its init function could not talk to the device"),
    (Operation.LOAD, errno.ENOMEM): Cause(HostError, "the kernel has no memory for it"),
    (Operation.LOAD, errno.ENOSPC): Cause(HostError, "a parameter value is too long, or no space is left"),
    (Operation.LOAD, errno.ETXTBSY): Cause(BusyError, "{path} is open for writing", "wait for the installation to end"),
    (Operation.LOAD, errno.ETIMEDOUT): Cause(HostError, "its init function waited in vain for the device"),
    (Operation.LOAD, errno.ENOSYS): NO_MODULES,
    (Operation.UNLOAD, errno.EPERM): Cause(
        DeniedError, "the kernel does not permit it", "check CAP_SYS_MODULE and sysctl kernel.modules_disabled"
    ),
    (Operation.UNLOAD, errno.ENOENT): Cause(GoneError, "not loaded"),
    (Operation.UNLOAD, errno.EAGAIN): Cause(
        BusyError, "held by a module or a process", "see refcnt and holders of the module in sysfs for who holds it"
    ),
    (Operation.UNLOAD, errno.EBUSY): Cause(
        BusyError,
        "still being loaded or unloaded, or made without an exit function",
        "in the latter case only a reboot helps",
    ),
    (Operation.UNLOAD, errno.EINTR): Cause(BusyError, "interrupted by a signal"),
    (Operation.UNLOAD, errno.ENOSYS): NO_MODULES,
}


def _line(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


# In order of weight: a symbol with the wrong CRC is logged as unknown as well, so the CRC comes first.
EVIDENCE: tuple[Evidence, ...] = (
    Evidence(  # first, since it is the narrower one: the release is right, what the kernel was configured with is not
        _line(r"version magic '(?P<kernel>[^' ]+) (?P<file>[^']*?) *' should be '(?P=kernel) (?P<wanted>[^']*?) *'"),
        Cause(UnsupportedError, "built for another configuration of kernel {kernel}: {file}, not {wanted}", REBUILD),
    ),
    Evidence(
        _line(r"version magic '(?P<file>[^' ]*)[^']*' should be '(?P<kernel>[^' ]*)"),
        Cause(UnsupportedError, "built for kernel {file}, but {kernel} is running", REBUILD),
    ),
    Evidence(
        _line(r"disagrees about version of symbol (?P<symbol>\S+)"),
        Cause(
            UnsupportedError,
            "built against another version of the module that exports {symbol}",
            "rebuild it against what is loaded (nvidia_peermem after an RDMA stack update), then run depmod -a",
        ),
    ),
    Evidence(
        _line(r"no symbol version for (?P<symbol>\S+)"),
        Cause(UnsupportedError, "built without a version for symbol {symbol}", REBUILD),
    ),
    Evidence(
        _line(r"GPL-only symbols.*symbols? (?P<symbol>\S+) from proprietary module (?P<owner>[^\s.]+)"),
        Cause(
            UnsupportedError,
            "uses GPL-only symbols and {symbol} of proprietary module {owner}",
            "use the open nvidia module",
        ),
    ),
    Evidence(
        _line(r"GPL-(only|incompatible)"),
        Cause(UnsupportedError, "a proprietary module may not use GPL-only symbols", "use the open nvidia module"),
    ),
    Evidence(
        _line(r"uses symbol (?P<symbol>\S+) from namespaces? (?P<space>[^\s,]+)"),
        Cause(UnsupportedError, "does not import the namespace {space} of symbol {symbol}", REBUILD),
    ),
    Evidence(
        _line(r"unknown symbol (?P<symbol>\S+)"),
        Cause(
            UnsupportedError,
            "nothing loaded exports symbol {symbol}, or not for a module of this licence",
            "load what exports it first, or rebuild the module for the running kernel",
        ),
        (errno.ENOENT, errno.EINVAL),
    ),
    Evidence(
        _line(r"gave up waiting for init of module (?P<needed>[^\s.]+)"),
        Cause(BusyError, "module {needed}, which it needs, did not finish loading in 30 s", "see why {needed} hangs"),
    ),
    Evidence(
        _line(r"loading of (?P<what>unsigned module|module with \w+ \w+) is rejected"),
        Cause(DeniedError, "signatures are enforced and this is an {what}", SIGNATURE_ADVICE),
    ),
    Evidence(
        _line(r"lockdown: .*(?P<what>unsigned module loading) is restricted"),
        Cause(DeniedError, "the kernel is locked down (secure boot) and forbids {what}", SIGNATURE_ADVICE),
    ),
    Evidence(
        _line(r"module (?P<name>\S+) is blacklisted"),
        Cause(
            DeniedError, "forbidden by module_blacklist= on the kernel command line", "remove {name} there and reboot"
        ),
    ),
    Evidence(
        _line(r"[`'](?P<value>[^`']*)' (?P<how>invalid|too large) for parameter [`'](?P<parameter>[^`']+)'"),
        Cause(
            HostError, "value {value!r} is {how} for parameter {parameter}", "modinfo -p {module} lists the parameters"
        ),
    ),
    Evidence(
        _line(r"NVRM: No NVIDIA GPU found"),
        Cause(UnsupportedError, "no NVIDIA GPU found", "check that lspci -d 10de: shows the boards"),
    ),
    Evidence(
        _line(r"probe routine was not called for (?P<count>\d+) device"),
        Cause(BusyError, "{count} GPU(s) are owned by another driver", FREE_GPU),
    ),
    Evidence(
        _line(r"NVRM: .*already bound to (?P<owner>[^\s.]+)"),
        Cause(BusyError, "a GPU is owned by driver {owner}", FREE_GPU),
    ),
    Evidence(
        _line(r"not supported by (the )?open( |$)|not supported by open nvidia"),
        Cause(UnsupportedError, "the open nvidia module does not support this GPU", "install the proprietary modules"),
    ),
    Evidence(
        _line(r"None of the NVIDIA devices were initialized"),
        Cause(
            HostError,
            "no GPU could be initialised",
            "see the NVRM lines before it, and whether the firmware is installed",
        ),
    ),
)
SIGNING_ERRNOS = {errno.EKEYREJECTED, errno.ENOKEY, errno.ENOPKG, errno.EBADMSG, errno.ENODATA, errno.EPERM}
NAMELESS = _line(r"^(loading of .* is rejected|lockdown: )")


def belongs(line: str, module: str, errno_: int) -> bool:
    """Whether a kernel line speaks of this module: it names it, or is one of those that name none."""
    dashed = re.escape(module).replace("_", "[-_]")
    if re.match(rf"{dashed}: ", line) or re.search(rf"\bmodule [`']?{dashed}(?![\w-])", line, re.IGNORECASE):
        return True
    if re.match(r"nvidia|nv_", module) and line.startswith("NVRM: "):
        return True
    return errno_ in SIGNING_ERRNOS and NAMELESS.match(line) is not None


def evidence(lines: Sequence[str], errno_: int) -> tuple[Cause, str, dict[str, str]] | None:
    """The weightiest piece of evidence among the lines: its cause, the line, and what its pattern found."""
    for item in EVIDENCE:
        if item.errnos and errno_ not in item.errnos:
            continue
        for line in lines:
            if found := item.line.search(line):
                return item.cause, line, {name: text or "" for name, text in found.groupdict().items()}
    return None


def explain(
    operation: Operation, module: str, errno_: int, kernel_lines: Sequence[str], file: ModuleFile | None
) -> HostError:
    """The error for a refusal, with its cause, the kernel line that tells it, and advice.

    `errno_` is positive. `kernel_lines` are those logged since just before the call; only those of this module are
    looked at. `file` is None when there is no module file (a stale index).
    """
    subject = f"module {module}"
    if operation is Operation.LOAD and file is None and errno_ == errno.ENOENT:
        return GoneError(operation, subject, "its file does not exist although the index names it", "run depmod -a")
    names = {"module": module, "path": file.path if file else module}
    lines = [line for line in kernel_lines if belongs(line, module, errno_)]
    if operation is Operation.LOAD and (found := evidence(lines, errno_)):
        cause, line, groups = found
        names |= groups
        return cause.error(operation, subject, _told(cause.reason.format(**names), line), cause.advice.format(**names))
    cause = CAUSES.get((operation, errno_), Cause(HostError, os.strerror(errno_).lower()))
    reason = f"{cause.reason.format(**names)} ({errno.errorcode.get(errno_, errno_)})"
    return cause.error(operation, subject, _told(reason, lines[-1] if lines else ""), cause.advice)


def _told(reason: str, line: str) -> str:
    return f'{reason}, kernel: "{line}"' if line else reason
