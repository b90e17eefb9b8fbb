"""Quality of service of an interface as DCB netlink shows it (IEEE 802.1Q, clauses 36 to 38).

Tuples of eight are by priority or by traffic class, as the name says; None is what the driver does not offer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

PRIORITIES = 8
DSCP_SELECTOR = 5  # IEEE_8021QAZ_APP_SEL_DSCP in include/uapi/linux/dcbnl.h

Eight = tuple[int, ...]


class Trust(StrEnum):
    """What a packet's priority is taken from: the VLAN tag's PCP bits, or the DSCP of its IP header."""

    PCP = "pcp"
    DSCP = "dscp"


class Algorithm(IntEnum):
    """Transmission selection of a traffic class (ieee_ets.tc_tsa)."""

    STRICT = 0
    CREDIT = 1
    ETS = 2
    VENDOR = 255


@dataclass(frozen=True)
class Pfc:
    """Priority flow control: `enabled` are the priorities that may be paused, `delay` the driver's allowance.

    On mlx5 `delay` is the length of the cable in metres. `requests` and `indications` count pause frames by priority.
    """

    enabled: tuple[int, ...] = ()
    capacity: int = PRIORITIES
    bypass: int = 0
    delay: int = 0
    requests: Eight = field(default=(0,) * PRIORITIES, compare=False)
    indications: Eight = field(default=(0,) * PRIORITIES, compare=False)


@dataclass(frozen=True)
class Ets:
    """Enhanced transmission selection; bandwidths in percent by traffic class, `class_of` by priority."""

    bandwidth: Eight
    algorithms: Eight
    class_of: Eight
    willing: bool = False
    capacity: int = PRIORITIES
    credit_shaper: bool = False
    receive_bandwidth: Eight = (0,) * PRIORITIES
    recommended: tuple[Eight, ...] = ((0,) * PRIORITIES,) * 3


@dataclass(frozen=True, order=True)
class AppEntry:
    """One row of the APP table: traffic that `selector` and `protocol` describe has this priority."""

    selector: int
    protocol: int
    priority: int


@dataclass(frozen=True)
class PortBuffer:
    """Receive buffers of the port: which one a priority uses, and their sizes in bytes."""

    buffer_of: Eight
    sizes_bytes: Eight
    total_bytes: int = 0


@dataclass(frozen=True)
class DcbState:
    """All of it for one interface. `dcbx` are the DCB_CAP_DCBX_ bits: 1 the host decides, 8 IEEE.

    `max_rate_kbit` is by traffic class, 0 for no limit.
    """

    dcbx: int | None = None
    pfc: Pfc | None = None
    ets: Ets | None = None
    max_rate_kbit: Eight | None = None
    buffer: PortBuffer | None = None
    app: tuple[AppEntry, ...] = ()

    @property
    def dscp(self) -> tuple[tuple[int, int], ...]:
        """(DSCP, priority) of every DSCP entry, sorted."""
        rows = (entry for entry in self.app if entry.selector == DSCP_SELECTOR)
        return tuple(sorted((entry.protocol, entry.priority) for entry in rows))

    @property
    def trust(self) -> Trust:
        """mlx5 trusts the DSCP while the table has a DSCP entry (en_dcbnl.c); there is no attribute of its own."""
        return Trust.DSCP if self.dscp else Trust.PCP
