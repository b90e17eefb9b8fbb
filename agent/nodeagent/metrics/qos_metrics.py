"""Quality of service as it is configured, beside what the driver counts: which priorities are lossless, and where
RoCE's packets go. Whether the priority that carries bytes is one that may be paused is then one query.

Sources: include/uapi/linux/dcbnl.h (struct ieee_pfc: requests are frames sent, indications frames received); IEEE
802.1Q clauses 36 and 37.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodeagent.metrics.exposition import Family, Kind, labels
from nodeagent.state.qos import PRIORITIES, Algorithm, Trust

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from nodeagent.metrics.view import View
    from nodeagent.state.qos import DcbState

    Samples = Iterable[tuple[str, float]]

_TOS_BITS_BELOW_DSCP = 2


def _interfaces(view: View) -> Iterator[tuple[dict[str, str], DcbState]]:
    for name, found in sorted(view.node.netdevs.items()):
        if found.dcb is not None:
            yield {"netdev": name, "pci_bus_id": found.pci_address}, found.dcb


def _lossless(view: View) -> Samples:
    for place, dcb in _interfaces(view):
        if dcb.pfc is not None:
            for priority in range(PRIORITIES):
                yield labels(**place, priority=str(priority)), priority in dcb.pfc.enabled


def _pause_frames(view: View) -> Samples:
    for place, dcb in _interfaces(view):
        if dcb.pfc is not None:
            for way, counts in (("received", dcb.pfc.indications), ("sent", dcb.pfc.requests)):
                for priority, count in enumerate(counts):
                    yield labels(**place, priority=str(priority), direction=way), count


def _class_of(view: View) -> Samples:
    for place, dcb in _interfaces(view):
        if dcb.ets is not None:
            for priority, number in enumerate(dcb.ets.class_of):
                yield labels(**place, priority=str(priority)), number


def _bandwidth(view: View) -> Samples:
    """A strict class has no share of its own."""
    for place, dcb in _interfaces(view):
        if dcb.ets is not None:
            for number, (share, algorithm) in enumerate(zip(dcb.ets.bandwidth, dcb.ets.algorithms, strict=True)):
                if algorithm == Algorithm.ETS:
                    yield labels(**place, traffic_class=str(number)), share / 100


def _trusts_dscp(view: View) -> Samples:
    return ((labels(**place), dcb.trust is Trust.DSCP) for place, dcb in _interfaces(view))


def _roce_priority(view: View) -> Samples:
    """By the traffic class that the driver forces (0: none), else rdma_cm's type of service, and the DSCP table."""
    for _, label_set, port in view.ports:
        tos = port.traffic_class or port.roce_tos
        found = view.node.netdevs.get(port.netdev)
        if tos is None or found is None or found.dcb is None or found.dcb.trust is not Trust.DSCP:
            continue
        yield label_set, dict(found.dcb.dscp).get(tos >> _TOS_BITS_BELOW_DSCP, 0)


def _netdev(
    name: str, text: str, samples: Callable[[View], Samples], kind: Kind = Kind.GAUGE
) -> tuple[Family, Callable[[View], Samples]]:
    return Family(f"nodeagent_netdev_{name}", kind, text), samples


QOS_FAMILIES: tuple[tuple[Family, Callable[[View], Samples]], ...] = (
    _netdev("priority_lossless", "Whether priority flow control is on for the priority.", _lossless),
    _netdev("pfc_frames_total", "PFC pause frames as DCB counts them, of any driver.", _pause_frames, Kind.COUNTER),
    _netdev("priority_traffic_class", "Traffic class that the priority goes to.", _class_of),
    _netdev("traffic_class_bandwidth_ratio", "Share of the link that the class is promised (ETS).", _bandwidth),
    _netdev("trusts_dscp", "Whether a packet's priority is taken from its DSCP; 0: from its VLAN tag.", _trusts_dscp),
    (
        Family(
            "nodeagent_rdma_port_roce_priority",
            Kind.GAUGE,
            "Priority that RoCE packets get by type of service and DSCP table; should be a lossless one.",
        ),
        _roce_priority,
    ),
)
