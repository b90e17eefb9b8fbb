"""RoCE on a real kernel: rxe over a dummy interface, its GIDs, rdma_cm's defaults, traffic with the chosen index."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nodeagent.cli import main
from nodeagent.errors import BusyError, GoneError, UnsupportedError
from nodeagent.host.cuda import CudaLaunch, CudaProcesses
from nodeagent.host.files import LocalFiles
from nodeagent.host.gid_facts import read_gids
from nodeagent.host.kmod import LibKmod
from nodeagent.host.limit_facts import read_memory_locks
from nodeagent.host.link_facts import read_netdevs, read_rdma
from nodeagent.host.links import RtnlLinks
from nodeagent.host.local import open_host
from nodeagent.host.rdma_netlink import get_netns_shared, read_netns_shared
from nodeagent.host.verbs import Verbs
from nodeagent.plan.adopting import adopt_node
from nodeagent.plan.convergence import converge, goal_of
from nodeagent.plan.executor import Context
from nodeagent.plan.journal import Journal
from nodeagent.plan.observing import Observer
from nodeagent.resources.gid_selection import choose_gid
from nodeagent.resources.rdma_access import findings
from nodeagent.resources.rdma_proof import doubts, path_mtu
from nodeagent.simulation.cuda import DEVICES, stub_path
from nodeagent.spec.reader import read_spec
from nodeagent.state.gids import ROCE_V1, ROCE_V2, Family
from nodeagent.state.processes import Service
from nodeagent.state.proofs import Trial, Work
from nodeagent.state.verbs import Effort, Endpoint
from sim_node import Told, text_of
from vm.guest import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCKABLE = 65536
FEW = Effort(round_trips=20, writes=4, deadline_seconds=60.0)


HOLDER = """
import sys
from pyverbs import device, enums, mr, pd
context = device.Context(name="rxe0")
domain = pd.PD(context)
region = mr.MR(domain, 4096, enums.IBV_ACCESS_LOCAL_WRITE)
print("ready", flush=True)
sys.stdin.read()
"""


def run(*commands: str) -> None:
    for command in commands:
        subprocess.run(command.split(), check=True)


@pytest.fixture
def rail(kmod: LibKmod) -> Iterator[str]:
    """An RDMA device rxe0 over dummy interface rail0 with an IPv4 address and a VLAN with its own."""
    for name in ("rdma_rxe", "dummy", "8021q", "rdma_ucm"):
        for file in kmod.lookup(name):
            if not file.builtin and file.name not in kernel.loaded():
                kmod.load(file.name)
    run(
        "mount -t configfs configfs /sys/kernel/config",
        "ip link add rail0 type dummy",
        "ip link set rail0 mtu 4200 up",
        "rdma link add rxe0 type rxe netdev rail0",
        "ip addr add 10.77.0.1/24 dev rail0",
        "ip link add link rail0 name rail0.9 type vlan id 9",
        "ip link set rail0.9 up",
        "ip addr add 10.79.0.1/24 dev rail0.9",
    )
    yield "rxe0"
    run("rdma link delete rxe0", "ip link delete rail0.9", "ip link delete rail0", "umount /sys/kernel/config")


def test_a_node_that_others_set_up_is_adopted_as_it_is(rail: str) -> None:
    observer = Observer(open_host(2.0))
    try:
        found = adopt_node(observer)
    finally:
        observer.host.nvml.close()
    assert not found.differences
    assert "rdma_rxe" in found.document["modules"]["rdma"]["drivers"]
    assert {"match": "rail0", "up": True, "mtu": 4200} in found.document["links"]
    assert found.document["roce"]["devices"] == [{"match": "rdma:*", "mode": "v2", "tos": 0}]


def test_traffic_goes_by_the_gid_that_is_chosen_and_by_what_it_says(rail: str) -> None:
    files = LocalFiles()
    gids = read_gids(files, rail, 1)
    chosen, on_vlan = choose_gid(gids, "rail0"), choose_gid(gids, "rail0.9")
    assert chosen.gid is not None
    assert on_vlan.gid is not None
    assert (chosen.gid.text, chosen.gid.kind, chosen.gid.netdev) == ("10.77.0.1", ROCE_V2, "rail0")
    assert (on_vlan.gid.text, on_vlan.gid.netdev) == ("10.79.0.1", "rail0.9")
    assert choose_gid(gids, "rail0", Family.IPV6).gid is None  # link-local only
    result = Verbs().ping_pong(Endpoint(rail, 1, chosen.gid.index), FEW)
    assert (result.round_trips, result.active_mtu_bytes) == (20, path_mtu(4200))
    assert result.bandwidth_bps > 0
    assert list(doubts(result, chosen.gid, read_netdevs(files, {})["rail0"])) == []
    run("ip addr del 10.77.0.1/24 dev rail0", "ip addr add 10.78.0.1/24 dev rail0")
    again = choose_gid(read_gids(files, rail, 1), "rail0")
    assert again.gid is not None
    assert again.gid.text == "10.78.0.1"
    assert Verbs().ping_pong(Endpoint(rail, 1, again.gid.index), FEW).gid.endswith("ffff:0a4e:0001")


def test_memory_of_a_gpu_is_written_and_read_by_the_nic(rail: str) -> None:
    """The stub's memory is the host's, which the NIC takes by its address; DMA-BUF the stub does not have."""
    gpu = "GPU-11111111-2222-3333-4444-555555555555"
    launch = CudaLaunch(str(stub_path()), {DEVICES: f"{gpu}|Tester|{1 << 30}"})
    cuda = CudaProcesses(lambda: launch)
    chosen = choose_gid(read_gids(LocalFiles(), rail, 1), "rail0")
    assert chosen.gid is not None
    result = cuda.attempt(Trial(Work.RDMA, (gpu,), rail, 1, chosen.gid.index), 200.0)
    assert (result.facts["route"], result.simulated) == ("peer memory", True)
    assert result.figures["bits_per_second"] > 0
    with pytest.raises(GoneError, match="no data available"):
        cuda.attempt(Trial(Work.RDMA, (gpu,), rail, 1, chosen.gid.index + 9), 200.0)


def test_an_empty_slot_carries_no_traffic(rail: str) -> None:
    empty = max(gid.index for gid in read_gids(LocalFiles(), rail, 1)) + 5
    with pytest.raises(GoneError, match=r"rxe0 port 1: .*: no data available; the GID's slot is empty now"):
        Verbs().ping_pong(Endpoint(rail, 1, empty), FEW)


def test_defaults_of_rdma_cm_are_set_read_back_and_leave_no_reference(rail: str) -> None:
    files = LocalFiles()
    links, references = RtnlLinks(files), kernel.references("rdma_cm")
    (port,) = read_rdma(files, with_roce=True)[rail].ports
    assert (port.roce_mode, port.roce_tos, port.traffic_class) == (ROCE_V2, 0, None)
    links.set_roce_tos(rail, 1, 106)
    (port,) = read_rdma(files, with_roce=True)[rail].ports
    assert (port.roce_mode, port.roce_tos) == (ROCE_V2, 106)
    with pytest.raises(UnsupportedError):  # rxe does RoCE v2 only
        links.set_roce_mode(rail, 1, ROCE_V1)
    with pytest.raises(GoneError, match="there must be an RDMA device rail0"):  # a netdev is no RDMA device
        links.set_roce_tos("rail0", 1, 106)
    with pytest.raises(GoneError):  # OFED's drivers only
        links.set_traffic_class(rail, 1, 106)
    assert kernel.references("rdma_cm") == references
    assert os.listdir("/sys/kernel/config/rdma_cm") == []
    os.mkdir("/sys/kernel/config/rdma_cm/rxe0")
    try:
        assert kernel.references("rdma_cm") > references  # why the directory must not stay
        links.set_roce_tos(rail, 1, 0)
        assert os.listdir("/sys/kernel/config/rdma_cm") == ["rxe0"]  # somebody else's stays
    finally:
        os.rmdir("/sys/kernel/config/rdma_cm/rxe0")


def test_network_namespace_mode(rail: str) -> None:
    assert rail
    files, links = LocalFiles(), RtnlLinks(LocalFiles())
    assert read_netns_shared(files) is get_netns_shared() is True
    run("ip netns add other")
    try:
        with pytest.raises(BusyError):
            links.set_rdma_netns_shared(False)
    finally:
        run("ip netns delete other")
    assert read_netns_shared(files) is True


def test_a_device_gets_the_name_that_the_node_file_wants(rail: str, tmp_path: Path) -> None:
    """The defaults of rdma_cm follow the device, and a program that has it open is named and held up for."""
    file = tmp_path / "node.yaml"
    wish = "version: 1\nroce: {devices: [{match: rail0, name: 'roce_{netdev}', tos: 106}]}\n"
    file.write_text(wish)
    host = open_host(10.0)
    links = RtnlLinks(host.files)
    context = Context(Observer(host), Journal(host.files), Told())
    goal = goal_of(read_spec(str(file)), only=("roce",))
    holder = subprocess.Popen(["/usr/bin/python3", "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        (found,) = links.rdma.holders()[rail]
        assert (found.pid, str(found)) == (holder.pid, "1 context, 1 memory region")
        assert f"process {holder.pid}" in text_of(converge(goal, context).plan)
    finally:
        holder.communicate()
    assert links.rdma.holders() == {rail: ()}
    try:
        outcome = converge(goal, context)
        assert outcome.plan.converged, text_of(outcome.plan)
        (device,) = read_rdma(host.files, with_roce=True).values()
        assert (device.name, device.ports[0].roce_tos) == ("roce_rail0", 106)
        assert converge(goal, context).steps_taken == 0
        with pytest.raises(GoneError, match="no such rdma device"):
            links.rdma.rename(rail, "other")
    finally:
        run("rdma dev set roce_rail0 name rxe0")


@pytest.mark.usefixtures("rail")
def test_nodes_that_are_closed_and_memory_that_may_not_be_locked_are_told_and_nodes_are_opened(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text("version: 1\nroce: {user_access: true}\n")
    host = open_host(10.0)
    node = "/dev/infiniband/uverbs0"
    os.chmod(node, 0o600)
    job = subprocess.Popen(["prlimit", f"--memlock={LOCKABLE}", "sleep", "60"])
    try:
        services = (Service("slurmd.service", active=True, pids=(job.pid,)),)
        until = time.monotonic() + 30
        while (locks := read_memory_locks(host.files, services)) and locks[0].soft_bytes != LOCKABLE:
            assert time.monotonic() < until, locks  # prlimit has to get there first
            time.sleep(0.1)
        told = {one.subject: one.problem for one in findings(Observer(host).observe(()), locks)}
    finally:
        job.kill()
        job.wait()
    assert told == {
        node: "only some users may use it (mode 0600)",
        "slurmd.service": f"its jobs may lock 64 KiB of memory (process {job.pid})",
    }
    context = Context(Observer(host), Journal(host.files), Told())
    outcome = converge(goal_of(read_spec(str(file)), only=("roce",)), context)
    assert outcome.plan.converged, text_of(outcome.plan)
    assert os.stat(node).st_mode & 0o777 == 0o666
    assert not list(findings(Observer(host).observe(()), ()))


def test_the_commands_on_a_real_port(rail: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["validate", "rdma", "-m", "rail0", "--round-trips", "10", "--writes", "2", "-o", "json"]
    assert main(words) == 0
    (proven,) = json.loads(capsys.readouterr().out)["ports"]
    assert (proven["device"], proven["ok"], proven["pathMtuBytes"], proven["doubts"]) == (rail, True, 4096, [])
    assert main(["roce", "nccl-env", "-m", "rdma:rxe0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "export NCCL_IB_HCA='=rxe0:1'" in lines
    assert f"export NCCL_IB_GID_INDEX='{proven['gidIndex']}'" in lines
