"""VLANs and bonds of a real kernel come back after the interface below them went away and came anew."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nodeagent.host.files import LocalFiles
from nodeagent.host.link_watch import LinkWatch
from nodeagent.host.links import RtnlLinks
from nodeagent.host.local import open_host
from nodeagent.plan.convergence import converge, goal_of
from nodeagent.plan.executor import Context
from nodeagent.plan.journal import Journal
from nodeagent.plan.observing import Observer
from nodeagent.spec.reader import read_spec
from nodeagent.supervisor.wake import Wake, Waker
from sim_node import Told

FLAPPING = """\
version: 1
links:
- match: ens1
  up: true
  mtu: 9000
  addresses: [10.1.0.1/24, "fd00:1::1/64"]
  routes: [{to: 10.9.0.0/16, via: 10.1.0.254}]
"""


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True)


def _shown(name: str) -> dict[str, Any]:
    command = ["ip", "-j", "-d", "address", "show", "dev", name]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)[0]
    return found


def _addresses(name: str) -> list[str]:
    return [one["local"] for one in _shown(name)["addr_info"] if one["scope"] == "global"]


@pytest.fixture
def links() -> Iterator[RtnlLinks]:
    subprocess.run(["modprobe", "-a", "veth", "8021q", "bonding"], check=True)
    _ip("link add ens1 type veth peer name ens2")
    _ip("link set ens2 up")
    yield RtnlLinks(LocalFiles())
    for name in ("ens1", "bond7"):
        subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)


def _reload(links: RtnlLinks) -> None:
    before = links.setups()["ens1"]
    _ip("link del ens1")
    _ip("link add ens1 type veth peer name ens2")
    _ip("link set ens2 up")
    links.await_link("ens1", "")
    links.set_mtu("ens1", 9000)
    links.set_up("ens1", True)
    links.restore("ens1", before)


def test_a_vlan_with_its_address_comes_back(links: RtnlLinks) -> None:
    _ip("link set ens1 mtu 9000 up")
    _ip("link add link ens1 name ens1.100 address 02:00:00:00:01:00 mtu 8000 type vlan id 100 egress-qos-map 0:3")
    _ip("link set ens1.100 up")
    _ip("address add 10.100.0.1/24 dev ens1.100")
    before = _shown("ens1.100")
    _reload(links)
    after = _shown("ens1.100")
    for key in ("link", "address", "mtu", "linkinfo"):
        assert after[key] == before[key], key
    assert "UP" in after["flags"]
    assert _addresses("ens1.100") == ["10.100.0.1"]


@pytest.mark.usefixtures("links")
def test_a_link_that_flaps_is_right_again_after_one_pass(tmp_path: Path) -> None:
    """The kernel tells of it; a route and an IPv6 address went with the state, the rest stayed."""
    file = tmp_path / "node.yaml"
    file.write_text(FLAPPING)
    host = open_host(10.0)
    context, goal = Context(Observer(host), Journal(host.files), Told()), goal_of(read_spec(str(file)), only=("links",))
    assert converge(goal, context).plan.converged
    assert converge(goal, context).steps_taken == 0
    before = _addresses("ens1"), _shown("ens1")["mtu"], _routes()
    watch = LinkWatch()
    waker = Waker(None, watch)
    assert waker.wait(0) == frozenset()
    _ip("link set ens1 down")
    assert waker.wait(30) == {Wake.LINK}
    outcome = converge(goal, context)
    assert outcome.plan.converged
    assert (_addresses("ens1"), _shown("ens1")["mtu"], _routes()) == before
    assert converge(goal, context).steps_taken == 0
    waker.close()
    watch.close()


def _routes() -> list[str]:
    command = ["ip", "-j", "route", "show", "dev", "ens1", "proto", "110"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return [one["dst"] for one in found]


def test_a_bond_takes_its_member_back(links: RtnlLinks) -> None:
    _ip("link add bond7 type bond mode active-backup")
    _ip("link set ens1 master bond7")
    _ip("link set bond7 up")
    _ip("address add 10.7.0.1/24 dev bond7")
    _reload(links)
    assert _shown("ens1")["master"] == "bond7"
    assert "UP" in _shown("ens1")["flags"]
    assert _addresses("bond7") == ["10.7.0.1"]
