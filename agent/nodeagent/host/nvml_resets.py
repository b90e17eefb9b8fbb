"""Resetting a GPU for a change of its MIG mode where the driver did not do it by itself, and who cannot be reset.

nvmlDeviceSetMigMode resets the GPU itself where it can. Where it answers RESET_REQUIRED the mode is pending, and NVML
does not tell two cases apart: a reset on its own does it, or the platform offers none (a virtual machine with the GPU
passed through) and only a reboot helps. So the reset is tried once, as everything that stood on the GPU has let go at
this moment; a refusal is remembered while the agent runs, because the answer may take 8 s.

There is no NVML call that resets a GPU; `nvidia-smi --gpu-reset` is the one supported way (nvidia-smi(1), nvml.h). The
sysfs file `reset` is not used: nvidia.ko does not know of it, and it would reset the device under a live driver.
Sources: nvml.h nvmlDeviceSetMigMode; open-gpu-kernel-modules kernel-open/nvidia/nv-pci.c; texts of nvidia-smi:
NVIDIA/mig-parted issue 181, NVIDIA/gpu-operator issues 118 and 1606.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from nodeagent.errors import BusyError, DeadlineError, DeniedError, GoneError, HostError, UnsupportedError
from nodeagent.host.files import LocalFiles
from nodeagent.host.paths import SYS_PCI_DEVICES
from nodeagent.host.programs import run_program
from nodeagent.state.gpu import MigMode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nodeagent.host.ports import Files, GpuFault
    from nodeagent.state.gpu import Gpu

_DEADLINE_SECONDS = 120.0
_OPERATION = "reset"


class Resets(Protocol):
    """How one GPU is reset; the caller has seen to it that nothing holds it."""

    def reset(self, pci_address: str) -> None:
        """Reset this GPU alone. BusyError: somebody holds it. UnsupportedError: it cannot be reset here. HostError."""


class Session(Protocol):
    """What of `ports.Nvml` is needed here."""

    def gpus(self) -> tuple[tuple[Gpu, ...], tuple[GpuFault, ...]]: ...

    def release(self) -> None: ...


class NvidiaSmi:
    """`Resets` through nvidia-smi, which refuses by itself while anyone holds the GPU.

    `program` is nvidia-smi. A GPU whose PCI function the kernel cannot reset is refused at once.
    """

    def __init__(
        self,
        files: Files | None = None,
        program: str = "nvidia-smi",
        deadline_seconds: float = _DEADLINE_SECONDS,
    ) -> None:
        self._files = files or LocalFiles()
        self._program, self._deadline_seconds = program, deadline_seconds

    def reset(self, pci_address: str) -> None:
        """As the protocol says. DeadlineError when it does not end."""
        subject = f"gpu {pci_address}"
        if not self._files.exists(f"{SYS_PCI_DEVICES}/{pci_address}/reset"):
            raise UnsupportedError(_OPERATION, subject, "the platform offers no reset of its pci function", "reboot")
        done = self._run(subject, "--gpu-reset", "-i", pci_address)
        if done.returncode:
            raise refusal(subject, done.stdout + done.stderr)

    def _run(self, subject: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        try:
            return run_program([self._program, *arguments], self._deadline_seconds, os.environ | {"LC_ALL": "C"})
        except subprocess.TimeoutExpired as error:
            reason = f"nvidia-smi did not end within {self._deadline_seconds:g} s"
            raise DeadlineError(_OPERATION, subject, reason) from error
        except OSError as error:
            raise GoneError(_OPERATION, subject, "nvidia-smi cannot be run", "install it, or reboot") from error


def refusal(subject: str, text: str) -> HostError:
    """What nvidia-smi's words on a reset that it did not do mean."""
    lowered = text.lower()
    if "in use by another" in lowered or "currently being used" in lowered:
        return BusyError(_OPERATION, subject, "in use by another client", "end the work or wait for it")
    if "not supported" in lowered:
        return UnsupportedError(_OPERATION, subject, "nvidia-smi says that a reset is not supported here", "reboot")
    if "insufficient permissions" in lowered or "permission" in lowered:
        return DeniedError(_OPERATION, subject, "not permitted to reset a gpu", "run as root")
    first = next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
    return HostError(_OPERATION, subject, f"nvidia-smi: {first.lower().rstrip('.')}")


class ModeChanges:
    """Changes of MIG modes of one node, with the reset that they need; knows which GPUs have none."""

    def __init__(self, resets: Resets) -> None:
        self._resets = resets
        self._without_reset: set[str] = set()

    def change(self, session: Session, uuid: str, enabled: bool, ask: Callable[[], None]) -> None:
        """Ask the driver for the mode, and reset the GPU where that leaves the mode pending. Errors as of the port."""
        try:
            ask()
        except UnsupportedError as error:
            self._reset(session, uuid, MigMode.ENABLED if enabled else MigMode.DISABLED, error)
        self._without_reset.discard(uuid)

    def reset(self, session: Session, pci_address: str) -> None:
        """Reset the GPU at once. Errors as of `Resets`."""
        session.release()  # a session of ours is a client of the GPU
        self._resets.reset(pci_address)

    def _reset(self, session: Session, uuid: str, wanted: MigMode, cause: UnsupportedError) -> None:
        waiting = _find(session, uuid)
        if waiting is None or waiting.mig_mode is wanted or waiting.pending_mig_mode is not wanted:
            raise cause
        session.release()  # a session of ours is a client of the GPU
        try:
            self._resets.reset(waiting.pci_address)
        except (UnsupportedError, GoneError) as error:
            self._without_reset.add(uuid)
            reason = f"{wanted} is pending: the driver did not reset the gpu, and {error.reason}"
            raise UnsupportedError(cause.operation, cause.subject, reason, "reboot the node") from error
        except HostError as error:
            reason = f"{wanted} is pending: the driver did not reset the gpu, and {error.reason}"
            raise type(error)(cause.operation, cause.subject, reason, error.advice) from error
        after = _find(session, uuid)
        if after is None or after.mig_mode is not wanted:
            self._without_reset.add(uuid)
            reason = f"{wanted} is still pending after a reset"
            raise UnsupportedError(cause.operation, cause.subject, reason, "reboot the node") from cause

    def mark(self, gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
        """The GPUs with `needs_reboot` where the mode is still pending; the others are forgotten."""
        if not self._without_reset:
            return tuple(gpus)
        self._without_reset -= {one.uuid for one in gpus if one.mig_mode is one.pending_mig_mode}
        return tuple(replace(one, needs_reboot=True) if one.uuid in self._without_reset else one for one in gpus)


def _find(session: Session, uuid: str) -> Gpu | None:
    return next((one for one in session.gpus()[0] if one.uuid == uuid), None)
