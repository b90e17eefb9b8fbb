"""Which pods have which devices, as the kubelet tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, order=True)
class PodUser:
    """A container of a pod."""

    namespace: str
    pod: str
    container: str

    def __str__(self) -> str:
        return f"pod {self.namespace}/{self.pod}"


@dataclass(frozen=True)
class PodFacts:
    """`users` maps a device's id (a GPU's or MIG device's UUID, nvidia0) to the containers that were given it.

    `read_unix_seconds` is when the kubelet last answered; None: not yet. `allocatable_gpus` is None where it does not
    say.
    """

    users: Mapping[str, tuple[PodUser, ...]] = field(default_factory=lambda: MappingProxyType({}))
    read_unix_seconds: float | None = None
    allocatable_gpus: int | None = None
