"""Addresses, routes and rules of every shape on real interfaces: written by pyroute2, read by our codec, shown by `ip`.

Each test runs in a network namespace of its own.
"""

from __future__ import annotations

from functools import partial

import netns

PROLOGUE = (
    netns.PROLOGUE
    + """
import json, random, threading
from ipaddress import ip_interface, ip_network
from nodeagent.state.addressing import Route, Rule

def shown(arguments):
    text = subprocess.run(["ip", "-j", "-d", *arguments.split()], check=True, capture_output=True, text=True).stdout
    return json.loads(text)

def refused(kind, call, *arguments):
    try:
        call(*arguments)
    except HostError as error:
        assert type(error) is kind, repr(error)
        return str(error)
    raise AssertionError("not refused")

ip("link set ens1 up")
addressing = links.addressing
def placed():
    return addressing.read().on("ens1")
"""
)
_in_namespace = partial(netns.run, prologue=PROLOGUE)


def test_addresses_are_permanent_usable_at_once_and_of_any_prefix() -> None:
    _in_namespace("""
texts = ["10.7.0.1/24", "10.7.0.2/24", "10.8.0.1/32", "10.9.0.1/31", "fd00:7::1/64", "fd00:8::1/128", "fd00:9::/127"]
for text in texts:
    addressing.add_address("ens1", text)
assert sorted(placed().addresses) == sorted(texts), placed()
infos = [one for one in shown("address show dev ens1")[0]["addr_info"] if one["scope"] == "global"]
assert len(infos) == len(texts)
for one in infos:
    assert one["valid_life_time"] == 2**32 - 1 and not one.get("tentative") and not one.get("dynamic"), one
    assert one.get("nodad", False) == (one["family"] == "inet6") and "address" not in one, one
for text in texts:
    addressing.remove_address("ens1", text)
assert placed().addresses == ()
""")


def test_routes_and_rules_of_every_shape_are_read_as_written_and_go_again() -> None:
    _in_namespace("""
GATEWAYS = {4: "10.7.0.254", 6: "fd00:7::fe"}
SOURCES = {4: "10.7.0.1", 6: "fd00:7::1"}
draw = random.Random(7)
for address in ("10.7.0.1/24", "fd00:7::1/64"):
    addressing.add_address("ens1", address)

def network(version):
    if draw.random() < 0.1:
        return {4: "0.0.0.0/0", 6: "::/0"}[version]
    text = f"10.{draw.randrange(20, 200)}.{draw.randrange(256)}.0" if version == 4 else f"fd{draw.randrange(16, 99)}::"
    return str(ip_network((text, draw.choice((24, 28, 32) if version == 4 else (16, 32, 128)))))

def a_route():
    version = draw.choice((4, 6))
    return Route(
        network(version),
        GATEWAYS[version] if draw.random() < 0.7 else "",
        draw.choice((254, 1, 77, 253, 256, 1000, 2**32 - 1)),
        draw.choice((0, 1, 50, 2**32 - 1)),
        SOURCES[version] if draw.random() < 0.5 else "",
    )

routes = {route.place + (":" in route.to,): route for route in (a_route() for _ in range(150))}.values()
TABLES = (1, 77, 254, 256, 2**32 - 1)
rules = {Rule(network(draw.choice((4, 6))), draw.choice(TABLES), priority) for priority in range(9, 40)}
rules = {rule for rule in rules if not rule.source.endswith("/0")}
for _ in range(2):  # what is there already stays
    for route in routes:
        addressing.add_route("ens1", route)
    for rule in rules:
        addressing.add_rule(rule)
assert placed().ours == set(routes), placed().ours ^ set(routes)
found = addressing.read()
assert (set(found.rules), set(found.our_rules)) == (rules, rules)
told = {family: shown(f"-{family} route show table all") for family in (4, 6)}
told = {family: [one for one in found if one.get("protocol") == "110"] for family, found in told.items()}
assert len(told[4]) + len(told[6]) == len(routes)
for family, found in told.items():
    for one in found:
        assert one["type"] == "unicast" and one["dev"] == "ens1" and one["flags"] == [], one
        assert one["scope"] == ("link" if family == 4 and "gateway" not in one else "global"), one
assert len([one for one in shown("rule") + shown("-6 rule") if one.get("protocol") == "110"]) == len(rules)
for _ in range(2):  # what is gone already is no error
    for route in routes:
        addressing.remove_route("ens1", route)
    for rule in rules:
        addressing.remove_rule(rule)
assert (placed().routes, addressing.read().rules) == ((), ())
""")


def test_refusals_name_what_and_why_in_the_kernels_words() -> None:
    _in_namespace("""
text = refused(HostError, addressing.add_route, "ens1", Route("10.9.0.0/16", "10.7.0.254"))
assert text == "add route 10.9.0.0/16 via 10.7.0.254 through ens1: nexthop has invalid gateway", text
text = refused(HostError, addressing.add_address, "ens1", "ff02::5/64")
assert text.startswith("add address ff02::5/64 to ens1: "), text
text = refused(GoneError, addressing.add_route, "none0", Route("10.9.0.0/16"))
assert text == "add route 10.9.0.0/16 through none0: no such interface", text
text = refused(GoneError, addressing.remove_address, "none0", "10.7.0.1/24")
assert text == "remove address 10.7.0.1/24 from none0: no such interface", text
import ctypes
header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process; then no capabilities at all
assert ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()) == 0
for call, arguments in (
    (addressing.add_address, ("ens1", "10.7.0.1/24")),
    (addressing.add_route, ("ens1", Route("10.9.0.0/16"))),
    (addressing.add_rule, (Rule("10.7.0.1/32", 1000, 1000),)),
    (addressing.remove_rule, (Rule("10.7.0.1/32", 1000, 1000),)),
):
    text = refused(DeniedError, call, *arguments)
    assert ": operation not permitted; run as root" in text, text
""")


def test_an_interface_that_comes_and_goes_meanwhile_is_gone_and_nothing_else() -> None:
    _in_namespace("""
done = threading.Event()
def flap():
    while not done.is_set():
        ip("link add ens7 type veth peer name ens8")
        ip("link del ens7")
flapping = threading.Thread(target=flap)
flapping.start()
outcomes = set()
try:
    for number in range(200):
        for call, subject in ((addressing.add_address, "10.77.0.1/24"), (addressing.remove_address, "10.77.0.1/24")):
            try:
                call("ens7", subject)
            except HostError as error:
                outcomes.add(type(error))
finally:
    done.set()
    flapping.join()
assert outcomes == {GoneError}, outcomes
""")


def test_several_threads_write_at_a_time_and_leave_nothing_open() -> None:
    _in_namespace("""
import os
addressing.add_address("ens1", "10.7.0.1/24")
before, failures = len(os.listdir("/proc/self/fd")), []
def work(lane):
    try:
        for number in range(10):
            addressing.add_route("ens1", Route(f"10.{number}.{lane}.0/24", "10.7.0.254", 1000 + lane))
            addressing.add_rule(Rule(f"10.{lane}.0.{number}/32", 1000 + lane, 100 + number))
    except BaseException as error:
        failures.append(error)
lanes = [threading.Thread(target=work, args=(lane,)) for lane in range(8)]
for lane in lanes:
    lane.start()
for lane in lanes:
    lane.join()
assert failures == [], failures
found = addressing.read()
assert (len(found.on("ens1").ours), len(found.our_rules)) == (80, 80)
assert len(os.listdir("/proc/self/fd")) == before
""")
