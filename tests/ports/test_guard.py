"""The guard on real interfaces: a veth pair whose other end is the gateway, in a network namespace of its own."""

from __future__ import annotations

import netns

GATEWAY = """
import os
from nodeagent.host.local import open_host
from nodeagent.plan.convergence import converge, goal_of
from nodeagent.plan.executor import Context
from nodeagent.plan.journal import Journal
from nodeagent.plan.observing import Observer
from nodeagent.spec.reader import parse_spec
from sim_node import Told

gateway = subprocess.Popen(["unshare", "--net", "sleep", "100"])
while os.readlink(f"/proc/{gateway.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
    time.sleep(0.01)

def at_gateway(arguments):
    subprocess.run(["nsenter", "-t", str(gateway.pid), "-n", "ip", *arguments.split()], check=True)

ip(f"link set ens2 netns {gateway.pid}")
at_gateway("link set ens2 mtu 9000 up")
at_gateway("address add 10.1.0.254/24 dev ens2")
ip("link set ens1 up")
ip("address add 10.1.0.1/24 dev ens1")
ip("route add default via 10.1.0.254 proto static")

def apply(mtu, upset=""):
    links = f"[{{match: ens1, up: true, mtu: {mtu}}}]"
    text = f"{{version: 1, disruption: {{nic: allow}}, guard: {{seconds: 3}}, links: {links}}}"
    def before(phase, step):
        if upset and str(step).startswith("set mtu") and str(phase) == "act":
            at_gateway(upset)
    told = Told(before=before)
    host = open_host(5)
    try:
        return converge(goal_of(parse_spec(text, "f")), Context(Observer(host), Journal(host.files), told)), told.lines
    finally:
        host.nvml.close()

def is_now():
    with open("/sys/class/net/ens1/mtu") as file:
        mtu = int(file.read())
    routes = subprocess.run(["ip", "route", "show", "default"], check=True, capture_output=True, text=True).stdout
    return mtu, "default via 10.1.0.254 dev ens1" in routes, os.path.exists("/var/lib/nodeagent/probation.json")
"""


def _run(code: str) -> None:
    netns.run(
        GATEWAY
        + "try:\n"
        + "".join(f"    {line}\n" for line in code.splitlines())
        + "finally:\n    gateway.kill()\n    gateway.wait()\n"
    )


def test_a_change_stays_while_the_gateway_answers() -> None:
    _run("""
outcome, lines = apply(9000)
assert not outcome.failures, outcome.failures
assert is_now() == (9000, True, False), is_now()
assert "act wait up to 3 s for carrier, default route and gateway on ens1" in lines, lines
""")


def test_a_gateway_that_vanishes_brings_the_change_back() -> None:
    """It keeps its carrier: that it no longer answers is all that there is to see."""
    _run("""
outcome, lines = apply(9000, "address del 10.1.0.254/24 dev ens2")
assert is_now() == (1500, True, False), is_now()
(failure,) = outcome.failures
assert "gateway 10.1.0.254 were not there again in time; rolled back" in str(failure), failure
assert "undo set mtu of ens1 to 1500 (is 9000)" in lines, lines
at_gateway("address add 10.1.0.254/24 dev ens2")
outcome, lines = apply(9000)
assert (outcome.failures, is_now()) == ((), (9000, True, False)), (outcome.failures, is_now())
""")


def test_a_link_that_is_lost_brings_the_change_back() -> None:
    _run("""
outcome, lines = apply(9000, "link set ens2 down")
assert is_now() == (1500, True, False), is_now()
assert "rolled back" in str(outcome.failures[0]), outcome.failures
""")
