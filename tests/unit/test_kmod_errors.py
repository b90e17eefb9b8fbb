"""Each refusal of the kernel, with the lines it logs, becomes the right kind of error with its cause."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import pytest

from nodeagent.errors import BusyError, DeniedError, GoneError, HostError, UnsupportedError
from nodeagent.host.kmod_errors import CAUSES, Operation, belongs, explain
from nodeagent.state.modules import ModuleFile

FILE = ModuleFile(name="nvidia", path="/modules/nvidia.ko")


@dataclass(frozen=True)
class Case:
    """What the kernel answers and logs, and what the agent makes of it."""

    errno_: int
    lines: tuple[str, ...]
    error: type[HostError]
    says: str
    module: str = "nvidia"


CASES = {
    "vermagic": Case(
        errno.ENOEXEC,
        ("nvidia: version magic '5.10.0-8-amd64 SMP mod_unload ' should be '6.1.0-40-amd64 SMP preempt mod_unload '",),
        UnsupportedError,
        "built for kernel 5.10.0-8-amd64, but 6.1.0-40-amd64 is running",
    ),
    "vermagic, right release": Case(
        errno.ENOEXEC,
        ("nvidia: version magic '6.1.0-40-amd64 SMP mod_unload ' should be '6.1.0-40-amd64 SMP preempt mod_unload '",),
        UnsupportedError,
        "built for another configuration of kernel 6.1.0-40-amd64: SMP mod_unload, not SMP preempt mod_unload",
    ),
    "unknown symbol": Case(
        errno.ENOENT,
        ("nvidia: Unknown symbol drm_gem_object_free (err -2)", "nvidia: Unknown symbol drm_open (err -2)"),
        UnsupportedError,
        "nothing loaded exports symbol drm_gem_object_free",
    ),
    "unknown symbol, older kernel": Case(
        errno.ENOENT,
        ("nvidia: Unknown symbol backlight_device_register (err 0)",),
        UnsupportedError,
        "symbol backlight_device_register",
    ),
    "crc before unknown symbol": Case(
        errno.EINVAL,
        (
            "nvidia_peermem: disagrees about version of symbol ib_register_peer_memory_client",
            "nvidia_peermem: Unknown symbol ib_register_peer_memory_client (err -22)",
        ),
        UnsupportedError,
        "built against another version of the module that exports ib_register_peer_memory_client",
        "nvidia_peermem",
    ),
    "gpl-only": Case(
        errno.ENOENT,
        (
            "nvidia-fs: module using GPL-only symbols uses symbols nvidia_p2p_get from proprietary module nvidia.",
            "nvidia_fs: Unknown symbol nvidia_p2p_get (err -2)",
        ),
        UnsupportedError,
        "uses GPL-only symbols and nvidia_p2p_get of proprietary module nvidia",
        "nvidia_fs",
    ),
    "namespace": Case(
        errno.EINVAL,
        ("nvidia: module uses symbol dma_buf_put from namespace DMA_BUF, but does not import it.",),
        UnsupportedError,
        "does not import the namespace DMA_BUF of symbol dma_buf_put",
    ),
    "unsigned": Case(
        errno.EKEYREJECTED,
        ("Loading of unsigned module is rejected",),
        DeniedError,
        "signatures are enforced and this is an unsigned module",
    ),
    "key": Case(
        errno.EKEYREJECTED,
        ("Loading of module with unavailable key is rejected",),
        DeniedError,
        "module with unavailable key",
    ),
    "crypto": Case(
        errno.EKEYREJECTED,
        ("Loading of module with unsupported crypto is rejected",),
        DeniedError,
        "module with unsupported crypto",
    ),
    "signature without a line": Case(
        errno.ENOKEY, (), DeniedError, "the kernel does not accept its signature (ENOKEY)"
    ),
    "lockdown": Case(
        errno.EPERM,
        ("Lockdown: insmod: unsigned module loading is restricted; see man kernel_lockdown.7",),
        DeniedError,
        "the kernel is locked down (secure boot) and forbids unsigned module loading",
    ),
    "blacklisted at boot": Case(
        errno.EPERM,
        ("Module nvidia is blacklisted",),
        DeniedError,
        "forbidden by module_blacklist= on the kernel command line",
    ),
    "no capability, or modules_disabled": Case(errno.EPERM, (), DeniedError, "sysctl kernel.modules_disabled"),
    "parameter": Case(
        errno.EINVAL,
        ("nvidia: `fast' invalid for parameter `NVreg_EnableMSI'",),
        HostError,
        "value 'fast' is invalid for parameter NVreg_EnableMSI",
    ),
    "parameter too long": Case(
        errno.ENOSPC,
        ("nvidia: `aaaa' too large for parameter `NVreg_X'",),
        HostError,
        "'aaaa' is too large for parameter",
    ),
    "no gpu": Case(errno.ENODEV, ("NVRM: No NVIDIA GPU found.",), UnsupportedError, "no NVIDIA GPU found"),
    "other driver": Case(
        errno.ENODEV,
        (
            "NVRM: GPU 0000:07:00.0 is already bound to nouveau.",
            "NVRM: The NVIDIA probe routine was not called for 8 device(s).",
        ),
        BusyError,
        "8 GPU(s) are owned by another driver",
    ),
    "one gpu of another driver": Case(
        errno.ENODEV,
        ("NVRM: GPU 0000:07:00.0 is already bound to vfio-pci.",),
        BusyError,
        "a GPU is owned by driver vfio-pci",
    ),
    "none initialised": Case(
        errno.ENODEV, ("NVRM: None of the NVIDIA devices were initialized.",), HostError, "no GPU could be initialised"
    ),
    "init function is silent": Case(errno.EINVAL, (), UnsupportedError, "peer memory interface", "nvidia_peermem"),
    "already live": Case(errno.EEXIST, (), HostError, "already loaded"),
    "coming or going": Case(errno.EBUSY, (), BusyError, "still being loaded or unloaded"),
    "needed module hangs": Case(
        errno.EBUSY,
        ("nvidia_uvm: gave up waiting for init of module nvidia.",),
        BusyError,
        "module nvidia, which it needs, did not finish loading in 30 s",
        "nvidia_uvm",
    ),
    "unknown errno": Case(errno.ELIBBAD, (), HostError, "(ELIBBAD)"),
    "an errno without a name": Case(524, (), HostError, "524"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_load(case: Case) -> None:
    error = explain(Operation.LOAD, case.module, case.errno_, case.lines, FILE)
    assert type(error) is case.error
    assert case.says in str(error)
    assert str(error).startswith(f"load module {case.module}: ")
    assert not case.lines or f'kernel: "{case.lines[0]}"' in str(error) or f'kernel: "{case.lines[-1]}"' in str(error)


def test_a_missing_file_is_a_stale_index() -> None:
    error = explain(Operation.LOAD, "nvidia", errno.ENOENT, (), None)
    assert isinstance(error, GoneError)
    assert str(error).endswith("run depmod -a")


@pytest.mark.parametrize(
    ("errno_", "kind", "says"),
    [
        (errno.EAGAIN, BusyError, "held by a module or a process"),
        (errno.EBUSY, BusyError, "still being loaded or unloaded, or made without an exit function"),
        (errno.ENOENT, GoneError, "not loaded"),
        (errno.EPERM, DeniedError, "the kernel does not permit it"),
    ],
)
def test_unload(errno_: int, kind: type[HostError], says: str) -> None:
    error = explain(Operation.UNLOAD, "nvidia", errno_, (), None)
    assert type(error) is kind
    assert f"unload module nvidia: {says}" in str(error)


def test_an_unload_is_not_explained_by_the_lines_of_a_load() -> None:
    error = explain(Operation.UNLOAD, "nvidia", errno.EAGAIN, ("NVRM: No NVIDIA GPU found.",), None)
    assert isinstance(error, BusyError)


@pytest.mark.parametrize(
    ("line", "module", "mine"),
    [
        ("nvidia: Unknown symbol x (err -2)", "nvidia", True),
        ("nvidia_uvm: Unknown symbol x (err -2)", "nvidia", False),
        ("nvidia-uvm: hello", "nvidia_uvm", True),
        ("module nvidia: .gnu.linkonce.this_module section size must match", "nvidia", True),
        ("Module nvidia_uvm is blacklisted", "nvidia", False),
        ("Module nvidia-uvm is blacklisted", "nvidia", False),
        ("NVRM: No NVIDIA GPU found.", "nvidia", True),
        ("NVRM: No NVIDIA GPU found.", "mlx5_core", False),
        ("mlx5_core 0000:07:00.0: firmware version: 28.39.1002", "nvidia", False),
        ("Loading of unsigned module is rejected", "nvidia", False),
    ],
)
def test_a_line_belongs_to_a_module_by_its_name(line: str, module: str, mine: bool) -> None:
    assert belongs(line, module, errno.ENOENT) is mine


def test_lines_of_others_are_not_quoted() -> None:
    error = explain(Operation.LOAD, "plain", errno.ENOENT, ("other: Unknown symbol x (err -2)",), FILE)
    assert "other" not in str(error)


def test_text_from_the_log_is_not_taken_for_a_template() -> None:
    error = explain(Operation.LOAD, "nvidia", errno.EINVAL, ("nvidia: `{path}' invalid for parameter `{x}'",), FILE)
    assert "value '{path}' is invalid for parameter {x}" in str(error)


@pytest.mark.parametrize(("operation", "errno_"), CAUSES)
def test_every_message_is_one_plain_sentence(operation: Operation, errno_: int) -> None:
    error = explain(operation, "nvidia", errno_, (), FILE)
    assert "{" not in str(error)
    assert not str(error).endswith(".")
