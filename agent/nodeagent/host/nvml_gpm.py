"""GPU performance monitoring (GPM): ratios and rates between two samples, on Hopper and later, per GPU and instance.

Each consumer needs a pair of samples of its own; all metrics of a device come out of one call. A GPU and its instances
are sampled in one batch and asked about in another. Whether a GPU has GPM is asked of the driver, never inferred.

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
from nodeagent.host.nvml_batch import ALONE, CHOSEN, Batch, Call, address, codes_mask, pointer
from nodeagent.host.nvml_readings import LASTING, NO_DATA

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nodeagent.host.nvml_costs import Costs

GPM_OF_INSTANCE = (*range(1, 14), *range(30, 38), *range(40, 48), 50, 51)
"""Ratios that are true of one instance: graphics, SM, occupancy, tensor, DRAM, arithmetic; video engines."""
_NEWER_RATES = (*range(100, 104), *range(160, 164), *range(166, 170))
GPM_TOTALS = tuple(range(248, 261))
"""Since reboot: cycles elapsed and active, by kind of work; bytes over PCIe."""
GPM_OF_GPU = (*GPM_OF_INSTANCE, 20, 21, *range(60, 98), *_NEWER_RATES, *GPM_TOTALS)
"""Besides, rates of the whole GPU: PCIe, NVLink in total and by link, C2C; memory caches, encoders; totals."""

_FIRST_END = 98  # NVML_GPM_METRIC_MAX when GPM was new; it has grown since, and the structure's version has not
_FIRST_OF_GPU = tuple(metric for metric in GPM_OF_GPU if metric < _FIRST_END)
_APART_SECONDS = 0.1
WHOLE_GPU = -1
_FUNCTIONS = ("nvmlGpmSampleGet", "nvmlGpmMigSampleGet", "nvmlGpmMetricsGet", "nvmlGpmQueryDeviceSupport")
_ABSENT = (*LASTING, nvml_errors.NO_PERMISSION, NO_DATA, nvml_errors.NOT_FOUND)
"""An instance that went a moment ago is an INVALID_ARGUMENT."""


@dataclass
class _Pair:
    """The last sample and a spare one for the next, each as ctypes and cffi have it; `is_taken`: the last one is."""

    last: tuple[Any, Any]
    spare: tuple[Any, Any]
    is_taken: bool = False

    def swap(self) -> None:
        self.last, self.spare = self.spare, self.last
        self.is_taken = True


def _new_pair() -> _Pair:
    first, second = pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()
    return _Pair((first, pointer(first)), (second, pointer(second)))


@dataclass
class _Group:
    """A GPU and its instances by id, sampled in one batch; `taken` is monotonic time, None before the first sample."""

    pairs: dict[int, _Pair]
    take: Batch
    taken: float | None = None


def _group(pairs: dict[int, _Pair], taken: float | None) -> _Group:
    def call(member: int) -> Call:
        if member == WHOLE_GPU:
            return Call("nvmlGpmSampleGet", tolerated=codes_mask(_ABSENT))
        return Call("nvmlGpmMigSampleGet", shape=CHOSEN, number=member, tolerated=codes_mask(_ABSENT))

    return _Group(pairs, Batch([call(member) for member in pairs]), taken)


class GpmReader:
    """Sample pairs of every GPU and instance, for one NVML session."""

    def __init__(self) -> None:
        self._supported: dict[int, bool] = {}
        self._groups: dict[int, _Group] = {}
        self._questions: dict[tuple[int, tuple[int, ...]], _Question] = {}
        self._asks: dict[tuple[bool, ...], _Ask] = {}
        self._knows_newer = True

    def close(self) -> None:
        """Give NVML back its samples; before nvmlShutdown."""
        for group in self._groups.values():
            for pair in group.pairs.values():
                _free(pair)
        self._groups.clear()
        self._supported.clear()

    def read(self, handle: Any, index: int, gi_ids: Sequence[int], costs: Costs) -> dict[int, dict[int, float]]:
        """Metrics since the last call by instance id, those of the GPU itself under WHOLE_GPU, and by metric id.

        What has no sample yet, and all where the GPU has no GPM or was sampled just now, is left out. pynvml.NVMLError.
        """
        if not self._is_supported(handle, index):
            return {}
        group, now = self._group_of(index, (WHOLE_GPU, *gi_ids)), time.monotonic()
        if group.taken is not None and now - group.taken < _APART_SECONDS:
            return {}
        for place, pair in enumerate(group.pairs.values()):
            group.take.point(place, pair.spare[1])
        failed = _made(group.take, pointer(handle), costs)
        sampled = {member: pair for place, (member, pair) in enumerate(group.pairs.items()) if place not in failed}
        found = self._between({member: pair for member, pair in sampled.items() if pair.is_taken}, costs)
        for pair in sampled.values():
            pair.swap()
        group.taken = now
        return found

    def forget_instances(self, index: int) -> None:
        """Drop the samples of a GPU's instances: their ids may be others' from now on."""
        if index in self._groups:
            self._group_of(index, (WHOLE_GPU,))

    def _group_of(self, index: int, members: tuple[int, ...]) -> _Group:
        group = self._groups.get(index)
        if group and tuple(group.pairs) == members:
            return group
        before = group.pairs if group else {}
        for member in before.keys() - set(members):
            _free(before[member])
        pairs = {member: before.get(member) or _new_pair() for member in members}
        self._groups[index] = _group(pairs, group.taken if group else None)
        return self._groups[index]

    def _between(self, pairs: dict[int, _Pair], costs: Costs) -> dict[int, dict[int, float]]:
        """A driver that refuses the whole question for ids newer than itself is asked for the first ones alone."""
        found, refused = self._ask(pairs, self._knows_newer, costs)
        if not refused:
            return found
        found, refused = self._ask(pairs, False, costs)
        if refused:
            raise pynvml.NVMLError(nvml_errors.INVALID_ARGUMENT)
        self._knows_newer = False
        return found

    def _ask(self, pairs: dict[int, _Pair], newer: bool, costs: Costs) -> tuple[dict[int, dict[int, float]], bool]:
        """What happened between each last sample and the spare one; and whether NVML refused a question."""
        if not pairs:
            return {}, False
        ask = self._asking(pairs, newer)
        for question, pair in zip(ask.questions, pairs.values(), strict=True):
            question.samples(pair.last[0], pair.spare[0])
        failed = _made(ask.batch, ffi.NULL, costs)
        members = enumerate(pairs)
        found = {member: ask.questions[place].answers() for place, member in members if place not in failed}
        return found, nvml_errors.INVALID_ARGUMENT in failed.values()

    def _asking(self, members: Iterable[int], newer: bool) -> _Ask:
        """GPUs share questions by place: each is some 19 KB."""
        key = (newer, *(member == WHOLE_GPU for member in members))
        if key not in self._asks:
            wanted = [GPM_OF_INSTANCE if not whole else GPM_OF_GPU if newer else _FIRST_OF_GPU for whole in key[1:]]
            questions = [self._questions.setdefault(one, _Question(one[1])) for one in enumerate(wanted)]
            self._asks[key] = _Ask(questions)
        return self._asks[key]

    def _is_supported(self, handle: Any, index: int) -> bool:
        if index not in self._supported:
            self._supported[index] = _ask_support(handle)
        return self._supported[index]


class _Question:
    """The question for these metrics between two samples, kept."""

    def __init__(self, metrics: tuple[int, ...]) -> None:
        self._question = pynvml.c_nvmlGpmMetricsGet_t()
        self._question.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        self._question.numMetrics = len(metrics)
        for place, metric in enumerate(metrics):
            self._question.metrics[place].metricId = metric
        self.where = pointer(addressof(self._question))
        self._ids, self._values = ffi.new("uint32_t[]", len(metrics)), ffi.new("double[]", len(metrics))

    def samples(self, first: Any, second: Any) -> None:
        self._question.sample1, self._question.sample2 = first, second

    def answers(self) -> dict[int, float]:
        """NVML has no number for an instance without users: it is left out."""
        number = lib.nodeagent_gpm(self.where, self._ids, self._values)
        return dict(zip(ffi.unpack(self._ids, number), ffi.unpack(self._values, number), strict=True))


class _Ask:
    """Questions that are asked together."""

    def __init__(self, questions: Sequence[_Question]) -> None:
        mask = codes_mask(_ABSENT)
        self.questions = questions
        self.batch = Batch(
            [Call("nvmlGpmMetricsGet", shape=ALONE, out=one.where, tolerated=mask) for one in questions],
        )


def _free(pair: _Pair) -> None:
    for sample, _ in (pair.last, pair.spare):
        with suppress(pynvml.NVMLError):
            pynvml.nvmlGpmSampleFree(sample)


def _made(batch: Batch, handle: Any, costs: Costs) -> dict[int, int]:
    """The codes of calls that failed, by place."""
    ended = batch.run(handle)
    costs.add(batch.costs())
    if ended:
        raise pynvml.NVMLError(ended)
    return batch.failed()


def _ask_support(handle: Any) -> bool:
    if not all(map(address, _FUNCTIONS)):
        return False
    try:
        return bool(pynvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice)
    except pynvml.NVMLError as error:
        if not nvml_errors.is_absence(error.value):
            raise
        return False
