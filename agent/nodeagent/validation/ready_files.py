"""Ready files in the operator's form: others wait until they are there. Pure but for `bring`.

Names and contents: NVIDIA/gpu-operator cmd/nvidia-validator (main.go, driver.go) and assets/state-driver. driver-ready
and .driver-ctr-ready are sourced by a shell, so that our mark is a comment. A file without the mark is somebody else's:
it is neither changed nor removed.
"""

from __future__ import annotations

from collections.abc import Mapping

from nodeagent.host.paths import VALIDATIONS
from nodeagent.host.ports import Files
from nodeagent.state.node import NodeState
from nodeagent.state.proofs import Outcome, Proof, Validation
from nodeagent.validation.running import worst

MARK = "# written by nodeagent"
MODE = 0o644
NAMES: Mapping[Proof, str] = {
    Proof.DRIVER: "driver-ready",
    Proof.CUDA: "cuda-ready",
    Proof.PEERMEM: "nvidia-peermem-ready",
    Proof.GDRCOPY: "gdrcopy-ready",
    Proof.GDS: "nvidia-fs-ready",
    Proof.OFED: "mofed-ready",
    Proof.TOOLKIT: "toolkit-ready",
    Proof.PLUGIN: "plugin-ready",
}
CONTAINER = ".driver-ctr-ready"
_HOST_DRIVER = """\
IS_HOST_DRIVER=true
NVIDIA_DRIVER_ROOT=/
DRIVER_ROOT_CTR_PATH=/host
NVIDIA_DEV_ROOT=/
DEV_ROOT_CTR_PATH=/host
"""


def texts(validation: Validation, state: NodeState) -> Mapping[str, str | None]:
    """Path -> content, None: it must not be there.

    What was skipped is left out: it is no pass, and an earlier pass still stands.
    """
    wanted: dict[str, str | None] = {}
    for proof, name in NAMES.items():
        findings = validation.of(proof)
        if not findings or worst(findings) is Outcome.SKIPPED:
            continue
        passed = worst(findings) is Outcome.PASSED
        body = _HOST_DRIVER if proof is Proof.DRIVER else ""
        wanted[f"{VALIDATIONS}/{name}"] = f"{_mark(state)}{body}" if passed else None
        if proof is Proof.DRIVER:
            wanted[f"{VALIDATIONS}/{CONTAINER}"] = f"{_mark(state)}{_container(state)}" if passed else None
    return wanted


def _mark(state: NodeState) -> str:
    version = state.driver.version if state.driver else "none"
    return f"{MARK}: boot {state.kernel.boot_id or 'unknown'}, driver {version}\n"


def _container(state: NodeState) -> str:
    """What the driver container says that it has brought."""
    has_peer = any(state.is_loaded(name) for name in ("nvidia_peermem", "nv_peer_mem"))
    flags = {
        "GDRCOPY_ENABLED": state.is_loaded("gdrdrv"),
        "GDS_ENABLED": state.is_loaded("nvidia_fs"),
        "GPU_DIRECT_RDMA_ENABLED": has_peer,
    }
    return "".join(f"{name}={str(value).lower()}\n" for name, value in flags.items())


def bring(files: Files, wanted: Mapping[str, str | None]) -> tuple[str, ...]:
    """Write and remove; the paths that somebody else has written and that are left alone. HostError."""
    foreign = []
    for path, text in wanted.items():
        there = files.read_optional(path)
        if there is not None and not there.startswith(MARK):
            foreign.append(path)
        elif text is None:
            files.remove(path)
        elif there != text.rstrip("\n") and there != text:
            files.replace(path, text, MODE)
    return tuple(foreign)


def withdraw(files: Files) -> None:
    """Remove all that are ours, as before the driver goes away. HostError."""
    names = (*NAMES.values(), CONTAINER)
    bring(files, dict.fromkeys((f"{VALIDATIONS}/{name}" for name in names), None))
