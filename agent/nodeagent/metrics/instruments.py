"""What the agent counts and times about itself, in prometheus_client's instruments; our exposition writes them.

State that the agent holds anyway (outcome, drift, failures) is shown from there, as AGENT_FAMILIES. prometheus_client's
own writer and server are not used: it renders for each scrape, and cannot write DCGM's counters under their names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, GCCollector, Histogram, Info, PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from nodeagent.metrics.exposition import Family, Kind, labels

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric

    from nodeagent.state.gpu import GpuSample

    OwnFamilies = tuple[tuple[Family, tuple[tuple[str, float], ...]], ...]

_PASS_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_ROUND_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
_SUFFIXES = {"counter": "_total", "info": "_info"}
_KINDS = {"counter": Kind.COUNTER, "histogram": Kind.HISTOGRAM}
_EXACT = 1 << 53


class Instruments:
    """A registry of our own, for one process. Any thread may count; `families` reads everything at one moment."""

    def __init__(self, version: str) -> None:
        self._registry = registry = CollectorRegistry()
        self.passes = Histogram(
            "nodeagent_pass_seconds",
            "Length of the passes of the reconcile loop.",
            registry=registry,
            buckets=_PASS_BUCKETS,
        )
        self.rounds = Histogram(
            "nodeagent_round_seconds",
            "What rounds of telemetry took, by source.",
            ["source"],
            registry=registry,
            buckets=_ROUND_BUCKETS,
        )
        self._calls = Counter(
            "nodeagent_nvml_calls_total", "Calls of NVML functions for telemetry.", ["function"], registry=registry
        )
        self._call_seconds = Counter(
            "nodeagent_nvml_call_seconds_total",
            "Time in NVML functions for telemetry; by calls, the mean latency.",
            ["function"],
            registry=registry,
        )
        Info("nodeagent_build", "Version of the agent, always 1.", registry=registry).info({"version": version})
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

    def add_calls(self, samples: Iterable[GpuSample]) -> None:
        """Count the NVML calls that these samples took."""
        found: dict[str, tuple[int, float]] = {}
        for sample in samples:
            for function, (calls, seconds) in sample.calls.items():
                before, spent = found.get(function, (0, 0.0))
                found[function] = before + calls, spent + seconds
        for function, (calls, seconds) in found.items():
            self._calls.labels(function).inc(calls)
            self._call_seconds.labels(function).inc(seconds)

    def families(self) -> OwnFamilies:
        """Every family with its samples now."""
        return tuple(_family(metric) for metric in self._registry.collect())


def _family(metric: Metric) -> tuple[Family, tuple[tuple[str, float], ...]]:
    """What else OpenMetrics wants, when a counter began, is in nodeagent's own families."""
    family = Family(
        metric.name + _SUFFIXES.get(metric.type, ""), _KINDS.get(metric.type, Kind.GAUGE), metric.documentation
    )
    samples = (one for one in metric.samples if not one.name.endswith("_created"))
    return family, tuple(
        (one.name.removeprefix(family.name) + labels(**one.labels), _whole(one.value)) for one in samples
    )


def _whole(value: float) -> float:
    """prometheus_client has nothing but floats; what is a count is written as one."""
    return int(value) if abs(value) < _EXACT and value == int(value) else value
