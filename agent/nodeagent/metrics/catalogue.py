"""Every metric of the agent, put together from the tables of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodeagent.metrics.dcgm import DCGM_METRICS
from nodeagent.metrics.dcgm_computed import COMPUTED_FAMILIES
from nodeagent.metrics.dcgm_labels import LABEL_NAMES
from nodeagent.metrics.dcgm_renamed import RENAMED_METRICS
from nodeagent.metrics.gpu_family import GpuMetric, Shown
from nodeagent.metrics.gpu_metrics import GPU_FAMILIES, OWN_GPU_METRICS
from nodeagent.metrics.health_metrics import HEALTH_FAMILIES
from nodeagent.metrics.netdev_metrics import driver_statistics
from nodeagent.metrics.node_metrics import AGENT_FAMILIES, NODE_FAMILIES
from nodeagent.metrics.operator_metrics import operator_families
from nodeagent.metrics.options import DcgmNames
from nodeagent.metrics.qos_metrics import QOS_FAMILIES
from nodeagent.metrics.rdma_metrics import RDMA_FAMILIES, port_counters
from nodeagent.metrics.sources import convert
from nodeagent.metrics.user_metrics import USER_FAMILIES
from nodeagent.metrics.validation_metrics import VALIDATION_FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nodeagent.metrics.exposition import Family
    from nodeagent.metrics.view import View

    Samples = Iterable[tuple[str, float]]

_ALL_METRICS = tuple({metric.name: metric for metric in (*DCGM_METRICS, *RENAMED_METRICS)}.values())
KNOWN_FAMILIES = frozenset(
    {metric.name for metric in _ALL_METRICS} | {family.name for family, _ in COMPUTED_FAMILIES} | LABEL_NAMES
)
_TABLES = {DcgmNames.OLD: DCGM_METRICS, DcgmNames.NEW: RENAMED_METRICS, DcgmNames.BOTH: _ALL_METRICS}
_USUAL = {
    names: tuple(metric for metric in table if metric.shown is not Shown.ON_REQUEST) for names, table in _TABLES.items()
}


def families(view: View) -> Iterator[tuple[Family, Samples]]:
    """Every family with its samples for this view; those without any come with none."""
    for metric in _chosen(view):
        yield metric, _gpu_samples(metric, view)
    for family, samples in COMPUTED_FAMILIES:
        if view.options.families is not None and family.name in view.options.families:
            yield family, samples(view)
    for metric in OWN_GPU_METRICS:
        yield metric, _own_samples(metric, view)
    for family, samples in (
        *GPU_FAMILIES,
        *USER_FAMILIES,
        *NODE_FAMILIES,
        *HEALTH_FAMILIES,
        *VALIDATION_FAMILIES,
        *RDMA_FAMILIES,
        *QOS_FAMILIES,
    ):
        yield family, samples(view)
    yield from port_counters(view)
    yield from driver_statistics(view)
    if view.options.operator_names:
        yield from operator_families(view)
    for family, samples in AGENT_FAMILIES:
        yield family, samples(view)
    yield from view.agent.instruments


def _chosen(view: View) -> Iterable[GpuMetric]:
    wanted = view.options.families
    if wanted is None:
        return _USUAL[view.options.dcgm_names]
    return (metric for metric in _ALL_METRICS if metric.name in wanted)


def _gpu_samples(metric: GpuMetric, view: View) -> Samples:
    """One line per GPU; one per instance instead where instances have the value, so that sums stay right."""
    read, conversion, labels_of = metric.source.read, metric.conversion, view.gpu_labels
    for sample in view.known_samples:
        tally = view.tally_of(sample.uuid)
        value = read(sample, tally)
        on_instances = False
        if sample.instances and (metric.source.on_instances or view.options.instance_copies):
            for instance in sample.instances:
                label_set = view.instance_labels.get((sample.uuid, instance.gi_id))
                own = read(instance, tally) if metric.source.on_instances else value
                if label_set and own is not None:
                    on_instances = True
                    yield label_set, convert(own, conversion)
        if value is not None and not on_instances:
            yield labels_of[sample.uuid], convert(value, conversion)


def _own_samples(metric: GpuMetric, view: View) -> Samples:
    """One line per GPU, under the labels of our own."""
    for sample in view.known_samples:
        value = metric.source.read(sample, view.tally_of(sample.uuid))
        if value is not None:
            yield view.own_labels[sample.uuid], convert(value, metric.conversion)
