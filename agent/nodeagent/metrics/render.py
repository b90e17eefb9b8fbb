"""From observed state to the bytes that a scrape sends: pure, and done once per cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodeagent.metrics.catalogue import GPU_METRICS, NODE_METRICS, View, gpu_labels, rdma_counters
from nodeagent.metrics.exposition import family_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nodeagent.metrics.facts import AgentFacts
    from nodeagent.state.gpu import GpuSample
    from nodeagent.state.node import NodeState


def render(node: NodeState, samples: Sequence[GpuSample], agent: AgentFacts, now: float) -> bytes:
    """The text format 0.0.4 of everything known; `now` in Unix seconds.

    What is not known is left out, never shown as 0: a GPU that does not answer keeps nothing but nodeagent_gpu_up 0.
    """
    view = View(node, tuple(samples), agent, now)
    return "".join(f"{line}\n" for line in _lines(view)).encode()


def _lines(view: View) -> Iterator[str]:
    yield from _telemetry(view)
    for metric in NODE_METRICS:
        yield from family_lines(metric, metric.samples(view))
    for family, samples in rdma_counters(view):
        yield from family_lines(family, samples)


def _telemetry(view: View) -> Iterator[str]:
    """Samples of GPUs the last observation does not know have no labels to stand under and are left out."""
    known = [
        (gpu_labels(view.node.gpus[sample.uuid], view), sample)
        for sample in view.samples
        if sample.uuid in view.node.gpus
    ]
    for metric in GPU_METRICS:
        values = ((label_set, metric.value(sample)) for label_set, sample in known)
        yield from family_lines(metric, [(label_set, value) for label_set, value in values if value is not None])
