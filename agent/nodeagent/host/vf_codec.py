"""Virtual functions in rtnetlink's link messages (IFLA_VFINFO_LIST) as bytes; pure.

Source: include/uapi/linux/if_link.h and net/core/rtnetlink.c (rtnl_fill_vfinfo, do_setvfinfo) of Linux 6.1.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from nodeagent.host.netlink_codec import attribute, attributes, nest, text
from nodeagent.state.network import VfLinkState, VfSetting, VirtualFunction

RTM_GETLINK, RTM_SETLINK = 18, 19
IFLA_IFNAME, IFLA_VFINFO_LIST, IFLA_EXT_MASK = 3, 22, 29
IFLA_VF_INFO = 1
RTEXT_FILTER_VF = 1
UNKNOWN = 0xFFFFFFFF  # what the kernel fills in where the driver says nothing

MAC, VLAN, SPOOFCHK, LINK_STATE, RATE, TRUST, NODE_GUID, PORT_GUID = 1, 2, 4, 5, 6, 9, 10, 11
_HEADER = struct.Struct("=BxHiII")
_LINK_STATES = (VfLinkState.AUTO, VfLinkState.ENABLE, VfLinkState.DISABLE)

Value = tuple[int | str, ...]


def encode_get(netdev: str) -> bytes:
    """RTM_GETLINK with the virtual functions."""
    mask = attribute(IFLA_EXT_MASK, struct.pack("=I", RTEXT_FILTER_VF))
    return _HEADER.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, text(netdev)) + mask


def encode_set(netdev: str, index: int, setting: VfSetting, value: Value) -> bytes:
    """RTM_SETLINK for one setting of one virtual function. ValueError for a value that is not of the setting."""
    payload = attribute(*_WRITERS[setting](index, value))
    info = nest(IFLA_VFINFO_LIST, nest(IFLA_VF_INFO, payload))
    return _HEADER.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, text(netdev)) + info


def decode_get(body: bytes) -> tuple[VirtualFunction, ...]:
    """The virtual functions in an answer to `encode_get`. ValueError where it is cut off."""
    if len(body) < _HEADER.size:
        raise ValueError(f"a link message of {len(body)} bytes")
    tops = dict(attributes(body[_HEADER.size :]))
    infos = attributes(tops.get(IFLA_VFINFO_LIST, b""))
    try:
        return tuple(_function(dict(attributes(info))) for kind, info in infos if kind == IFLA_VF_INFO)
    except (struct.error, IndexError) as error:
        raise ValueError(str(error)) from error


def _function(info: Mapping[int, bytes]) -> VirtualFunction:
    index, vlan, priority = struct.unpack_from("=III", info.get(VLAN, bytes(12)))
    _, least, most = struct.unpack_from("=III", info.get(RATE, bytes(12)))
    state = _number(info, LINK_STATE)
    mac = info.get(MAC, b"")
    return VirtualFunction(
        index=index if VLAN in info else struct.unpack_from("=I", mac)[0],
        mac=_hex(mac[4:10]),
        vlan=vlan,
        vlan_priority=priority,
        spoofchk=_switch(info, SPOOFCHK),
        trust=_switch(info, TRUST),
        link_state=None if state is None or state >= len(_LINK_STATES) else _LINK_STATES[state],
        min_rate_mbps=least,
        max_rate_mbps=most,
        node_guid=_guid(info, NODE_GUID),
        port_guid=_guid(info, PORT_GUID),
    )


def _number(info: Mapping[int, bytes], kind: int) -> int | None:
    if kind not in info:
        return None
    _, value = struct.unpack_from("=II", info[kind])
    return None if value == UNKNOWN else int(value)


def _switch(info: Mapping[int, bytes], kind: int) -> bool | None:
    value = _number(info, kind)
    return None if value is None else bool(value)


def _guid(info: Mapping[int, bytes], kind: int) -> str:
    """A GUID as text; struct ifla_vf_guid has it as a number in the host's order, behind four bytes of padding."""
    if kind not in info:
        return ""
    (value,) = struct.unpack_from("=Q", info[kind], 8)
    return _hex(value.to_bytes(8, "big")) if value else ""


def _hex(data: bytes) -> str:
    return data.hex(":")


def _bytes(value: int | str) -> bytes:
    return bytes.fromhex(str(value).replace(":", ""))


def _write_mac(index: int, value: Value) -> tuple[int, bytes]:
    return MAC, struct.pack("=I32s", index, _bytes(value[0]))


def _write_vlan(index: int, value: Value) -> tuple[int, bytes]:
    return VLAN, struct.pack("=III", index, int(value[0]), int(value[1]))


def _write_rate(index: int, value: Value) -> tuple[int, bytes]:
    return RATE, struct.pack("=III", index, int(value[0]), int(value[1]))


def _write_link_state(index: int, value: Value) -> tuple[int, bytes]:
    return LINK_STATE, struct.pack("=II", index, _LINK_STATES.index(VfLinkState(str(value[0]))))


def _write_spoofchk(index: int, value: Value) -> tuple[int, bytes]:
    return SPOOFCHK, struct.pack("=II", index, int(value[0]))


def _write_trust(index: int, value: Value) -> tuple[int, bytes]:
    return TRUST, struct.pack("=II", index, int(value[0]))


def _write_node_guid(index: int, value: Value) -> tuple[int, bytes]:
    return NODE_GUID, struct.pack("=IxxxxQ", index, int.from_bytes(_bytes(value[0]), "big"))


def _write_port_guid(index: int, value: Value) -> tuple[int, bytes]:
    return PORT_GUID, struct.pack("=IxxxxQ", index, int.from_bytes(_bytes(value[0]), "big"))


_WRITERS: Mapping[VfSetting, Callable[[int, Value], tuple[int, bytes]]] = {
    VfSetting.MAC: _write_mac,
    VfSetting.VLAN: _write_vlan,
    VfSetting.RATE: _write_rate,
    VfSetting.LINK_STATE: _write_link_state,
    VfSetting.SPOOFCHK: _write_spoofchk,
    VfSetting.TRUST: _write_trust,
    VfSetting.NODE_GUID: _write_node_guid,
    VfSetting.PORT_GUID: _write_port_guid,
}
