"""A real NIC's driver with SR-IOV on a stock kernel: igb on QEMU's 82576, its virtual functions, a peer on the wire."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from link_settings_contract import (
    coalescing_is_written_and_the_rest_of_it_stays,
    rings_go_up_to_their_limit_and_no_further_also_while_it_is_up,
)
from links_contract import Machine
from nodeagent.errors import BusyError, UnsupportedError
from nodeagent.host.files import LocalFiles
from nodeagent.host.kmod import LibKmod
from nodeagent.host.links import RtnlLinks
from nodeagent.host.pci_facts import read_pci
from nodeagent.host.pcie_control import write_setting
from nodeagent.host.topology_facts import read_topology
from nodeagent.plan.journal import Phase
from nodeagent.resources.base import Step
from nodeagent.state.topology import PcieSetting
from sim_node import Told, text_of
from vm.guest.card import functions, load, run, shown
from vm.guest.monitor import monitor

PF, NAME = "0000:01:00.0", "eth0"
VFS = tuple(f"0000:01:10.{number}" for number in (0, 2, 4, 6))
MACS = tuple(f"02:00:00:00:01:0{index}" for index in range(4))
PEER, PEER_VLAN = "10.9.0.9", "10.9.7.9"
UP = f'{{match: {NAME}, up: true, addresses: ["10.9.0.1/24"]}}'
SETTINGS = "trust: true, spoofchk: false, max_rate_mbps: 100"
# Two functions of one slot without ACS, both with driver virtio-pci.
PAIR = ("0000:00:1d.0", "0000:00:1d.1")
# What test_nic_driver.py does with another driver, as far as it depends on that.
CLAUSES = (
    coalescing_is_written_and_the_rest_of_it_stays,
    rings_go_up_to_their_limit_and_no_further_also_while_it_is_up,
)
SECONDS = 20
LEAVE_OUT = "leave it out where the driver of the card does not offer it"


def sh(text: str) -> str:
    return subprocess.run(["sh", "-ec", text], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def links(kmod: LibKmod) -> RtnlLinks:
    """The card as its driver leaves it, and at the other end of the wire a node with an address and VLAN 7."""
    for name in ("igb", "igbvf", "e1000e", "8021q"):
        load(kmod, name)
    return RtnlLinks(LocalFiles())


@pytest.fixture
def peer(links: RtnlLinks) -> Iterator[RtnlLinks]:
    (name,) = os.listdir("/sys/bus/pci/drivers/e1000e/0000:00:1e.0/net")
    sh(f"""ip netns add peer; ip link set {name} netns peer name peer0
        ip -n peer link set peer0 up; ip -n peer address add {PEER}/24 dev peer0
        ip -n peer link add link peer0 name peer0.7 type vlan id 7; ip -n peer link set peer0.7 up
        ip -n peer address add {PEER_VLAN}/24 dev peer0.7""")
    yield links
    for namespace in ("guest", "peer"):
        subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


def sriov(text: str) -> str:
    return f'sriov: [{{match: "{PF}", {text}}}]\n'


def shown_vfs() -> list[dict[str, Any]]:
    (link,) = shown("ip", "-d", "link", "show", NAME)
    return list(link.get("vfinfo_list", ()))


def netdev_of(address: str) -> str:
    (name,) = os.listdir(f"/sys/bus/pci/devices/{address}/net")
    return name


def answers(address: str, inside: str = "") -> bool:
    command = ["ip", "netns", "exec", inside] if inside else []
    command += ["busybox", "ping", "-q", "-c1", f"-w{SECONDS}", address]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def until(is_so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SECONDS
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.1)
    return is_so()


def has_carrier(name: str = NAME) -> bool:
    return Path(f"/sys/class/net/{name}/carrier").read_text().strip() == "1"


def acts(told: Told) -> list[str]:
    return [line.removeprefix("act ") for line in told.lines if line.startswith("act ")]


def said_by_the_driver() -> list[str]:
    return re.findall(r"(?m)^.*\bigb(?:vf)? .*$", sh("dmesg"))


@pytest.mark.usefixtures("peer")
def test_functions_are_made_in_one_pass_and_carry_traffic(tmp_path: Path) -> None:
    text = f"links: [{UP}]\n{sriov(f'vfs: 4, vlan: 7, {SETTINGS}, macs: {json.dumps(MACS)}')}"
    outcome = run(tmp_path, text)
    assert outcome.failures == ()
    assert outcome.plan.converged, text_of(outcome.plan)
    vfs = shown_vfs()
    assert [one["address"] for one in vfs] == list(MACS)
    assert [(one["trust"], one["spoofchk"], one["vlan_list"], one["rate"]["max_tx"]) for one in vfs] == [
        (True, False, [{"vlan": 7}], 100)
    ] * 4
    # Its driver takes the address over when it is bound: the order was right.
    assert {one["address"] for one in shown("ip", "link") if one["ifname"] != NAME} >= set(MACS)
    before = said_by_the_driver()
    assert run(tmp_path, text).steps_taken == 0
    assert said_by_the_driver() == before
    sh(f"""ip netns add guest; ip link set {netdev_of(VFS[0])} netns guest name vf0
        ip -n guest link set vf0 up; ip -n guest address add 10.9.7.1/24 dev vf0""")
    assert answers(PEER)
    assert answers(PEER_VLAN, "guest")  # the card puts it into its VLAN


@pytest.mark.usefixtures("peer")
def test_what_the_driver_refuses_is_told_and_the_rest_is_done(tmp_path: Path) -> None:
    """igb has no link state of virtual functions, and no rate while its link is down; the kernel says `auto` and 0."""
    other = "{match: lo, tx_queue_length: 77}"
    outcome = run(tmp_path, f"links: [{UP}, {other}]\n{sriov('vfs: 2, link_state: enable')}")
    assert {str(failure.error) for failure in outcome.failures} == {
        f"set link state of virtual function 0 on {NAME}: operation not supported; {LEAVE_OUT}"
    }
    assert answers(PEER)
    assert Path("/sys/class/net/lo/tx_queue_len").read_text() == "77\n"
    down = f"disruption: {{nic: allow}}\nlinks: [{{match: {NAME}, up: false, mtu: 4000}}]\n"
    outcome = run(tmp_path, f"{down}{sriov('vfs: 2, max_rate_mbps: 50')}")
    assert "drivers take it while the link is up, and up to its speed" in str(outcome.failures)
    assert Path(f"/sys/class/net/{NAME}/mtu").read_text() == "4000\n"
    assert len(functions()) == 2
    outcome = run(tmp_path, sriov("vfs: 8"))
    assert "it can have 7 virtual functions, 8 are wanted" in text_of(outcome.plan)


@pytest.mark.usefixtures("links")
def test_functions_go_to_vfio_and_back(tmp_path: Path, kmod: LibKmod) -> None:
    load(kmod, "vfio_pci")
    outcome = run(tmp_path, f"links: [{{match: {NAME}, up: true}}]\n{sriov('vfs: 2, driver: vfio-pci')}")
    assert outcome.plan.converged, text_of(outcome.plan)
    found = functions()
    assert [one.driver for one in found] == ["vfio-pci"] * 2
    assert len({one.iommu_group for one in found}) == 2
    group = os.open(f"/dev/vfio/{found[0].iommu_group}", os.O_RDWR)
    try:
        for wish in ("vfs: 2, driver: default", "vfs: 0"):
            plan = text_of(run(tmp_path, sriov(wish)).plan)
            assert f"{os.getpid()}" in plan
            assert f"through VFIO (group {found[0].iommu_group})" in plan
        assert [one.driver for one in functions()] == ["vfio-pci"] * 2
    finally:
        os.close(group)
    assert run(tmp_path, sriov("vfs: 2, driver: default")).plan.converged
    assert [(one.driver, one.driver_override) for one in functions()] == [("igbvf", "")] * 2


def test_a_group_goes_to_a_virtual_machine_as_a_whole(links: RtnlLinks, kmod: LibKmod) -> None:
    load(kmod, "vfio_pci")
    groups = [os.path.basename(os.readlink(f"/sys/bus/pci/devices/{address}/iommu_group")) for address in PAIR]
    assert groups[0] == groups[1]
    reason = rf"function {PAIR[0]} of the same IOMMU group {groups[0]} is driven by virtio-pci"
    with pytest.raises(BusyError, match=reason):
        links.functions.set_driver(PAIR[1], "vfio-pci")
    assert [os.path.basename(os.readlink(f"/sys/bus/pci/devices/{address}/driver")) for address in PAIR] == [
        "virtio-pci"
    ] * 2


@pytest.mark.usefixtures("links")
def test_from_four_to_two_to_none_when_nobody_stands_on_them(tmp_path: Path) -> None:
    assert run(tmp_path, f"links: [{UP}]\n{sriov('vfs: 4')}").plan.converged
    held = netdev_of(VFS[3])
    sh(f"ip link set {held} up; ip address add 10.44.0.1/24 dev {held}")
    plan = text_of(run(tmp_path, sriov("vfs: 2")).plan)
    assert f"address 10.44.0.1/24 on {held}" in plan, plan
    assert len(functions()) == 4
    sh(f"ip address flush dev {held}")
    for wish, steps in (("2", ["remove 4", "make 2"]), ("0", ["remove 2"])):
        told = Told()
        assert run(tmp_path, sriov(f"vfs: {wish}"), told).plan.converged
        assert [" ".join(line.split()[:2]) for line in acts(told)] == steps
        assert len(functions()) == int(wish)
    (link,) = shown("ip", "address", "show", NAME)
    assert "10.9.0.1" in {one["local"] for one in link["addr_info"]}


@pytest.mark.usefixtures("peer")
def test_a_reload_of_the_driver_loses_nothing(tmp_path: Path, kmod: LibKmod) -> None:
    """A bond over the card with an address and a VLAN, its functions with their settings, an address on one of them."""
    only = ("modules", "links", "sriov")
    wish = "modules: {named: {igb: {parameters: {debug: LEVEL}}}}\ndisruption: {nic: allow}\n"
    load(kmod, "bonding")
    sh("modprobe -r igb")
    run(tmp_path, wish.replace("LEVEL", "0"), only=only)  # the agent then knows what cannot be read back
    sh(f"""ip link add bond7 type bond mode active-backup miimon 100; ip link set {NAME} master bond7
        ip link set bond7 up; ip address add 10.9.0.1/24 dev bond7
        ip link add link bond7 name bond7.7 type vlan id 7; ip link set bond7.7 up
        ip address add 10.9.7.1/24 dev bond7.7""")
    assert until(has_carrier)
    assert run(tmp_path, sriov(f"vfs: 2, vlan: 5, {SETTINGS}, macs: {json.dumps(MACS[:2])}")).plan.converged
    sh(f"ip link set {netdev_of(VFS[1])} name rail1; ip link set rail1 up; ip address add 10.44.0.1/24 dev rail1")
    before = shown_vfs()
    told = Told()
    namer = subprocess.Popen(["sh", "-c", NAMER])
    try:
        outcome = run(tmp_path, wish.replace("LEVEL", "1"), told, only=only)
        assert outcome.failures == (), told.lines
        assert outcome.plan.converged, text_of(outcome.plan)
        assert "act load module igb with debug=1" in told.lines, told.lines
        assert shown_vfs() == before
        assert shown("ip", "link", "show", NAME)[0]["master"] == "bond7"
        (virtual,) = shown("ip", "address", "show", "rail1")
        assert "10.44.0.1" in {one["local"] for one in virtual["addr_info"]}
        assert virtual["address"] == MACS[1]
        assert answers(PEER)
        assert answers(PEER_VLAN)
    finally:
        namer.kill()
        namer.wait()
        sh("ip link del bond7")


# As udev names interfaces by their function.
NAMER = f"""
while [ -e /sys/class/net/rail1 ]; do sleep 0.1; done
while ! [ -e /sys/class/net/rail1 ]; do
    for found in /sys/bus/pci/devices/{VFS[1]}/net/*; do
        [ -e "$found" ] && ip link set "${{found##*/}}" name rail1
    done
    sleep 0.2
done
"""


@pytest.mark.usefixtures("peer")
def test_the_guard_waits_for_a_link_that_restarts_and_takes_back_what_cuts_it(tmp_path: Path, kmod: LibKmod) -> None:
    """Other queues restart the link of this driver; the second time its cable is pulled, as if the switch refused."""
    load(kmod, "virtio_console")
    assert run(tmp_path, f"links: [{UP}]\n").plan.converged
    sh(f"ip route add default via {PEER} proto static")
    assert answers(PEER)
    wish = "disruption: {nic: allow}\nguard: {seconds: 8}\n"
    wish += f"links: [{{match: {NAME}, channels: {{combined: NUMBER}}}}]\n"
    told = Told()
    outcome = run(tmp_path, wish.replace("NUMBER", "2"), told)
    assert outcome.failures == (), told.lines
    assert f"wait up to 8 s for carrier, default route and gateway on {NAME}" in acts(told)
    assert "Combined: 2" in _current("-l")
    with monitor() as opened:

        def pull(phase: Phase, step: Step) -> None:
            if phase is Phase.ACT and str(step).startswith("set channels"):
                opened.set_link("card", False)

        outcome = run(tmp_path, wish.replace("NUMBER", "1"), Told(before=pull))
        opened.set_link("card", True)
    assert "rolled back" in str(outcome.failures)
    assert "Combined: 2" in _current("-l")
    assert answers(PEER)
    assert shown("ip", "route", "show", "default")[0]["gateway"] == PEER


@pytest.mark.usefixtures("peer")
def test_a_flap_of_the_link_loses_nothing_or_is_repaired_in_one_pass(tmp_path: Path, kmod: LibKmod) -> None:
    load(kmod, "virtio_console")
    addresses = 'addresses: ["10.9.0.1/24", "fd09::1/64"], routes: [{to: 10.50.0.0/16, via: 10.9.0.9}]'
    text = f"links: [{{match: {NAME}, up: true, {addresses}}}]\n{sriov('vfs: 1, max_rate_mbps: 100')}"
    assert run(tmp_path, text).plan.converged
    with monitor() as opened:
        opened.set_link("card", False)
        assert until(lambda: not has_carrier())
        assert run(tmp_path, text).steps_taken == 0  # nothing that the agent could do about a cable
        opened.set_link("card", True)
        assert until(has_carrier)
        assert run(tmp_path, text).steps_taken == 0
        assert answers(PEER)
        assert shown_vfs()[0]["rate"]["max_tx"] == 100
        # As programs do that watch the carrier: IPv6 addresses and routes are lost with the state.
        opened.set_link("card", False)
        assert until(lambda: not has_carrier())
        sh(f"ip link set {NAME} down")
        opened.set_link("card", True)
    told = Told()
    assert run(tmp_path, text, told).plan.converged
    assert [line.split(" to ")[0].split(" via ")[0] for line in acts(told)] == [
        "set eth0 up",
        "add address fd09::1/64",
        "add route 10.50.0.0/16",
    ], told.lines
    assert run(tmp_path, text).steps_taken == 0
    assert answers(PEER)


def _current(option: str) -> str:
    """What ethtool prints of the interface, without limits, blanks made one."""
    return re.sub(r"[ \t]+", " ", sh(f"ethtool {option} {NAME}").rpartition("Current hardware settings:")[2])


@pytest.mark.usefixtures("links")
def test_settings_are_those_that_ethtool_shows(tmp_path: Path) -> None:
    text = (
        f"links: [{{match: {NAME}, up: true, rings: {{rx: 500, tx: 1024}}, channels: {{combined: 2}}, "
        "coalescing: {rx_usecs: 50}, pause: {autoneg: false, rx: false, tx: false}, private_flags: {legacy-rx: true}, "
        "features: {gro: false, rxvlan: false, tso: false}, tx_queue_length: 777}]\n"
    )
    outcome = run(tmp_path, text)
    assert outcome.failures == ()
    assert outcome.plan.converged, text_of(outcome.plan)
    for option, expected in (
        ("-g", ("RX: 504", "TX: 1024")),  # igb rounds up to a multiple of 8
        ("-l", ("Combined: 2",)),
        ("-c", ("rx-usecs: 50",)),
        ("-a", ("Autonegotiate: off", "RX: off", "TX: off")),
        ("--show-priv-flags", ("legacy-rx: on",)),
        ("-k", ("generic-receive-offload: off", "rx-vlan-offload: off", "tcp-segmentation-offload: off")),
    ):
        lines = [line.strip() for line in _current(option).splitlines()]
        assert set(expected) <= set(lines), lines
    assert run(tmp_path, text).steps_taken == 0


@pytest.mark.usefixtures("links")
def test_settings_that_the_driver_refuses_are_named(tmp_path: Path) -> None:
    load_vf = sriov("vfs: 1")
    assert run(tmp_path, f"links: [{{match: {NAME}, up: true}}]\n{load_vf}").plan.converged
    other = f"{{match: {netdev_of(VFS[0])}, tx_queue_length: 77}}"
    for wish, told in (
        ("coalescing: {rx_usecs: 8}", "the driver refuses rx_usecs 8: invalid argument"),  # it has 0, 1, 3 and from 10
        ("pause: {rx: false, tx: false}", "taken, but rx is 1 and not 0, tx is 1 and not 0; .* autoneg: false"),
    ):
        outcome = run(tmp_path, f"links: [{{match: {NAME}, {wish}}}, {other}]\n")
        (failure,) = {str(failure.error) for failure in outcome.failures}
        assert re.search(told, failure), failure
        assert Path(f"/sys/class/net/{netdev_of(VFS[0])}/tx_queue_len").read_text() == "77\n"


@pytest.mark.parametrize("clause", CLAUSES, ids=lambda clause: clause.__name__)
def test_contract(links: RtnlLinks, clause: Callable[[Machine], None]) -> None:
    def ip(arguments: str) -> None:
        sh(f"ip {arguments}")

    clause(
        Machine(
            links=links,
            files=LocalFiles(),
            name=NAME,
            address=lambda text: ip(f"address add {text} dev {NAME}"),
            route=lambda text: ip(f"route add {text} dev {NAME} proto static"),
            neighbour=lambda text: ip(f"neighbour replace {text.replace(' at ', ' lladdr ')} dev {NAME} nud permanent"),
            unplug=lambda: None,
        )
    )


@pytest.mark.usefixtures("links")
def test_the_link_of_the_card_is_read_as_the_kernel_reads_it() -> None:
    files = LocalFiles()
    devices = Path("/sys/bus/pci/devices")
    card = read_pci(files)[PF]
    nodes = read_topology(files, (card,)).nodes
    node = nodes[PF]
    assert node.link is not None
    assert node.config is not None
    assert (node.link.speed_gts, node.link.width) == (2.5, 1)
    told = {name: (devices / PF / name).read_text().strip() for name in ("current_link_speed", "current_link_width")}
    assert told == {"current_link_speed": "2.5 GT/s PCIe", "current_link_width": "1"}
    assert (node.config.ids, node.config.max_payload_bytes, node.config.max_read_request_bytes) == (
        "8086:10c9",
        128,
        128,
    )
    with pytest.raises(
        UnsupportedError, match="reads back as 128 after 4096 was written"
    ):  # of QEMU's cards none takes it
        write_setting(files, PF, PcieSetting.MAX_READ_REQUEST, 4096)
