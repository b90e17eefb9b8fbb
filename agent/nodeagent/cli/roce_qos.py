"""Verb `roce qos`: quality of service of the interfaces at a glance, and what differs from a set-up."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from nodeagent.cli.output import columns, emit
from nodeagent.cli.parsing import add_verb
from nodeagent.cli.target import add_target_options, target_of
from nodeagent.errors import UsageError
from nodeagent.resources.link_selection import select_netdevs, what_there_is
from nodeagent.resources.qos import qos_steps
from nodeagent.spec.qos import SETUPS, QosSetup
from nodeagent.state.network import Netdev
from nodeagent.state.node import NodeState
from nodeagent.state.qos import PRIORITIES, Algorithm, DcbState

DIFFERS = 3
DCBX_HOST = 0x01
_EPILOG = """\
Each priority with its flow control, traffic class, share of the bandwidth, DSCPs, receive buffer, and the pause frames
that were sent (requests) and received (indications) for it.

exit codes: 0, and 3 where an interface differs from --setup

examples:
  nodeagent roce qos
  nodeagent roce qos --match 'rail:*' --setup lossless-dscp26-prio3
"""


def add_qos(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add `qos` below `roce`."""
    words = "trust, flow control, bandwidth, DSCP table and buffers of each interface"
    verb = add_verb(verbs, "qos", common, words, _EPILOG)
    verb.add_argument("-m", "--match", default="", metavar="MATCH", help="only these interfaces")
    verb.add_argument("--setup", choices=[one.value for one in QosSetup], help="say what differs from this set-up")
    add_target_options(verb)
    verb.set_defaults(run=run_qos)


def run_qos(arguments: argparse.Namespace) -> int:
    with target_of(arguments).observer() as observer:
        state = observer.observe(())
    setup = QosSetup(arguments.setup) if arguments.setup else None
    interfaces = [_document(name, state.netdevs[name].dcb, state, setup) for name in _names(arguments, state)]
    emit({"interfaces": interfaces}, arguments.output, lambda: _text(interfaces) or "no interface has DCB")
    return DIFFERS if any(one.get("differences") for one in interfaces) else 0


def _names(arguments: argparse.Namespace, state: NodeState) -> tuple[str, ...]:
    """The interfaces that --match names; without it, those with DCB. UsageError if it names none."""
    if not arguments.match:
        return tuple(sorted(name for name, found in state.netdevs.items() if found.dcb is not None))
    names: tuple[str, ...] = select_netdevs(arguments.match, state)
    if not names:
        raise UsageError(f"match {arguments.match}: no interface; {what_there_is(arguments.match, state)}")
    return names


def _document(name: str, dcb: DcbState | None, state: NodeState, setup: QosSetup | None) -> dict[str, Any]:
    found = state.netdevs[name]
    start: dict[str, Any] = {
        "interface": name,
        "rdma": sorted(one.name for one in state.rdma.values() if name in {port.netdev for port in one.ports}),
        "driver": found.driver or None,
    }
    if dcb is None:
        missing = [f"its driver {found.driver} offers no dcb".replace("  ", " ")]
        return start | {"dcb": False} | ({"setup": setup, "differences": missing} if setup else {})
    return start | {
        "dcb": True,
        "trust": dcb.trust.value,
        "dcbx": None if dcb.dcbx is None else ("host" if dcb.dcbx & DCBX_HOST else "firmware"),
        "pfc": None if dcb.pfc is None else list(dcb.pfc.enabled),
        "pfcDelay": None if dcb.pfc is None else dcb.pfc.delay,
        "dscp": {str(dscp): priority for dscp, priority in dcb.dscp},
        "priorities": [_priority(number, dcb) for number in range(PRIORITIES)],
        "buffers": _buffers(dcb),
        "bufferTotalBytes": dcb.buffer.total_bytes if dcb.buffer else None,
        **_compared(found, setup),
    }


def _compared(found: Netdev, setup: QosSetup | None) -> dict[str, Any]:
    """Without a set-up to compare with: which one it is, if it is one."""
    if setup is not None:
        return {"setup": setup.value, "differences": _differences(found, setup)}
    return {"setup": next((one.value for one in QosSetup if not _differences(found, one)), None)}


def _differences(found: Netdev, setup: QosSetup) -> list[str]:
    """The steps that would make it so, which are what differs."""
    return [str(step) for step in qos_steps(found, SETUPS[setup])]


def _priority(number: int, dcb: DcbState) -> dict[str, Any]:
    ets, pfc, rates = dcb.ets, dcb.pfc, dcb.max_rate_kbit
    traffic_class = ets.class_of[number] if ets is not None else None
    known = traffic_class is not None and traffic_class < PRIORITIES
    rate = rates[traffic_class] if rates is not None and known and traffic_class is not None else 0
    return {
        "priority": number,
        "pfc": None if pfc is None else number in pfc.enabled,
        "class": traffic_class,
        "share": _share(traffic_class, dcb) if known and traffic_class is not None else None,
        "maxRateMbps": rate // 1000 or None,
        "dscp": [dscp for dscp, priority in dcb.dscp if priority == number],
        "buffer": dcb.buffer.buffer_of[number] if dcb.buffer else None,
        "pausesSent": pfc.requests[number] if pfc else None,
        "pausesReceived": pfc.indications[number] if pfc else None,
    }


def _share(traffic_class: int, dcb: DcbState) -> str | None:
    """`50%`, `strict`, or what else decides about the class."""
    if dcb.ets is None:
        return None
    algorithm = dcb.ets.algorithms[traffic_class]
    if algorithm == Algorithm.ETS:
        return f"{dcb.ets.bandwidth[traffic_class]}%"
    return Algorithm(algorithm).name.lower() if algorithm in set(Algorithm) else f"algorithm {algorithm}"


def _buffers(dcb: DcbState) -> list[dict[str, Any]]:
    """Those that have room or users; a buffer is lossless as soon as a priority with flow control uses it."""
    if dcb.buffer is None:
        return []
    users = {
        number: [p for p, used in enumerate(dcb.buffer.buffer_of) if used == number] for number in range(PRIORITIES)
    }
    lossless = set(dcb.pfc.enabled if dcb.pfc else ())
    return [
        {"buffer": number, "bytes": size, "priorities": users[number], "lossless": bool(lossless & set(users[number]))}
        for number, size in enumerate(dcb.buffer.sizes_bytes)
        if size or users[number]
    ]


def _text(interfaces: list[dict[str, Any]]) -> str:
    return "\n\n".join("\n".join(_lines(one)) for one in interfaces)


def _lines(one: Mapping[str, Any]) -> Iterator[str]:
    devices = f" ({', '.join(one['rdma'])})" if one["rdma"] else ""
    if not one["dcb"]:
        yield f"{one['interface']}{devices}: {one['driver'] or 'its driver'} offers no dcb"
        return
    facts = [f"trust {one['trust']}", f"dcbx {one['dcbx'] or '-'}", f"set-up {one['setup'] or 'none by name'}"]
    yield f"{one['interface']}{devices}: {', '.join(facts)}"
    header = ("PRIORITY", "PFC", "CLASS", "SHARE", "MAX RATE", "DSCP", "BUFFER", "PAUSES SENT", "RECEIVED")
    yield columns([_row(row) for row in one["priorities"]], header, indent="  ")
    for buffer in one["buffers"]:
        kind = "lossless" if buffer["lossless"] else "lossy"
        yield f"  buffer {buffer['buffer']}: {buffer['bytes']} bytes, {kind}"
    for difference in one.get("differences", ()):
        yield f"  differs: {difference}"


def _row(row: Mapping[str, Any]) -> list[str]:
    rate = f"{row['maxRateMbps']} Mb/s" if row["maxRateMbps"] else "-"
    dscp = " ".join(map(str, row["dscp"])) or "-"
    numbers = (_cell(row[key]) for key in ("buffer", "pausesSent", "pausesReceived"))
    pfc = {True: "on", False: "off", None: "-"}[row["pfc"]]
    return [str(row["priority"]), pfc, _cell(row["class"]), _cell(row["share"]), rate, dscp, *numbers]


def _cell(value: object) -> str:
    return "-" if value is None else str(value)
