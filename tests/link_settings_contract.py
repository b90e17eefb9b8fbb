"""The part of tests/links_contract.py about settings, addresses, routes, rules and names; a clause as there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from nodeagent.errors import GoneError, HostError, UnsupportedError
from nodeagent.state.addressing import Placed, Route, Rule
from nodeagent.state.link_settings import Group, GroupState, Setting, find

if TYPE_CHECKING:
    from links_contract import Machine

ABSENT, TAKEN, NEW = "none0", "lo", "rail0"
ADDRESS, SECOND, ADDRESS6 = "10.7.0.1/24", "10.7.0.2/24", "fd00:7::1/64"
GATEWAY = "10.7.0.254"
NEIGHBOUR = "10.7.0.9 at 02:00:00:00:00:09"
ROUTES = (
    Route("10.9.0.0/16", GATEWAY),
    Route("0.0.0.0/0", GATEWAY, table=1000, metric=5, source="10.7.0.1"),
    Route("fd09::/32", "fd00:7::2"),
    Route("10.8.0.0/16", table=77),
)
RULES = (Rule("10.7.0.1/32", 1000, 1000), Rule("fd00:7::1/128", 400, 900))


def _group(machine: Machine, group: Group) -> GroupState:
    return machine.links.settings.read_all((group,))[machine.name][group]


def _value(machine: Machine, group: Group, name: str) -> int:
    found = find(_group(machine, group), name)
    assert found is not None
    return found.value


def _placed(machine: Machine) -> Placed:
    return machine.links.addressing.read().on(machine.name)


def numbers_and_switches_are_written_and_read_back(machine: Machine) -> None:
    settings = machine.links.settings
    for group, name, value in (
        (Group.FEATURES, "rx-gro", 1 - _value(machine, Group.FEATURES, "rx-gro")),
        (Group.IPV4, "arp_ignore", 1),
        (Group.DEVICE, "tx_queue_length", 77),
    ):
        assert _value(machine, group, name) != value
        others = [one for one in _group(machine, group) if one.name != name]
        settings.write(machine.name, group, ((name, value),))
        assert _value(machine, group, name) == value
        assert [one for one in _group(machine, group) if one.name != name] == others
    assert machine.files.read(machine.attribute("tx_queue_len")) == "77"


def queues_go_up_to_their_limit_and_no_further(machine: Machine) -> None:
    first: Setting = _group(machine, Group.CHANNELS)[0]
    assert first.most is not None
    machine.links.settings.write(machine.name, Group.CHANNELS, ((first.name, 1),))
    assert _value(machine, Group.CHANNELS, first.name) == 1 < first.most
    machine.links.settings.write(machine.name, Group.CHANNELS, ((first.name, first.most),))
    assert _value(machine, Group.CHANNELS, first.name) == first.most
    with pytest.raises(UnsupportedError, match=f"^set channels of {machine.name}: "):
        machine.links.settings.write(machine.name, Group.CHANNELS, ((first.name, first.most + 1),))
    assert _value(machine, Group.CHANNELS, first.name) == first.most


def one_group_of_one_interface_is_read(machine: Machine) -> None:
    settings = machine.links.settings
    for group in (Group.FEATURES, Group.CHANNELS, Group.IPV4, Group.DEVICE):
        assert settings.read(machine.name, group) == _group(machine, group)
    for group in (Group.FEATURES, Group.CHANNELS):
        with pytest.raises(GoneError):
            settings.read(ABSENT, group)


def what_is_fixed_or_unknown_is_refused(machine: Machine) -> None:
    before = _group(machine, Group.FEATURES)
    fixed = next(one for one in before if one.fixed)
    for name, value in ((fixed.name, 1 - fixed.value), ("no-such-offload", 1)):
        with pytest.raises(UnsupportedError, match=f"^set features of {machine.name}: "):
            machine.links.settings.write(machine.name, Group.FEATURES, ((name, value),))
    assert _group(machine, Group.FEATURES) == before


def settings_of_what_is_not_there_are_gone(machine: Machine) -> None:
    assert ABSENT not in machine.links.settings.read_all(tuple(Group))
    for group, name in ((Group.FEATURES, "rx-gro"), (Group.CHANNELS, "rx"), (Group.IPV4, "arp_ignore")):
        with pytest.raises(GoneError):
            machine.links.settings.write(ABSENT, group, ((name, 1),))
    with pytest.raises(GoneError):
        machine.links.addressing.add_address(ABSENT, ADDRESS)
    with pytest.raises(GoneError):
        machine.links.rename(ABSENT, NEW)


def addresses_come_and_go_one_by_one(machine: Machine) -> None:
    addressing = machine.links.addressing
    machine.links.set_up(machine.name, True)
    for address in (ADDRESS, SECOND, ADDRESS6) * 2:  # what is there already stays
        addressing.add_address(machine.name, address)
    assert set(_placed(machine).addresses) == {ADDRESS, SECOND, ADDRESS6}
    for _ in range(2):  # what is gone already is no error
        addressing.remove_address(machine.name, ADDRESS)
    assert set(_placed(machine).addresses) == {SECOND, ADDRESS6}


def routes_are_marked_as_ours_and_others_are_not(machine: Machine) -> None:
    addressing = machine.links.addressing
    machine.links.set_up(machine.name, True)
    addressing.add_address(machine.name, ADDRESS)
    addressing.add_address(machine.name, ADDRESS6)
    machine.route("10.6.0.0/16 via 10.7.0.253")
    for route in ROUTES * 2:
        addressing.add_route(machine.name, route)
    other = Route("10.6.0.0/16", "10.7.0.253")
    assert _placed(machine).ours == set(ROUTES)
    assert set(_placed(machine).routes) == {*ROUTES, other}
    moved = Route("10.9.0.0/16", "10.7.0.252")
    addressing.add_route(machine.name, moved)  # takes the other's place
    assert _placed(machine).ours == {moved, *ROUTES[1:]}
    for route in (*ROUTES[1:], *ROUTES[1:], moved):
        addressing.remove_route(machine.name, route)
    assert _placed(machine).routes == (other,)


def a_route_needs_the_link_and_its_gateway(machine: Machine) -> None:
    with pytest.raises(HostError, match=f"^add route 10.9.0.0/16 via {GATEWAY} through {machine.name}: "):
        machine.links.addressing.add_route(machine.name, ROUTES[0])
    machine.links.set_up(machine.name, True)
    with pytest.raises(HostError, match=r"network is unreachable|invalid gateway"):
        machine.links.addressing.add_route(machine.name, ROUTES[0])
    assert _placed(machine).routes == ()


def rules_are_there_once(machine: Machine) -> None:
    addressing = machine.links.addressing
    for rule in RULES * 2:
        addressing.add_rule(rule)
    found = addressing.read()
    assert sorted(found.rules) == sorted(RULES)
    assert found.our_rules == set(RULES)
    for rule in RULES * 2:
        addressing.remove_rule(rule)
    assert addressing.read().rules == ()


def what_somebody_set_for_the_interface_is_part_of_its_setup(machine: Machine) -> None:
    machine.links.set_up(machine.name, True)
    machine.links.addressing.add_address(machine.name, ADDRESS)
    machine.links.settings.write(machine.name, Group.IPV4, (("arp_ignore", 2),))
    machine.neighbour(NEIGHBOUR)
    setup = machine.links.setups()[machine.name]
    assert [text for text, _ in setup] == ["ipv4 arp_ignore 2", f"address {ADDRESS}", f"neighbour {NEIGHBOUR}"]
    machine.links.set_up(machine.name, False)  # permanent neighbours go with the state, sysctls stay
    assert [text for text, _ in machine.links.setups()[machine.name]] == ["ipv4 arp_ignore 2", f"address {ADDRESS}"]
    machine.links.settings.write(machine.name, Group.IPV4, (("arp_ignore", 0),))
    machine.links.set_up(machine.name, True)
    machine.links.restore(machine.name, setup)
    assert machine.setup() == tuple(text for text, _ in setup)


def a_new_name_keeps_what_stands_on_it(machine: Machine) -> None:
    machine.links.set_up(machine.name, True)
    machine.links.addressing.add_address(machine.name, ADDRESS)
    machine.links.addressing.add_route(machine.name, ROUTES[0])
    with pytest.raises(HostError, match=f"^rename to {TAKEN} {machine.name}: "):
        machine.links.rename(machine.name, TAKEN)
    before = _placed(machine)
    machine.links.rename(machine.name, NEW)
    assert machine.name not in machine.netdevs()
    assert machine.netdevs()[NEW].up
    assert machine.links.addressing.read().on(NEW) == before


def rings_go_up_to_their_limit_and_no_further_also_while_it_is_up(machine: Machine) -> None:
    settings = machine.links.settings
    for is_up in (False, True):
        machine.links.set_up(machine.name, is_up)
        for name in ("rx", "tx"):
            before = find(settings.read(machine.name, Group.RINGS), name)
            assert before is not None
            assert before.most is not None
            for value in (before.most // 2, before.most):
                settings.write(machine.name, Group.RINGS, ((name, value),))
                assert find(settings.read(machine.name, Group.RINGS), name) == replace(before, value=value)
            with pytest.raises(UnsupportedError, match=f"^set rings of {machine.name}: "):
                settings.write(machine.name, Group.RINGS, ((name, before.most + 8),))
            assert _value(machine, Group.RINGS, name) == before.most
            settings.write(machine.name, Group.RINGS, ((name, before.value),))
    assert machine.netdev.up


def coalescing_is_written_and_the_rest_of_it_stays(machine: Machine) -> None:
    settings = machine.links.settings
    before = settings.read(machine.name, Group.COALESCING)
    settings.write(machine.name, Group.COALESCING, (("rx_usecs", 50),))
    after = settings.read(machine.name, Group.COALESCING)
    assert find(after, "rx_usecs") == Setting("rx_usecs", 50)
    assert [one for one in after if one.name != "rx_usecs"] == [one for one in before if one.name != "rx_usecs"]


def a_group_that_the_driver_lacks_is_empty_and_is_refused(machine: Machine) -> None:
    lacking = [
        group for group in (Group.CHANNELS, Group.PRIVATE_FLAGS) if not machine.links.settings.read(machine.name, group)
    ]
    for group in lacking:
        assert group not in machine.links.settings.read_all((group,)).get(machine.name, {})
        with pytest.raises(UnsupportedError):
            machine.links.settings.write(machine.name, group, (("rx", 1),))


# What takes a real device's driver: veth has neither rings nor coalescing.
OF_A_DRIVER = (
    rings_go_up_to_their_limit_and_no_further_also_while_it_is_up,
    coalescing_is_written_and_the_rest_of_it_stays,
    a_group_that_the_driver_lacks_is_empty_and_is_refused,
    a_new_name_keeps_what_stands_on_it,
)

CLAUSES = (
    numbers_and_switches_are_written_and_read_back,
    queues_go_up_to_their_limit_and_no_further,
    one_group_of_one_interface_is_read,
    what_is_fixed_or_unknown_is_refused,
    settings_of_what_is_not_there_are_gone,
    addresses_come_and_go_one_by_one,
    routes_are_marked_as_ours_and_others_are_not,
    a_route_needs_the_link_and_its_gateway,
    rules_are_there_once,
    what_somebody_set_for_the_interface_is_part_of_its_setup,
    a_new_name_keeps_what_stands_on_it,
)
