"""Sound and USB functions of simulated graphics cards: in the slot and the IOMMU group of their GPU; pure.

Data-centre cards have none, so that a node has them only once they are plugged in. Source: pci.ids (GA102, TU102).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nodeagent.simulation.kernel_state import edited
from nodeagent.simulation.profiles import CARDS, Slot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nodeagent.simulation.kernel_state import KernelState
    from nodeagent.simulation.profiles import Profile

_CARDS: Mapping[str, str] = {"1": "GA102-audio", "2": "TU102-USB"}  # by number of the function
BUILT_IN = tuple(CARDS[card].driver for card in _CARDS.values())
"""Their drivers, which this kernel has built in."""


def companion_slots(state: KernelState, profile: Profile) -> tuple[Slot, ...]:
    """Those that are plugged in, each with the place of its GPU."""
    places = {slot.pci_address[:-1]: slot for slot in profile.gpus}
    return tuple(
        replace(places[address[:-1]], pci_address=address, card=_CARDS[address[-1]]) for address in state.companions
    )


def plugged_in(state: KernelState, gpu_address: str) -> KernelState:
    """The kernel once the GPU at this address has sound and USB beside it, each with its driver."""
    found = {f"{gpu_address[:-1]}{number}": CARDS[card].driver for number, card in _CARDS.items()}
    return replace(state, companions=(*state.companions, *sorted(found)), drivers=edited(state.drivers, **found))
