"""NICs for pods on a simulated node: shared RDMA devices, and virtual functions near the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from kubelet_devices import DeviceManager, until
from nodeagent.host.control_client import ask
from nodeagent.host.pci_facts import read_pci
from nodeagent.simulation.faults import heal, make_fault
from nodeagent.simulation.function_parts import with_sub_function, with_vdpa
from nodeagent.state.rails import relation
from plugin_place import Place, place_with

GPU, VF, HCA = "nvidia.com/gpu", "nvidia.com/rail_vf", "rdma/hca"
NICS = {"0000:61:00.0": "enp97s0np0", "0000:e1:00.0": "enp225s0np0"}
SHARED = {"configList": [{"resourceName": "hca", "rdmaHcaMax": 5, "selectors": {"ifNames": list(NICS.values())}}]}
FUNCTIONS = {"resourceList": [{"resourceName": "rail_vf", "selectors": {"pfNames": list(NICS.values())}}]}
PF = "0000:61:00.0"
FILE = """\
version: 1
modules: {nvidia: {modeset: false}, rdma: {stack: inbox}}
links: [{match: enp97s0np0, up: true}, {match: enp225s0np0, up: true}]
roce: {netns: shared}
sriov: [{match: "0000:61:00.0", vfs: 2}, {match: "0000:e1:00.0", vfs: 2}]
kubernetes:
  network: {rdma_config_file: /etc/shared.json, sriov_config_file: /etc/vf.json, sriov_prefix: nvidia.com}
health: {damping: {hold_seconds: 0, quiet_seconds: 1}}
loop: {interval_seconds: 2, sample_seconds: 1, backoff_seconds: 0.2, nvml_deadline_seconds: 2}
"""


@pytest.fixture
def place() -> Iterator[Place]:
    with place_with(FILE, {"shared.json": SHARED, "vf.json": FUNCTIONS}) as found:
        yield found


def _wait_offered(place: Place) -> None:
    """Each resource has a plugin of its own, and they register one after the other."""
    whole = {GPU: 4, VF: 4, HCA: 5}
    until(lambda: all(len(place.kubelet.healthy(one)) == count for one, count in whole.items()), place.told)


def test_pods_get_rdma_devices_and_functions_near_their_gpu_and_lose_none_to_a_restart(place: Place) -> None:
    kubelet = place.kubelet
    _wait_offered(place)
    shared = {one.host_path for one in kubelet.admit("shared", HCA, 1).devices}
    assert shared == {
        f"/dev/infiniband/{n}" for n in ("uverbs0", "uverbs1", "umad0", "umad1", "issm0", "issm1", "rdma_cm")
    }
    functions = read_pci(place.node.host("in-process").files)
    cards = {gpu.uuid: functions[gpu.pci_address] for gpu in place.node.machine.gpus}
    for pod in ("one", "two"):
        uuid = _granted(kubelet, pod, GPU)
        answer = kubelet.admit(f"{pod}-nic", VF, 1)
        mine = functions[answer.envs["PCIDEVICE_NVIDIA_COM_RAIL_VF"]]
        distances = {port: relation(functions[port], cards[uuid]).distance for port in NICS}
        assert distances[mine.physfn] == min(distances.values())
    kubelet.restart()
    _wait_offered(place)


def _granted(kubelet: DeviceManager, pod: str, resource: str) -> str:
    answer = kubelet.admit(pod, resource, 1)
    return str(answer.envs["NVIDIA_VISIBLE_DEVICES"])


def test_a_port_without_a_link_takes_its_functions_along_until_it_is_back(place: Place) -> None:
    kubelet = place.kubelet
    _wait_offered(place)
    make_fault(place.node, "port-down", NICS["0000:61:00.0"], None)
    until(lambda: len(kubelet.healthy(VF)) == 2 and len(kubelet.listed(VF)) == 4, place.told)
    assert {one[:10] for one in kubelet.healthy(VF)} == {"0000:e1:01"}
    assert len(kubelet.healthy(HCA)) == 5, "the other port of the pool works"
    rows = {row["resource"]: row for row in ask(str(place.agent.root), "GET", "/v1/offers")["resources"]}
    assert all(one["reason"] for one in rows[VF]["unhealthy"])
    heal(place.node)
    until(lambda: len(kubelet.healthy(VF)) == 4, place.told)


def test_functions_are_withdrawn_before_they_go_and_are_offered_anew(place: Place) -> None:
    kubelet = place.kubelet
    _wait_offered(place)
    place.agent.write(FILE.replace('"0000:61:00.0", vfs: 2', '"0000:61:00.0", vfs: 3'))
    until(lambda: len(kubelet.healthy(VF)) == 5, place.told)
    order = [
        "withdraw 0000:61:01.0",
        "withdraw 0000:61:01.1",
        "remove 2 virtual",
        "make 3 virtual",
        "offer 0000:61:01.0",
    ]
    until(lambda: order[-1] in place.agent.log.read_text(), place.told)  # the kubelet may hear of it first
    said = place.agent.log.read_text()
    places = [said.index(text) for text in order]
    assert places == sorted(places), said
    assert "withdraw 0000:e1" not in said, "nobody else was disturbed"


def test_a_gpu_for_a_virtual_machine_is_withdrawn_from_pods_first(place: Place) -> None:
    kubelet = place.kubelet
    _wait_offered(place)
    first = place.node.machine.gpus[0]
    place.agent.write(f'{FILE}sandbox: {{workload: vm-passthrough, devices: ["{first.pci_address}"]}}\n')
    until(lambda: f"give {first.pci_address} to vfio-pci" in place.agent.log.read_text(), place.told)
    until(lambda: len(kubelet.healthy(GPU)) == 3 and first.uuid not in kubelet.healthy(GPU), place.told)
    said = place.agent.log.read_text()
    assert said.index(f"withdraw {first.uuid[:12]}") < said.index(f"give {first.pci_address}")


def test_sub_functions_vdpa_devices_and_accelerators_are_offered_while_they_are_there(place: Place) -> None:
    kubelet, pools = place.kubelet, {"sf": "auxNetDevice", "vdpa": "netDevice", "fec": "accelerator"}
    _wait_offered(place)
    selectors = {"sf": {"auxTypes": ["sf"], "pfNames": ["enp97s0np0#88"]}, "vdpa": {"vdpaType": "vhost"}, "fec": {}}
    rows = [{"resourceName": one, "deviceType": kind, "selectors": selectors[one]} for one, kind in pools.items()]
    place.node.kernel.change(lambda state: with_vdpa(state, "0000:61:01.1", "vhost_vdpa"))
    place.node.kernel.change(lambda state: with_sub_function(with_sub_function(state, PF, 87), PF, 88))
    place.node.kernel.change(lambda state: replace(state, accelerators={"0000:8a:00.0": "igb_uio"}))
    place.write("vf.json", {"resourceList": rows})
    expected = {"sf": {"mlx5_core.sf.3"}, "vdpa": {"0000:61:01.1"}, "fec": {"0000:8a:00.0"}}
    until(lambda: all(kubelet.healthy(f"nvidia.com/{one}") == ids for one, ids in expected.items()), place.told)
    answer = kubelet.admit("vm", "nvidia.com/vdpa", 1)
    assert [one.host_path for one in answer.devices] == ["/dev/vhost-vdpa-0"]
    assert kubelet.admit("sf", "nvidia.com/sf", 1).envs["PCIDEVICE_NVIDIA_COM_SF"] == "mlx5_core.sf.3"
    assert [one.host_path for one in kubelet.admit("ran", "nvidia.com/fec", 1).devices] == ["/dev/uio0"]
    place.node.kernel.change(lambda state: replace(state, vdpa={}, accelerators={}))
    until(lambda: not kubelet.listed("nvidia.com/vdpa") and not kubelet.listed("nvidia.com/fec"), place.told)
    assert kubelet.healthy("nvidia.com/sf") == expected["sf"]


def test_a_file_with_a_mistake_changes_nothing_and_another_plugin_is_left_alone(place: Place) -> None:
    kubelet = place.kubelet
    _wait_offered(place)
    place.write("vf.json", {"resourceLists": []})
    until(lambda: "unknown key resourceLists" in place.agent.log.read_text(), place.told)
    assert len(kubelet.healthy(VF)) == 4
    place.write("vf.json", {"resourceList": []})
    until(lambda: not kubelet.listed(VF), place.told)
    (kubelet.directory / "hca.sock").symlink_to("kubelet.sock")
    until(lambda: not kubelet.listed(HCA), place.told)
    until(lambda: "rdma/hca is left to its own plugin" in place.agent.log.read_text(), place.told)
