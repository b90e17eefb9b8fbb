"""Links through rtnetlink on real interfaces: each test runs in a network namespace of its own.

Making namespaces needs root, or user namespaces for all; the pair of interfaces is the kernel's veth.
"""

from __future__ import annotations

from functools import partial

import netns

PROLOGUE = """
import subprocess, sys
from nodeagent.errors import *
from nodeagent.host.files import LocalFiles
from nodeagent.host.link_facts import read_netdevs
from nodeagent.host.links import RtnlLinks

def ip(arguments):
    subprocess.run(["ip", *arguments.split()], check=True)

def refused(kind, call, *arguments):
    try:
        call(*arguments)
    except HostError as error:
        assert type(error) is kind, repr(error)
        return str(error)
    raise AssertionError("not refused")

ip("link add ens1 type veth peer name ens2")
files = LocalFiles()
links = RtnlLinks(files)

def netdev(name):
    return read_netdevs(files, links.uses())[name]
"""


_in_namespace = partial(netns.run, prologue=PROLOGUE)


def test_mtu_and_state_are_set_and_read_back() -> None:
    _in_namespace("""
assert (netdev("ens1").mtu, netdev("ens1").up) == (1500, False)
links.set_mtu("ens1", 9000)
links.set_up("ens1", True)
links.set_up("ens2", True)
assert (netdev("ens1").mtu, netdev("ens1").up, netdev("ens1").carrier) == (9000, True, True)
links.set_up("ens1", False)
assert (netdev("ens1").mtu, netdev("ens1").up, netdev("ens1").carrier) == (9000, False, False)
""")


def test_refusals_keep_the_kernels_words() -> None:
    _in_namespace("""
text = refused(UnsupportedError, links.set_mtu, "ens1", 70000)
assert text == "set mtu 70000 on ens1: mtu greater than device maximum", text
text = refused(UnsupportedError, links.set_mtu, "ens1", 10)
assert text == "set mtu 10 on ens1: mtu less than device minimum", text
assert netdev("ens1").mtu == 1500
text = refused(GoneError, links.set_up, "ens9", True)
assert text == "set up ens9: no such interface", text
""")


def test_without_the_capability_it_is_denied() -> None:
    _in_namespace("""
import ctypes
header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process; then no capabilities at all
assert ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()) == 0
text = refused(DeniedError, links.set_mtu, "ens1", 9000)
assert text.startswith("set mtu 9000 on ens1: operation not permitted; run as root"), text
""")


def test_uses_are_read_without_netlink() -> None:
    _in_namespace("""
assert links.uses() == {}
ip("address add 10.0.0.1/24 dev ens1")
ip("address add fd00::7/64 dev ens1 nodad")
ip("link set lo up")
ip("link set ens1 up")
ip("link set ens2 up")
assert netdev("ens1").uses == ("address 10.0.0.1/24", "address fd00::7/64"), netdev("ens1").uses
ip("route add default via 10.0.0.254")
ip("route add 10.9.0.0/16 via 10.0.0.253")
ip("-6 route add default via fd00::1")
assert netdev("ens1").uses == (
    "default route", "address 10.0.0.1/24", "address fd00::7/64", "route 10.9.0.0/16"), netdev("ens1").uses
assert netdev("ens2").uses == (), netdev("ens2").uses
assert "pyroute2" not in sys.modules
""")
