"""GPU performance monitoring (GPM): ratios and rates between two samples, on Hopper and later, per GPU and instance.

Each consumer needs a pair of samples of its own; all metrics of a device come out of one call. Whether a GPU has GPM is
asked of the driver, never inferred.

Source: nvml.h, group GPM (nvmlGpmMetricId_t; samples should be at least 100 ms apart).
"""

from __future__ import annotations

import time
from contextlib import suppress
from ctypes import addressof
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pynvml

from nodeagent._calls import ffi, lib
from nodeagent.host import nvml_errors
from nodeagent.host.nvml_batch import ALONE, CHOSEN, Batch, Call, address, pointer

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from nodeagent.host.nvml_costs import Costs

GPM_OF_INSTANCE = (*range(1, 14), *range(30, 38), *range(40, 48), 50, 51)
"""Ratios that are true of one instance: graphics, SM, occupancy, tensor, DRAM, arithmetic; video engines."""
_NEWER_RATES = (*range(100, 104), *range(160, 164), *range(166, 170))
GPM_TOTALS = tuple(range(248, 261))
"""Since reboot: cycles elapsed and active, by kind of work; bytes over PCIe."""
GPM_OF_GPU = (*GPM_OF_INSTANCE, 20, 21, *range(60, 98), *_NEWER_RATES, *GPM_TOTALS)
"""Besides, rates of the whole GPU: PCIe, NVLink in total and by link, C2C; memory caches, encoders; totals."""

_FIRST_END = 98  # NVML_GPM_METRIC_MAX when GPM was new; it has grown since, and the structure's version has not
_APART_SECONDS = 0.1
_WHOLE_GPU = -1
_FUNCTIONS = ("nvmlGpmSampleGet", "nvmlGpmMigSampleGet", "nvmlGpmMetricsGet", "nvmlGpmQueryDeviceSupport")


@dataclass
class _Pair:
    """The last sample and a spare one for the next; `taken` is monotonic time, None before the first sample."""

    last: Any
    spare: Any
    take: Batch
    taken: float | None = None

    def swap(self, now: float) -> None:
        self.last, self.spare = self.spare, self.last
        self.taken = now


class GpmReader:
    """Sample pairs by GPU index and instance id (-1: the whole GPU), for one NVML session."""

    def __init__(self) -> None:
        self._supported: dict[int, bool] = {}
        self._pairs: dict[tuple[int, int], _Pair] = {}
        self._requests: dict[tuple[int, ...], _Request] = {}
        self._knows_newer = True

    def close(self) -> None:
        """Give NVML back its samples; before nvmlShutdown."""
        for pair in self._pairs.values():
            self._free(pair)
        self._pairs.clear()
        self._supported.clear()

    def of_gpu(self, handle: Any, index: int, metrics: Sequence[int], costs: Costs) -> dict[int, float]:
        """Metrics of the whole GPU since the last call, by id; empty at the first call and without GPM."""
        return self._read((index, _WHOLE_GPU), handle, metrics, costs)

    def of_instance(self, handle: Any, key: tuple[int, int], metrics: Sequence[int], costs: Costs) -> dict[int, float]:
        """The same of one GPU instance, by GPU index and instance id; `handle` is that of its GPU."""
        return self._read(key, handle, metrics, costs)

    def forget_others(self, index: int, gi_ids: Collection[int]) -> None:
        """Drop the samples of instances that are gone: their ids are given to others."""
        for key in [key for key in self._pairs if key[0] == index and key[1] not in (_WHOLE_GPU, *gi_ids)]:
            self._free(self._pairs.pop(key))

    def _free(self, pair: _Pair) -> None:
        for sample in (pair.last, pair.spare):
            with suppress(pynvml.NVMLError):
                pynvml.nvmlGpmSampleFree(sample)

    def _read(self, key: tuple[int, int], handle: Any, metrics: Sequence[int], costs: Costs) -> dict[int, float]:
        if not self._is_supported(handle, key[0]):
            return {}
        try:
            pair = self._pairs.get(key) or self._new_pair(key)
            return self._advance(pair, handle, metrics, costs)
        except pynvml.NVMLError as error:
            if not (nvml_errors.is_absence(error.value) or error.value == nvml_errors.NOT_FOUND):
                raise
            return {}

    def _advance(self, pair: _Pair, handle: Any, metrics: Sequence[int], costs: Costs) -> dict[int, float]:
        """A new sample, and what happened since the last; too soon after it, nothing, and the last one stays."""
        now = time.monotonic()
        if pair.taken is not None and now - pair.taken < _APART_SECONDS:
            return {}
        pair.take.point(0, pointer(pair.spare))
        _made(pair.take, pointer(handle), costs)
        found = {} if pair.taken is None else self._between(pair, tuple(metrics), costs)
        pair.swap(now)
        return found

    def _between(self, pair: _Pair, metrics: tuple[int, ...], costs: Costs) -> dict[int, float]:
        """A driver that refuses the whole question for ids newer than itself is asked for the first ones alone."""
        first = tuple(metric for metric in metrics if metric < _FIRST_END)
        try:
            return self._request_for(metrics if self._knows_newer else first).between(pair, costs)
        except pynvml.NVMLError as error:
            if error.value != nvml_errors.INVALID_ARGUMENT or not self._knows_newer or first == metrics:
                raise
        found = self._request_for(first).between(pair, costs)
        self._knows_newer = False
        return found

    def _request_for(self, metrics: tuple[int, ...]) -> _Request:
        request = self._requests.get(metrics)
        if request is None:
            request = self._requests[metrics] = _Request(metrics)
        return request

    def _new_pair(self, key: tuple[int, int]) -> _Pair:
        call = Call("nvmlGpmSampleGet") if key[1] == _WHOLE_GPU else Call("nvmlGpmMigSampleGet", "", (), CHOSEN, key[1])
        pair = _Pair(pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc(), Batch((call,)))
        self._pairs[key] = pair
        return pair

    def _is_supported(self, handle: Any, index: int) -> bool:
        if index not in self._supported:
            self._supported[index] = _ask_support(handle)
        return self._supported[index]


class _Request:
    """The question for these metrics between two samples: some 19 KB, kept."""

    def __init__(self, metrics: tuple[int, ...]) -> None:
        self._question = pynvml.c_nvmlGpmMetricsGet_t()
        self._question.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        self._question.numMetrics = len(metrics)
        for place, metric in enumerate(metrics):
            self._question.metrics[place].metricId = metric
        self._where = pointer(addressof(self._question))
        self._ask = Batch((Call("nvmlGpmMetricsGet", shape=ALONE, out=self._where),))
        self._ids, self._values = ffi.new("uint32_t[]", len(metrics)), ffi.new("double[]", len(metrics))

    def between(self, pair: _Pair, costs: Costs) -> dict[int, float]:
        """What happened between the last sample and the spare one; NVML has no number for an instance without users."""
        self._question.sample1, self._question.sample2 = pair.last, pair.spare
        _made(self._ask, ffi.NULL, costs)
        number = lib.nodeagent_gpm(self._where, self._ids, self._values)
        return dict(zip(ffi.unpack(self._ids, number), ffi.unpack(self._values, number), strict=True))


def _made(batch: Batch, handle: Any, costs: Costs) -> None:
    ended = batch.run(handle)
    costs.add(batch.costs())
    if ended:
        raise pynvml.NVMLError(ended)


def _ask_support(handle: Any) -> bool:
    if not all(map(address, _FUNCTIONS)):
        return False
    try:
        return bool(pynvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice)
    except pynvml.NVMLError as error:
        if not nvml_errors.is_absence(error.value):
            raise
        return False
