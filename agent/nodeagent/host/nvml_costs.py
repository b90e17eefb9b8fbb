"""What NVML calls cost: how often each function was called in one reading of a GPU, and how long that took."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Costs:
    """Calls and seconds by function, summed up as they come."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[int, float]] = {}

    def add(self, costs: Mapping[str, tuple[int, float]]) -> None:
        if not self.found.keys() & costs.keys():
            self.found.update(costs)
            return
        for function, (more, seconds) in costs.items():
            calls, before = self.found.get(function, (0, 0.0))
            self.found[function] = calls + more, before + seconds
