"""SR-IOV and devlink on a real kernel: QEMU's NVMe controller as a network card (modules/stub_nic.c), a real IOMMU."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nodeagent.errors import BusyError, GoneError, HostError, UnsupportedError
from nodeagent.host.files import LocalFiles
from nodeagent.host.kmod import LibKmod
from nodeagent.host.links import RtnlLinks
from nodeagent.host.pci_facts import read_pci
from nodeagent.resources.network_offers import NetworkPools, network_offers
from nodeagent.spec.network_plugins import parse_functions
from nodeagent.state.devlink import Cmode, EswitchMode
from nodeagent.state.health import Health
from nodeagent.state.network import VfSetting
from sim_node import Told, text_of
from vm.guest.card import functions, load, run, shown

PF, VF0 = "0000:01:00.0", "0000:01:00.1"
MACS = 'macs: ["02:00:00:00:01:00", "02:00:00:00:01:01"]'


@pytest.fixture
def links(kmod: LibKmod) -> Iterator[RtnlLinks]:
    yield from _card(kmod, "")


@pytest.fixture
def infiniband(kmod: LibKmod) -> Iterator[RtnlLinks]:
    yield from _card(kmod, "infiniband=1")


def _card(kmod: LibKmod, options: str) -> Iterator[RtnlLinks]:
    load(kmod, "stub_nic", options)
    yield RtnlLinks(LocalFiles())
    Path(f"/sys/bus/pci/devices/{PF}/sriov_numvfs").write_text("0")


def parameter(name: str) -> str:
    return Path(f"/sys/module/stub_nic/parameters/{name}").read_text().strip()


@pytest.mark.usefixtures("links")
def test_functions_are_made_set_up_and_bound_and_left_alone_when_right(tmp_path: Path) -> None:
    text = f'sriov: [{{match: "{PF}", vfs: 2, trust: true, spoofchk: true, vlan: 7, max_rate_mbps: 100, {MACS}}}]\n'
    outcome = run(tmp_path, text)
    assert outcome.plan.converged, text_of(outcome.plan)
    (link,) = shown("ip", "link", "show", "nic0")
    vfs = link["vfinfo_list"]
    assert [one["address"] for one in vfs] == ["02:00:00:00:01:00", "02:00:00:00:01:01"]
    assert [(one["trust"], one["spoofchk"], one["vlan_list"][0]["vlan"]) for one in vfs] == [(True, True, 7)] * 2
    assert [one["rate"]["max_tx"] for one in vfs] == [100, 100]
    # The driver of a virtual function takes its address when it is bound: the order was right.
    addresses = {one["address"] for one in shown("ip", "link") if one["ifname"].startswith("nicvf")}
    assert addresses == {"02:00:00:00:01:00", "02:00:00:00:01:01"}
    before = parameter("writes")
    assert run(tmp_path, text).steps_taken == 0
    assert parameter("writes") == before


def test_the_number_of_functions_is_refused_in_the_agents_words(links: RtnlLinks) -> None:
    links.functions.set_vf_count(PF, 2)
    with pytest.raises(BusyError, match=rf"make 3 virtual functions on {PF}: .* \(2 are there\)"):
        links.functions.set_vf_count(PF, 3)
    links.functions.set_vf_count(PF, 0)
    with pytest.raises(UnsupportedError, match="it can have 4"):
        links.functions.set_vf_count(PF, 99)
    with pytest.raises(GoneError):
        links.functions.set_vf_count("0000:09:00.0", 1)


def test_a_driver_that_refuses_loses_nothing_and_says_why(links: RtnlLinks, tmp_path: Path) -> None:
    Path("/sys/module/stub_nic/parameters/refuse_vfs").write_text("16")
    outcome = run(tmp_path, f'links: [{{match: nic0, up: true}}]\nsriov: [{{match: "{PF}", vfs: 2}}]\n')
    (failure,) = {str(failure.error) for failure in outcome.failures}
    assert failure.startswith(f"make 2 virtual functions on {PF}: device or resource busy")
    assert shown("ip", "link", "show", "nic0")[0]["flags"].count("UP") == 1  # the other section was done
    assert functions() == []
    Path("/sys/module/stub_nic/parameters/refuse_vfs").write_text("0")
    links.functions.set_vf_count(PF, 1)


@pytest.mark.usefixtures("links")
def test_functions_go_to_vfio_and_back(tmp_path: Path, kmod: LibKmod) -> None:
    load(kmod, "vfio_pci")
    assert run(tmp_path, f'sriov: [{{match: "{PF}", vfs: 2, driver: vfio-pci}}]\n').plan.converged
    found = functions()
    assert [one.driver for one in found] == ["vfio-pci", "vfio-pci"]
    assert all(Path(f"/dev/vfio/{one.iommu_group}").exists() for one in found)
    group = os.open(f"/dev/vfio/{found[0].iommu_group}", os.O_RDWR)
    try:
        plan = run(tmp_path, f'sriov: [{{match: "{PF}", vfs: 2, driver: default}}]\n').plan
        assert f"through VFIO (group {found[0].iommu_group})" in text_of(plan)  # whoever holds it is named
        assert {one.driver for one in functions()} == {"vfio-pci"}
    finally:
        os.close(group)
    assert run(tmp_path, f'sriov: [{{match: "{PF}", vfs: 2, driver: default}}]\n').plan.converged
    assert [(one.driver, one.driver_override) for one in functions()] == [("stub_nic", "")] * 2


@pytest.mark.usefixtures("links")
def test_a_whole_card_goes_to_a_virtual_machine_and_back(tmp_path: Path, kmod: LibKmod) -> None:
    load(kmod, "vfio_pci")
    subprocess.run(["ip", "link", "set", "nic0", "up"], check=True)
    subprocess.run(["ip", "addr", "replace", "10.88.0.1/24", "dev", "nic0"], check=True)
    text = f'sandbox: {{workload: WORKLOAD, devices: ["{PF}"]}}\n'
    wish, back = text.replace("WORKLOAD", "vm-passthrough"), text.replace("WORKLOAD", "container")
    assert "address 10.88.0.1/24 on nic0" in text_of(run(tmp_path, wish).plan)
    assert read_pci(LocalFiles())[PF].driver == "stub_nic"
    subprocess.run(["ip", "addr", "flush", "dev", "nic0"], check=True)
    subprocess.run(["ip", "link", "set", "nic0", "down"], check=True)
    outcome = run(tmp_path, wish)
    assert outcome.plan.converged, text_of(outcome.plan)
    found = read_pci(LocalFiles())[PF]
    assert (found.driver, found.driver_override) == ("vfio-pci", "vfio-pci")
    assert run(tmp_path, wish).steps_taken == 0
    group = os.open(f"/dev/vfio/{found.iommu_group}", os.O_RDWR)
    try:
        assert f"through VFIO (group {found.iommu_group})" in text_of(run(tmp_path, back).plan)
    finally:
        os.close(group)
    assert run(tmp_path, back).plan.converged
    found = read_pci(LocalFiles())[PF]
    assert (found.driver, found.driver_override) == ("stub_nic", "")


@pytest.mark.usefixtures("links")
def test_pods_would_get_the_nodes_of_a_function_at_vfio(tmp_path: Path, kmod: LibKmod) -> None:
    load(kmod, "vfio_pci")
    state = run(tmp_path, f'sriov: [{{match: "{PF}", vfs: 2, driver: vfio-pci}}]\n').state
    network = {address: replace(one, class_code="020000") for address, one in state.pci.items()}  # what the card plays
    text = '{"resourceList": [{"resourceName": "vf", "selectors": {"drivers": ["vfio-pci"], "rootDevices": ["%s"]}}]}'
    pools = NetworkPools(functions=parse_functions(text % PF, "config.json", "example.com"))
    (offer,) = network_offers(pools, replace(state, pci=network), Health()).offers
    assert [one.id for one in offer.devices] == list(state.pci[PF].vf_addresses)
    grant = offer.allocator.grant((VF0,))
    assert grant.envs["PCIDEVICE_EXAMPLE_COM_VF"] == VF0
    assert all(stat.S_ISCHR(os.stat(one.host_path).st_mode) for one in grant.nodes)
    assert [one.host_path for one in grant.nodes] == ["/dev/vfio/vfio", f"/dev/vfio/{state.pci[VF0].iommu_group}"]


def test_a_function_that_is_released_is_free_and_marked(links: RtnlLinks, kmod: LibKmod) -> None:
    load(kmod, "vfio_pci")
    links.functions.release(PF, "vfio-pci")
    found = read_pci(LocalFiles())[PF]
    assert (found.driver, found.driver_override) == ("", "vfio-pci")
    links.functions.set_driver(PF, "")
    found = read_pci(LocalFiles())[PF]
    assert (found.driver, found.driver_override) == ("stub_nic", "")


def test_guids_of_virtual_functions_on_an_infiniband_port(infiniband: RtnlLinks) -> None:
    infiniband.functions.set_vf_count(PF, 2)
    infiniband.set_vf("nic0", 1, VfSetting.NODE_GUID, ("02:00:00:00:00:00:3b:01",))
    infiniband.set_vf("nic0", 1, VfSetting.PORT_GUID, ("02:00:00:00:00:00:3b:02",))
    infiniband.set_vf("nic0", 1, VfSetting.LINK_STATE, ("disable",))
    first, second = infiniband.vfs("nic0")
    assert (first.node_guid, second.node_guid) == ("", "02:00:00:00:00:00:3b:01")
    assert (second.port_guid, second.link_state) == ("02:00:00:00:00:00:3b:02", "disable")
    printed = subprocess.run(["ip", "link", "show", "nic0"], check=True, capture_output=True, text=True).stdout
    assert "NODE_GUID 02:00:00:00:00:00:3b:01, PORT_GUID 02:00:00:00:00:00:3b:02" in printed


def test_devlink_reads_what_iproute2_shows_and_explains_refusals(links: RtnlLinks) -> None:
    found = links.devlink.read_all([PF, "0000:00:1f.2"])
    assert list(found) == [PF]
    theirs = shown("devlink", "dev", "param", "show")["param"][f"pci/{PF}"]
    ours = [(one.name, cmode.value, value) for one in found[PF].parameters for cmode, value in one.values]
    assert ours == [
        (one["name"], value["cmode"], str(value["value"]).lower()) for one in theirs for value in one["values"]
    ]
    assert found[PF].eswitch_mode is EswitchMode.LEGACY
    with pytest.raises(UnsupportedError, match="supported values are"):
        links.devlink.set_parameter(PF, "flow_steering_mode", Cmode.RUNTIME, "hmfs")
    with pytest.raises(HostError, match=r"set devlink parameter firmware_vfs to 999 on .*: input/output error"):
        links.devlink.set_parameter(PF, "firmware_vfs", Cmode.PERMANENT, "999")
    links.functions.set_vf_count(PF, 1)
    with pytest.raises(BusyError, match="can't change mode while virtual functions are there"):
        links.devlink.set_eswitch_mode(PF, EswitchMode.SWITCHDEV)


def test_the_switch_changes_between_removing_and_making_functions(links: RtnlLinks, tmp_path: Path) -> None:
    links.functions.set_vf_count(PF, 2)
    subprocess.run(["ip", "addr", "add", "10.88.0.1/24", "dev", "nic0"], check=True)
    told = Told()
    text = f'disruption: {{nic: allow}}\nsriov: [{{match: "{PF}", vfs: 2, eswitch_mode: switchdev}}]\n'
    assert run(tmp_path, text, told).plan.converged
    assert [line for line in told.lines if line.startswith("act")] == [
        f"act remove 2 virtual function(s) of {PF}",
        f"act set eswitch mode of {PF} to switchdev (is legacy)",
        f"act make 2 virtual function(s) on {PF}",
    ]
    assert shown("devlink", "dev", "eswitch", "show", f"pci/{PF}")["dev"][f"pci/{PF}"]["mode"] == "switchdev"
    assert len(functions()) == 2
    assert run(tmp_path, text).steps_taken == 0


def test_a_reload_applies_values_and_everything_on_the_card_comes_back(links: RtnlLinks, tmp_path: Path) -> None:
    links.functions.set_vf_count(PF, 2)
    links.set_vf("nic0", 1, VfSetting.VLAN, (9, 3))
    links.set_vf("nic0", 0, VfSetting.MAC, ("02:00:00:00:01:44",))
    subprocess.run(["ip", "link", "set", "nic0", "mtu", "4200", "up"], check=True)
    subprocess.run(["ip", "addr", "add", "10.88.0.1/24", "dev", "nic0"], check=True)
    text = f'devlink: [{{match: "{PF}", parameters: {{enable_roce: false, flow_steering_mode: smfs}}}}]\n'
    plan = run(tmp_path, text).plan
    assert "address 10.88.0.1/24 on nic0" in text_of(plan)  # held up, because someone stands on it
    assert (parameter("reloads"), parameter("roce_in_force")) == ("0", "Y")
    outcome = run(tmp_path, f"disruption: {{nic: allow}}\n{text}")
    assert outcome.plan.converged, text_of(outcome.plan)
    assert (parameter("reloads"), parameter("roce_in_force")) == ("1", "N")
    (link,) = shown("ip", "addr", "show", "nic0")
    assert link["mtu"] == 4200
    assert "10.88.0.1" in {address["local"] for address in link["addr_info"]}
    vfs = links.vfs("nic0")
    assert [(one.mac, one.vlan, one.vlan_priority) for one in vfs] == [
        ("02:00:00:00:01:44", 0, 0),
        ("00:00:00:00:00:00", 9, 3),
    ]
    assert [one.driver for one in functions()] == ["stub_nic", "stub_nic"]
    assert run(tmp_path, f"disruption: {{nic: allow}}\n{text}").steps_taken == 0


def test_a_refused_reload_puts_the_values_back(links: RtnlLinks, tmp_path: Path) -> None:
    Path("/sys/module/stub_nic/parameters/refuse_reload").write_text("95")
    text = f'devlink: [{{match: "{PF}", parameters: {{enable_roce: false, max_macs: 64}}}}]\n'
    outcome = run(tmp_path, text)
    assert {str(failure.error) for failure in outcome.failures} == {
        f"reload {PF}: stub_nic: can't reload while the ports are bonded"
    }
    found = links.devlink.read_all([PF])[PF]
    assert [found.parameters[index].values[0][1] for index in (0, 1)] == ["true", "128"]
    assert not found.reload_owed
    with pytest.raises(UnsupportedError, match="must be power of 2"):
        links.devlink.reinitialize(PF, (("enable_roce", "false"), ("max_macs", "65")))
    assert links.devlink.read_all([PF])[PF] == found
