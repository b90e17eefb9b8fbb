"""Which GPUs the driver refused to reset: remembered while the agent runs, as NVML cannot be asked for it again.

A pending MIG mode looks the same whether a client was in the way or the platform cannot reset the GPU at all (a virtual
machine with the GPU passed through). Only the answer to SetMigMode tells, and asking again costs up to 8 s of a driver
that tries in vain. Source: nvml.h nvmlDeviceSetMigMode, activationStatus.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from nodeagent.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nodeagent.state.gpu import Gpu


class Unresettable:
    """UUIDs of GPUs whose last change of MIG mode ended in "cannot be reset here"."""

    def __init__(self) -> None:
        self._uuids: set[str] = set()

    @contextmanager
    def watch(self, uuid: str) -> Iterator[None]:
        """Around one change of the mode: note a refusal, forget an earlier one on success."""
        try:
            yield
        except UnsupportedError:
            self._uuids.add(uuid)
            raise
        self._uuids.discard(uuid)

    def mark(self, gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
        """The GPUs with `needs_reboot` where the mode is still pending; the others are forgotten."""
        if not self._uuids:
            return tuple(gpus)
        self._uuids -= {one.uuid for one in gpus if one.mig_mode is one.pending_mig_mode}
        return tuple(replace(one, needs_reboot=True) if one.uuid in self._uuids else one for one in gpus)
