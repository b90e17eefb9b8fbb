"""VLANs and bonds of a real kernel come back after the interface below them went away and came anew."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from nodeagent.host.files import LocalFiles
from nodeagent.host.links import RtnlLinks


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


def test_a_bond_takes_its_member_back(links: RtnlLinks) -> None:
    _ip("link add bond7 type bond mode active-backup")
    _ip("link set ens1 master bond7")
    _ip("link set bond7 up")
    _ip("address add 10.7.0.1/24 dev bond7")
    _reload(links)
    assert _shown("ens1")["master"] == "bond7"
    assert "UP" in _shown("ens1")["flags"]
    assert _addresses("bond7") == ["10.7.0.1"]
