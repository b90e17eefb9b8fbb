"""Each fault of a simulated node leads to its verdict on its device and on no other, and goes with the fault."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent_process import PATIENCE_SECONDS
from nodeagent.health.documents import health_document, health_of
from nodeagent.host.history import Query, read_history
from nodeagent.host.link_facts import read_netdevs, read_rdma
from nodeagent.simulation.faults import FAULTS, heal, make_fault, report_xid
from nodeagent.spec.health import Health as HealthSpec
from nodeagent.spec.health import HealthDamping, HealthLimits
from nodeagent.state.health import EventKind, Finding, Health, Recovery, SubjectKind, Verdict
from nodeagent.state.node import NodeState
from nodeagent.supervisor.health_facts import Reading
from nodeagent.supervisor.health_watch import HealthWatch
from sim_node import SimNode, sim_node

FILE = """
modules: {nvidia: {modeset: false}, rdma: {}}
mig: [{gpus: [0], mode: enabled, devices: {3g.20gb: 1, 1g.5gb: 2}}]
links: [{match: "driver:mlx5_core", up: true}]
"""
SPEC = HealthSpec(
    damping=HealthDamping(hold_seconds=0.0, quiet_seconds=1.2), limits=HealthLimits(window_seconds=5.0, port_flaps=100)
)
Wanted = dict[tuple[str, str], Verdict]


@dataclass
class Ward:
    """A node under watch; one look is one cycle of the sampler."""

    sim: SimNode
    state: NodeState
    watch: HealthWatch

    def look(self) -> Health:
        files, nvml = self.sim.host.files, self.sim.host.nvml
        state = replace(self.state, rdma=read_rdma(files), netdevs=read_netdevs(files, {}))
        samples = nvml.samples()
        return self.watch.examine(Reading(state, samples, nvml.faults(), observed=self.state))

    def problems(self) -> Wanted:
        """What is wrong, by subject and check; the subject as `gpu 2`, `mlx5_0/1`, `mig 1` or the node."""
        return {(self.name(one), one.check): one.verdict for one in self.look().problems}

    def name(self, finding: Finding) -> str:
        subject = finding.subject
        names = {gpu.uuid: f"gpu {index}" for index, gpu in enumerate(self.sim.node.machine.gpus)}
        return names.get(subject.name, subject.name or subject.kind.value)

    def fault(self, kind: str, where: str, value: float | None = None) -> None:
        make_fault(self.sim.node, kind, where, value)


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    with sim_node(tmp_path_factory.mktemp("h"), "dgx-a100") as sim:
        outcome = sim.converge(FILE)
        assert outcome.plan.converged
        for name in ("enp18s0np0", "enp75s0np0"):
            if name in sim.kernel.interfaces:
                sim.node.use_interface(name, "10.1.0.1/24")
        netdevs = read_netdevs(sim.host.files, sim.host.links.uses())
        watch = HealthWatch(sim.host, SPEC)
        yield Ward(sim, replace(outcome.state, netdevs=netdevs), watch)
        watch.stop()


@pytest.fixture
def well(ward: Ward) -> Iterator[Ward]:
    """Nothing is wrong before, and nothing afterwards once all faults are healed."""
    assert _settles(ward) == {}
    yield ward
    heal(ward.sim.node)
    assert _settles(ward) == {}


def _settles(ward: Ward) -> Wanted:
    """What is still wrong when what needs a while has had it."""
    until = time.monotonic() + PATIENCE_SECONDS
    while (found := ward.problems()) and time.monotonic() < until:
        time.sleep(0.2)
    return found


def device(ward: Ward, index: int = 0) -> tuple[str, str]:
    """(RDMA device, interface) of an Ethernet port."""
    ports = [
        (name, port.netdev)
        for name, found in sorted(ward.state.rdma.items())
        for port in found.ports
        if port.link_layer == "Ethernet" and port.netdev
    ]
    return ports[index]


GPU_FAULTS: Mapping[str, tuple[float | None, Wanted]] = {
    "lost": (
        None,
        {
            ("gpu 2", "gpu-on-bus"): Verdict.FAILED,
            ("node", "gpu-count"): Verdict.FAILED,
            ("gpu 2", "*"): Verdict.UNKNOWN,
        },
    ),
    "recovery-action": (1, {("gpu 2", "recovery-action"): Verdict.FAILED}),
    "ecc": (None, {("gpu 2", "ecc"): Verdict.WARNING}),
    "sram": (None, {("gpu 2", "sram"): Verdict.FAILED}),
    "unavailable": (None, {("gpu 2", "gpu-notice"): Verdict.FAILED}),
    "remap-pending": (None, {("gpu 2", "row-remap"): Verdict.WARNING}),
    "remap-failed": (None, {("gpu 2", "row-remap"): Verdict.FAILED}),
    "nvlink-down": (0b101, {("gpu 2", "nvlink"): Verdict.FAILED}),
    "pcie-width": (None, {("gpu 2", "pcie-link"): Verdict.WARNING}),
    "power-brake": (None, {("gpu 2", "clocks"): Verdict.FAILED}),
}


@pytest.mark.parametrize("kind", GPU_FAULTS)
def test_a_fault_of_a_gpu_is_seen_in_one_cycle_on_this_gpu_alone(well: Ward, kind: str) -> None:
    value, wanted = GPU_FAULTS[kind]
    well.fault(kind, well.sim.uuid(2), value)
    found = well.problems()
    rest = {key: verdict for key, verdict in found.items() if key not in wanted}
    assert found | wanted == found | {key: wanted[key] for key in wanted}
    assert {key: found.get(key) for key in wanted if key[1] != "*"} == {k: v for k, v in wanted.items() if k[1] != "*"}
    silent = ("gpu 2", "*") in wanted
    assert all(silent and key[0] == "gpu 2" and verdict is Verdict.UNKNOWN for key, verdict in rest.items()), rest


@pytest.mark.parametrize(
    ("kind", "check", "verdict"),
    [
        ("port-down", "port-state", Verdict.WARNING),
        ("port-rate", "port-rate", Verdict.WARNING),
        ("port-errors", "port-errors", Verdict.WARNING),
        ("gid-lost", "gid", Verdict.FAILED),
        ("nic-pcie-width", "pcie-link", Verdict.WARNING),
    ],
)
def test_a_fault_of_a_port_is_seen_in_one_cycle_on_this_port_alone(
    well: Ward, kind: str, check: str, verdict: Verdict
) -> None:
    rdma, netdev = device(well)
    well.sim.node.use_interface(netdev, "10.1.0.1/24")
    well.state = replace(well.state, netdevs=read_netdevs(well.sim.host.files, well.sim.host.links.uses()))
    assert well.problems() == {}
    needs = FAULTS[kind].needs
    where = {"interface": netdev, "port": rdma, "pci": well.state.rdma[rdma].pci_address}[needs]
    well.fault(kind, where)
    assert well.problems() == {(f"{rdma}/1", check): verdict}


@pytest.mark.parametrize(
    ("kind", "check", "verdict"),
    [
        ("clock-skew", "clock", Verdict.WARNING),
        ("clock-free", "clock", Verdict.WARNING),
        ("disk-full", "disk:/", Verdict.FAILED),
    ],
)
def test_a_fault_of_the_node_is_seen_in_one_cycle(well: Ward, kind: str, check: str, verdict: Verdict) -> None:
    well.fault(kind, "")
    assert well.problems() == {("node", check): verdict}


def test_every_fault_that_can_be_made_is_tried_here() -> None:
    tried = {
        *GPU_FAULTS,
        "hang",
        "fabric-unhealthy",
        "port-down",
        "port-rate",
        "port-errors",
        "gid-lost",
        "nic-pcie-width",
    }
    assert set(FAULTS) == tried | {"clock-skew", "clock-free", "disk-full"}


@pytest.mark.parametrize(
    ("code", "verdict", "recovery"),
    [
        (79, Verdict.FAILED, Recovery.POWER_CYCLE),
        (95, Verdict.FAILED, Recovery.RESET_GPU),
        (94, Verdict.WARNING, Recovery.RESTART_JOB),
        (999, Verdict.WARNING, Recovery.SUPPORT),
    ],
)
def test_an_xid_is_one_verdict_on_its_gpu(well: Ward, code: int, verdict: Verdict, recovery: Recovery) -> None:
    report_xid(well.sim.node, well.sim.uuid(3), code)
    (found,) = well.look().problems
    assert (well.name(found), found.check, found.verdict) == ("gpu 3", "xid", verdict)
    assert (found.recovery, found.codes) == (recovery, (code,))
    assert "x2" not in found.evidence, "the log and NVML report the same error"


def test_an_xid_of_an_application_is_no_verdict_and_is_kept(well: Ward) -> None:
    report_xid(well.sim.node, well.sim.uuid(3), 43, "pid=7, name=train.py, Ch 8")
    assert well.problems() == {}
    event = read_history(well.sim.node.directory, Query(kinds=(EventKind.XID,)))[-1]
    assert (event.code, event.subject.name, event.verdict) == (43, well.sim.uuid(3), Verdict.OK)
    assert dict(event.data)["job"] == "train.py[7]"


def test_a_contained_error_is_of_the_mig_device_it_hit(well: Ward) -> None:
    devices = [row.uuid for row in well.sim.mig()[0].rows]
    report_xid(well.sim.node, well.sim.uuid(0), 94, "Contained: SM (0x1). RST: No, D-RST: No", devices[1])
    (found,) = well.look().problems
    assert (found.subject.kind, found.subject.name, found.subject.parent) == (
        SubjectKind.MIG,
        devices[1],
        well.sim.uuid(0),
    )


def test_an_uncontained_error_is_of_the_whole_gpu(well: Ward) -> None:
    devices = [row.uuid for row in well.sim.mig()[0].rows]
    report_xid(well.sim.node, well.sim.uuid(0), 95, "Uncontained: SM (0x1). RST: Yes, D-RST: No", devices[1])
    (found,) = well.look().problems
    assert (well.name(found), found.recovery, found.by_driver) == ("gpu 0", Recovery.RESET_GPU, True)


def test_thirty_lines_are_one_incident_and_the_driver_has_the_last_word(well: Ward) -> None:
    uuid = well.sim.uuid(4)
    for code in (62, *[45] * 28, 119):
        well.sim.node.kernel.log(f"NVRM: Xid (PCI:{_place(well, 4)}): {code}, x")
    well.sim.node.machine.set_recovery_action(uuid, 2)
    found = {(well.name(one), one.check): one for one in well.look().problems}
    assert set(found) == {("gpu 4", "xid"), ("gpu 4", "recovery-action")}
    incident = found["gpu 4", "xid"]
    assert incident.codes == (62, 45, 119)
    assert incident.evidence.startswith("Xid 62, 45 x28, 119, first Xid 62")
    assert (incident.recovery, incident.by_driver) == (Recovery.REBOOT, True)


def _place(ward: Ward, index: int) -> str:
    return ward.sim.node.machine.gpus[index].pci_address.rpartition(".")[0]


def test_a_switch_has_verdicts_of_its_own(well: Ward) -> None:
    well.sim.node.kernel.log("nvidia-nvswitch2: SXid (PCI:0000:c6:00.0): 20034, Fatal, Link 28 LTSSM Fault Up")
    (found,) = well.look().problems
    assert (found.subject.kind, found.subject.name) == (SubjectKind.NVSWITCH, "nvswitch2")
    assert (found.verdict, found.recovery) == (Verdict.FAILED, Recovery.RESTART_FABRIC)
    well.sim.node.kernel.log("NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  575.57.08")
    assert well.problems() == {}


def test_a_log_that_overran_is_said(well: Ward) -> None:
    for _ in range(6):
        well.sim.node.kernel.change(lambda state: state.with_log(((3, "noise"),) * 400, 1))
    found = well.look().problems
    assert [(well.name(one), one.check, one.verdict) for one in found] == [("node", "kernel-log", Verdict.WARNING)]
    assert "overwritten" in found[0].evidence


def test_flaps_are_counted_and_the_verdict_stays_until_it_was_quiet(well: Ward) -> None:
    rdma, netdev = device(well, 1)
    limits = HealthLimits(window_seconds=3.0, port_flaps=3)
    well.watch.take_over(replace(SPEC, limits=limits))
    for _ in range(3):
        well.fault("port-down", netdev)
        well.look()
        well.fault("port-down", netdev, 0)
        well.look()
    assert well.problems() == {(f"{rdma}/1", "port-flaps"): Verdict.WARNING}
    assert _settles(well) == {}
    well.watch.take_over(SPEC)


def test_a_document_comes_back_as_it_was(ward: Ward) -> None:
    health = ward.look()
    assert health_of(health_document(health)) == health


def test_what_was_seen_survives_a_restart_of_the_agent(well: Ward) -> None:
    patient = replace(SPEC, damping=replace(SPEC.damping, quiet_seconds=600.0))  # a busy machine restarts slowly
    well.watch.take_over(patient)
    report_xid(well.sim.node, well.sim.uuid(5), 48)
    before = _of_xid(well.look())  # and of nothing else: with that patience what was healed before counts again
    well.watch.stop()
    well.watch = HealthWatch(well.sim.host, patient)
    after = _of_xid(well.look())
    well.watch.take_over(SPEC)
    assert (after.subject, after.codes, after.verdict) == (before.subject, before.codes, before.verdict)
    assert after.since == before.since


def _of_xid(health: Health) -> Finding:
    (found,) = [one for one in health.problems if one.check == "xid"]
    return found


def test_reading_and_looking_at_once(ward: Ward) -> None:
    """The control socket's thread reads while a cycle runs: it sees one health or the next, never a mixture."""
    seen: list[Health] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.append(ward.watch.health)
            time.sleep(0.001)

    reader = threading.Thread(target=read)
    reader.start()
    made = [ward.look() for _ in range(5)]
    stop.set()
    reader.join()
    assert {id(one) for one in seen} <= {id(one) for one in made} | {id(seen[0])}


def test_a_gpu_whose_calls_hang(tmp_path: Path) -> None:
    with sim_node(tmp_path, "gpu-server-4x-a100") as sim:
        host = sim.node.host(deadline_seconds=0.5)
        sim.host.nvml.close()
        outcome = sim.converge("modules: {nvidia: {modeset: false}}")
        watch = HealthWatch(host, SPEC)
        ward = Ward(replace(sim, host=host), outcome.state, watch)
        try:
            assert ward.problems() == {}
            ward.fault("hang", sim.uuid(1), 30)
            found = ward.problems()
            assert found["gpu 1", "gpu-answers"] is Verdict.FAILED
            assert found["node", "gpu-count"] is Verdict.FAILED
            others = {key: verdict for key, verdict in found.items() if key[1] not in ("gpu-answers", "gpu-count")}
            assert {key[0] for key in others} == {"gpu 1"}
            assert set(others.values()) == {Verdict.UNKNOWN}
        finally:
            watch.stop()
            host.nvml.close()


def test_a_fabric_that_is_unhealthy(tmp_path: Path) -> None:
    with sim_node(tmp_path, "dgx-h100") as sim:
        outcome = sim.converge("modules: {nvidia: {modeset: false}}")
        ward = Ward(sim, outcome.state, HealthWatch(sim.host, SPEC))
        assert ward.problems() == {}
        ward.fault("fabric-unhealthy", sim.uuid(6))
        assert ward.problems() == {("gpu 6", "fabric"): Verdict.FAILED}
        heal(sim.node)
        assert _settles(ward) == {}
        ward.watch.stop()
