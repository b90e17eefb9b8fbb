"""Writes to the RoCE settings of a simulated device, and what the kernel refuses; pure.

Source: drivers/infiniband/core/cma_configfs.c (kstrtou8 for the type of service, two spellings for the mode).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nodeagent.simulation.kernel_state import edited
from nodeagent.simulation.reactions import rdma_slots
from nodeagent.simulation.refused import refused
from nodeagent.state.gids import ROCE_V1, ROCE_V2

if TYPE_CHECKING:
    from nodeagent.simulation.file_write import Write
    from nodeagent.simulation.kernel_state import KernelState


@dataclass(frozen=True)
class Marking:
    """What a device does by default; it is gone with the device."""

    mode: str = ROCE_V2
    tos: int = 0
    traffic_class: int = 0


def marking_of(state: KernelState, rdma: str) -> Marking:
    return Marking(*state.markings[rdma]) if rdma in state.markings else Marking()


def set_mode(request: Write) -> KernelState:
    """ib_cache_gid_parse_type_str: two spellings, anything else is EINVAL."""
    wanted = request.text.removesuffix("\n")
    if wanted not in (ROCE_V1, ROCE_V2):
        raise refused(errno.EINVAL)
    return _marked(request, mode=wanted)


def set_tos(request: Write) -> KernelState:
    return _marked(request, tos=_octet(request.text))


def set_traffic_class(request: Write) -> KernelState:
    return _marked(request, traffic_class=_octet(request.text))


def _octet(text: str) -> int:
    """kstrtou8: EINVAL for what is no number, ERANGE for one above 255."""
    digits = text.strip()
    if not digits.isdecimal():
        raise refused(errno.EINVAL)
    if int(digits) > 255:
        raise refused(errno.ERANGE)
    return int(digits)


def _marked(request: Write, **changes: Any) -> KernelState:
    rdma = request.match["rdma"]
    if rdma not in [slot.rdma for slot in rdma_slots(request.state, request.profile)]:
        raise refused(errno.ENODEV)
    found = vars(replace(marking_of(request.state, rdma), **changes))
    return replace(request.state, markings=edited(request.state.markings, **{rdma: tuple(found.values())}))
