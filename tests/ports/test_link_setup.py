"""Addresses, routes, VLANs and bonds through rtnetlink: taken down and brought back on real interfaces.

Each test runs in a network namespace of its own; deleting a veth pair and making it anew stands for a driver's reload.
"""

from __future__ import annotations

from functools import partial

import netns

PROLOGUE = """
import json, subprocess, threading
from nodeagent.errors import *
from nodeagent.host.files import LocalFiles
from nodeagent.host.links import RtnlLinks

def ip(arguments):
    subprocess.run(["ip", *arguments.split()], check=True)

def shown(arguments):
    text = subprocess.run(["ip", "-j", *arguments.split()], check=True, capture_output=True, text=True).stdout
    return json.loads(text)

def addresses(name):
    infos = shown(f"address show dev {name}")[0]["addr_info"]
    return sorted((one["local"], one["prefixlen"]) for one in infos if one["scope"] == "global")

def routes():
    keys = ("dst", "gateway", "dev", "metric", "table", "protocol", "prefsrc", "nexthops", "metrics")
    found = shown("-4 route show table all") + shown("-6 route show table all")
    kept = [{key: one[key] for key in keys if key in one} for one in found if one.get("protocol") == "static"]
    return sorted(kept, key=str)

def pair():
    ip("link add ens1 type veth peer name ens2")
    ip("link set ens2 up")

with open("/proc/sys/net/ipv4/conf/all/forwarding", "w") as file:
    file.write("0")  # a new namespace has it as the machine has
pair()
links = RtnlLinks(LocalFiles())
"""


_in_namespace = partial(netns.run, prologue=PROLOGUE)


RESTORED = """
def reload():
    before = links.setups()["ens1"]
    ip("link del ens1")
    assert "ens1" not in links.setups()
    pair()
    links.await_link("ens1", "")
    links.set_up("ens1", True)
    links.restore("ens1", before)
    links.restore("ens1", before)  # what is there already stays
    return before
"""


def test_addresses_and_routes_come_back() -> None:
    _in_namespace(
        RESTORED
        + """
ip("link set ens1 up")
for address in ("10.1.0.1/24", "10.1.0.2/24", "192.168.7.1/32", "fd00:1::1/64"):
    ip(f"address add {address} dev ens1")
ip("route add 10.9.0.0/16 via 10.1.0.254 metric 50 proto static mtu lock 8000")
ip("route add default via 10.1.0.254 table 1000 src 10.1.0.2 proto static")
ip("route add default via 10.1.0.254 proto static")
ip("-6 route add fd00:9::/48 via fd00:1::fe metric 77 proto static")
were, through = addresses("ens1"), routes()
assert len(were) == 4 and len(through) == 4, (were, through)
before = reload()
assert addresses("ens1") == were, (addresses("ens1"), were)
assert routes() == through, (routes(), through)
texts = [text for text, _ in before]
assert texts[:3] == ["address 10.1.0.1/24", "address 192.168.7.1/32", "address 10.1.0.2/24"], texts
assert "default route via 10.1.0.254" in texts and "route 10.9.0.0/16 via 10.1.0.254" in texts, texts
assert links.setups()["ens1"] == tuple(before) or set(dict(before)) == set(dict(links.setups()["ens1"]))
"""
    )


def test_routes_and_addresses_of_every_kind_come_back_as_they_were() -> None:
    """What pyroute2 would lose is among them: tunnels of IP in IP. A next hop object goes with the interface."""
    _in_namespace(
        RESTORED
        + """
def told():
    everything = shown("-d -4 route show") + shown("-d -6 route show")
    everything += shown("-d address show dev ens1")[0]["addr_info"]
    return sorted(json.dumps(one, sort_keys=True) for one in everything if one.get("protocol") != "kernel"
        and not str(one.get("local", "")).startswith("fe80"))
ip("link set ens1 up")
for words in (
    "10.7.0.1/24",
    "10.7.1.1 peer 10.7.1.2/32 label ens1:x noprefixroute",
    "fd00:7::1/64 nodad",
    "fd00:9::1/64 home nodad metric 77",
):
    ip(f"address add {words} dev ens1")
for words in (
    "10.21.0.0/16 via 10.99.0.9 dev ens1 onlink",
    "10.22.0.0/16 nexthop via 10.7.0.8 dev ens1 weight 3 nexthop via 10.99.0.9 dev ens1 onlink weight 2",
    "10.23.0.0/16 via inet6 fd00:7::9 dev ens1",
    "10.25.0.0/16 via 10.7.0.9 dev ens1 mtu lock 1300 advmss 1200 initcwnd 20",
    "10.26.0.0/16 dev ens1 realm 5",
    "10.27.0.0/16 dev ens1 tos 0x10 proto 186 scope link src 10.7.0.1",
    "10.30.0.0/16 encap ip id 7 dst 10.1.1.1 via 10.7.0.9 dev ens1",
    "fd20::/32 via fd00:7::9 dev ens1 metric 9 pref high",
    "fd21::/32 nexthop via fd00:7::8 dev ens1 nexthop via fd00:7::9 dev ens1 weight 4",
    "fd24::/32 encap ip6 id 7 dst fd00:7::9 via fd00:7::9 dev ens1",
):
    ip(f"route add {words}")
were = told()
assert len(were) == 14, were
reload()
assert told() == were, set(told()) ^ set(were)
ip("nexthop add id 5 via 10.7.0.9 dev ens1")
ip("route add 10.31.0.0/16 nhid 5")
try:
    reload()
    raise AssertionError("not refused")
except HostError as error:
    text = str(error)
assert text.startswith("restore ens1: refused: route 10.31.0.0/16 via 10.7.0.9 ("), text
assert told() == were, set(told()) ^ set(were)
"""
    )


def test_what_is_stacked_on_it_and_what_it_is_part_of_comes_back() -> None:
    _in_namespace(
        """
ip("link add br0 type bridge")
ip("link set ens1 mtu 9000 up")
ip("link add link ens1 name mac0 address 02:00:00:00:01:00 mtu 8000 type macvlan mode bridge")
ip("link set mac0 up")
ip("address add 10.100.0.1/24 dev mac0")
ip("route add 10.101.0.0/16 via 10.100.0.254 proto static")
ip("link add ens3 type veth peer name ens4")
ip("link set ens3 up master br0")
through = routes()
def stacked():
    (found,) = shown("-d link show dev mac0")
    return found["link"], found["address"], found["mtu"], found["linkinfo"]["info_data"]["mode"]
was, before = stacked(), links.setups()
for name in ("ens1", "ens3"):
    ip(f"link del {name}")
pair()
ip("link add ens3 type veth peer name ens4")
for name, mtu in (("ens1", 9000), ("ens3", 1500)):
    links.set_mtu(name, mtu)
    links.set_up(name, True)
    links.restore(name, before[name])
assert stacked() == was == ("ens1", "02:00:00:00:01:00", 8000, "bridge"), stacked()
assert addresses("mac0") == [("10.100.0.1", 24)]
assert routes() == through
assert shown("link show dev ens3")[0]["master"] == "br0"
assert before["ens3"] == (("part of br0", "master br0"),)
"""
    )


def test_a_route_over_two_interfaces_comes_back_with_the_last_of_them() -> None:
    _in_namespace(
        """
ip("link add ens3 type veth peer name ens4")
ip("link set ens4 up")
for name, address in (("ens1", "10.1.0.1/24"), ("ens3", "10.3.0.1/24")):
    ip(f"link set {name} up")
    ip(f"address add {address} dev {name}")
ip("route add 10.9.0.0/16 proto static nexthop via 10.1.0.254 weight 2 nexthop via 10.3.0.254 weight 5")
through, before = routes(), links.setups()
for name in ("ens1", "ens3"):
    ip(f"link del {name}")
ip("link add ens3 type veth peer name ens4")
ip("link set ens4 up")
links.set_up("ens3", True)
links.restore("ens3", before["ens3"])
pair()
links.set_up("ens1", True)
links.restore("ens1", before["ens1"])
assert routes() == through, (routes(), through)
"""
    )


def test_the_name_is_waited_for_and_a_refusal_is_told_after_trying_all() -> None:
    _in_namespace(
        """
ip("link set ens1 up")
ip("address add 10.1.0.1/24 dev ens1")
ip("route add 10.9.0.0/16 via 10.1.0.254 proto static")
before = links.setups()["ens1"]
ip("link del ens1")
ip("link add eth9 type veth peer name ens2")
ip("link set ens2 up")
timer = threading.Timer(0.2, ip, ["link set eth9 name ens1"])
timer.start()
links.await_link("ens1", "")
timer.join()
try:
    links.restore("ens1", before)  # it is down, so that the route is refused
    raise AssertionError("not refused")
except HostError as error:
    text = str(error)
assert text.startswith("restore ens1: refused: route 10.9.0.0/16 via 10.1.0.254 ("), text
assert addresses("ens1") == [("10.1.0.1", 24)]
"""
    )


def test_neighbours_and_sysctls_come_back_and_rules_never_go() -> None:
    _in_namespace(
        RESTORED
        + """
ip("link set ens1 up")
ip("address add 10.1.0.1/24 dev ens1")
ip("-6 address add fd00:1::1/64 dev ens1 nodad")
ip("neighbour add 10.1.0.9 lladdr 02:00:00:00:00:09 dev ens1 nud permanent")
ip("-6 neighbour add fd00:1::9 lladdr 02:00:00:00:00:09 dev ens1 router nud permanent")
ip("neighbour add 10.1.0.8 lladdr 02:00:00:00:00:08 dev ens1 nud stale")
ip("neighbour add 10.1.0.7 lladdr 02:00:00:00:00:07 dev ens1 nud permanent extern_learn")
def sysctl(name, value=None):
    path = f"/proc/sys/net/{name}"
    if value is not None:
        with open(path, "w") as file:
            file.write(value)
    with open(path) as file:
        return file.read().strip()
SET = {"ipv4/conf/ens1/arp_ignore": "1", "ipv4/conf/ens1/forwarding": "1", "ipv6/conf/ens1/accept_ra": "0",
       "ipv6/conf/ens1/addr_gen_mode": "1"}
sysctl("ipv4/ip_forward", "0")  # it has what the machine has, where containers may have set it
for name, value in SET.items():
    sysctl(name, value)
ip("rule add from 10.1.0.1 table 1000 priority 900")
ip("rule add iif ens1 table 1001 priority 901")
ip("-6 rule add from fd00:1::1 table 1000 priority 902")
def permanent():
    found = shown("neighbour show dev ens1 nud permanent")
    return sorted((one["dst"], one["lladdr"], "router" in one) for one in found if "extern_learn" not in one)
def rules():
    return shown("rule show") + shown("-6 rule show")
were, by = permanent(), rules()
assert were == [("10.1.0.9", "02:00:00:00:00:09", False), ("fd00:1::9", "02:00:00:00:00:09", True)], were
before = reload()
texts = {text for text, _ in before}
assert {"neighbour 10.1.0.9 at 02:00:00:00:00:09", "ipv4 arp_ignore 1", "ipv4 forwarding 1"} <= texts, texts
assert not any("10.1.0.8" in text or "10.1.0.7" in text for text in texts), texts
assert permanent() == were, permanent()
assert {name: sysctl(name) for name in SET} == SET
assert rules() == by, rules()
assert not [one for one in rules() if "detached" in str(one)], rules()
assert not [text for text, _ in links.setups().get("lo", ())], links.setups()
"""
    )
