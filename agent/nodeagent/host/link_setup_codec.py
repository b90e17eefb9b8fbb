"""What stands on an interface, as rtnetlink messages that can be sent again; pure.

A message is kept as the kernel gave it, as `ip address save` and `ip route save` do, so that nothing about an address
or a route has to be understood to bring it back. Only indices of interfaces change with a reload of their driver: they
are kept with their names. Sources: include/uapi/linux/{rtnetlink,if_addr,if_link,neighbour}.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from socket import AF_INET, AF_INET6

from nodeagent.host.netlink_codec import Message, attribute, attributes, nest

RTM_NEWLINK, RTM_GETLINK, RTM_NEWADDR, RTM_GETADDR, RTM_NEWROUTE, RTM_GETROUTE = 16, 18, 20, 22, 24, 26
RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30
LINK = struct.Struct("=BxHiII")
ADDRESS = struct.Struct("=BBBBI")
ROUTE = struct.Struct("=BBBBBBBBI")
HOP = struct.Struct("=HBBi")
NEIGHBOUR = struct.Struct("=BxxxiHBB")  # struct ndmsg
NDA_DST, NDA_LLADDR = 1, 2
NUD_PERMANENT, NTF_EXT_LEARNED = 0x80, 0x10
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 5, 10, 18
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_VLAN_FLAGS, VLAN_FLAGS = 2, 0x1F
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_MULTIPATH, RTA_TABLE = 1, 4, 5, 9, 15
LINK_SCOPE, LOCAL_TABLE = 253, 255
RTPROT_REDIRECT, RTPROT_KERNEL, RTPROT_RA = 1, 2, 9
RTM_F_CLONED, RTNH_F_ONLINK = 0x200, 0x4
IFF_UP = 0x1
# What can be made anew, with the attributes of its IFLA_INFO_DATA that may be written: a kernel refuses those it only
# reports (if_link.h: IFLA_VLAN_ ID FLAGS EGRESS INGRESS PROTOCOL, IFLA_MACVLAN_ MODE FLAGS BC_QUEUE_LEN, IFLA_IPVLAN_
# MODE FLAGS, IFLA_IPOIB_ PKEY MODE UMCAST).
STACKED: Mapping[bytes, frozenset[int]] = {
    b"vlan": frozenset({1, 2, 3, 4, 5}),
    b"macvlan": frozenset({1, 2, 7}),
    b"ipvlan": frozenset({1, 2}),
    b"ipoib": frozenset({1, 2, 3}),
}

Names = Mapping[int, str]  # interfaces by index
Entry = tuple[str, str]  # text for a person, and what `replay` takes


def names_of(links: tuple[Message, ...]) -> Names:
    """Every interface by index."""
    found = {LINK.unpack_from(one.body)[2]: dict(attributes(one.body[LINK.size :])) for one in links}
    return {index: tops[IFLA_IFNAME].rstrip(b"\0").decode() for index, tops in found.items() if IFLA_IFNAME in tops}


def stacked_entries(links: tuple[Message, ...], names: Names) -> Iterator[tuple[str, Entry]]:
    """(interface, entry): the bond or bridge that it is part of, and the VLANs and the like on top of it."""
    for one in links:
        index, flags = LINK.unpack_from(one.body)[2:4]
        tops = dict(attributes(one.body[LINK.size :]))
        master, below = (_index(tops.get(kind)) or 0 for kind in (IFLA_MASTER, IFLA_LINK))
        info = dict(attributes(tops.get(IFLA_LINKINFO, b"")))
        kind = info.get(IFLA_INFO_KIND, b"").rstrip(b"\0")
        if index in names and master in names:
            yield names[index], (f"part of {names[master]}", f"master {names[master]}")
        if kind in STACKED and below in names and below != index:
            body = _stacked_body(flags, tops, info)
            yield names[below], (f"{kind.decode()} {names[index]}", f"link {body.hex()} {names[below]}")


def _stacked_body(flags: int, tops: Mapping[int, bytes], info: Mapping[int, bytes]) -> bytes:
    """RTM_NEWLINK that makes it anew; the interface below is put in when it is sent."""
    kind = info[IFLA_INFO_KIND].rstrip(b"\0")
    data = [(one, value) for one, value in attributes(info.get(IFLA_INFO_DATA, b"")) if one in STACKED[kind]]
    if kind == b"vlan":
        data = [(one, _vlan_flags(value) if one == IFLA_VLAN_FLAGS else value) for one, value in data]
    kept = attribute(IFLA_INFO_KIND, info[IFLA_INFO_KIND])
    kept += nest(IFLA_INFO_DATA, b"".join(attribute(one, value) for one, value in data))
    own = b"".join(attribute(kind, tops[kind]) for kind in (IFLA_IFNAME, IFLA_MTU, IFLA_ADDRESS) if kind in tops)
    up = flags & IFF_UP
    return LINK.pack(0, 0, 0, up, up) + own + nest(IFLA_LINKINFO, kept)


def _vlan_flags(payload: bytes) -> bytes:
    """The kernel reports a mask of all ones and refuses to take one back (vlan_dev_change_flags)."""
    flags, _ = struct.unpack_from("=II", payload)
    return struct.pack("=II", flags & VLAN_FLAGS, VLAN_FLAGS)


def address_entry(body: bytes, names: Names) -> tuple[str, Entry] | None:
    """(interface, entry) of an address; None for link-local ones, which the kernel makes itself."""
    _, prefix, _, scope, index = ADDRESS.unpack_from(body)
    tops = dict(attributes(body[ADDRESS.size :]))
    packed = tops.get(IFA_LOCAL) or tops.get(IFA_ADDRESS)
    if scope == LINK_SCOPE or packed is None or index not in names:
        return None
    return names[index], (f"address {ip_address(packed)}/{prefix}", f"address {body.hex()} {names[index]}")


def route_entries(body: bytes, names: Names) -> Iterator[tuple[str, Entry]]:
    """(interface, entry) for each interface that a route leads to.

    Left out is what comes by itself: with the address, from a router's advertisement, by a redirect, and local ones.
    """
    _, length, _, _, table, protocol, _, _, flags = ROUTE.unpack_from(body)
    tops = dict(attributes(body[ROUTE.size :]))
    automatic = protocol in (RTPROT_REDIRECT, RTPROT_KERNEL, RTPROT_RA) or flags & RTM_F_CLONED
    if automatic or table == LOCAL_TABLE:
        return
    oif, hops = _index(tops.get(RTA_OIF)), _hop_indices(tops.get(RTA_MULTIPATH, b""))
    indices = tuple(dict.fromkeys(index for index in (oif, *hops) if index is not None))
    if not indices or any(index not in names for index in indices):
        return
    data = f"route {body.hex()} " + ",".join(f"{index}={names[index]}" for index in indices)
    text = _route_text(length, tops)
    for index in indices:
        yield names[index], (text, data)


def _route_text(length: int, tops: Mapping[int, bytes]) -> str:
    destination = f"route {ip_address(tops[RTA_DST])}/{length}" if RTA_DST in tops else "default route"
    return f"{destination} via {ip_address(tops[RTA_GATEWAY])}" if RTA_GATEWAY in tops else destination


def neighbour_entry(body: bytes, names: Names) -> tuple[str, Entry] | None:
    """(interface, entry) of a permanent neighbour; None for what was learned, here or by a routing daemon."""
    family, index, state, flags, kind = NEIGHBOUR.unpack_from(body)
    tops = dict(attributes(body[NEIGHBOUR.size :]))
    permanent = state & NUD_PERMANENT and not flags & NTF_EXT_LEARNED and family in (AF_INET, AF_INET6)
    if not permanent or index not in names or NDA_DST not in tops or NDA_LLADDR not in tops:
        return None
    kept = NEIGHBOUR.pack(family, index, NUD_PERMANENT, flags, kind)
    kept += b"".join(attribute(one, tops[one]) for one in (NDA_DST, NDA_LLADDR))
    text = f"neighbour {ip_address(tops[NDA_DST])} at {tops[NDA_LLADDR].hex(':')}"
    return names[index], (text, f"neighbour {kept.hex()} {names[index]}")


def replay(data: str, index_of: Callable[[str], int | None]) -> tuple[int, bytes] | None:
    """(message type, body) that brings an entry back; None where an interface that it needs is not there.

    ValueError for what is not an entry.
    """
    kind, *rest = data.split(" ")
    if kind == "address":
        index = index_of(rest[1])
        return None if index is None else (RTM_NEWADDR, _with_index(bytes.fromhex(rest[0]), index))
    if kind == "neighbour":
        index = index_of(rest[1])
        return None if index is None else (RTM_NEWNEIGH, _on_index(bytes.fromhex(rest[0]), index))
    if kind == "link":
        index = index_of(rest[1])
        below = b"" if index is None else attribute(IFLA_LINK, struct.pack("=i", index))
        return (RTM_NEWLINK, bytes.fromhex(rest[0]) + below) if below else None
    if kind == "route":
        pairs = (pair.split("=") for pair in rest[1].split(","))
        moved = {int(old): index_of(name) for old, name in pairs}
        return None if None in moved.values() else (RTM_NEWROUTE, _moved(bytes.fromhex(rest[0]), moved))
    raise ValueError(f"no entry of a link's set-up: {kind}")


def renamed(data: str, old: str, new: str) -> str:
    """The entry of an interface that is called otherwise by now."""
    kind, body, *rest = data.split(" ")
    if kind == "route":
        pairs = (pair.split("=") for pair in rest[0].split(","))
        rest = [",".join(f"{index}={new if name == old else name}" for index, name in pairs)]
    elif rest == [old]:
        rest = [new]
    return " ".join((kind, body, *rest))


def _with_index(body: bytes, index: int) -> bytes:
    family, prefix, flags, scope, _ = ADDRESS.unpack_from(body)
    return ADDRESS.pack(family, prefix, flags, scope, index) + body[ADDRESS.size :]


def _on_index(body: bytes, index: int) -> bytes:
    family, _, state, flags, kind = NEIGHBOUR.unpack_from(body)
    return NEIGHBOUR.pack(family, index, state, flags, kind) + body[NEIGHBOUR.size :]


def _moved(body: bytes, moved: Mapping[int, int | None]) -> bytes:
    """The route over the interfaces' new indices, without flags that only the kernel sets (dead, linkdown, offload)."""
    *head, flags = ROUTE.unpack_from(body)
    tops = b""
    for kind, payload in attributes(body[ROUTE.size :]):
        if kind == RTA_OIF:
            tops += attribute(kind, struct.pack("=i", moved[_index(payload) or 0]))
        elif kind == RTA_MULTIPATH:
            tops += attribute(kind, b"".join(_moved_hops(payload, moved)))
        else:
            tops += attribute(kind, payload)
    return ROUTE.pack(*head, flags & RTNH_F_ONLINK) + tops


def _moved_hops(payload: bytes, moved: Mapping[int, int | None]) -> Iterator[bytes]:
    for at, (length, flags, weight, index) in _hops(payload):
        new = moved.get(index)
        yield HOP.pack(length, flags & RTNH_F_ONLINK, weight, index if new is None else new)
        yield payload[at + HOP.size : at + ((length + 3) & ~3)]


def _hops(payload: bytes) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    at = 0
    while at + HOP.size <= len(payload):
        length, flags, weight, index = HOP.unpack_from(payload, at)
        if length < HOP.size:
            raise ValueError(f"a next hop of {length} bytes")
        yield at, (length, flags, weight, index)
        at += (length + 3) & ~3


def _hop_indices(payload: bytes) -> tuple[int, ...]:
    return tuple(hop[3] for _, hop in _hops(payload))


def _index(payload: bytes | None) -> int | None:
    return struct.unpack("=i", payload)[0] if payload is not None and len(payload) == 4 else None
