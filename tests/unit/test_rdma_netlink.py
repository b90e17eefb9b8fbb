"""RDMA netlink: the codec on what iproute2 and Linux exchanged, on garbled bytes, and the order of renames."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlink_capture import captured, exchange
from nodeagent.errors import GoneError
from nodeagent.host import rdma_codec as codec
from nodeagent.host.files import LocalFiles
from nodeagent.host.netlink_codec import Message, error_of
from nodeagent.host.rdma_devices import NetlinkRdmaDevices
from nodeagent.host.rdma_netlink import parse_netns_shared
from nodeagent.resources.rdma_names import RenameRdma, in_order, name_steps
from nodeagent.spec.roce import RoceEntry
from nodeagent.state.network import RdmaDevice, RdmaHolder, RdmaObject, RdmaPort
from nodeagent.state.node import NodeState

FILE = "rdma.txt"
HOLDER = 156  # the process that had objects on rxe0 during the capture


def test_a_rename_is_sent_as_iproute2_sends_it() -> None:
    for name, before in (("roce_rail0", "rxe0"), ("rxe0", "roce_rail0")):
        sent, received = exchange(FILE, f"rdma dev set {before} name {name}")
        found = next(one for one in codec.decode_devices(received) if one.name == before)
        assert (sent[-1].kind, sent[-1].body) == (codec.SET, codec.encode_rename(found.index, name))
    _, received = exchange(FILE, "rdma dev set rxe0 name rxe1")
    assert error_of(received[-1])[0] == 17


@pytest.mark.parametrize("name", ["", 64 * "a", 32 * "ä"])
def test_a_name_that_the_kernel_would_cut_is_not_sent(name: str) -> None:
    with pytest.raises(ValueError, match="expected a name"):
        codec.encode_rename(0, name)


@pytest.mark.parametrize(
    ("words", "kind", "pids"),
    [
        ("qp", RdmaObject.QUEUE_PAIR, (HOLDER,)),  # and not the kernel's own one for management datagrams
        ("mr", RdmaObject.MEMORY_REGION, (HOLDER,)),
        ("ctx", RdmaObject.CONTEXT, (HOLDER,)),
        ("cm_id", RdmaObject.CONNECTION, ()),
    ],
)
def test_programs_with_objects_are_found(words: str, kind: RdmaObject, pids: tuple[int, ...]) -> None:
    sent, received = exchange(FILE, f"rdma res show {words}")
    assert (codec.OBJECTS[kind][0], codec.encode_device(0)) in [(one.kind, one.body) for one in sent]
    assert codec.decode_devices(received) == (codec.NamedDevice(0, "rxe0"), codec.NamedDevice(1, "rxe1"))
    assert codec.decode_pids(kind, received) == pids


def test_holders_are_counted_by_program() -> None:
    found = codec.holders({RdmaObject.CONTEXT: (7, 9), RdmaObject.MEMORY_REGION: (9, 9)})
    assert found == (
        RdmaHolder(7, ((RdmaObject.CONTEXT, 1),)),
        RdmaHolder(9, ((RdmaObject.CONTEXT, 1), (RdmaObject.MEMORY_REGION, 2))),
    )
    assert [str(one) for one in found] == ["1 context", "1 context, 2 memory regions"]


def test_the_network_namespace_mode_is_read() -> None:
    _, received = exchange(FILE, "rdma system show")
    assert parse_netns_shared(received) is True


RECEIVED = [message for one in captured(FILE) if not one.sent for message in one.messages]


@given(st.sampled_from(RECEIVED), st.data())
def test_no_bytes_break_the_readers_in_another_way(message: Message, data: st.DataObject) -> None:
    """Cut off, with bytes changed: a reader gives a value or ValueError."""
    garbled = bytearray(message.body[: data.draw(st.integers(0, len(message.body)))])
    for index in data.draw(st.lists(st.integers(0, len(garbled) - 1), max_size=4)) if garbled else ():
        garbled[index] = data.draw(st.integers(0, 255))
    replies = (Message(message.kind, message.flags, 0, bytes(garbled)),)
    with suppress(ValueError):
        codec.decode_devices(replies)
    with suppress(ValueError):
        parse_netns_shared(replies)
    for kind in RdmaObject:
        with suppress(ValueError):
            codec.decode_pids(kind, replies)


@given(st.permutations(["a", "b", "c", "d", "e"]), st.integers(0, 5))
def test_any_exchange_of_names_goes_without_a_collision(names: list[str], count: int) -> None:
    devices = ["a", "b", "c", "d", "e"]
    wanted = {old: new for old, new in zip(devices, names[:count], strict=False) if old != new}
    wanted |= {"a": "z"} if count == 0 else {}
    taken = set(wanted.values()) & set(devices) - set(wanted)
    if taken:
        return
    now = {device: device for device in devices}
    for old, new in in_order(wanted):
        assert new not in now.values()
        (first,) = [device for device, name in now.items() if name == old]
        now[first] = new
    assert now == {device: wanted.get(device, device) for device in devices}


def _state(**netdevs: str) -> NodeState:
    devices = (RdmaDevice(name, "", ports=(RdmaPort(1, "ACTIVE", "Ethernet", one),)) for name, one in netdevs.items())
    return NodeState(rdma={one.name: one for one in devices})


def test_names_are_made_of_what_a_device_has() -> None:
    state = _state(mlx5_0="ens1", mlx5_1="")
    (step,), problems = name_steps({"mlx5_0": RoceEntry("*", name="ib_{netdev}")}, state)
    assert isinstance(step, RenameRdma)
    assert (str(step), problems) == ("rename rdma device mlx5_0 to ib_ens1", ())
    undone = step.undo()
    assert isinstance(undone, RenameRdma)
    assert (undone.subject.name, undone.name) == ("ib_ens1", "mlx5_0")
    for entries, problem in (
        ({"mlx5_1": RoceEntry("*", name="ib_{netdev}")}, "its name cannot be made of `ib_{netdev}`"),
        ({"mlx5_0": RoceEntry("*", name="mlx5_{rail}")}, "its name cannot be made of `mlx5_{rail}`"),
        ({"mlx5_0": RoceEntry("*", name="mlx5_1")}, "its name mlx5_1 would also be that of mlx5_1"),
    ):
        steps, (obstacle,) = name_steps(entries, state)
        assert (steps, obstacle.problem) == ((), problem)
    assert name_steps({"mlx5_0": RoceEntry("*", name="mlx5_0"), "mlx5_1": RoceEntry("*")}, state) == ((), ())


@dataclass
class Arriving:
    """A clock on which waiting lets things happen, one after the other."""

    events: list[Callable[[], object]]
    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.events:
            self.events.pop(0)()


def test_a_device_is_waited_for_until_udev_has_named_it(tmp_path: Path) -> None:
    place, queue = tmp_path / "sys/bus/pci/devices/0000:0c:00.0/infiniband", tmp_path / "run/udev/queue"
    queue.parent.mkdir(parents=True)
    events: list[Callable[[], object]] = [
        queue.touch,
        lambda: (place / "mlx5_0").mkdir(parents=True),
        lambda: (place / "mlx5_0").rename(place / "rail0"),
        queue.unlink,
    ]
    devices = NetlinkRdmaDevices(LocalFiles(str(tmp_path)), Arriving(events))
    assert devices.await_device("0000:0c:00.0") == "rail0"
    clock = Arriving([])
    with pytest.raises(GoneError, match=r"wait for the rdma device of 0000:0d:00\.0: not there 60 s"):
        NetlinkRdmaDevices(LocalFiles(str(tmp_path)), clock).await_device("0000:0d:00.0")
    assert clock.now < 61
