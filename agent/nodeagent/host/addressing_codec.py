"""Addresses, routes and rules as rtnetlink tells of them; pure.

Sources: include/uapi/linux/{rtnetlink,if_addr,fib_rules}.h, rtnetlink(7).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from ipaddress import ip_address
from socket import AF_INET, AF_INET6

from nodeagent.host.link_setup_codec import (
    ADDRESS,
    IFA_ADDRESS,
    IFA_LOCAL,
    LINK_SCOPE,
    LOCAL_TABLE,
    ROUTE,
    RTA_DST,
    RTA_GATEWAY,
    RTA_MULTIPATH,
    RTA_OIF,
    RTA_TABLE,
    RTM_F_CLONED,
    RTPROT_KERNEL,
    RTPROT_RA,
    RTPROT_REDIRECT,
    Names,
)
from nodeagent.host.netlink_codec import attributes
from nodeagent.state.addressing import EVERYWHERE, OUR_PROTOCOL, Route, Rule

RTM_DELRULE, RTM_GETRULE = 33, 34
IFA_FLAGS, IFA_F_NODAD, IFA_F_PERMANENT = 8, 0x02, 0x80
RTA_PRIORITY, RTA_PREFSRC = 6, 7
FRA_SRC, FRA_PRIORITY, FRA_TABLE, FRA_PROTOCOL = 2, 6, 15, 21
FR_ACT_TO_TBL = 1
RTN_UNICAST = 1
IPV6_METRIC = 1024  # IP6_RT_PRIO_USER: what the kernel makes of metric 0
FAMILY = {4: AF_INET, 6: AF_INET6}
AUTOMATIC = (RTPROT_REDIRECT, RTPROT_KERNEL, RTPROT_RA)


def decode_address(body: bytes, names: Names) -> tuple[str, str] | None:
    """(interface, address) of a permanent address that is not link-local; None for others."""
    _, prefix, flags, scope, index = ADDRESS.unpack_from(body)
    tops = dict(attributes(body[ADDRESS.size :]))
    if IFA_FLAGS in tops:
        (flags,) = struct.unpack("=I", tops[IFA_FLAGS])
    packed = tops.get(IFA_LOCAL) or tops.get(IFA_ADDRESS)
    if scope == LINK_SCOPE or packed is None or index not in names or not flags & IFA_F_PERMANENT:
        return None
    return names[index], f"{ip_address(packed)}/{prefix}"


def decode_route(body: bytes, names: Names) -> tuple[str, Route, bool] | None:
    """(interface, route, whether it is ours); None for routes that come by themselves or have several next hops."""
    family, length, _, _, table, protocol, _, kind, flags = ROUTE.unpack_from(body)
    tops = dict(attributes(body[ROUTE.size :]))
    number = _number(tops, RTA_TABLE, table)
    index = _number(tops, RTA_OIF, 0)
    automatic = protocol in AUTOMATIC or flags & RTM_F_CLONED or number == LOCAL_TABLE or kind != RTN_UNICAST
    if automatic or RTA_MULTIPATH in tops or index not in names:
        return None
    version = 6 if family == AF_INET6 else 4
    to = f"{ip_address(tops[RTA_DST])}/{length}" if RTA_DST in tops else EVERYWHERE[version]
    metric = _number(tops, RTA_PRIORITY, 0)
    via, source = (str(ip_address(tops[one])) if one in tops else "" for one in (RTA_GATEWAY, RTA_PREFSRC))
    metric = 0 if version == 6 and metric == IPV6_METRIC else metric
    return names[index], Route(to, via, number, metric, source), protocol == OUR_PROTOCOL


def decode_rule(body: bytes) -> tuple[Rule, bool] | None:
    """(rule, whether it is ours); None where it is not by source alone or leads to no table."""
    family, to_length, length, _, table, _, _, action, _ = ROUTE.unpack_from(body)
    tops = dict(attributes(body[ROUTE.size :]))
    if action != FR_ACT_TO_TBL or to_length or FRA_SRC not in tops or family not in (AF_INET, AF_INET6):
        return None
    rule = Rule(
        f"{ip_address(tops[FRA_SRC])}/{length}", _number(tops, FRA_TABLE, table), _number(tops, FRA_PRIORITY, 0)
    )
    return rule, tops.get(FRA_PROTOCOL) == bytes((OUR_PROTOCOL,))


def _number(tops: Mapping[int, bytes], kind: int, otherwise: int) -> int:
    return int(struct.unpack("=I", tops[kind])[0]) if kind in tops else otherwise
