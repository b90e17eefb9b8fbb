"""`links[].qos` of the node file: quality of service in the words of the field, with whole set-ups by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from types import MappingProxyType

from nodeagent.spec.keys import key
from nodeagent.state.qos import Trust


class DcbxOwner(StrEnum):
    """Who decides about QoS: the host, or the firmware by what the switch tells it (LLDP)."""

    HOST = "host"
    FIRMWARE = "firmware"


class QosSetup(StrEnum):
    """lossless-dscp26-prio3: RoCE marked DSCP 26 (ToS 106) on priority 3 with flow control, CNPs marked DSCP 48 on
    priority 6. lossless-pcp-prio3: the same by the VLAN tag's priority. lossy-dscp26-prio3: the same marking without
    flow control, for ECN alone.
    """

    LOSSLESS_DSCP = "lossless-dscp26-prio3"
    LOSSLESS_PCP = "lossless-pcp-prio3"
    LOSSY_DSCP = "lossy-dscp26-prio3"


@dataclass(frozen=True)
class Ets:
    """Bandwidth of the eight traffic classes; the three keys go together, as the kernel takes them."""

    bandwidth: tuple[int, ...] = key(
        "Percent of the bandwidth for each of the eight traffic classes; those not in `strict` add up to 100.",
        example="[50, 0, 0, 50, 0, 0, 0, 0]",
        minimum=0,
        maximum=100,
    )
    strict: tuple[int, ...] = key(
        "Traffic classes that go before all others; their bandwidth is 0.",
        default=(),
        example="[6]",
        minimum=0,
        maximum=7,
    )
    classes: tuple[int, ...] = key(
        "Traffic class of each of the eight priorities.", default=(0, 1, 2, 3, 4, 5, 6, 7), minimum=0, maximum=7
    )


@dataclass(frozen=True)
class Buffers:
    """Receive buffers of the port. A buffer is lossless as soon as one priority with flow control uses it.

    The first write takes mlx5 out of sizing them by itself (by MTU, speed and cable length) until the driver is
    reloaded, so leave them alone unless the numbers are known to be right.
    """

    of_priority: tuple[int, ...] | None = key(
        "Buffer of each of the eight priorities.",
        default=None,
        example="[0, 0, 0, 1, 0, 0, 0, 0]",
        minimum=0,
        maximum=7,
    )
    bytes: tuple[int, ...] | None = key(
        "Size of each of the eight buffers in bytes; the driver rounds down to its cells, and then it is an error.",
        default=None,
        example="[98304, 163840, 0, 0, 0, 0, 0, 0]",
        minimum=0,
        maximum=2**32 - 1,
    )


@dataclass(frozen=True)
class Qos:
    """Quality of service of an interface; what neither `setup` nor a key says stays as it is."""

    setup: QosSetup | None = key(
        "A whole set-up by name; the other keys change parts of it.", default=None, example="lossless-dscp26-prio3"
    )
    trust: Trust | None = key(
        "What a packet's priority is taken from: pcp (the VLAN tag) or dscp; pcp empties the DSCP table.", default=None
    )
    dscp: Mapping[str, int] | None = key(
        "Priority by DSCP; a DSCP that is not named has priority 0.",
        default=None,
        example="{26: 3, 48: 6}",
        minimum=0,
        maximum=7,
        key_pattern=r"^([0-9]|[1-5][0-9]|6[0-3])$",
        key_expected="a DSCP from 0 to 63",
    )
    pfc: tuple[int, ...] | None = key(
        "Priorities with flow control, so that nothing of them is dropped; []: none. A change restarts the link.",
        default=None,
        example="[3]",
        minimum=0,
        maximum=7,
    )
    ets: Ets | None = key("How the traffic classes share the bandwidth.", default=None)
    max_rate_mbps: tuple[int, ...] | None = key(
        "Most bandwidth of each of the eight traffic classes in megabits per second; 0: no limit.",
        default=None,
        example="[0, 0, 0, 0, 0, 0, 1000, 0]",
        minimum=0,
    )
    buffers: Buffers | None = key("Receive buffers of the port; left out: the driver sizes them.", default=None)
    dcbx: DcbxOwner | None = key(
        "Who decides about QoS; with firmware the switch may overrule what this file says.", default=None
    )

    def __hash__(self) -> int:
        """Mappings have no hash, and entries of `links` are keys of dictionaries."""
        return hash((self.setup, self.trust, self.pfc, self.ets, self.max_rate_mbps, self.buffers, self.dcbx))


_ROCE_DSCP: Mapping[str, int] = MappingProxyType({"26": 3, "48": 6})
# Half for RoCE, half for everything else; notifications of congestion (CNPs) are few and go first.
_ROCE_ETS = Ets(bandwidth=(50, 0, 0, 50, 0, 0, 0, 0), strict=(6,))

SETUPS: Mapping[QosSetup, Qos] = MappingProxyType(
    {
        QosSetup.LOSSLESS_DSCP: Qos(trust=Trust.DSCP, dscp=_ROCE_DSCP, pfc=(3,), ets=_ROCE_ETS, dcbx=DcbxOwner.HOST),
        QosSetup.LOSSLESS_PCP: Qos(trust=Trust.PCP, pfc=(3,), ets=_ROCE_ETS, dcbx=DcbxOwner.HOST),
        QosSetup.LOSSY_DSCP: Qos(trust=Trust.DSCP, dscp=_ROCE_DSCP, pfc=(), ets=_ROCE_ETS, dcbx=DcbxOwner.HOST),
    }
)


def expanded(qos: Qos) -> Qos:
    """The set-up with the keys that the file gives in place of its own; the result has no `setup`."""
    if qos.setup is None:
        return qos
    given = {entry.name: getattr(qos, entry.name) for entry in fields(qos) if getattr(qos, entry.name) is not None}
    return replace(SETUPS[qos.setup], **{**given, "setup": None})
