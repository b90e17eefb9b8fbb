"""Xid errors, other notices and changes of the MIG layout through NVML's events, with the sample of the GPU concerned.

Source: nvml.h, group nvmlEvents: nvmlEventTypeXidCriticalError has the Xid in eventData, and instance ids of 0xFFFFFFFF
where it cannot be attributed; nvmlEventMigConfigChange comes on the parent device. Errors of a single bit are not asked
for: they come in storms, and their counter says as much.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pynvml

from nodeagent.host import nvml_errors
from nodeagent.host.nvml_batch import SIZED, Batch, Call, address, pointer
from nodeagent.host.nvml_costs import Costs
from nodeagent.state.gpu import Notice, Xid

_XID = 0x8  # nvmlEventTypeXidCriticalError
_MIG = 0x100  # nvmlEventMigConfigChange
_NOTICES = {0x2: Notice.DOUBLE_BIT, 0x4000: Notice.UNAVAILABLE, 0x8000: Notice.RECOVERY}
_WANTED = _XID | _MIG | sum(_NOTICES)
_WHOLE_GPU = 0xFFFFFFFF
_AT_ONCE = 256  # an error storm must not keep a sample from ending; the rest comes with the next one
# A lost GPU in the set ends every wait at once; its own calls tell of it, and the kernel's log of the others' Xids.
_OVER = (nvml_errors.TIMEOUT, nvml_errors.NOT_FOUND, nvml_errors.GPU_IS_LOST, nvml_errors.RESET_REQUIRED)
_NAMES = ("device", "kind", "data", "gi_id", "ci_id")  # nvmlEventData_t
_WAIT = Call("nvmlEventSetWait_v2", "QQQII", _NAMES, SIZED, 0)  # what is there already, at once


@dataclass(frozen=True)
class Told:
    """What NVML told of one GPU since the last call."""

    xids: tuple[Xid, ...] = ()
    notices: tuple[Notice, ...] = ()
    mig_changed: bool = False


class GpuEvents:
    """One event set for all GPUs of a session; a GPU is registered when it is first asked about."""

    def __init__(self) -> None:
        self._set: Any = None
        self._wait: Batch | None = None
        self._registered: set[str] = set()
        self._names: dict[int, str] = {}  # UUID by handle: a GPU that is lost cannot be asked for it any more
        self._waiting: dict[str, Told] = {}

    def close(self) -> None:
        if self._set is not None:
            with suppress(pynvml.NVMLError):
                pynvml.nvmlEventSetFree(self._set)
        self._set = self._wait = None
        self._registered.clear()
        self._names.clear()
        self._waiting.clear()

    def since_last(self, handle: Any, uuid: str, costs: Costs) -> Told:
        """What was told of this GPU since the last call."""
        if uuid not in self._registered:
            self._names[_address(handle)] = uuid
            self._register(handle)
            self._registered.add(uuid)
        if self._wait:
            self._drain(self._wait, costs)
        return self._waiting.pop(uuid, Told())

    def _name(self, place: int) -> str:
        return self._names.get(place) or str(pynvml.nvmlDeviceGetUUID(ctypes.cast(place, pynvml.c_nvmlDevice_t)))

    def _register(self, handle: Any) -> None:
        try:
            supported = pynvml.nvmlDeviceGetSupportedEventTypes(handle)
            if wanted := supported & _WANTED:
                self._set = self._set or pynvml.nvmlEventSetCreate()
                if address(_WAIT.function):
                    self._wait = self._wait or Batch((replace(_WAIT, first=pointer(self._set)),))
                pynvml.nvmlDeviceRegisterEvents(handle, wanted, self._set)
        except pynvml.NVMLError as error:
            if not nvml_errors.is_absence(error.value):
                raise

    def _drain(self, wait: Batch, costs: Costs) -> None:
        for _ in range(_AT_ONCE):
            code = wait.run()
            costs.add(wait.costs())
            if code in _OVER or nvml_errors.is_absence(code):
                return
            if code:
                raise pynvml.NVMLError(code)
            event = wait.values({})
            uuid = self._name(event["device"])
            self._waiting[uuid] = _with(self._waiting.get(uuid, Told()), event)


def _with(told: Told, event: Mapping[str, int]) -> Told:
    """With one event more; the same notice twice says no more than once."""
    if event["kind"] & _XID:
        gi_id = -1 if event["gi_id"] == _WHOLE_GPU else event["gi_id"]
        told = replace(told, xids=(*told.xids, Xid(int(event["data"]), gi_id)))
    if event["kind"] & _MIG:
        told = replace(told, mig_changed=True)
    notices = dict.fromkeys((*told.notices, *(one for bit, one in _NOTICES.items() if event["kind"] & bit)))
    return replace(told, notices=tuple(notices))


def _address(handle: Any) -> int:
    """What a handle points to; NVML gives the same for a GPU as long as the session lasts."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
