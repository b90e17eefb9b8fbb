"""RDMA traffic between two processes on a real kernel: two rxe devices at the ends of a veth pair."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.cli import main
from nodeagent.errors import UsageError
from nodeagent.host.kmod import LibKmod
from nodeagent.host.link_facts import read_rdma
from nodeagent.host.local import open_host
from vm.guest import kernel

# Both ends are in one network namespace (rxe listens in the first only), where the kernel would take the short way
# through lo: these rules send what is for the other end over the wire.
WIRE = """\
link set lo up
link add end0 type veth peer name end1
link set end0 mtu 4200 up
link set end1 mtu 4200 up
addr add 10.90.0.1/24 dev end0
addr add 10.90.0.2/24 dev end1
rule add pref 1 iif end0 lookup local
rule add pref 1 iif end1 lookup local
route add 10.90.0.2 dev end0 src 10.90.0.1 table 901
route add 10.90.0.1 dev end1 src 10.90.0.2 table 902
rule add pref 10 to 10.90.0.2 lookup 901
rule add pref 10 to 10.90.0.1 lookup 902
rule add pref 100 lookup local
rule del pref 0
"""
UNDO = ("rule add pref 0 lookup local", "rule del pref 100", "rule del pref 10", "rule del pref 10")
FEW = ("--round-trips", "20", "--writes", "4")


def ip(line: str) -> None:
    subprocess.run(["ip", *line.split()], check=True)


@pytest.fixture
def wire(kmod: LibKmod) -> Iterator[None]:
    """RDMA devices peer0 and peer1 over the two ends."""
    for name in ("rdma_rxe", "veth"):
        for file in kmod.lookup(name):
            if not file.builtin and file.name not in kernel.loaded():
                kmod.load(file.name)
    for line in WIRE.splitlines():
        ip(line)
    for name in ("all", "end0", "end1"):
        Path(f"/proc/sys/net/ipv4/conf/{name}/accept_local").write_text("1")
        Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("0")
    for number in (0, 1):
        subprocess.run(f"rdma link add peer{number} type rxe netdev end{number}".split(), check=True)
    yield
    for number in (0, 1):
        subprocess.run(f"rdma link delete peer{number}".split(), check=True)
    for line in (*UNDO, "rule del pref 1", "rule del pref 1", "link delete end0", "link set lo down"):
        ip(line)


def listener(*words: str) -> subprocess.Popen[str]:
    """The listening side as a process of its own, once it listens."""
    command = [sys.executable, "-m", "nodeagent", "validate", "rdma", "--listen", "127.0.0.1:18516", *words]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 180
    while ":4854 00000000:0000 0A" not in Path("/proc/net/tcp").read_text():  # 18516 in state LISTEN
        assert server.poll() is None, server.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return server


def connect(*words: str) -> subprocess.CompletedProcess[str]:
    """The connecting side, a process too: libibverbs keeps the devices that this one has seen before."""
    command = [sys.executable, "-m", "nodeagent", "validate", "rdma", "--connect", "127.0.0.1:18516", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def sent_packets(device: str) -> int:
    (port,) = read_rdma(open_host(10.0).files)[device].ports
    return dict(port.counters)["sent_pkts"]


@pytest.mark.usefixtures("wire")
def test_two_processes_prove_the_way_between_two_devices() -> None:
    before = sent_packets("peer0"), sent_packets("peer1")
    server = listener("--match", "end1", "-o", "json")
    client = connect("--match", "end0", *FEW, "-o", "json")
    assert client.returncode == 0, client.stderr
    here = json.loads(client.stdout)
    out, error = server.communicate(timeout=180)
    assert server.returncode == 0, error
    there = json.loads(out)
    assert (here["device"], here["gid"][-9:], here["peerGid"][-9:]) == ("peer0", "0a5a:0001", "0a5a:0002")
    assert (there["device"], there["gid"], there["peerGid"]) == ("peer1", here["peerGid"], here["gid"])
    assert (here["roundTrips"], here["pathMtuBytes"], here["doubts"]) == (20, 4096, [])
    assert here["bandwidthBitsPerSecond"] > 0
    assert sent_packets("peer0") > before[0]  # not the short way inside one device
    assert sent_packets("peer1") > before[1]


@pytest.mark.usefixtures("wire")
def test_ends_that_do_not_fit_are_told_on_both_sides() -> None:
    ip("addr add 2001:db8::2/64 dev end1 nodad")
    server = listener("--match", "end1", "--family", "ipv6")
    client = connect("--match", "end0", *FEW)
    assert client.returncode == 1
    assert "the address family is IPv4 here and IPv6 there" in client.stderr
    _, error = server.communicate(timeout=180)
    assert server.returncode == 1
    assert "the address family is IPv6 here and IPv4 there" in error or "it failed" in error


@pytest.mark.usefixtures("wire")
def test_one_port_has_to_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "rdma", "--connect", "127.0.0.1", *FEW]) == UsageError.exit_code
    assert "expected one active port, found peer0 port 1, peer1 port 1" in capsys.readouterr().err
