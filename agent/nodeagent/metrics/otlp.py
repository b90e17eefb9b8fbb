"""The same families as OpenTelemetry's data model, and their push over OTLP/HTTP.

Names, labels and values are those of /metrics, so that a Prometheus behind a collector shows the same series. Counters
are cumulative sums since the agent's start. OpenTelemetry's own exporter encodes, compresses, retries and authenticates
(OTEL_EXPORTER_OTLP_HEADERS, _CERTIFICATE, _CLIENT_KEY and others of its variables apply). The extra `nodeagent[otlp]`
has it; import this module only where it is wanted: 17 MB.
Sources: OpenTelemetry specification, "Metrics Data Model" and "OTLP/HTTP"; UCUM for units.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from nodeagent.errors import HostError
from nodeagent.metrics.catalogue import families
from nodeagent.metrics.exposition import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from nodeagent.metrics.exposition import Family
    from nodeagent.metrics.view import View

_UNITS = {
    "seconds": "s",
    "bytes": "By",
    "joules": "J",
    "watts": "W",
    "celsius": "Cel",
    "hertz": "Hz",
    "ratio": "1",
}
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")
_INT64 = 1 << 63
_LABEL_SETS = 20_000  # kept parsed: as many as a large node has, and they are the same from round to round


class OtlpReceiver:
    """An address that takes metrics, as http://collector:4318/v1/metrics."""

    def __init__(self, endpoint: str, timeout_seconds: float) -> None:
        self._endpoint = endpoint
        self._exporter = OTLPMetricExporter(endpoint=endpoint, timeout=timeout_seconds, compression=Compression.Gzip)

    def send(self, view: View) -> None:
        """HostError when it was not taken within the time; why is in the log."""
        if self._exporter.export(metrics_data(view)) is not MetricExportResult.SUCCESS:
            raise HostError("push metrics to", self._endpoint, "they were not taken", "the log says why")

    def close(self) -> None:
        self._exporter.shutdown()


def metrics_data(view: View) -> MetricsData:
    """Everything that /metrics shows."""
    agent = view.agent
    pairs = {"service.name": "nodeagent", "service.version": agent.version, "service.instance.id": agent.hostname}
    scope = InstrumentationScope("nodeagent", agent.version)
    found = [metric for family, samples in families(view) if (metric := _metric(view, family, samples))]
    resource = Resource({**pairs, "host.name": agent.hostname})
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(scope, found, "")], "")])


def _metric(view: View, family: Family, samples: Iterable[tuple[str, float]]) -> Metric | None:
    """None for a family without samples."""
    if family.kind is Kind.HISTOGRAM:
        return _histogram(view, family, samples)
    points = tuple(_points(view, samples))
    if not points:
        return None
    counter = family.kind is Kind.COUNTER
    data = Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True) if counter else Gauge(points)
    return Metric(family.name, family.help, unit_of(family.name), data)


def _histogram(view: View, family: Family, samples: Iterable[tuple[str, float]]) -> Metric | None:
    """Prometheus counts what is up to a bound, OpenTelemetry what is between two."""
    rows: dict[str, dict[str, float]] = {}
    for text, value in samples:
        name, _, inner = text.partition("{")
        kept = ",".join(pair for pair in inner.rstrip("}").split(",") if pair and not pair.startswith("le="))
        bound = attributes(text).get("le", "")
        rows.setdefault(kept, {})[bound if name == "_bucket" else name] = value
    points = [_distribution(view, attributes(f"{{{kept}}}"), row) for kept, row in rows.items()]
    if not points:
        return None
    data = Histogram(points, AggregationTemporality.CUMULATIVE)
    return Metric(family.name, family.help, unit_of(family.name), data)


def _distribution(view: View, pairs: Mapping[str, str], row: Mapping[str, float]) -> HistogramDataPoint:
    start, now = _nanoseconds(view.agent.start_seconds or view.now), _nanoseconds(view.now)
    bounds = [name for name in row if not name.startswith("_")]
    counts = [
        int(row[bound] - before) for bound, before in zip(bounds, (0, *(row[one] for one in bounds)), strict=False)
    ]
    # what was the least and the most is not known
    limits = [float(bound) for bound in bounds if bound != "+Inf"]
    return HistogramDataPoint(pairs, start, now, int(row["_count"]), row["_sum"], counts, limits, None, None)


def unit_of(name: str) -> str:
    """By the last word of the name, as Prometheus has it."""
    return _UNITS.get(name.removesuffix("_total").rpartition("_")[2], "")


def _points(view: View, samples: Iterable[tuple[str, float]]) -> Iterator[NumberDataPoint]:
    start, now = _nanoseconds(view.agent.start_seconds or view.now), _nanoseconds(view.now)
    for label_set, value in samples:
        number = int(value) if isinstance(value, bool) else value
        fits = not isinstance(number, int) or -_INT64 <= number < _INT64
        yield NumberDataPoint(attributes(label_set), start, now, number if fits else float(number))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


@lru_cache(maxsize=_LABEL_SETS)
def attributes(label_set: str) -> Mapping[str, str]:
    """`{gpu="0"}` as a mapping."""
    return {name: _ESCAPED.sub(_unescaped, text) for name, text in _LABEL.findall(label_set)}


def _unescaped(found: re.Match[str]) -> str:
    return "\n" if found[1] == "n" else found[1]
