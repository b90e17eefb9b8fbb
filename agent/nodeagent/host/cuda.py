"""Trials on GPUs, each in a process of its own with a deadline: one that hangs in the driver hangs nobody else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nodeagent import errors
from nodeagent.errors import DeadlineError, GoneError, HostError
from nodeagent.host.cuda_errors import error_for
from nodeagent.state.proofs import Trial, TrialResult, Work

LIBRARY = "libcuda.so.1"
_MOMENT_SECONDS = 1.0  # a killed process goes at once, or it is in the kernel and may stay for ever
_NOT_INHERITED = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_OPERATION = "compute on"


@dataclass(frozen=True)
class CudaLaunch:
    """The library to load and what the child gets in its environment. An empty library is the system's own."""

    library: str = ""
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


class CudaProcesses:
    """Starts a child for each trial. `launch` is asked anew each time, for a simulated node may have changed."""

    def __init__(self, launch: Callable[[], CudaLaunch] = CudaLaunch) -> None:
        self._launch = launch

    def attempt(self, trial: Trial, deadline_seconds: float) -> TrialResult:
        """See `ports.Cuda`."""
        launch, subject = self._launch(), subject_of(trial)
        process = _start(launch, trial, subject)
        try:
            said, complaint = process.communicate(json.dumps(asdict(trial)).encode(), timeout=deadline_seconds)
        except subprocess.TimeoutExpired as error:
            gone = _end(process)
            reason = f"no answer in {deadline_seconds:g} seconds"
            advice = "the driver may hang: see the kernel log"
            if not gone:
                reason += f", and process {process.pid} cannot be ended"
            raise DeadlineError(_OPERATION, subject, reason, advice) from error
        if process.returncode:
            raise HostError(_OPERATION, subject, _last_words(process.returncode, complaint), "see the kernel log")
        return _result(_decoded(said, subject), subject, launch)


def _decoded(said: bytes, subject: str) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = json.loads(said)
    except ValueError as error:
        raise HostError(_OPERATION, subject, "its process did not say how it ended", "see the kernel log") from error
    return found


def subject_of(trial: Trial) -> str:
    return " to ".join(trial.uuids) or trial.work.value


def _start(launch: CudaLaunch, trial: Trial, subject: str) -> subprocess.Popen[bytes]:
    library = launch.library or ("" if trial.work in (Work.GDRCOPY, Work.GDS) else LIBRARY)
    command = [sys.executable, "-P", "-s", "-m", "nodeagent.host.cuda_child", library]
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, env=_environment(launch, trial), start_new_session=True
        )
    except OSError as error:
        raise HostError("start trial on", subject, str(error)) from error


def _environment(launch: CudaLaunch, trial: Trial) -> dict[str, str]:
    """Ours without what speaks to systemd in our name; the child sees the devices of its trial and no others."""
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, kept.get("PYTHONPATH", "").split(os.pathsep))]
    # CUDA orders devices by speed unless told otherwise; CUDA_VISIBLE_DEVICES with UUIDs gives them in its own order.
    seen = {"CUDA_VISIBLE_DEVICES": ",".join(trial.uuids), "CUDA_CACHE_DISABLE": "1"}
    return {**kept, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), **launch.environment, **seen}


def _end(process: subprocess.Popen[bytes]) -> bool:
    """Kill it and wait a moment; False when the kernel does not let it go."""
    process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=_MOMENT_SECONDS)
    gone = process.poll() is not None
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None and not pipe.closed:
            pipe.close()
    return gone


def _last_words(code: int, complaint: bytes) -> str:
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    lines = complaint.decode("utf-8", "replace").strip().splitlines()
    return f"its process exited with {code}" + (f" ({lines[-1]})" if lines else "")


def _result(document: Mapping[str, Any], subject: str, launch: CudaLaunch) -> TrialResult:
    """The child's result, or its error raised here."""
    if "result" in document:
        found = document["result"]
        return TrialResult(found["figures"], found["facts"], found["simulated"])
    told = document["error"]
    if "wrong" in told:
        advice = "take the gpu out of service; it computes or stores wrong"
        raise HostError(_OPERATION, subject, told["wrong"], advice)
    if "library" in told:
        reason = f"{launch.library or LIBRARY} cannot be loaded ({told['library']})"
        raise GoneError(_OPERATION, subject, reason, "install the user-space libraries of the loaded driver version")
    if "kind" in told:
        raise getattr(errors, told["kind"])(*told["told"])
    raise error_for(told["call"], told["code"], told["name"], subject)
