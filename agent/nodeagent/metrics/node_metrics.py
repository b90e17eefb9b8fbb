"""Families about the node besides its GPUs: modules, interfaces, and the agent itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodeagent.metrics.exposition import Family, Kind, labels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from nodeagent.metrics.facts import AgentFacts
    from nodeagent.metrics.view import View
    from nodeagent.state.network import Netdev

    Samples = Iterable[tuple[str, float]]


def _module_loaded(view: View) -> Samples:
    """The modules the node file asks about; all that are loaded where it asks about none."""
    node = view.node
    for name in sorted(node.module_files or node.modules):
        loaded = node.modules.get(name)
        version, srcversion = (loaded.version, loaded.srcversion) if loaded else ("", "")
        yield labels(module=name, version=version, srcversion=srcversion), node.is_loaded(name)


def _driver_info(view: View) -> Samples:
    driver = view.node.driver
    if driver:
        yield labels(version=driver.version, flavor="open" if driver.is_open else "proprietary"), 1


def _netdevs(view: View) -> Iterator[tuple[str, Netdev]]:
    """Interfaces on PCI functions and those below an RDMA port, not the many that containers bring and take."""
    below_rdma = {port.netdev for device in view.node.rdma.values() for port in device.ports}
    for netdev in view.node.netdevs.values():
        if netdev.pci_address or netdev.name in below_rdma:
            yield labels(netdev=netdev.name, pci_address=netdev.pci_address), netdev


def _netdev(value: Callable[[Netdev], float]) -> Callable[[View], Samples]:
    return lambda view: ((label_set, value(netdev)) for label_set, netdev in _netdevs(view))


def _own(value: Callable[[AgentFacts], float | None]) -> Callable[[View], Samples]:
    """A single sample of the agent's own, none while there is no value."""

    def samples(view: View) -> Samples:
        found = value(view.agent)
        return () if found is None else (("", found),)

    return samples


def _each(label: str, values: Callable[[AgentFacts], Mapping[str, float]]) -> Callable[[View], Samples]:
    return lambda view: ((labels(**{label: name}), value) for name, value in sorted(values(view.agent).items()))


def _units_waiting(view: View) -> Samples:
    """1 for each unit that waits after a failure; 0 for those that failed before and do not wait any more."""
    units = {*view.agent.unit_failures, *view.agent.units_waiting}
    return ((labels(unit=unit), unit in view.agent.units_waiting) for unit in sorted(units))


def _simulated(view: View) -> Samples:
    return ((labels(profile=view.agent.simulated), bool(view.agent.simulated)),)


def _gauge(name: str, text: str, samples: Callable[[View], Samples]) -> tuple[Family, Callable[[View], Samples]]:
    return Family(name, Kind.GAUGE, text), samples


def _counter(name: str, text: str, samples: Callable[[View], Samples]) -> tuple[Family, Callable[[View], Samples]]:
    return Family(name, Kind.COUNTER, text), samples


NODE_FAMILIES: tuple[tuple[Family, Callable[[View], Samples]], ...] = (
    _gauge("nodeagent_driver_info", "The loaded NVIDIA driver, always 1.", _driver_info),
    _gauge("nodeagent_module_loaded", "Whether the kernel module is loaded.", _module_loaded),
    _gauge("nodeagent_netdev_up", "Whether the interface is administratively up.", _netdev(lambda n: n.up)),
    _gauge("nodeagent_netdev_carrier", "Whether the interface has a link.", _netdev(lambda n: n.carrier)),
    _gauge("nodeagent_netdev_mtu_bytes", "MTU of the interface.", _netdev(lambda n: n.mtu)),
)

AGENT_FAMILIES: tuple[tuple[Family, Callable[[View], Samples]], ...] = (
    _gauge("nodeagent_converged", "Whether the node is as the node file says.", _own(lambda a: a.converged)),
    _gauge("nodeagent_blocked", "Things that stand in the way of planned steps.", _own(lambda a: a.blocked)),
    _gauge("nodeagent_drift_steps", "Steps of the last plan: 0 when nothing differs.", _own(lambda a: a.drift_steps)),
    _gauge(
        "nodeagent_owed_steps",
        "Steps that shall bring back what was taken away and is not back yet.",
        _each("subject", lambda a: a.owed),
    ),
    _gauge("nodeagent_unknown_facts", "Facts that could not be read.", lambda v: (("", len(v.node.unknown)),)),
    _counter("nodeagent_unit_failures_total", "Failures by unit of work.", _each("unit", lambda a: a.unit_failures)),
    _gauge("nodeagent_unit_waiting", "Whether the unit waits after a failure.", _units_waiting),
    _counter("nodeagent_passes_total", "Passes of the reconcile loop.", _own(lambda a: a.passes)),
    _gauge("nodeagent_pass_duration_seconds", "Length of the last pass.", _own(lambda a: a.pass_duration_seconds)),
    _gauge("nodeagent_pass_steps", "Steps taken by the last pass.", _own(lambda a: a.steps_taken)),
    _gauge(
        "nodeagent_snapshot_timestamp_seconds", "When these values were read (Unix time).", lambda v: (("", v.now),)
    ),
    _gauge(
        "nodeagent_telemetry_timestamp_seconds",
        "When the GPUs were last read (Unix time); it stands still while they cannot be.",
        _own(lambda a: a.telemetry_seconds),
    ),
    _gauge(
        "nodeagent_cycle_seconds", "What the last round took, by source.", _each("source", lambda a: a.cycle_seconds)
    ),
    _counter(
        "nodeagent_cycle_errors_total",
        "Rounds in which a source could not be read.",
        _each("source", lambda a: a.cycle_errors),
    ),
    _counter("nodeagent_nvml_hangs_total", "NVML calls that missed their deadline.", _own(lambda a: a.nvml_hangs)),
    _gauge("nodeagent_simulated", "Whether this is a simulated node, and which.", _simulated),
)
