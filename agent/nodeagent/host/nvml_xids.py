"""Xid errors through NVML's events: collected in the session, handed out with the sample of the GPU they concern.

Source: nvml.h, group nvmlEvents: nvmlEventTypeXidCriticalError has the Xid in eventData, and instance ids of 0xFFFFFFFF
where it cannot be attributed.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pynvml

from nodeagent.host import nvml_errors
from nodeagent.state.gpu import Xid

_XID = 0x8  # nvmlEventTypeXidCriticalError
_WHOLE_GPU = 0xFFFFFFFF
_AT_ONCE = 256  # an error storm must not keep a sample from ending; the rest comes with the next one
_OVER = (nvml_errors.TIMEOUT, nvml_errors.NOT_FOUND)


class XidEvents:
    """One event set for all GPUs of a session; a GPU is registered when it is first asked about."""

    def __init__(self) -> None:
        self._set: Any = None
        self._registered: set[str] = set()
        self._waiting: dict[str, list[Xid]] = {}

    def close(self) -> None:
        if self._set is not None:
            with suppress(pynvml.NVMLError):
                pynvml.nvmlEventSetFree(self._set)
        self._set = None
        self._registered.clear()
        self._waiting.clear()

    def since_last(self, handle: Any, uuid: str) -> tuple[Xid, ...]:
        """What came in for this GPU since the last call; empty where the driver has no events."""
        if uuid not in self._registered:
            self._register(handle)
            self._registered.add(uuid)
        if self._set is not None:
            self._drain()
        return tuple(self._waiting.pop(uuid, ()))

    def _register(self, handle: Any) -> None:
        try:
            supported = pynvml.nvmlDeviceGetSupportedEventTypes(handle)
            if supported & _XID:
                self._set = self._set or pynvml.nvmlEventSetCreate()
                pynvml.nvmlDeviceRegisterEvents(handle, _XID, self._set)
        except pynvml.NVMLError as error:
            if not nvml_errors.is_absence(error.value):
                raise

    def _drain(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                event = pynvml.nvmlEventSetWait_v2(self._set, 0)
            except pynvml.NVMLError as error:
                if error.value in _OVER or nvml_errors.is_absence(error.value):
                    return
                raise
            if event.eventType & _XID:
                gi_id = -1 if event.gpuInstanceId == _WHOLE_GPU else event.gpuInstanceId
                uuid = pynvml.nvmlDeviceGetUUID(event.device)
                self._waiting.setdefault(uuid, []).append(Xid(int(event.eventData), gi_id))
