"""One write to a file of the simulated kernel, as those see it who carry it out."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.simulation.refused import refused
from nodeagent.simulation.virtual_functions import slot_at

if TYPE_CHECKING:
    from nodeagent.simulation.kernel_state import KernelState
    from nodeagent.simulation.profiles import Profile, Slot
    from nodeagent.state.processes import DeviceNumber


@dataclass(frozen=True)
class Write:
    """One write(2) to a file below /sys or /proc; `opened` are the device numbers that anybody has open."""

    state: KernelState
    profile: Profile
    match: re.Match[str]
    text: str
    opened: frozenset[DeviceNumber]

    def slot(self, address: str) -> Slot:
        found = slot_at(self.state, self.profile, address)
        if found is None:
            raise refused(errno.ENODEV)
        return found
