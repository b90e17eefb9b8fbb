"""The DCB codec on what iproute2's dcb sent and the kernel answered, and on whatever else may come."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.host import dcb_codec as codec
from nodeagent.host.dcb import dscp_changes
from nodeagent.host.dcb_codec import Command
from nodeagent.host.netlink_codec import attribute, attributes, error_of, message, messages
from nodeagent.state.qos import AppEntry, DcbState, Ets, Pfc, PortBuffer, Trust

NIC = "dcb0"
ROWS = [
    line.split(" | ")
    for line in (Path(__file__).parents[1] / "data/dcb/iproute2.txt").read_text().splitlines()
    if not line.startswith("#")
]
EIGHT = st.lists(st.integers(0, 255), min_size=8, max_size=8).map(tuple)
WIDE = st.lists(st.integers(0, 2**32 - 1), min_size=8, max_size=8).map(tuple)


def _body(command: str, direction: str, kind: int) -> bytes:
    """The last captured message of this command, direction and type, without the netlink header."""
    data = [bytes.fromhex(row[2]) for row in ROWS if row[0].startswith(command) and row[1] == direction]
    found = [one.body for datagram in data for one in messages(datagram) if one.kind == kind]
    return found[-1]


def _before(command: str) -> DcbState:
    return codec.decode_get(_body(command, "received", codec.RTM_GETDCB))


def test_the_kernels_answer_is_read() -> None:
    found = _before("pfc")
    assert found == DcbState(
        dcbx=0x09,
        pfc=Pfc((), 8, 0, 7),
        ets=Ets((0,) * 8, (255,) * 8, (1, 0, 2, 3, 4, 5, 6, 7)),
        max_rate_kbit=(0,) * 8,
        buffer=PortBuffer((0,) * 8, (262016, *(0,) * 7), 524160),
    )
    assert found.pfc is not None
    assert (found.pfc.requests[3], found.pfc.indications[3]) == (1000, 2000)
    assert found.trust is Trust.PCP
    after = _before("maxrate")
    assert after.pfc is not None
    assert after.pfc.enabled == (3,)
    assert after.app == (AppEntry(5, 26, 3),)
    assert (after.dscp, after.trust) == (((26, 3),), Trust.DSCP)


def test_requests_are_those_of_iproute2() -> None:
    assert codec.encode_get(NIC) == _body("pfc", "sent", codec.RTM_GETDCB)
    pfc, ets = _before("pfc").pfc, _before("ets").ets
    assert pfc is not None
    assert ets is not None
    assert codec.encode_pfc(NIC, replace(pfc, enabled=(3,))) == _body("pfc", "sent", codec.RTM_SETDCB)
    shared = {"bandwidth": (50, 0, 0, 50, 0, 0, 0, 0), "algorithms": (2, 2, 2, 2, 2, 2, 0, 2)}
    wanted = replace(ets, class_of=(0, 1, 2, 3, 4, 5, 6, 7), **shared)
    assert codec.encode_ets(NIC, wanted) == _body("ets", "sent", codec.RTM_SETDCB)
    rows = (AppEntry(5, 26, 3), AppEntry(5, 48, 6))
    assert codec.encode_app(NIC, rows) == _body("app add", "sent", codec.RTM_SETDCB)
    assert codec.encode_app(NIC, rows[1:], delete=True) == _body("app del", "sent", codec.RTM_SETDCB)
    assert codec.encode_dcbx(NIC, 0x09) == _body("dcbx set dev dcb0 host", "sent", codec.RTM_SETDCB)
    buffers = PortBuffer((0, 0, 0, 1, 0, 0, 0, 0), (98304, 163840, 0, 0, 0, 0, 0, 0), 524160)
    assert codec.encode_buffer(NIC, buffers) == _body("buffer", "sent", codec.RTM_SETDCB)
    # dcb means bytes per second where the kernel's header says kilobits, so 1gbit is 125 000 000 here.
    rates = (0, 0, 0, 125_000_000, 0, 0, 0, 0)
    assert codec.encode_max_rate(NIC, rates) == _body("maxrate", "sent", codec.RTM_SETDCB)


def test_a_refusal_is_in_the_answer_and_not_in_the_acknowledgement() -> None:
    refused = _body("dcbx set dev dcb0 ieee", "received", codec.RTM_SETDCB)
    assert codec.decode_status(refused, Command.SET_DCBX) == 1
    taken = _body("dcbx set dev dcb0 host", "received", codec.RTM_SETDCB)
    assert codec.decode_status(taken, Command.SET_DCBX) == 0
    head = taken[:4]
    assert codec.decode_status(head + attribute(13, b"\xea"), Command.IEEE_SET) == 22
    assert codec.decode_status(head + attribute(13, b"\xef"), Command.IEEE_DEL) == 17
    with pytest.raises(ValueError, match="without a status"):
        codec.decode_status(head, Command.IEEE_SET)


@given(EIGHT, EIGHT, EIGHT, st.booleans())
def test_ets_comes_back(bandwidth: tuple[int, ...], kinds: tuple[int, ...], classes: tuple[int, ...], w: bool) -> None:
    ets = Ets(bandwidth, kinds, classes, willing=w, receive_bandwidth=bandwidth, recommended=(kinds, classes, kinds))
    assert codec.decode_get(codec.encode_ets(NIC, ets)).ets == ets


@given(st.sets(st.integers(0, 7)), st.integers(0, 65535), WIDE)
def test_pfc_comes_back(enabled: set[int], delay: int, counters: tuple[int, ...]) -> None:
    pfc = Pfc(tuple(sorted(enabled)), 8, 1, delay, counters, counters)
    found = codec.decode_get(codec.encode_pfc(NIC, pfc)).pfc
    assert found is not None
    assert (found, found.requests, found.indications) == (pfc, counters, counters)


@given(WIDE, EIGHT, st.integers(0, 2**32 - 1))
def test_rates_and_buffers_come_back(wide: tuple[int, ...], eight: tuple[int, ...], total: int) -> None:
    assert codec.decode_get(codec.encode_max_rate(NIC, wide)).max_rate_kbit == wide
    buffer = PortBuffer(eight, wide, total)
    assert codec.decode_get(codec.encode_buffer(NIC, buffer)).buffer == buffer


@given(st.sets(st.builds(AppEntry, st.integers(0, 255), st.integers(0, 65535), st.integers(0, 7))))
def test_app_rows_come_back(rows: set[AppEntry]) -> None:
    assert codec.decode_get(codec.encode_app(NIC, rows)).app == tuple(sorted(rows))


@given(st.binary(max_size=200))
def test_no_bytes_break_the_readers_in_another_way(data: bytes) -> None:
    for read in (codec.decode_get, lambda body: codec.decode_status(body, Command.IEEE_SET)):
        with suppress(ValueError):
            read(data)
    with suppress(ValueError):
        list(messages(data))
    with suppress(ValueError):
        list(attributes(data))


@given(st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_no_damage_to_a_real_answer_breaks_it_in_another_way(at: int, noise: bytes) -> None:
    body = _body("maxrate", "received", codec.RTM_GETDCB)
    at %= len(body)
    with suppress(ValueError):
        codec.decode_get(body[:at] + noise + body[at + len(noise) :])


def test_the_kernels_words_are_found_behind_a_capped_error() -> None:
    words = attribute(1, b"mtu greater than device maximum\0")
    capped = (-22).to_bytes(4, "little", signed=True) + message(16, 5, 1, b"")[:16]
    (reply,) = messages(message(2, 0x300, 1, capped + words))
    assert error_of(reply) == (22, "mtu greater than device maximum")
    (plain,) = messages(message(2, 0x100, 1, capped))
    assert error_of(plain) == (22, "")


MAP = st.dictionaries(st.integers(0, 63), st.integers(0, 7), max_size=6).map(lambda rows: tuple(sorted(rows.items())))


@given(MAP, MAP)
def test_a_table_is_changed_without_being_empty_on_the_way(
    before: tuple[tuple[int, int], ...], wanted: tuple[tuple[int, int], ...]
) -> None:
    rows, sizes = set(before), [len(before)]
    for delete, row in dscp_changes(before, wanted):
        assert (row in rows) is delete
        rows ^= {row}
        sizes.append(len(rows))
    assert tuple(sorted(rows)) == wanted
    if len(before) > 1 and wanted:
        assert min(sizes) >= 1
