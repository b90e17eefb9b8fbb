"""Events of real interfaces wake the loop, and one pass puts a link right; each test in namespaces of its own."""

from __future__ import annotations

import netns

WATCH = """
from nodeagent.host.link_watch import LinkWatch
watch = LinkWatch()
assert watch.degraded == ""
def up():
    states = subprocess.run(["cat", "/sys/class/net/ens1/operstate", "/sys/class/net/ens2/operstate"],
                            check=True, capture_output=True).stdout
    return states.split() == [b"up", b"up"]
"""


def test_what_changes_is_told_once_and_what_does_not_matter_is_not() -> None:
    netns.run(
        WATCH
        + """
from nodeagent.state.addressing import Route
assert watch.drain() == ()
ip("link set ens1 up")
until = time.monotonic() + 60
while not up() and time.monotonic() < until:  # the kernel tells of a carrier in its own time
    time.sleep(0.05)
time.sleep(0.2)
assert set(watch.drain()) == {"link ens1", "link ens2"}
ip("link set ens1 mtu 9000")
assert watch.drain() == ("link ens1",)
ip("link set ens1 txqueuelen 77")
assert watch.drain() == ()
ip("address add 10.1.0.1/24 dev ens1")
assert watch.drain() == ("address 10.1.0.1/24",)
ip("route add 10.9.0.0/16 via 10.1.0.2 proto static")
ip("route del 10.9.0.0/16")
assert watch.drain() == ()  # not ours
links.addressing.add_route("ens1", Route("10.9.0.0/16", "10.1.0.2"))
assert watch.drain() == ()
ip("route del 10.9.0.0/16")
assert watch.drain() == ("route",)
ip("rule add from 10.1.0.1 table 7")
ip("rule del from 10.1.0.1 table 7")
assert watch.drain() == ("rule",)
ip("link del ens1")
assert {"link ens1", "link ens2"} <= set(watch.drain())
watch.close()
assert watch.descriptor is None and watch.drain() == ()
"""
    )


def test_lost_events_are_told_so_that_the_node_is_looked_at() -> None:
    netns.run(
        """
from nodeagent.host.link_watch import LinkWatch
watch = LinkWatch(buffer_bytes=4096)
for number in range(64):
    ip(f"link set ens1 mtu {2000 + number}")
assert "overrun" in watch.drain()
assert watch.drain() == ()
ip("link set ens1 mtu 1500")
assert watch.drain() == ("link ens1",)  # it goes on
watch.close()
"""
    )


AGENT = """
from nodeagent.host.link_watch import LinkWatch
from nodeagent.host.local import open_host
from nodeagent.plan.convergence import converge, goal_of
from nodeagent.plan.executor import Context
from nodeagent.plan.journal import Journal
from nodeagent.plan.observing import Observer
from nodeagent.spec.reader import read_spec
from nodeagent.supervisor.wake import Wake, Waker
from sim_node import Told

FILE = "/run/node.yaml"
with open(FILE, "w") as file:
    file.write('''version: 1
links:
- match: ens1
  up: true
  mtu: 9000
  addresses: [10.1.0.1/24, "fd00:1::1/64"]
  routes: [{to: 10.9.0.0/16, via: 10.1.0.254}, {to: default, via: "fd00:1::fe", table: "100"}]
  rules: [{source: 10.1.0.1, table: "100"}]
  ipv4: {arp_ignore: 1}
  features: {gro: true}
  channels: {rx: 2}
''')
host = open_host(1.0)
observer = Observer(host)

def agree():
    told = Told()
    outcome = converge(goal_of(read_spec(FILE)), Context(observer, Journal(host.files), told))
    assert outcome.plan.converged and not outcome.failures, (outcome.plan, told.lines)
    return told.lines

def seen():
    shown = [subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True).stdout
             for words in ("-o address show dev ens1 scope global", "-4 route show proto 110 table all",
                           "-6 route show proto 110 table all", "rule show")]
    changing = ("linkdown", "3:", "4:", "5:", "6:")
    return [" ".join(word for word in text.split() if word not in changing) for text in shown]

assert len(agree()) == 10
assert agree() == []
before = seen()
"""


def test_a_link_that_flaps_is_right_again_after_one_pass() -> None:
    netns.run(
        AGENT
        + """
watch = LinkWatch()
waker = Waker(None, watch)
assert waker.wait(0) == frozenset()
ip("link set ens1 down")
assert waker.wait(60) == {Wake.LINK}
lines = agree()
assert seen() == before, (seen(), before)
assert "act set ens1 up" in lines and "act add address fd00:1::1/64 to ens1" in lines, lines
assert agree() == []
watch.close()
waker.close()
"""
    )


def test_an_interface_that_comes_anew_gets_everything_in_one_pass() -> None:
    netns.run(
        AGENT
        + """
ip("link del ens1")
ip("link add ens1 type veth peer name ens2")
ip("link set ens2 up")
agree()
assert seen() == before, (seen(), before)
"""
    )
