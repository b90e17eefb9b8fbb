"""A stock driver of a real device (QEMU's e1000e card): rings, coalescing, names, and a reload that loses nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from link_settings_contract import OF_A_DRIVER
from links_contract import Machine
from nodeagent.host.files import LocalFiles
from nodeagent.host.links import RtnlLinks
from nodeagent.host.local import open_host
from nodeagent.plan.convergence import Outcome, converge, goal_of
from nodeagent.plan.executor import Context
from nodeagent.plan.journal import Journal
from nodeagent.plan.observing import Observer
from nodeagent.spec.reader import parse_spec
from nodeagent.state.link_settings import Group, find
from sim_node import Told, text_of

DRIVER, NAME = "e1000e", "ens7"


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True)


def _present() -> str:
    (found,) = Path(f"/sys/bus/pci/drivers/{DRIVER}").glob("*/net/*")
    return found.name


@pytest.fixture
def card() -> Iterator[Machine]:
    """The driver fresh, its interface down and under a name of ours, which no udev gives here."""
    subprocess.run(["/sbin/modprobe", DRIVER], check=True)
    links, files = RtnlLinks(LocalFiles()), LocalFiles()
    links.set_up(_present(), False)
    if _present() != NAME:
        links.rename(_present(), NAME)
    yield Machine(
        links=links,
        files=files,
        name=NAME,
        address=lambda text: _ip(f"address add {text} dev {NAME}"),
        route=lambda text: _ip(f"route add {text} dev {NAME} proto static"),
        neighbour=lambda text: _ip(f"neighbour replace {text.replace(' at ', ' lladdr ')} dev {NAME} nud permanent"),
        unplug=lambda: None,
    )
    subprocess.run(["/sbin/modprobe", "-r", DRIVER], check=True)


def _apply(value: int) -> tuple[Outcome, Told]:
    """The driver with this value of a parameter, for which it must be loaded anew."""
    named = f"{{{DRIVER}: {{parameters: {{SmartPowerDownEnable: {value}}}}}}}"
    text = f"{{version: 1, disruption: {{nic: allow}}, modules: {{named: {named}}}}}"
    host, told = open_host(10), Told()
    outcome = converge(goal_of(parse_spec(text, "f")), Context(Observer(host), Journal(host.files), told))
    host.nvml.close()
    return outcome, told


@pytest.mark.parametrize("clause", OF_A_DRIVER, ids=lambda clause: clause.__name__)
def test_contract(card: Machine, clause: Callable[[Machine], None]) -> None:
    clause(card)


def test_what_others_set_comes_back_after_a_reload_of_the_driver(card: Machine) -> None:
    """The kernel calls the interface eth0 again; a thread gives it its name, as udev does elsewhere."""
    links = card.links
    links.rename(NAME, "old0")
    subprocess.run(["/sbin/modprobe", "-r", DRIVER], check=True)
    _apply(1)  # loaded by the agent, which then knows the parameters that cannot be read back
    links.rename(_present(), NAME)
    for group, values in (
        (Group.RINGS, (("rx", 512), ("tx", 1024))),
        (Group.COALESCING, (("rx_usecs", 50),)),
        (Group.FEATURES, (("rx-gro", 0),)),
        (Group.DEVICE, (("tx_queue_length", 777),)),
        (Group.IPV4, (("arp_ignore", 1),)),
    ):
        links.settings.write(NAME, group, values)
    links.set_mtu(NAME, 4000)
    links.set_up(NAME, True)
    card.address("10.7.0.1/24")
    card.neighbour("10.7.0.9 at 02:00:00:00:00:09")
    before = card.setup()
    assert "neighbour 10.7.0.9 at 02:00:00:00:00:09" in before
    groups = (Group.RINGS, Group.COALESCING, Group.FEATURES, Group.DEVICE)
    settings = {group: links.settings.read(NAME, group) for group in groups}
    loaded_at = Path(f"/sys/module/{DRIVER}").stat().st_ino
    namer = subprocess.Popen(["sh", "-c", NAMER])
    outcome, told = _apply(0)
    namer.kill()
    namer.wait()
    assert not outcome.failures, [str(one) for one in outcome.failures]
    assert outcome.plan.converged, text_of(outcome.plan)
    assert any(line.startswith(f"restore restore {NAME}: mtu 4000, up, settings") for line in told.lines), told.lines
    assert Path(f"/sys/module/{DRIVER}").stat().st_ino != loaded_at
    assert {group: links.settings.read(NAME, group) for group in groups} == settings
    rings = links.settings.read(NAME, Group.RINGS)
    assert [one.value for name in ("rx", "tx") if (one := find(rings, name))] == [512, 1024]
    assert (card.netdev.mtu, card.netdev.up) == (4000, True)
    assert card.setup() == before


# Once the interface is gone, wait for the new one and name it.
NAMER = f"""
while [ -e /sys/class/net/{NAME} ]; do sleep 0.05; done
while ! [ -e /sys/class/net/{NAME} ]; do
    for found in /sys/bus/pci/drivers/{DRIVER}/*/net/*; do
        [ -e "$found" ] && ip link set "${{found##*/}}" name {NAME}
    done
    sleep 0.1
done
"""
