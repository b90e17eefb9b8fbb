"""What an operator can choose about the exposition."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class HostLabel(StrEnum):
    """How the host's name stands on GPU lines: dcgm-exporter changed it from Hostname to hostname with 4.8.3."""

    UPPER = "Hostname"
    LOWER = "hostname"
    NONE = "none"


class DcgmNames(StrEnum):
    """Which of DCGM's names GPU families have: dcgm-exporter changed names and units with 4.9."""

    OLD = "until-4.8"
    NEW = "from-4.9"
    BOTH = "both"


@dataclass(frozen=True)
class Options:
    """Choices of the node file's `metrics` section.

    `families` are the names of DCGM families to show, None for the usual ones. `instance_copies` repeats values of the
    whole GPU on each of its instances, as dcgm-exporter does; sums over them then count a GPU several times.
    `node_exporter_names` adds RDMA counters under the names of node_exporter's infiniband collector, `operator_names`
    the families of the GPU operator's node-status-exporter. `dcgm_names` decides where `families` is None.
    """

    host_label: HostLabel = HostLabel.UPPER
    families: frozenset[str] | None = None
    instance_copies: bool = False
    node_exporter_names: bool = False
    operator_names: bool = False
    dcgm_names: DcgmNames = DcgmNames.OLD
