"""What offers to pods cost beside a look at the node: PYTHONPATH=agent:tests python tests/bench/offer_figures.py."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from nodeagent.plan.convergence import goal_of, survey
from nodeagent.resources.gpu_offers import gpu_offers
from nodeagent.resources.gpu_preference import affinity_of, best_set
from nodeagent.resources.gpu_units import Around
from nodeagent.spec.reader import read_spec
from sim_node import sim_node

PROFILE = "dgx-h100"
TEXT = (
    "modules: {nvidia: {}, rdma: {}}\ncdi: {}\nmig: [{mode: enabled, gpus: [0, 1], layout: all-balanced}]\n"
    "kubernetes: {gpus: {mig_strategy: mixed, sharing: {strategy: time-slicing, replicas: {gpu: 4}}}}\n"
)


def seconds(what: Callable[[], object], times: int) -> float:
    started = time.process_time()
    for _ in range(times):
        what()
    return (time.process_time() - started) / times


def figures() -> dict[str, float]:
    """Milliseconds of processor time, and the ratio of making all offers to one look at the node."""
    with tempfile.TemporaryDirectory() as place, sim_node(Path(place), PROFILE, "in-process") as node:
        state = node.converge(TEXT).state
        spec = read_spec(node.write(TEXT))
        links = {one.pci_address: one for one in node.host.nvml.nvlinks()}
        look = seconds(lambda: survey(node.observer, goal_of(spec)), 3)
        around = Around(nvlinks=links)
        offers = seconds(lambda: gpu_offers(spec, state, around), 20)
        near, names = affinity_of(state, links), sorted(state.gpus)
        prefer = seconds(lambda: best_set(names, (), 4, near), 20)
    return {"look_ms": look * 1e3, "offers_ms": offers * 1e3, "prefer_4_of_8_ms": prefer * 1e3, "ratio": offers / look}


if __name__ == "__main__":
    for name, value in figures().items():
        print(f"{name}: {value:.3f}")
