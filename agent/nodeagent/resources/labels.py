"""Section `labels`: what the node says about itself, written where node-feature-discovery reads it; nothing acts on it.

Rules of the file: kubernetes-sigs/node-feature-discovery docs/usage/customization-guide.md (feature files, expiry) and
source/local/local.go (dot files are ignored, a file is read whole).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from nodeagent.host.paths import FEATURES_FILE, GFD_FEATURES_FILE
from nodeagent.resources.base import Obstacle, Wish
from nodeagent.resources.file_steps import RemoveFile, WriteFile, file_thing
from nodeagent.resources.labels_gpu import TIMESTAMP, gpu_labels, value_of
from nodeagent.spec.containers import Component
from nodeagent.spec.labels import Labels
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.health import KEPT_FROM_WORK, Health
from nodeagent.state.node import NodeState
from nodeagent.state.rails import rails_of
from nodeagent.state.repair import QUARANTINE

UNIT, WHAT = "labels", "node labels"
OWN = "nodeagent.io"
MOFED = "nvidia.com/mofed.version"  # Mellanox/nic-feature-discovery: the version of OFED's mlx5_core, inbox has none
EXPIRY = "# +expiry-time="
LEAST_VALIDITY_SECONDS = 900.0


def features_path(section: Labels) -> str:
    return section.features_file or FEATURES_FILE


def labels_of(spec: NodeSpec, state: NodeState) -> dict[str, str]:
    """Every label but the timestamp, sorted. ValueError where the section asks for what does not go together."""
    section = spec.labels or Labels()
    given = gpu_labels(section, state) if wants_gpus(section, state) else {}
    own = {**_rdma(state), **_drivers(state), **_health(state)} if section.own else {}
    return dict(sorted({**given, **own}.items()))


def wants_gpus(section: Labels, state: NodeState) -> bool:
    """Auto leaves GPUs to gpu-feature-discovery where its own file is there."""
    if section.gpus is Component.AUTO:
        return GFD_FEATURES_FILE not in state.containers.texts
    return section.gpus is Component.ON


def _rdma(state: NodeState) -> dict[str, str]:
    ports = [port for device in state.rdma.values() for port in device.ports]
    if not ports:
        return {}
    layers = sorted({port.link_layer for port in ports})
    rails = rails_of(state)
    return {
        f"{OWN}/rdma.count": str(len(state.rdma)),
        f"{OWN}/rdma.active-ports": str(sum(port.state == "ACTIVE" for port in ports)),
        f"{OWN}/rdma.link-layer": layers[0] if len(layers) == 1 else "mixed",
        f"{OWN}/rdma.rails": str(len(rails)),
        f"{OWN}/rdma.netns": "exclusive" if state.rdma_netns_shared is False else "shared",
    }


def _drivers(state: NodeState) -> dict[str, str]:
    mlx5 = state.modules.get("mlx5_core")
    found = {f"{OWN}/kernel": value_of(state.kernel.release.replace("+", "."))}
    if state.driver is not None:
        found[f"{OWN}/driver.flavor"] = "open" if state.driver.is_open else "proprietary"
    if mlx5 is not None:
        found[f"{OWN}/rdma.stack"] = "ofed" if mlx5.version else "inbox"
        if mlx5.version:
            found[MOFED] = value_of(mlx5.version)
    for name in ("nvidia_peermem", "nv_peer_mem", "gdrdrv", "nvidia_fs"):
        if state.is_loaded(name):
            found[f"{OWN}/module.{name}"] = "true"
    return {key: value for key, value in found.items() if value}


def _health(state: NodeState) -> dict[str, str]:
    """The verdict of the health checks, what repair keeps from work, and how many GPUs do not answer now."""
    if state.driver is None:
        return {}
    silent = [item for item in state.unknown if item.what.startswith("GPU")]
    health = state.health or Health()
    return {
        f"{OWN}/gpus.silent": str(len(silent)),
        f"{OWN}/health": health.verdict.value,
        **({QUARANTINE: "true"} if is_kept_from_work(state) else {}),
    }


def is_kept_from_work(state: NodeState) -> bool:
    """Whether repair keeps a device, or the node, from work."""
    return any(one.check in KEPT_FROM_WORK for one in (state.health or Health()).problems)


def features_text(labels: Mapping[str, str], changed: float, expires: float) -> str:
    """The file; times are in seconds since the epoch."""
    until = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    stamp = {TIMESTAMP: str(int(changed))} if changed else {}
    rows = [f"{key}={value}" for key, value in sorted({**labels, **stamp}.items())]
    return "\n".join(["# written by nodeagent; `nodeagent labels` prints it", f"{EXPIRY}{until}", *rows]) + "\n"


def parse_features(text: str) -> tuple[dict[str, str], float]:
    """Labels with the timestamp, and when they expire; 0 where the file does not say."""
    lines = text.splitlines()
    pairs = (line.partition("=") for line in lines if line.strip() and not line.startswith("#"))
    until = next((line.removeprefix(EXPIRY) for line in lines if line.startswith(EXPIRY)), "")
    return {key: value or "true" if not sign else value for key, sign, value in pairs}, _seconds(until)


def _seconds(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def plan(spec: NodeSpec, state: NodeState) -> Wish:
    """A file with the labels of now, renewed while at least half of its validity is left; kept when the agent stops."""
    if spec.labels is None:
        return Wish()
    path = features_path(spec.labels)
    before = state.containers.texts.get(path)
    if not spec.labels.file:
        gone = RemoveFile(
            subject=file_thing(path), unit=UNIT, reason="labels.file is off", what=WHAT, before=before or ""
        )
        return Wish((gone,)) if before is not None else Wish()
    try:
        labels = labels_of(spec, state)
    except ValueError as error:
        advice = "set labels.sharing to time-slicing, or disable MIG"
        return Wish(obstacles=(Obstacle(UNIT, file_thing(path), str(error), advice),))
    text = _wanted_text(spec, state, labels, before)
    if text is None:
        return Wish()
    reason = "they changed" if before is None or parse_labels(before) != labels else "they would expire"
    step = WriteFile(subject=file_thing(path), unit=UNIT, reason=reason, what=WHAT, text=text, before=before)
    return Wish((step,))


def parse_labels(text: str) -> dict[str, str]:
    """Labels of a file without the timestamp."""
    found, _ = parse_features(text)
    return {key: value for key, value in found.items() if key != TIMESTAMP}


def _wanted_text(spec: NodeSpec, state: NodeState, labels: Mapping[str, str], before: str | None) -> str | None:
    """None while the file says the same and stays valid long enough; the timestamp is that of the last change."""
    now = state.containers.now
    validity = max(LEAST_VALIDITY_SECONDS, 3 * spec.loop.interval_seconds)
    old, expires = parse_features(before or "")
    wants_stamp = (
        spec.labels is not None and spec.labels.timestamp and any(key.startswith("nvidia.com/") for key in labels)
    )
    same = before is not None and parse_labels(before) == labels and (TIMESTAMP in old) == wants_stamp
    if same and now + validity / 2 <= expires <= now + 2 * validity:
        return None
    changed = float(old[TIMESTAMP]) if same and old.get(TIMESTAMP, "").isdecimal() else now
    return features_text(labels, changed if wants_stamp else 0.0, now + validity)
