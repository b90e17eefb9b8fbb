"""What is offered of GPUs: resources, shares, answers, preferences; by example and by property."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_world import function, gpu, node
from nodeagent.errors import HostError
from nodeagent.resources.gpu_offers import gpu_offers, wanted_mps
from nodeagent.resources.gpu_preference import Affinity, affinity_of, best_set
from nodeagent.resources.gpu_units import Around, held_by
from nodeagent.spec.reader import parse_spec
from nodeagent.state.gpu import MigMode
from nodeagent.state.health import NODE, Finding, Health, Recovery, Subject, SubjectKind, Verdict
from nodeagent.state.network import RdmaDevice, RdmaPort
from nodeagent.state.node import NodeState, Unknown
from nodeagent.state.offers import OfferedDevice
from nodeagent.state.repair import Quarantine
from nodeagent.state.topology import NvLinks

SHARES = "sharing: {strategy: time-slicing, replicas: {gpu: 3, mig-1g.5gb: 2}"


def offers(text: str, state: NodeState, around: Around | None = None, before=()):
    return gpu_offers(parse_spec(f"version: 1\n{text}", "node.yaml"), state, around or Around(), before)


def of(keys: str, state: NodeState, around: Around | None = None, before=()):
    return offers(f"kubernetes: {{gpus: {{{keys}}}}}", state, around, before)


def ids(found) -> dict[str, list[str]]:
    return {offer.resource: [device.id for device in offer.devices] for offer in found.offers}


MIXED = (gpu(0, "1g.5gb", "3g.20gb"), gpu(1), gpu(2, "1g.10gb+me", "1c.3g.20gb"))


@pytest.mark.parametrize(
    ("keys", "gpus", "expected"),
    [
        ("", (gpu(1), gpu(0)), {"nvidia.com/gpu": ["GPU-0", "GPU-1"]}),
        ("", MIXED, {"nvidia.com/gpu": ["GPU-0", "GPU-1", "GPU-2"]}),
        (
            "mig_strategy: mixed",
            MIXED,
            {
                "nvidia.com/gpu": ["GPU-1"],
                "nvidia.com/mig-1g.5gb": ["MIG-0-0"],
                "nvidia.com/mig-3g.20gb": ["MIG-0-1"],
                "nvidia.com/mig-1g.10gb.me": ["MIG-2-0"],
            },
        ),
        ("mig_strategy: single", (gpu(0), gpu(1)), {"nvidia.com/gpu": ["GPU-0", "GPU-1"]}),
        (
            "mig_strategy: single",
            (gpu(0, "1g.5gb", "1g.5gb"), gpu(1, "1g.5gb")),
            {"nvidia.com/gpu": ["MIG-0-0", "MIG-0-1", "MIG-1-0"]},
        ),
        ("mig_strategy: single", (gpu(0, "1g.5gb"), gpu(1), gpu(2, mig=True)), {"nvidia.com/gpu": ["MIG-0-0"]}),
        ("mig_strategy: single", MIXED, {}),
        ("offer: 'off'", (gpu(0),), {}),
        (SHARES + "}", (gpu(0),), {"nvidia.com/gpu": ["GPU-0::0", "GPU-0::1", "GPU-0::2"]}),
        (SHARES + ", rename: true}", (gpu(0),), {"nvidia.com/gpu.shared": ["GPU-0::0", "GPU-0::1", "GPU-0::2"]}),
        (
            "mig_strategy: mixed, " + SHARES + ", rename: true}",
            (gpu(0, "1g.5gb", "3g.20gb"),),
            {"nvidia.com/mig-1g.5gb.shared": ["MIG-0-0::0", "MIG-0-0::1"], "nvidia.com/mig-3g.20gb": ["MIG-0-1"]},
        ),
    ],
)
def test_resources_and_devices(keys, gpus, expected):
    assert ids(of(keys, node(*gpus))) == expected


def test_nothing_without_the_section():
    assert offers("", node(gpu(0))).offers == ()


def test_what_is_left_out_is_said():
    assert of("mig_strategy: mixed", node(*MIXED)).remarks == (
        "MIG-2-1 (1c.3g.20gb) is not offered: it has a part of its GPU instance only",
    )
    assert of("mig_strategy: single", node(gpu(0, "1g.5gb"), gpu(1), gpu(2, mig=True))).remarks == (
        "GPU 1 is not offered: mig_strategy is single, and it is not divided",
        "GPU 2 is not offered: mig_strategy is single, and it has no MIG device",
    )
    assert "nothing is offered: mig_strategy is single" in of("mig_strategy: single", node(*MIXED)).remarks[-1]


def test_numa_nodes_are_hints_and_an_unknown_one_is_none():
    unknown = function("0000:00:00.0", "root", numa=-1)
    devices = of("", node(gpu(0), gpu(2), pci={"0000:00:00.0": unknown})).offers[0].devices
    assert [device.numa_nodes for device in devices] == [(), (1,)]


def granted(keys: str, state: NodeState, *wanted: str, extra: str = ""):
    found = offers(f"kubernetes: {{gpus: {{{keys}}}}}\n{extra}", state)
    return found.offers[0].allocator.grant(wanted)


def test_the_strategies_of_the_device_list():
    two = node(gpu(0), gpu(1), cdi=("GPU-0", "1"))
    assert granted("", two, "GPU-1", "GPU-0").envs == {"NVIDIA_VISIBLE_DEVICES": "GPU-0,GPU-1"}
    assert granted("device_id: index", two, "GPU-1").envs == {"NVIDIA_VISIBLE_DEVICES": "1"}
    assert granted("", two, "GPU-1", extra="cdi: {}").cdi_devices == ("nvidia.com/gpu=1",)
    assert granted("", two, "GPU-0", extra="cdi: {gpus: 'off'}").envs == {"NVIDIA_VISIBLE_DEVICES": "GPU-0"}
    cri = granted("device_list: [cdi-cri]", two, "GPU-0", "GPU-1")
    assert (cri.cdi_devices, cri.envs) == (("nvidia.com/gpu=GPU-0", "nvidia.com/gpu=1"), {})
    mounts = granted("device_list: [volume-mounts]", two, "GPU-0")
    assert mounts.envs == {"NVIDIA_VISIBLE_DEVICES": "/var/run/nvidia-container-devices"}
    assert [(m.container_path, m.host_path) for m in mounts.mounts] == [
        ("/var/run/nvidia-container-devices/GPU-0", "/dev/null")
    ]
    marks = granted("device_list: [cdi-annotations]", two, "GPU-0", "GPU-1").annotations
    assert list(marks.values()) == ["nvidia.com/gpu=GPU-0,nvidia.com/gpu=1"]
    assert all(key.startswith("cdi.k8s.io/nvidia-device-plugin_") and len(key.split("/")[1]) <= 63 for key in marks)
    assert granted("device_list: [cdi-annotations]", two, "GPU-0").annotations.keys() != marks.keys()


def test_device_nodes_are_named_where_wanted():
    assert granted("", node(gpu(0)), "GPU-0").nodes == ()
    found = granted("pass_device_specs: true", node(gpu(0)), "GPU-0").nodes
    assert [(one.host_path, one.container_path, one.permissions) for one in found] == [
        ("/dev/nvidia-uvm", "/dev/nvidia-uvm", "rw"),
        ("/dev/nvidia0", "/dev/nvidia0", "rw"),
    ]


def test_several_shares_of_one_gpu_are_one_device_or_refused():
    state = node(gpu(0), gpu(1))
    assert granted(SHARES + "}", state, "GPU-0::1", "GPU-0::2").envs == {"NVIDIA_VISIBLE_DEVICES": "GPU-0"}
    with pytest.raises(HostError, match=r"allocate nvidia\.com/gpu: 2 shares for one container"):
        granted(SHARES + ", fail_above_one: true}", state, "GPU-0::1", "GPU-1::2")
    mps = "sharing: {strategy: mps, replicas: {gpu: 2}}"
    with pytest.raises(HostError, match="2 shares for one container"):
        granted(mps, state, "GPU-0::1", "GPU-1::0")
    answer = granted(mps, state, "GPU-0::1")
    assert answer.envs["CUDA_MPS_PIPE_DIRECTORY"] == "/run/nvidia/mps/nvidia.com/gpu/pipe"
    assert {m.container_path: m.host_path for m in answer.mounts} == {
        "/run/nvidia/mps/nvidia.com/gpu/pipe": "/run/nvidia/mps/nvidia.com/gpu/pipe",
        "/dev/shm": "/dev/shm",
    }


def test_mps_needs_its_daemon_a_whole_gpu_and_few_clients():
    mps = "sharing: {strategy: mps, replicas: {gpu: 4}}"
    assert {one.reason for one in of(mps, node(gpu(0))).offers[0].devices} == {"its MPS control daemon is not up"}
    up = Around(mps=frozenset({"GPU-0"}))
    assert all(one.healthy for one in of(mps, node(gpu(0)), up).offers[0].devices)
    found = of("mig_strategy: single, " + mps, node(gpu(0, "1g.5gb")), up)
    assert ids(found) == {"nvidia.com/gpu": ["MIG-0-0"]}
    assert found.remarks == ("gpu is offered without shares: mps does not go with MIG",)
    old = replace(gpu(0), compute_capability=(7, 0))
    text = "17 shares are wanted, and an MPS control daemon takes 16 clients on this GPU"
    assert of(mps.replace("4", "17"), node(old), up).offers[0].devices[0].reason == text
    spec = parse_spec(f"version: 1\nkubernetes: {{gpus: {{{mps}}}}}", "f")
    need = wanted_mps(spec, node(gpu(0)), of(mps, node(gpu(0))).units)["nvidia.com/gpu"]
    assert (need.directory, need.gpus, need.shares) == ("/run/nvidia/mps/nvidia.com/gpu", (("GPU-0", 40 << 10),), 4)


def test_a_device_that_no_cdi_specification_names_is_not_healthy():
    devices = of("device_list: [cdi-cri]", node(gpu(0), gpu(1), cdi=("GPU-0",))).offers[0].devices
    assert devices[0] == OfferedDevice("GPU-0", True, (0,))
    assert devices[1] == OfferedDevice("GPU-1", False, (0,), "no CDI specification names it")


def failed(kind: SubjectKind, name: str, check: str = "ecc", verdict: Verdict = Verdict.FAILED, **more) -> Finding:
    return Finding(Subject(kind, name), check, verdict, "seen", **more)


TWO_PARTS = (gpu(0, "1g.5gb", "1g.5gb"), gpu(1, "1g.5gb"))


@pytest.mark.parametrize(
    ("finding", "sick"),
    [
        (failed(SubjectKind.GPU, "GPU-0"), {"MIG-0-0", "MIG-0-1"}),
        (failed(SubjectKind.MIG, "MIG-0-1", "xid", recovery=Recovery.RESET_GPU, codes=(48,)), {"MIG-0-1"}),
        (failed(SubjectKind.GPU, "", "gpu-on-bus"), set()),
        (Finding(Subject(SubjectKind.GPU, "", "0000:01:00.0"), "gpu-on-bus", Verdict.FAILED), {"MIG-1-0"}),
        (failed(SubjectKind.GPU, "GPU-0", verdict=Verdict.WARNING), set()),
        (failed(SubjectKind.GPU, "GPU-0", verdict=Verdict.UNKNOWN), set()),
        (failed(SubjectKind.GPU, "GPU-0", "xid", recovery=Recovery.RESTART_JOB, codes=(31,)), set()),
        (failed(SubjectKind.GPU, "GPU-0", "drift-mig"), set()),
        (Finding(NODE, "driver", Verdict.FAILED, "gone"), {"MIG-0-0", "MIG-0-1", "MIG-1-0"}),
        (Finding(NODE, "clock", Verdict.FAILED), set()),
    ],
)
def test_every_share_of_what_a_finding_concerns_is_unhealthy_and_nothing_else(finding, sick):
    keys = "mig_strategy: mixed, " + SHARES + "}"
    devices = of(keys, node(*TWO_PARTS), Around(Health((finding,)))).offers[0].devices
    assert {one.id for one in devices if not one.healthy} == {f"{name}::{n}" for name in sick for n in range(2)}
    well = of(keys, node(*TWO_PARTS), Around(Health((replace(finding, verdict=Verdict.OK),)))).offers[0].devices
    assert all(one.healthy for one in well), "and comes back with the finding"


def quarantined(kind: SubjectKind, name: str, pci_address: str = "") -> Quarantine:
    return Quarantine(Subject(kind, name, pci_address), "xid 79", 0.0)


@pytest.mark.parametrize(
    ("quarantine", "sick"),
    [
        (quarantined(SubjectKind.GPU, "GPU-0"), {"MIG-0-0", "MIG-0-1"}),
        (quarantined(SubjectKind.GPU, "", "0000:01:00.0"), {"MIG-1-0"}),
        (quarantined(SubjectKind.MIG, "MIG-0-1"), {"MIG-0-1"}),
        (quarantined(SubjectKind.PORT, "mlx5_0/1"), set()),
        (quarantined(SubjectKind.NODE, ""), {"MIG-0-0", "MIG-0-1", "MIG-1-0"}),
    ],
)
def test_what_is_in_quarantine_is_not_for_pods(quarantine, sick):
    devices = of("mig_strategy: mixed", node(*TWO_PARTS), Around(held=held_by([quarantine]))).offers[0].devices
    assert {one.id for one in devices if one.reason == "in quarantine: xid 79"} == sick
    assert {one.id for one in devices if not one.healthy} == sick


def test_withdrawn_and_held_gpus_are_unhealthy():
    around = Around(withdrawn=frozenset({"GPU-0"}), held={"GPU-1": "quarantined: xid 79"})
    assert [one.reason for one in of("", node(gpu(0), gpu(1), gpu(2)), around).offers[0].devices] == [
        "a step of the agent is about to change the GPU",
        "quarantined: xid 79",
        "",
    ]


def test_a_gpu_that_cannot_be_read_stays_unhealthy_and_one_that_is_gone_goes():
    before = of("", node(gpu(0), gpu(1))).units
    hangs = replace(node(gpu(0)), unknown=(Unknown("GPU GPU-1", "it hangs"),))
    assert [one.reason for one in of("", hangs, before=before).offers[0].devices] == [
        "",
        "the GPU cannot be read: it hangs",
    ]
    nothing = NodeState(unknown=(Unknown("GPUs", "no answer"),))
    assert [one.healthy for one in of("", nothing, before=before).offers[0].devices] == [False, False]
    assert ids(of("", node(gpu(0)), before=before)) == {"nvidia.com/gpu": ["GPU-0"]}
    divided = replace(gpu(1), mig_mode=MigMode.ENABLED)
    assert ids(of("mig_strategy: mixed", node(gpu(0), divided), before=before)) == {"nvidia.com/gpu": ["GPU-0"]}


# Preferences


@st.composite
def machines(draw):
    """GPUs with any NVLinks between them, and what of them is free, must be given, and wanted."""
    names = [f"g{n}" for n in range(draw(st.integers(1, 8)))]
    pairs = {(a, b): draw(st.integers(0, 4)) * 100 for a in names for b in names if a < b}
    rails = {one: draw(st.integers(0, 3)) for one in names}
    free = draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
    must = draw(st.lists(st.sampled_from(free), unique=True, max_size=2))
    return Affinity(pairs, rails, rails), free, must, draw(st.integers(len(must), len(free)))


@given(machines())
def test_the_best_set_is_whole_free_and_as_near_as_any(machine):
    near, free, must, size = machine
    chosen = best_set(free, must, size, near)
    assert len(chosen) == len(set(chosen)) == size
    assert set(must) <= set(chosen) <= set(free)
    for out in chosen:
        for other in set(free) - set(chosen):
            if out not in must:
                swapped = [other if one == out else one for one in chosen]
                assert near.within(swapped) <= near.within(chosen)


def test_too_few_are_no_set_and_many_are_grown():
    assert best_set(["a"], [], 2, Affinity()) == ()
    assert best_set(["a", "b"], ["a", "b"], 1, Affinity()) == ()
    names = [f"{n:02}" for n in range(40)]
    near = Affinity({(a, b): int(int(a) // 8 == int(b) // 8) for a in names for b in names if a < b})
    assert len({int(one) // 8 for one in best_set(names, ["13"], 8, near)}) == 1


def test_nvlink_counts_before_pcie_and_numa_before_nothing():
    gpus = [gpu(n) for n in range(4)]
    state = node(*gpus)
    by_numa = affinity_of(state, {})
    assert set(best_set([g.uuid for g in gpus], ["GPU-3"], 2, by_numa)) == {"GPU-2", "GPU-3"}
    links = {
        gpus[0].pci_address: NvLinks(gpus[0].pci_address, ((gpus[3].pci_address, 4),)),
        gpus[3].pci_address: NvLinks(gpus[3].pci_address, ((gpus[0].pci_address, 4),)),
    }
    assert set(best_set([g.uuid for g in gpus], [], 2, affinity_of(state, links))) == {"GPU-0", "GPU-3"}


def test_one_gpu_is_taken_where_it_breaks_the_least():
    gpus = [gpu(n) for n in range(4)]
    near = affinity_of(node(*gpus), {})
    assert best_set(["GPU-0", "GPU-2", "GPU-3"], [], 1, near) == ("GPU-0",)


def test_a_nic_that_works_decides_among_equals():
    gpus = [gpu(0), gpu(2)]
    nics = {
        f"0000:1{n}:00.0": function(f"0000:1{n}:00.0", f"root{n}", numa=n, code="020000", vendor="15b3") for n in (0, 1)
    }
    state = node(*gpus, pci=nics)

    def rdma(first: str, second: str):
        return {
            f"mlx5_{n}": RdmaDevice(f"mlx5_{n}", "", f"0000:1{n}:00.0", ports=(RdmaPort(1, found, "Ethernet"),))
            for n, found in enumerate((first, second))
        }

    for states, best in ((("ACTIVE", "DOWN"), "GPU-0"), (("DOWN", "ACTIVE"), "GPU-2")):
        near = affinity_of(replace(state, rdma=rdma(*states)), {})
        assert best_set(["GPU-0", "GPU-2"], [], 1, near) == (best,)


@given(st.data())
def test_shares_are_never_given_twice_and_spread_or_packed(data):
    """A pod after the other, some of which end: as the kubelet counts, with what the plugin prefers."""
    packed = data.draw(st.booleans())
    policy = "packed" if packed else "distributed"
    gpus = [gpu(n) for n in range(data.draw(st.integers(1, 4)))]
    found = of(f"shared_allocation: {policy}, {SHARES}}}", node(*gpus)).offers[0]
    every = {one.id for one in found.devices}
    pods: list[tuple[str, ...]] = []
    for size in data.draw(st.lists(st.integers(-1, 4), max_size=12)):
        if size < 0:
            pods = pods[1:]
            continue
        free = sorted(every - {one for pod in pods for one in pod})
        if size > len(free):
            continue
        counts = {g.uuid: 3 - sum(one.startswith(g.uuid) for one in free) for g in gpus}
        chosen = found.allocator.prefer(tuple(free), (), size)
        assert len(set(chosen)) == size
        assert set(chosen) <= set(free)
        for one in chosen:
            name = one.partition("::")[0]
            others = [count for other, count in counts.items() if count < 3]
            assert counts[name] == (max(others) if packed else min(others))
            counts[name] += 1
        pods.append(chosen)
    given_now = [one for pod in pods for one in pod]
    assert len(given_now) == len(set(given_now))
