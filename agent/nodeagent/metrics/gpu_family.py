"""A row of the catalogue of GPUs: a family, and where its value comes from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from nodeagent.metrics.exposition import Family
from nodeagent.metrics.sources import Conversion, Source


class Shown(StrEnum):
    """Which of dcgm-exporter's lists has the family: its default, commented out in it, or neither."""

    DEFAULT = "default"
    COMMENTED = "commented"
    ON_REQUEST = "on request"


@dataclass(frozen=True)
class GpuMetric(Family):
    """A family with one value per GPU, and per GPU instance where the source has one; the unit is DCGM's."""

    field_id: int
    unit: str
    source: Source
    conversion: Conversion = Conversion.NONE
    shown: Shown = Shown.DEFAULT
