"""Checks of RDMA ports; pure.

Sources: Documentation/ABI/stable/sysfs-class-infiniband (states, counters); rates at which counters are too fast: the
defaults of NVIDIA/NVSentinel docs/configuration/nic-health-monitor.md, where per second times 60.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from nodeagent.health.look import FAILED, WARNING, Look, bad, ok, port_subject
from nodeagent.state.gids import ROCE_V2
from nodeagent.state.health import Finding, Recovery, Subject
from nodeagent.state.network import RdmaDevice, RdmaPort

ACTIVE = "ACTIVE"
MINUTE = 60.0
PER_MINUTE: Mapping[str, float] = MappingProxyType(
    {
        "symbol_error": 600,
        "link_error_recovery": 5,
        "port_rcv_errors": 600,
        "port_xmit_discards": 6000,
        "excessive_buffer_overrun_errors": 0,
        "local_link_integrity_errors": 0,
        "local_ack_timeout_err": 60,
        "rnr_nak_retry_err": 0,
        "roce_slow_restart": 600,
        "out_of_sequence": 6000,
        "packet_seq_err": 6000,
    }
)
_RATE = re.compile(r"([0-9.]+) Gb/sec.*")


def check_ports(look: Look) -> Iterator[Finding]:
    present = set()
    best = _best_rates(look)
    for device in look.seen.node.rdma.values():
        for port in device.ports:
            name = f"{device.name}/{port.port}"
            present.add(name)
            subject = port_subject(name, device.pci_address)
            yield from _state(look, subject, port)
            yield from _flaps(look, subject)
            yield from _rate(look, subject, port, best.get(_kind_of(look, device), 0.0))
            yield from _errors(look, subject)
            yield from _gid(look, subject, port)
            yield from _pcie(look, subject)
    for name in sorted({*look.spec.expect.ports, *look.learned.ports} - present):
        said = (
            "there is no such device",
            "an RDMA port is missing",
            "see whether its driver is loaded and the card on the bus",
        )
        yield bad(port_subject(name, ""), "port-state", FAILED, said, Recovery.INSPECT)


def _is_expected(look: Look, name: str) -> bool:
    return name in look.spec.expect.ports or (not look.spec.expect.ports and name in look.learned.ports)


def _state(look: Look, subject: Subject, port: RdmaPort) -> Iterator[Finding]:
    evidence = f"{port.state or 'no state'}, {port.link_layer or 'no link layer'}"
    if port.state == ACTIVE:
        yield ok(subject, "port-state", evidence)
        return
    if not _is_expected(look, subject.name):
        yield ok(subject, "port-state", f"{evidence}; not in use: it never was active, and is not expected to be")
        return
    lasting = look.seen.now - look.down_since.get(subject.name, look.seen.now)
    verdict = FAILED if lasting >= look.spec.limits.port_down_seconds else WARNING
    said = (f"{evidence} for {lasting:.0f} s", "the port is down", "check cable, transceiver and switch port")
    yield bad(subject, "port-state", verdict, said, Recovery.INSPECT)


def _flaps(look: Look, subject: Subject) -> Iterator[Finding]:
    begin = look.seen.now - look.spec.limits.window_seconds
    downs = sum(1 for at in look.downs.get(subject.name, ()) if at >= begin)
    evidence = f"went down {downs} times in {look.spec.limits.window_seconds:.0f} s"
    if downs >= look.spec.limits.port_flaps:
        said = (evidence, "the link comes and goes", "check cable, transceiver and switch port")
        yield bad(subject, "port-flaps", WARNING, said, Recovery.INSPECT)
    else:
        yield ok(subject, "port-flaps", evidence)


def rate_gbps(port: RdmaPort) -> float:
    """`200 Gb/sec (4X HDR)` -> 200; 0 where the kernel does not say."""
    found = _RATE.fullmatch(port.rate)
    return float(found[1]) if found else 0.0


def _kind_of(look: Look, device: RdmaDevice) -> str:
    found = look.seen.node.pci.get(device.pci_address)
    return f"{found.vendor}:{found.device}" if found else ""


def _best_rates(look: Look) -> dict[str, float]:
    best: dict[str, float] = {}
    for device in look.seen.node.rdma.values():
        kind = _kind_of(look, device)
        best[kind] = max([best.get(kind, 0.0), *(rate_gbps(port) for port in device.ports if port.state == ACTIVE)])
    return best


def _rate(look: Look, subject: Subject, port: RdmaPort, best: float) -> Iterator[Finding]:
    if port.state != ACTIVE or not rate_gbps(port):
        return
    expected = look.spec.expect.port_rate_gbps or best
    evidence = f"{rate_gbps(port):g} of {expected:g} Gb/s"
    if rate_gbps(port) < expected:
        said = (evidence, "the port is slower than it should be", "check cable and what the switch port is set to")
        yield bad(subject, "port-rate", WARNING, said, Recovery.INSPECT)
    else:
        yield ok(subject, "port-rate", evidence)


def _errors(look: Look, subject: Subject) -> Iterator[Finding]:
    limits = {**PER_MINUTE, **look.spec.limits.port_errors_per_minute}
    grown = {name: growth for name in limits if (growth := look.windows.growth((subject.name, name)))}
    fast = [
        f"{name} {growth.per(MINUTE):.0f} a minute"
        for name, growth in grown.items()
        if growth.per(MINUTE) > limits[name]
    ]
    if fast:
        said = (
            ", ".join(fast),
            "error counters rise",
            "check cable and transceiver; look for congestion and lost acknowledgements",
        )
        yield bad(subject, "port-errors", WARNING, said, Recovery.INSPECT)
    elif grown:
        yield ok(subject, "port-errors", f"{len(grown)} counters at rest")


def _gid(look: Look, subject: Subject, port: RdmaPort) -> Iterator[Finding]:
    """A RoCE port whose interface has an address has a RoCE v2 GID for it, or no connection can be made."""
    netdev = look.seen.node.netdevs.get(port.netdev)
    if port.link_layer != "Ethernet" or port.state != ACTIVE or subject.name not in look.seen.gids:
        return
    routable = [gid for gid in look.seen.gids[subject.name] if gid.kind == ROCE_V2 and not gid.is_link_local]
    addressed = netdev is not None and any(use.startswith("address ") for use in netdev.uses)
    if addressed and not routable:
        said = (
            f"{port.netdev} has an address, and no RoCE v2 GID for it",
            "the GID is lost",
            "set the interface down and up, or reload its driver",
        )
        yield bad(subject, "gid", FAILED, said, Recovery.REBIND_NIC)
    else:
        yield ok(subject, "gid", f"{len(routable)} routable RoCE v2 GIDs")


def _pcie(look: Look, subject: Subject) -> Iterator[Finding]:
    link = look.seen.pcie.get(subject.pci_address)
    if link is None or not link.width or not link.max_width:
        return
    evidence = f"x{link.width} of x{link.max_width}, {link.speed_gts:g} of {link.max_speed_gts:g} GT/s"
    if link.width < link.max_width:
        said = (
            evidence,
            "the card's PCIe link is narrower than it can be",
            "reseat the card; check slot, riser and retimer",
        )
        yield bad(subject, "pcie-link", WARNING, said, Recovery.INSPECT)
    else:
        yield ok(subject, "pcie-link", evidence)
