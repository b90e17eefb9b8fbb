"""A mount namespace that shows a simulated node's driver, device nodes and CDI files, for a real container runtime.

Device nodes are bind mounts of /dev/null, /dev/zero and /dev/full, so that a container can be asked which it was given.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DRIVER_ROOT = "/run/nvidia/driver"
STAND_IN = {"nvidia-caps": "zero", "infiniband": "full"}  # by folder; all else is /dev/null

# The beginning of a shell script that runs in the namespace; $WORK is an empty directory, the rest is `environment`.
WORLD = r"""
set -eu
mount -t tmpfs none "$WORK"
mkdir -p "$WORK/dev/pts" "$WORK/dev/shm" "$WORK/dev/mqueue" "$WORK/rootfs/bin" "$WORK/rootfs/dev" "$WORK/rootfs/tmp"
for node in null zero full random urandom tty $NODES; do
    mkdir -p "$(dirname "$WORK/dev/${node%%=*}")"
    : > "$WORK/dev/${node%%=*}"
    mount --bind "/dev/${node##*=}" "$WORK/dev/${node%%=*}"
done
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$WORK/dev/pts"
ln -s pts/ptmx "$WORK/dev/ptmx"
mkdir -p "$WORK/run/nvidia/driver" "$WORK$CDI"
mount --rbind "$NODE/run/nvidia/driver" "$WORK/run/nvidia/driver"
mount --rbind "$NODE$SOURCE" "$WORK$CDI"
mount --rbind "$WORK/run" /run
mount --rbind "$WORK/dev" /dev
cp "$(command -v busybox)" "$WORK/rootfs/bin/busybox"
for name in sh cat ls stat test env sleep; do ln -s busybox "$WORK/rootfs/bin/$name"; done
"""


def environment(node: str, work: Path, directory: str = "/var/run/cdi") -> dict[str, str]:
    """What WORLD needs: a simulated node's directory, one to work in, and where below /run the node has CDI files."""
    place = "/run" + directory.removeprefix("/var").removeprefix("/run")
    names = " ".join(_nodes(Path(node + directory)))
    return {**os.environ, "WORK": str(work), "NODE": node, "NODES": names, "CDI": place, "SOURCE": directory}


def as_root(command: Sequence[str], names: Sequence[str] = ()) -> list[str]:
    """The command as root, which also gets these variables besides those of `environment`."""
    kept = ",".join(("WORK", "NODE", "NODES", "CDI", "SOURCE", *names))
    return [*([] if os.geteuid() == 0 else ["sudo", "-n", f"--preserve-env={kept}"]), *command]


def edits_of(file: Path, name: str) -> list[dict[str, Any]]:
    """What a container gets that asks for this device of a specification."""
    document = json.loads(file.read_text())
    device = next(one for one in document["devices"] if one["name"] == name)
    return [document.get("containerEdits", {}), device["containerEdits"]]


def nodes_of(file: Path, name: str) -> set[str]:
    """The device nodes of a device."""
    return {node["path"] for edit in edits_of(file, name) for node in edit.get("deviceNodes", ())}


def _nodes(directory: Path) -> list[str]:
    """NAME=STAND-IN below /dev for every node that a specification of the node names."""
    paths: set[str] = set()
    for file in directory.iterdir():
        for device in json.loads(file.read_text())["devices"]:
            paths |= nodes_of(file, device["name"])
    names = sorted(path.removeprefix("/dev/") for path in paths)
    return [f"{name}={STAND_IN.get(name.partition('/')[0], 'null')}" for name in names]
