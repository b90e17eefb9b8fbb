"""What ethtool and ip exchanged with a kernel, read by our codecs as the tools printed it; and damaged messages."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netlink_capture import captured, exchange
from nodeagent.host import addressing_codec, ethtool_codec, link_setup_codec, vf_codec
from nodeagent.host.netlink_codec import NLMSG_DONE, NLMSG_ERROR, Message, attributes
from nodeagent.state.addressing import Route, Rule
from nodeagent.state.link_settings import Group, Setting

ETHTOOL, IP = "ethtool.txt", "ip.txt"


def _answers(name: str, command: str) -> tuple[Message, ...]:
    """`ip` sends whole buffers, so that only what it got is looked at."""
    received = (one for one in captured(name) if one.command == command and not one.sent)
    found = (message for one in received for message in one.messages)
    return tuple(one for one in found if one.kind not in (NLMSG_ERROR, NLMSG_DONE))


def _sent(command: str, number: int) -> bytes:
    """The body that ethtool sent for this command of the family, without an attribute for flags that it leaves out."""
    return next(one.body for one in exchange(ETHTOOL, command)[0] if one.body[0] == number)


def test_requests_are_those_of_ethtool() -> None:
    assert _sent("ethtool -g rail0", 3) == ethtool_codec.encode_family()
    assert _sent("ethtool -k rail0", 11) == ethtool_codec.encode_get(Group.FEATURES, "rail0")
    for group, command in ((Group.RINGS, "-g"), (Group.CHANNELS, "-l"), (Group.COALESCING, "-c"), (Group.PAUSE, "-a")):
        ours = ethtool_codec.encode_get(group, "rail0")
        theirs = _sent(f"ethtool {command} rail0", ethtool_codec.LAYOUTS[group].get)
        assert ours[:4] == theirs[:4]
        (_, head), (_, expected) = (*attributes(ours[4:]), *attributes(theirs[4:]))
        assert dict(attributes(head)) == {**dict(attributes(expected)), ethtool_codec.HEADER_FLAGS: bytes(4)}


def test_writes_are_those_of_ethtool() -> None:
    """Ours after the same header, value for value."""
    channels = ethtool_codec.encode_set(Group.CHANNELS, "rail0", (("rx", 1), ("tx", 1)))
    assert channels == _sent("ethtool -L rail0 rx 1 tx 1", 18)
    coalescing = ethtool_codec.encode_set(Group.COALESCING, "rail0", (("rx_usecs", 5),))
    assert coalescing == _sent("ethtool -C rail0 rx-usecs 5", 20)


def test_answers_to_ethtool_are_read_as_it_printed_them() -> None:
    family = next(one for one in _answers(ETHTOOL, "ethtool -g rail0") if one.kind == ethtool_codec.GENL_ID_CTRL)
    assert ethtool_codec.decode_family(family.body) == 21
    (channels,) = _answers(ETHTOOL, "ethtool -l rail0")
    assert ethtool_codec.decode_get(Group.CHANNELS, channels.body) == (
        "rail0",
        (Setting("rx", 1, 2), Setting("tx", 1, 2)),
    )
    answers = _answers(ETHTOOL, "ethtool -k rail0")
    asked = _answers(ETHTOOL, "ethtool -K rail0 tso off")
    strings = next(one for one in asked if one.body[0] == ethtool_codec.STRSET_GET)
    names = ethtool_codec.decode_feature_names(strings.body)
    features = next(one for one in answers if one.body[0] == ethtool_codec.LAYOUTS[Group.FEATURES].get)
    netdev, found = ethtool_codec.decode_get(Group.FEATURES, features.body, names)
    by_name = {one.name: (one.value, one.fixed) for one in found}
    assert netdev == "rail0"
    assert by_name["tx-tcp-segmentation"] == (1, False)
    assert by_name["tx-checksum-ipv4"] == (0, True)
    assert by_name["rx-gro-list"] == (0, False)


def test_answers_to_ip_are_read_as_it_printed_them() -> None:
    names = {2: "rail0p", 3: "rail0"}
    addresses = [one for one in _answers(IP, "ip addr show") if one.kind == link_setup_codec.RTM_NEWADDR]
    assert [found for one in addresses if (found := addressing_codec.decode_address(one.body, names))] == [
        ("rail0", "10.1.0.1/24"),
        ("rail0", "fd00::1/64"),
    ]
    routes = [found for one in _routes() if (found := addressing_codec.decode_route(one.body, names))]
    assert routes == [
        ("rail0", Route("0.0.0.0/0", "10.1.0.254", 101, 0), False),
        ("rail0", Route("10.9.0.0/16", "10.1.0.254", 254, 50), True),
        ("rail0", Route("fd01::/48", "fd00::2", 254, 0), False),
    ]
    rules = [addressing_codec.decode_rule(one.body) for one in _answers(IP, "ip rule show")]
    assert [one for one in rules if one] == [(Rule("10.1.0.1/32", 101, 1000), True)]
    neighbours = [link_setup_codec.neighbour_entry(one.body, names) for one in _answers(IP, "ip neigh show")]
    assert [one[1][0] for one in neighbours if one] == ["neighbour 10.1.0.9 at 02:00:00:00:00:09"]


def _routes() -> tuple[Message, ...]:
    return tuple(one for one in _answers(IP, "ip route show table all") if one.kind == link_setup_codec.RTM_NEWROUTE)


def _everything(body: bytes) -> None:
    """Each decoder of link messages."""
    names = {2: "rail0p", 3: "rail0"}
    message = Message(16, 0, 1, body)
    readers: tuple[Callable[[], object], ...] = (
        lambda: ethtool_codec.decode_family(body),
        lambda: ethtool_codec.decode_feature_names(body),
        *(lambda group=group: ethtool_codec.decode_get(group, body, ("a", "b")) for group in ethtool_codec.LAYOUTS),
        lambda: addressing_codec.decode_address(body, names),
        lambda: addressing_codec.decode_route(body, names),
        lambda: addressing_codec.decode_rule(body),
        lambda: link_setup_codec.address_entry(body, names),
        lambda: tuple(link_setup_codec.route_entries(body, names)),
        lambda: link_setup_codec.neighbour_entry(body, names),
        lambda: link_setup_codec.names_of((message,)),
        lambda: tuple(link_setup_codec.stacked_entries((message,), names)),
        lambda: vf_codec.decode_get(body),
    )
    for read in readers:
        with suppress(ValueError, struct.error):  # what `netlink_errors` makes the agent's error of
            read()


ANSWERS = (one for name in (ETHTOOL, IP) for one in captured(name) if not one.sent)
BODIES = tuple(message.body for one in ANSWERS for message in one.messages if message.body)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(BODIES), st.data())
def test_no_damage_to_a_message_gets_past_the_decoders(body: bytes, data: st.DataObject) -> None:
    """Bytes changed and the end cut off: an answer is read, or refused in one way."""
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(0, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    _everything(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))


@pytest.mark.parametrize("size", range(12))
def test_a_message_without_a_whole_header_is_refused_in_one_way(size: int) -> None:
    _everything(bytes(size))
