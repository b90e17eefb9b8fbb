"""The rules of the proofs: what passes, what fails, what is not there, which ready files there are."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.cli.validate_node import exit_code
from nodeagent.host.files import LocalFiles
from nodeagent.host.paths import VALIDATIONS
from nodeagent.state.containers import CdiFile
from nodeagent.state.gpu import ComputeInstance, Gpu, GpuInstance, MigMode, NvidiaDriver, Placement
from nodeagent.state.modules import KernelModule, KernelPolicy, Liveness
from nodeagent.state.network import PciFunction, RdmaDevice, RdmaPort
from nodeagent.state.node import NodeState, Unknown
from nodeagent.state.processes import DeviceNode, Process
from nodeagent.state.proofs import Finding, Outcome, Proof, Trial, Validation, Work
from nodeagent.supervisor.validation_facts import cufile_problem, merged
from nodeagent.supervisor.validation_rdma import gpudirect
from nodeagent.validation import checks, trials
from nodeagent.validation.documents import document_of, validation_of
from nodeagent.validation.facts import Facts
from nodeagent.validation.ready_files import CONTAINER, MARK, NAMES, texts

ONE, OTHER, MIG = "GPU-1", "GPU-2", "MIG-1"


def gpu(uuid: str, index: int, **more: object) -> Gpu:
    return replace(Gpu(uuid, index, index, f"0000:0{index}:00.0", "Tester", 1), **more)


def divided() -> Gpu:
    compute = ComputeInstance("1g", 0, MIG, (7,), index=0)
    instance = GpuInstance("1g", 0, Placement(0, 1), 1, (compute,))
    return gpu(ONE, 0, mig_mode=MigMode.ENABLED, instances=(instance,))


def node(*gpus: Gpu, modules: tuple[str, ...] = ("nvidia", "nvidia_uvm"), **more: object) -> NodeState:
    pci = {one.pci_address: PciFunction(one.pci_address, "10de", "20b0", "030200", "nvidia") for one in gpus}
    paths = ["/dev/nvidiactl", "/dev/nvidia-uvm", *(f"/dev/nvidia{one.minor}" for one in gpus)]
    state = NodeState(
        modules={name: KernelModule(name, Liveness.LIVE) for name in modules},
        pci=pci,
        gpus={one.uuid: one for one in gpus},
        driver=NvidiaDriver("595.45", True),
        device_nodes={path: DeviceNode(path, 195, 0) for path in paths},
        kernel=KernelPolicy(boot_id="b1"),
    )
    return replace(state, **more)


def outcomes(found: object) -> list[tuple[str, Outcome]]:
    return [(one.subject, one.outcome) for one in found]


def test_the_driver_passes_for_each_gpu_and_fails_for_the_one_that_does_not_answer() -> None:
    state = node(gpu(ONE, 0), gpu(OTHER, 1))
    assert outcomes(checks.driver(Facts(state))) == [(ONE, Outcome.PASSED), (OTHER, Outcome.PASSED)]
    silent = replace(state, gpus={ONE: state.gpus[ONE]}, unknown=(Unknown(f"GPU {OTHER}", "it is lost"),))
    assert outcomes(checks.driver(Facts(silent))) == [(OTHER, Outcome.FAILED), (ONE, Outcome.PASSED)]
    unknown = replace(state, gpus={ONE: state.gpus[ONE]})
    assert outcomes(checks.driver(Facts(unknown)))[1] == ("0000:01:00.0", Outcome.FAILED)


@pytest.mark.parametrize("path", ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"])
def test_the_driver_fails_without_a_device_node(path: str) -> None:
    state = node(gpu(ONE, 0))
    (found,) = checks.driver(
        Facts(replace(state, device_nodes={k: v for k, v in state.device_nodes.items() if k != path}))
    )
    assert found.outcome is Outcome.FAILED
    assert path in found.text


def test_a_gpu_of_a_virtual_machine_is_none_of_ours() -> None:
    state = node(gpu(ONE, 0))
    passed = replace(state, pci={k: replace(v, driver="vfio-pci") for k, v in state.pci.items()}, gpus={})
    assert outcomes(checks.driver(Facts(passed))) == [("node", Outcome.ABSENT)]


def test_peer_memory_without_an_rdma_stack_that_takes_it_has_no_effect() -> None:
    loaded = node(modules=("nvidia", "nvidia_peermem"))
    assert outcomes(checks.peermem(Facts(node()))) == [("node", Outcome.ABSENT)]
    assert outcomes(checks.peermem(Facts(loaded))) == [("node", Outcome.FAILED)]
    taken = replace(loaded, kernel=KernelPolicy(peer_memory_owner="ib_uverbs"))
    assert outcomes(checks.peermem(Facts(taken))) == [("node", Outcome.PASSED)]


def test_ofed_is_asked_of_nodes_with_such_nics() -> None:
    nic = {"0000:10:00.0": PciFunction("0000:10:00.0", "15b3", "1021", "020000")}
    assert outcomes(checks.ofed(Facts(node()))) == [("node", Outcome.ABSENT)]
    assert outcomes(checks.ofed(Facts(node(pci=nic)))) == [("node", Outcome.FAILED)]
    assert outcomes(checks.ofed(Facts(node(pci=nic), ofed_ready=True))) == [("node", Outcome.PASSED)]
    assert outcomes(checks.ofed(Facts(node(pci=nic, modules=("mlx5_core",))))) == [("node", Outcome.PASSED)]


def test_gdrcopy_and_gds_need_module_and_node_before_they_are_tried() -> None:
    for check, module, path in (
        (checks.gdrcopy, "gdrdrv", "/dev/gdrdrv"),
        (checks.gds, "nvidia_fs", "/dev/nvidia-fs0"),
    ):
        absent, bare = check(Facts(node())), check(Facts(node(modules=(module,), device_nodes={})))
        whole = Facts(node(modules=(module,), device_nodes={path: DeviceNode(path, 9, 0)}))
        assert absent is not None
        assert bare is not None
        assert (absent.outcome, bare.outcome, check(whole)) == (Outcome.ABSENT, Outcome.FAILED, None)
    broken = replace(whole, cufile_problem="/etc/cufile.json:3: expecting value")
    found = checks.gds(broken)
    assert found is not None
    assert found.text == "/etc/cufile.json:3: expecting value"


CUFILE = (
    '{\n  // a comment\n  "fs": {"generic": {"posix_unaligned_writes": false}}, // more\n  "url": "http://a//b"\n}\n'
)


def test_cufile_json_has_comments() -> None:
    assert cufile_problem(CUFILE) == ""
    assert cufile_problem(None) == ""
    assert cufile_problem(CUFILE.replace("false", "no")).startswith("/etc/cufile.json:3: ")
    assert "no JSON object" in cufile_problem("[]")


def specification(*devices: str) -> CdiFile:
    return CdiFile("/etc/cdi/nvidia.json", "{}", "nvidia.com/gpu", devices)


def test_the_toolkit_passes_where_every_runtime_resolves_every_device() -> None:
    facts = Facts(node(divided(), gpu(OTHER, 1)), (specification("0:0", "1", "all"),), runtimes={"containerd": ""})
    assert outcomes(checks.toolkit(facts)) == [(MIG, Outcome.PASSED), (OTHER, Outcome.PASSED)]
    lacking = replace(facts, cdi_files=(specification("1"),))
    assert outcomes(checks.toolkit(lacking)) == [(MIG, Outcome.FAILED), (OTHER, Outcome.PASSED)]
    broken = replace(facts, cdi_problems={"/etc/cdi/nvidia.json": "/usr/lib/libcuda.so.1 is not there"})
    assert {outcome for _, outcome in outcomes(checks.toolkit(broken))} == {Outcome.FAILED}
    stubborn = replace(facts, runtimes={"containerd": "", "docker": "it does not know CDI"})
    assert outcomes(checks.toolkit(stubborn))[0] == ("docker", Outcome.FAILED)
    assert outcomes(checks.toolkit(replace(facts, runtimes={}))) == [("node", Outcome.ABSENT)]


def test_the_plugin_passes_where_the_kubelet_has_devices() -> None:
    for facts, outcome in (
        (Facts(), Outcome.ABSENT),
        (Facts(has_kubelet=True, kubelet_trouble="no answer"), Outcome.FAILED),
        (Facts(has_kubelet=True), Outcome.FAILED),
        (Facts(has_kubelet=True, allocatable_gpus=0), Outcome.FAILED),
        (Facts(has_kubelet=True, allocatable_gpus=8), Outcome.PASSED),
    ):
        assert outcomes(checks.plugin(facts)) == [("node", outcome)]


def test_who_holds_a_device_is_named() -> None:
    facts = Facts(node(divided(), gpu(OTHER, 1), processes={7: Process(7, "train.py")}))
    first, second = trials.cuda(facts)
    assert isinstance(first, Finding)
    assert (first.subject, first.outcome, first.text) == (MIG, Outcome.SKIPPED, "held by process 7 (train.py)")
    assert second == Trial(Work.VECTOR, (OTHER,))
    assert list(trials.cuda(facts, in_use=True)) == [Trial(Work.VECTOR, (MIG,)), Trial(Work.VECTOR, (OTHER,))]


def test_gpudirect_takes_free_gpus_and_active_ports() -> None:
    def device(state: str) -> RdmaDevice:
        return RdmaDevice("mlx5_0", "0000:10:00.0", ports=(RdmaPort(1, state, "InfiniBand"),))

    def wanted(facts: Facts, *, simulated: bool = False, in_use: bool = False) -> list[Trial | Finding]:
        return list(gpudirect(LocalFiles(), facts, simulated=simulated, in_use=in_use))

    free = Facts(node(gpu(ONE, 0), rdma={"mlx5_0": device("ACTIVE")}))
    assert wanted(free) == [Trial(Work.RDMA, (ONE,), "mlx5_0", 1, -1, 0)]
    assert outcomes(wanted(free, simulated=True)) == [("node", Outcome.SKIPPED)]
    down = Facts(node(gpu(ONE, 0), rdma={"mlx5_0": device("DOWN")}))
    assert outcomes(wanted(down)) == [("node", Outcome.ABSENT)]
    assert outcomes(wanted(Facts(node(divided(), rdma={"mlx5_0": device("ACTIVE")})))) == [("node", Outcome.ABSENT)]
    busy = Facts(node(gpu(ONE, 0, pids=(7,)), rdma={"mlx5_0": device("ACTIVE")}))
    assert outcomes(wanted(busy)) == [(f"{ONE} and mlx5_0 port 1", Outcome.SKIPPED)]
    assert wanted(busy, in_use=True) == wanted(free)


def test_a_divided_gpu_without_instances_cannot_be_tried() -> None:
    (found,) = trials.cuda(Facts(node(gpu(ONE, 0, mig_mode=MigMode.ENABLED))))
    assert isinstance(found, Finding)
    assert found.outcome is Outcome.SKIPPED


@given(st.integers(2, 16), st.sets(st.integers(0, 15)))
def test_every_free_gpu_sends_and_receives_once(count: int, busy: set[int]) -> None:
    gpus = [gpu(f"GPU-{index}", index, pids=(index + 1,) if index in busy else ()) for index in range(count)]
    wanted = list(trials.p2p(Facts(node(*gpus))))
    assert len(wanted) == count
    touched = {uuid for one in wanted if isinstance(one, Trial) for uuid in one.uuids}
    assert not touched & {f"GPU-{index}" for index in busy}
    everything = list(trials.p2p(Facts(node(*gpus)), in_use=True))
    assert sorted(one.uuids[0] for one in everything if isinstance(one, Trial)) == sorted(one.uuid for one in gpus)
    assert sorted(one.uuids[1] for one in everything if isinstance(one, Trial)) == sorted(one.uuid for one in gpus)


FINDINGS = st.lists(
    st.builds(Finding, st.sampled_from(Proof), st.text(max_size=4), st.sampled_from(Outcome), st.text(max_size=4))
)


@given(FINDINGS)
def test_a_ready_file_stands_for_a_pass_and_nothing_else(found: list[Finding]) -> None:
    validation = Validation(tuple(found))
    written = texts(validation, node(gpu(ONE, 0)))
    for proof, name in NAMES.items():
        path = f"{VALIDATIONS}/{name}"
        mine = {one.outcome for one in validation.of(proof)} - {Outcome.ABSENT}
        if mine == {Outcome.PASSED}:
            text = written[path]
            assert text is not None
            assert text.startswith(MARK)
        elif Outcome.FAILED in mine:
            assert written[path] is None
        else:
            assert written.get(path) is None
        if Outcome.SKIPPED in mine and Outcome.FAILED not in mine:
            assert path not in written
    container = f"{VALIDATIONS}/{CONTAINER}"
    assert (written.get(container) is None) == (written.get(f"{VALIDATIONS}/driver-ready") is None)


@given(FINDINGS, FINDINGS)
def test_newer_findings_take_the_place_of_older_ones(old: list[Finding], new: list[Finding]) -> None:
    both = merged(Validation(tuple(old), 1.0), Validation(tuple(new), 2.0))
    for proof in Proof:
        expected = [one for one in new if one.proof is proof] or [one for one in old if one.proof is proof]
        assert list(both.of(proof)) == expected
    assert validation_of(document_of(both)) == both


@given(FINDINGS, st.sets(st.sampled_from(Proof)))
def test_the_exit_code_is_0_for_passes_alone(found: list[Finding], asked: set[Proof]) -> None:
    code = exit_code(Validation(tuple(found)), frozenset(asked))
    outcomes = {one.outcome for one in found}
    missing = any({one.outcome for one in found if one.proof is proof} <= {Outcome.ABSENT} for proof in asked)
    assert code == (1 if Outcome.FAILED in outcomes or missing else 6 if Outcome.SKIPPED in outcomes else 0)
