"""The child process of a trial: `python -m nodeagent.host.cuda_child LIBRARY`, a trial on stdin, its result on stdout.

It is started anew for every trial, because a GPU that hangs takes its process with it, and because the driver looks at
CUDA_VISIBLE_DEVICES once.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

import cffi

from nodeagent.errors import HostError
from nodeagent.host.cuda_driver import CudaCallError, CudaDriver
from nodeagent.host.cuda_neighbours import open_gdrcopy, open_gds
from nodeagent.host.cuda_works import WrongDataError, peer, vector
from nodeagent.host.gpudirect import rdma
from nodeagent.state.proofs import Trial, TrialResult, Work

_PR_SET_PDEATHSIG = 1
_ON_DEVICES: Mapping[Work, Callable[[CudaDriver, Trial], TrialResult]] = {
    Work.VECTOR: vector,
    Work.PEER: peer,
    Work.RDMA: rdma,
}
_BESIDE: Mapping[Work, Callable[[str], TrialResult]] = {Work.GDRCOPY: open_gdrcopy, Work.GDS: open_gds}


def answer(trial: Trial, library: str) -> dict[str, Any]:
    """{"result": …} or {"error": …}, for the parent."""
    try:
        if trial.work in _BESIDE:
            result = _BESIDE[trial.work](library)
        else:
            result = _ON_DEVICES[trial.work](CudaDriver(library), trial)
    except CudaCallError as error:
        return {"error": {"call": error.call, "code": error.code, "name": error.name}}
    except WrongDataError as error:
        return {"error": {"wrong": str(error)}}
    except HostError as error:
        told = [error.operation, error.subject, error.reason, error.advice]
        return {"error": {"kind": type(error).__name__, "told": told}}
    except OSError as error:
        return {"error": {"library": str(error)}}
    facts, figures = dict(result.facts), dict(result.figures)
    return {"result": {"figures": figures, "facts": facts, "simulated": result.simulated}}


def end_with_parent() -> None:
    """A trial whose agent has ended must not go on (prctl(2), PR_SET_PDEATHSIG)."""
    ffi = cffi.FFI()
    ffi.cdef("int prctl(int option, unsigned long argument);")
    library: Any = ffi.dlopen(None)
    library.prctl(_PR_SET_PDEATHSIG, ffi.cast("unsigned long", signal.SIGKILL))


def main() -> None:
    end_with_parent()
    asked = json.load(sys.stdin)
    trial = Trial(**{**asked, "work": Work(asked["work"]), "uuids": tuple(asked["uuids"])})
    json.dump(answer(trial, sys.argv[1]), sys.stdout)


if __name__ == "__main__":
    main()
