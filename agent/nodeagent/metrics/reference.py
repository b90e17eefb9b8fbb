"""The catalogue as Markdown: the generated half of docs/metrics.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodeagent.metrics.dcgm import DCGM_METRICS
from nodeagent.metrics.dcgm_computed import COMPUTED_FAMILIES
from nodeagent.metrics.dcgm_labels import DRIVER_LABEL, LABEL_ROWS, NEW_DRIVER_LABEL
from nodeagent.metrics.dcgm_renamed import RENAMED_METRICS
from nodeagent.metrics.gpu_metrics import GPU_FAMILIES, OWN_GPU_METRICS
from nodeagent.metrics.health_metrics import HEALTH_FAMILIES
from nodeagent.metrics.instruments import Instruments
from nodeagent.metrics.netdev_metrics import STATISTICS
from nodeagent.metrics.node_metrics import AGENT_FAMILIES, NODE_FAMILIES
from nodeagent.metrics.qos_metrics import QOS_FAMILIES
from nodeagent.metrics.rdma_metrics import RDMA_FAMILIES
from nodeagent.metrics.sources import Conversion
from nodeagent.metrics.user_metrics import USER_FAMILIES
from nodeagent.metrics.validation_metrics import VALIDATION_FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nodeagent.metrics.exposition import Family
    from nodeagent.metrics.gpu_family import GpuMetric

MARK = "<!-- from here on made from the catalogue: nodeagent.metrics.reference -->\n"


def catalogue_tables() -> str:
    """All families by group, in the order in which they are shown."""
    groups = (
        ("GPUs, in our own names", (*OWN_GPU_METRICS, *_families(GPU_FAMILIES), *_families(USER_FAMILIES))),
        ("Node", _families(NODE_FAMILIES)),
        ("Health", _families(HEALTH_FAMILIES)),
        ("Validation", _families(VALIDATION_FAMILIES)),
        ("RDMA", _families(RDMA_FAMILIES)),
        ("Quality of service (DCB)", _families(QOS_FAMILIES)),
        ("Statistics of the NIC's driver (mlx5)", STATISTICS),
        ("The agent itself", (*_families(AGENT_FAMILIES), *_families(Instruments("").families()))),
    )
    parts = [
        f"## GPUs, in DCGM's names until 4.8\n\n{_dcgm_table(DCGM_METRICS)}",
        f"## GPUs, in DCGM's names from 4.9 on, where they differ\n\n{_dcgm_table(_only_new())}",
        f"## Labels that a list of counters may ask for\n\n{_label_table()}",
        f"## Computed, as dcgm-exporter does on request\n\n{_table(_families(COMPUTED_FAMILIES))}",
    ]
    parts += [f"## {title}\n\n{_table(families)}" for title, families in groups]
    return "\n\n".join(parts) + "\n"


def _only_new() -> tuple[GpuMetric, ...]:
    known = {metric.name for metric in DCGM_METRICS}
    return tuple(metric for metric in RENAMED_METRICS if metric.name not in known)


def _families(rows: Iterable[tuple[Family, object]]) -> tuple[Family, ...]:
    return tuple(family for family, _ in rows)


def _dcgm_table(metrics: Iterable[GpuMetric]) -> str:
    lines = [
        "| family | id | type | unit | source | conversion | with MIG | list |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for metric in metrics:
        conversion = "" if metric.conversion is Conversion.NONE else metric.conversion.value
        place = "instance" if metric.source.on_instances else "GPU"
        cells = (metric.name, str(metric.field_id), metric.kind.value, metric.unit, str(metric.source), conversion)
        lines.append(f"| {' | '.join((*cells, place, metric.shown.value))} |")
    return "\n".join(lines)


def _label_table() -> str:
    lines = ["| row of type label | the same from 4.9 on | id | source |", "|---|---|---|---|"]
    lines.append(f"| {DRIVER_LABEL} (default) | {NEW_DRIVER_LABEL} | 1 | the loaded driver |")
    for row in LABEL_ROWS:
        new = "" if row.new_name == row.name else row.new_name
        lines.append(f"| {row.name} | {new} | {row.field_id} | {row.source} |")
    return "\n".join(lines)


def _table(families: Iterable[Family]) -> str:
    lines = ["| family | type | meaning |", "|---|---|---|"]
    lines += [f"| {family.name} | {family.kind.value} | {family.help} |" for family in families]
    return "\n".join(lines)
