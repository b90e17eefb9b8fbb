"""What network interfaces must do on every kernel: the same assertions run on the simulated and on a real one.

One function is one clause; it gets a fresh machine. To extend it: a function, and its name in CONTRACT.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from link_settings_contract import CLAUSES
from nodeagent.errors import GoneError, HostError, UnsupportedError
from nodeagent.host.link_facts import read_netdevs
from nodeagent.host.ports import Files, Links
from nodeagent.state.network import Netdev

ABSENT = "none0"
LONGER_THAN_A_NAME = "an-interface-of-20-x"  # IFNAMSIZ is 16 with the final zero
TOO_MUCH, TOO_LITTLE = 70_000, 10
ADDRESS, ADDRESS6, ROUTE = "10.7.0.1/24", "fd00:7::1/64", "10.9.0.0/16 via 10.7.0.254"


@dataclass(frozen=True)
class Machine:
    """A machine by its ports, and one Ethernet interface on it: down, MTU 1500, without addresses, with a peer.

    `address`, `route` (DESTINATION via GATEWAY) and `neighbour` (ADDRESS at MAC, permanent) are what somebody else
    gives it; `unplug` takes it away.
    """

    links: Links
    files: Files
    name: str
    address: Callable[[str], None]
    route: Callable[[str], None]
    neighbour: Callable[[str], None]
    unplug: Callable[[], None]

    def netdevs(self) -> dict[str, Netdev]:
        return dict(read_netdevs(self.files, self.links.uses()))

    @property
    def netdev(self) -> Netdev:
        return self.netdevs()[self.name]

    def attribute(self, name: str) -> str:
        return f"/sys/class/net/{self.name}/{name}"

    def setup(self) -> tuple[str, ...]:
        return tuple(text for text, _ in self.links.setups().get(self.name, ()))


def an_interface_is_listed_as_it_is(machine: Machine) -> None:
    found = machine.netdev
    assert (found.name, found.mtu, found.up, found.carrier, found.uses) == (machine.name, 1500, False, False, ())
    assert len(bytes.fromhex(found.mac.replace(":", ""))) == 6
    assert machine.setup() == ()


def loopback_is_an_interface_too(machine: Machine) -> None:
    found = machine.netdevs()["lo"]
    assert (found.mtu, found.mac, found.pci_address) == (65536, "00:00:00:00:00:00", "")


def it_goes_up_and_down(machine: Machine) -> None:
    machine.links.set_up(machine.name, True)
    assert (machine.netdev.up, machine.netdev.carrier) == (True, True)
    machine.links.set_up(machine.name, False)
    assert (machine.netdev.up, machine.netdev.carrier) == (False, False)


def setting_what_is_so_already_is_no_error(machine: Machine) -> None:
    for _ in range(2):
        machine.links.set_up(machine.name, True)
        machine.links.set_mtu(machine.name, 1500)
    for _ in range(2):
        machine.links.set_up(machine.name, False)
    assert (machine.netdev.up, machine.netdev.mtu) == (False, 1500)


def the_mtu_is_set_whether_it_is_up_or_down(machine: Machine) -> None:
    machine.links.set_mtu(machine.name, 9000)
    assert (machine.netdev.mtu, machine.netdev.up) == (9000, False)
    machine.links.set_up(machine.name, True)
    machine.links.set_mtu(machine.name, 4200)
    assert (machine.netdev.mtu, machine.netdev.up) == (4200, True)


def an_mtu_out_of_range_is_refused_in_the_kernels_words(machine: Machine) -> None:
    with pytest.raises(UnsupportedError) as caught:
        machine.links.set_mtu(machine.name, TOO_MUCH)
    assert str(caught.value) == f"set mtu {TOO_MUCH} on {machine.name}: mtu greater than device maximum"
    with pytest.raises(UnsupportedError) as caught:
        machine.links.set_mtu(machine.name, TOO_LITTLE)
    assert str(caught.value) == f"set mtu {TOO_LITTLE} on {machine.name}: mtu less than device minimum"
    assert machine.netdev.mtu == 1500


def sysfs_takes_and_refuses_the_same(machine: Machine) -> None:
    machine.files.write(machine.attribute("mtu"), "9000")
    assert machine.netdev.mtu == 9000
    machine.files.write(machine.attribute("flags"), "0x1003")
    assert machine.netdev.up
    for text in (str(TOO_MUCH), str(TOO_LITTLE), "many"):
        with pytest.raises(UnsupportedError, match=f"^write {machine.attribute('mtu')}: invalid argument"):
            machine.files.write(machine.attribute("mtu"), text)
    assert machine.netdev.mtu == 9000


def carrier_and_speed_have_no_value_while_it_is_down(machine: Machine) -> None:
    for name in ("carrier", "speed"):
        assert machine.files.read_optional(machine.attribute(name)) is None
        with pytest.raises(UnsupportedError, match="invalid argument"):
            machine.files.read(machine.attribute(name))
    machine.links.set_up(machine.name, True)
    assert machine.files.read(machine.attribute("carrier")) == "1"


def what_is_not_there_is_gone(machine: Machine) -> None:
    before = machine.netdevs()
    for name in (ABSENT, LONGER_THAN_A_NAME):
        with pytest.raises(GoneError) as caught:
            machine.links.set_up(name, True)
        assert str(caught.value) == f"set up {name}: no such interface"
        with pytest.raises(GoneError) as caught:
            machine.links.set_mtu(name, 9000)
        assert str(caught.value) == f"set mtu 9000 on {name}: no such interface"
    with pytest.raises(GoneError):
        machine.links.vfs(ABSENT)
    assert machine.links.dcb.read_all([ABSENT]) == {}
    assert machine.netdevs() == before


def an_interface_that_vanishes_is_gone_with_all_that_stood_on_it(machine: Machine) -> None:
    machine.links.set_up(machine.name, True)
    machine.address(ADDRESS)
    stood = machine.links.setups()[machine.name]
    machine.unplug()
    assert machine.name not in machine.netdevs()
    assert machine.name not in machine.links.uses()
    assert machine.name not in machine.links.setups()
    with pytest.raises(GoneError):
        machine.links.set_mtu(machine.name, 9000)
    with pytest.raises(GoneError, match="no such interface"):
        machine.links.restore(machine.name, stood)


def addresses_and_routes_are_uses_of_a_link_that_is_up(machine: Machine) -> None:
    machine.links.set_up(machine.name, True)
    machine.address(ADDRESS)
    machine.address(ADDRESS6)
    machine.route(ROUTE)
    assert set(machine.netdev.uses) == {f"address {ADDRESS}", f"address {ADDRESS6}", "route 10.9.0.0/16"}
    assert set(machine.setup()) == {f"address {ADDRESS}", f"address {ADDRESS6}", f"route {ROUTE}"}


def a_default_route_is_a_use(machine: Machine) -> None:
    machine.links.set_up(machine.name, True)
    machine.address(ADDRESS)
    machine.route("default via 10.7.0.254")
    assert machine.netdev.uses[0] == "default route"
    assert any(text.startswith("default route") for text in machine.setup())


def going_down_loses_routes_and_ipv6_addresses_but_not_ipv4_ones(machine: Machine) -> None:
    addresses_and_routes_are_uses_of_a_link_that_is_up(machine)
    machine.links.set_up(machine.name, False)
    assert machine.setup() == (f"address {ADDRESS}",)
    assert machine.netdev.uses == ()  # nobody is reached through a link that is down: taking it disturbs nothing
    machine.links.set_up(machine.name, True)
    assert machine.netdev.uses == (f"address {ADDRESS}",)


def what_stood_on_it_can_be_brought_back(machine: Machine) -> None:
    addresses_and_routes_are_uses_of_a_link_that_is_up(machine)
    before, uses = machine.links.setups()[machine.name], machine.netdev.uses
    machine.links.set_up(machine.name, False)
    machine.links.set_up(machine.name, True)
    for _ in range(2):  # what is there already stays
        machine.links.restore(machine.name, before)
        assert set(machine.setup()) == {text for text, _ in before}
    assert set(machine.netdev.uses) == set(uses)


def what_cannot_be_brought_back_is_named_and_the_rest_is_back(machine: Machine) -> None:
    addresses_and_routes_are_uses_of_a_link_that_is_up(machine)
    before = machine.links.setups()[machine.name]
    machine.links.set_up(machine.name, False)
    routes_first = sorted(before, key=lambda entry: not entry[0].startswith("route"))
    with pytest.raises(HostError) as caught:
        machine.links.restore(machine.name, tuple(routes_first))
    assert str(caught.value).startswith(f"restore {machine.name}: refused: route {ROUTE} (")
    assert str(caught.value).endswith("); everything else is back")
    assert set(machine.setup()) == {f"address {ADDRESS}", f"address {ADDRESS6}"}


def a_card_without_virtual_functions_has_none_and_takes_none(machine: Machine) -> None:
    assert machine.links.vfs(machine.name) == ()


CONTRACT: tuple[Callable[[Machine], None], ...] = (
    an_interface_is_listed_as_it_is,
    loopback_is_an_interface_too,
    it_goes_up_and_down,
    setting_what_is_so_already_is_no_error,
    the_mtu_is_set_whether_it_is_up_or_down,
    an_mtu_out_of_range_is_refused_in_the_kernels_words,
    sysfs_takes_and_refuses_the_same,
    carrier_and_speed_have_no_value_while_it_is_down,
    what_is_not_there_is_gone,
    an_interface_that_vanishes_is_gone_with_all_that_stood_on_it,
    addresses_and_routes_are_uses_of_a_link_that_is_up,
    a_default_route_is_a_use,
    going_down_loses_routes_and_ipv6_addresses_but_not_ipv4_ones,
    what_stood_on_it_can_be_brought_back,
    what_cannot_be_brought_back_is_named_and_the_rest_is_back,
    a_card_without_virtual_functions_has_none_and_takes_none,
    *CLAUSES,
)
