"""Measures the whole agent with every section on, beside what its peers are known to take.

By hand: `PYTHONPATH=agent:tests python tests/bench/whole_agent.py`; test_whole_agent.py runs it with less patience.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.exporters import fetch
from bench.figures import PROFILE, Patience, agent_cpu, is_converged, memory
from bench.stopwatch import Figures
from kubelet_devices import DeviceManager
from nodeagent.host.control_client import ask
from nodeagent.host.paths import KUBELET_PLUGINS
from nodeagent.simulation.node import open_node
from nodeagent.spec.example import example_text

MIB = 1 << 20
# On top of the profile's example: modules, MIG, links.
EVERYTHING = """
roce: {devices: [{match: "*"}]}
cdi: {management: on}
runtimes: {}
labels: {mig_strategy: mixed}
kubernetes: {gpus: {mig_strategy: mixed}}
validation: {gpu_trials: never}
"""


@dataclass(frozen=True)
class Peer:
    """MiB of memory that somebody published for one pod of a GPU node, and who; `does` is what it is there for."""

    name: str
    mib: int
    does: str
    source: str


# Resident sets that users saw, the least where there are several. Of toolkit, gpu-feature-discovery, mig-manager,
# validator and driver container nobody has published any, so that they count as nothing here.
SEEN = (
    Peer("dcgm-exporter", 135, "metrics", "NVIDIA/gpu-operator#340: 135 to 155; others 400 to 500 (dcgm-exporter#609)"),
    Peer("device plugin", 25, "device plugin", "zalando-incubator/kubernetes-on-aws#7065, #7562"),
)
# What their charts ask the scheduler for.
REQUESTED = (
    Peer("nfd-worker", 64, "labels reach the node object", "node-feature-discovery's chart, as gpu-operator has it"),
    Peer("nic-feature-discovery", 50, "one label", "Mellanox/network-operator manifests"),
)


@contextmanager
def everything_on(directory: Path) -> Iterator[tuple[subprocess.Popen[str], Path, DeviceManager]]:
    """An agent on a simulated node with every section, a kubelet beside it; ready when pods could have devices.

    `directory` must be short: a unix socket has 107 bytes at most.
    """
    root = directory / "n"
    file = directory / "node.yaml"
    file.write_text(example_text(PROFILE) + EVERYTHING)
    where = ("--simulate", PROFILE, "--simulate-dir", str(root), "--listen", "127.0.0.1:0", "--file", str(file))
    open_node(PROFILE, str(root)).machine.close()  # it makes its own directory, which must not be there before
    (root / KUBELET_PLUGINS.lstrip("/")).mkdir(parents=True)
    kubelet = DeviceManager(str(root) + KUBELET_PLUGINS)
    kubelet.start()
    with (directory / "log").open("w") as errors:
        process = subprocess.Popen([sys.executable, "-m", "nodeagent", "run", *where], stderr=errors, text=True)
        try:
            deadline = time.monotonic() + 90
            while not (is_converged(root) and kubelet.healthy("nvidia.com/gpu")):
                assert process.poll() is None, (directory / "log").read_text()
                assert time.monotonic() < deadline, (directory / "log").read_text()
                time.sleep(0.1)
            yield process, root, kubelet
        finally:
            process.terminate()
            process.wait(120)
            kubelet.stop()


def whole(patience: Patience, directory: Path) -> Figures:
    """MiB of main process and worker, CPU seconds an hour, series served."""
    with everything_on(directory) as (process, root, _):
        parts = memory(process, root, patience)
        body = fetch(ask(str(root), "GET", "/v1/status")["metrics"])
        return {
            "resident MiB": sum(part["Rss"] for part in parts.values()) * 1e6 / MIB,
            "proportional MiB": sum(part["Pss"] for part in parts.values()) * 1e6 / MIB,
            "CPU s/h": agent_cpu(process, patience.settle_seconds),
            "series": float(sum(not line.startswith(b"#") for line in body.splitlines())),
        }


def report(patience: Patience) -> Iterator[str]:
    """The figures as lines of Markdown."""
    with tempfile.TemporaryDirectory() as place:
        found = whole(patience, Path(place))
    yield "| | MiB | pods | where from |\n|---|---|---|---|"
    resident, proportional = found["resident MiB"], found["proportional MiB"]
    yield f"| nodeagent, everything on | {resident:.0f} (proportional {proportional:.0f}) | 1 | measured |"
    for kind, peers in (("seen", SEEN), ("requested", REQUESTED)):
        yield from (f"| {peer.name}: {peer.does} | {peer.mib} {kind} | 1 | {peer.source} |" for peer in peers)
    total = sum(peer.mib for peer in SEEN)
    yield f"\npeers seen: {total} MiB, {total / resident:.1f} times the agent; CPU {found['CPU s/h']:.0f} s an hour"
    total += sum(peer.mib for peer in REQUESTED)
    yield f"with what the others ask for: {total} MiB; {found['series']:.0f} series"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that it works")
    quick = parser.parse_args().quick
    for line in report(Patience(settle_seconds=2.0) if quick else Patience()):
        print(line, flush=True)


if __name__ == "__main__":
    main()
