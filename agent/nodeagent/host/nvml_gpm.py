"""GPU performance monitoring (GPM): ratios and rates between two samples, on Hopper and later, per GPU and instance.

Each consumer needs a pair of samples of its own; all metrics of a device come out of one call. Whether a GPU has GPM is
asked of the driver, never inferred.

Source: nvml.h, group GPM (nvmlGpmMetricId_t; samples should be at least 100 ms apart).
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from struct import Struct
from typing import TYPE_CHECKING, Any

import pynvml

from nodeagent.host import nvml_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

GPM_OF_INSTANCE = (*range(1, 14), *range(30, 38), *range(40, 48), 50, 51)
"""Ratios that are true of one instance: graphics, SM, occupancy, tensor, DRAM, arithmetic; video engines."""
GPM_OF_GPU = (*GPM_OF_INSTANCE, 20, 21, *range(60, 98), *range(100, 104), *range(166, 170))
"""Besides, rates of the whole GPU: PCIe, NVLink in total and by link, C2C; encoders."""

_APART_SECONDS = 0.1
_WHOLE_GPU = -1
_METRIC = Struct("=IId24x")  # nvmlGpmMetric_t: metricId, nvmlReturn, value, three pointers to names
_METRICS_AT = pynvml.c_nvmlGpmMetricsGet_t.metrics.offset


@dataclass
class _Pair:
    """The last sample and a spare one for the next; `taken` is monotonic time, None before the first sample."""

    last: Any
    spare: Any
    taken: float | None = None

    def swap(self, now: float) -> None:
        self.last, self.spare = self.spare, self.last
        self.taken = now


class GpmReader:
    """Sample pairs by GPU index and instance id (-1: the whole GPU), for one NVML session."""

    def __init__(self) -> None:
        self._supported: dict[int, bool] = {}
        self._pairs: dict[tuple[int, int], _Pair] = {}
        self._requests: dict[tuple[int, ...], Any] = {}

    def close(self) -> None:
        """Give NVML back its samples; before nvmlShutdown."""
        for pair in self._pairs.values():
            self._free(pair)
        self._pairs.clear()
        self._supported.clear()

    def of_gpu(self, handle: Any, index: int, metrics: Sequence[int]) -> dict[int, float]:
        """Metrics of the whole GPU since the last call, by id; empty at the first call and without GPM."""
        return self._read((index, _WHOLE_GPU), handle, metrics, lambda sample: pynvml.nvmlGpmSampleGet(handle, sample))

    def of_instance(self, handle: Any, index: int, gi_id: int, metrics: Sequence[int]) -> dict[int, float]:
        """The same of one GPU instance; `handle` is that of its GPU."""
        return self._read(
            (index, gi_id), handle, metrics, lambda sample: pynvml.nvmlGpmMigSampleGet(handle, gi_id, sample)
        )

    def forget_others(self, index: int, gi_ids: Collection[int]) -> None:
        """Drop the samples of instances that are gone: their ids are given to others."""
        for key in [key for key in self._pairs if key[0] == index and key[1] not in (_WHOLE_GPU, *gi_ids)]:
            self._free(self._pairs.pop(key))

    def _free(self, pair: _Pair) -> None:
        for sample in (pair.last, pair.spare):
            with suppress(pynvml.NVMLError):
                pynvml.nvmlGpmSampleFree(sample)

    def _read(
        self, key: tuple[int, int], handle: Any, metrics: Sequence[int], take: Callable[[Any], Any]
    ) -> dict[int, float]:
        if not self._is_supported(handle, key[0]):
            return {}
        try:
            pair = self._pairs.get(key) or self._new_pair(key)
            return self._advance(pair, metrics, take)
        except pynvml.NVMLError as error:
            if not (nvml_errors.is_absence(error.value) or error.value == nvml_errors.NOT_FOUND):
                raise
            return {}

    def _advance(self, pair: _Pair, metrics: Sequence[int], take: Callable[[Any], Any]) -> dict[int, float]:
        """A new sample, and what happened since the last; too soon after it, nothing, and the last one stays."""
        now = time.monotonic()
        if pair.taken is not None and now - pair.taken < _APART_SECONDS:
            return {}
        take(pair.spare)
        found = {} if pair.taken is None else self._between(pair.last, pair.spare, metrics)
        pair.swap(now)
        return found

    def _between(self, first: Any, second: Any, metrics: Sequence[int]) -> dict[int, float]:
        request = self._request_for(tuple(metrics))
        request.sample1, request.sample2 = first, second
        pynvml.nvmlGpmMetricsGet(request)
        answers = _METRIC.iter_unpack(
            memoryview(request).cast("B")[_METRICS_AT : _METRICS_AT + _METRIC.size * len(metrics)]
        )
        # NVML answers NaN for an instance without a compute instance
        return {metric: value for metric, status, value in answers if not status and isfinite(value)}

    def _request_for(self, metrics: tuple[int, ...]) -> Any:
        """The call's structure with these ids filled in: some 19 KB, kept."""
        request = self._requests.get(metrics)
        if request is None:
            request = self._requests[metrics] = pynvml.c_nvmlGpmMetricsGet_t()
            request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
            request.numMetrics = len(metrics)
            for place, metric in enumerate(metrics):
                request.metrics[place].metricId = metric
        return request

    def _new_pair(self, key: tuple[int, int]) -> _Pair:
        pair = _Pair(pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc())
        self._pairs[key] = pair
        return pair

    def _is_supported(self, handle: Any, index: int) -> bool:
        if index not in self._supported:
            self._supported[index] = _ask_support(handle)
        return self._supported[index]


def _ask_support(handle: Any) -> bool:
    try:
        return bool(pynvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice)
    except pynvml.NVMLError as error:
        if not nvml_errors.is_absence(error.value):
            raise
        return False
