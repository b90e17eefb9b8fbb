"""Verb `validate`: prove with real traffic that the hardware works."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from nodeagent.cli import validate_node, validate_peer
from nodeagent.cli.output import Style, columns, emit, style_for
from nodeagent.cli.parsing import add_verb
from nodeagent.cli.quantities import some
from nodeagent.cli.target import add_target_options, target_of
from nodeagent.errors import HostError, UsageError
from nodeagent.host.gid_facts import read_gids
from nodeagent.host.ports import Files
from nodeagent.host.verbs import Verbs
from nodeagent.resources.gid_selection import GidChoice, choose_gid
from nodeagent.resources.link_selection import select_rdma, what_there_is
from nodeagent.resources.rdma_proof import doubts
from nodeagent.state.gids import Family
from nodeagent.state.network import RdmaPort
from nodeagent.state.node import NodeState
from nodeagent.state.verbs import Effort, Endpoint

ACTIVE, ETHERNET = "ACTIVE", "Ethernet"
_EPILOG = """\
Each port sends to itself: two queue pairs, the GID that `nodeagent roce gids` chooses, the path MTU of the port.
The times are those of this program, not of the NIC alone.

With --listen on one node and --connect on another, traffic goes between them: both exchange what they need over TCP,
then send messages to and fro, write memory, and compare what came.

exit codes: 0 traffic went through every port, 1 not through all

examples:
  nodeagent validate rdma
  nodeagent validate rdma --listen --match rail:0
  nodeagent validate rdma --connect node-17 --match rail:0
  nodeagent validate rdma --match 'rail:*' -o json
"""


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    verbs = validate_node.register(subparsers, common)
    words = "a reliable connection over each active RDMA port to itself: GID, MTU, latency, bandwidth"
    rdma = add_verb(verbs, "rdma", common, words, _EPILOG)
    rdma.add_argument("-m", "--match", default="", metavar="MATCH", help="only these devices, in the node file's words")
    rdma.add_argument("--family", choices=[one.value for one in Family], help="only GIDs of this kind of address")
    rdma.add_argument(
        "--round-trips", type=some, default=Effort().round_trips, metavar="N", help="small messages to send"
    )
    rdma.add_argument("--writes", type=some, default=Effort().writes, metavar="N", help="writes of 1 MiB to send")
    validate_peer.add_options(rdma)
    add_target_options(rdma)
    rdma.set_defaults(run=run_rdma)


def run_rdma(arguments: argparse.Namespace) -> int:
    if arguments.simulate:
        raise UsageError("validate rdma: a simulated node has no NICs that traffic could go through")
    if arguments.round_trips < 1 or arguments.writes < 1:
        raise UsageError("validate rdma: expected at least 1 for --round-trips and --writes")
    if arguments.listen is not None or arguments.connect:
        return _run_peer(arguments)
    with target_of(arguments).observer() as observer:
        state = observer.observe(())
        ports = _ports(arguments, state)
        verbs = Verbs() if any(port.state == ACTIVE for _, port in ports) else None
        found = [_prove(verbs, device, port, _Look(arguments, state, observer.host.files)) for device, port in ports]
    style = style_for(arguments, sys.stdout)
    emit({"ports": found}, arguments.output, lambda: _text(found, style))
    return 0 if found and all(one["ok"] for one in found) else 1


def _run_peer(arguments: argparse.Namespace) -> int:
    """One port of this node to one of another."""
    with target_of(arguments).observer() as observer:
        state = observer.observe(())
        active = [found for found in _ports(arguments, state) if found[1].state == ACTIVE]
        if len(active) != 1:
            names = ", ".join(f"{device} port {port.port}" for device, port in active) or "none"
            raise UsageError(f"validate rdma: expected one active port, found {names}; choose it with --match")
        device, port = active[0]
        look = _Look(arguments, state, observer.host.files)
        gids = read_gids(look.files, device, port.port) if port.link_layer == ETHERNET else ()
        choice = choose_gid(gids, port.netdev, look.family)
    if port.link_layer == ETHERNET and choice.gid is None:
        raise UsageError(f"validate rdma: {device} port {port.port}: {choice.reason}")
    return validate_peer.run(arguments, _endpoint(device, port, choice), choice.gid, look.effort)


def _endpoint(device: str, port: RdmaPort, choice: GidChoice) -> Endpoint:
    index = choice.gid.index if choice.gid is not None else None
    return Endpoint(device, port.port, index, port.traffic_class or port.roce_tos or 0)


class _Look:
    """What a proof needs to know besides the port."""

    def __init__(self, arguments: argparse.Namespace, state: NodeState, files: Files) -> None:
        self.family = Family(arguments.family) if arguments.family else None
        self.effort = Effort(round_trips=arguments.round_trips, writes=arguments.writes)
        self.state, self.files = state, files


def _ports(arguments: argparse.Namespace, state: NodeState) -> list[tuple[str, RdmaPort]]:
    names: tuple[str, ...] = select_rdma(arguments.match, state) if arguments.match else tuple(sorted(state.rdma))
    if not names:
        where = what_there_is(arguments.match, state) if arguments.match else "load the driver of the RDMA NICs"
        raise UsageError(f"validate rdma: no rdma device{' matches' if arguments.match else ''}; {where}")
    return [(name, port) for name in names for port in state.rdma[name].ports]


def _prove(verbs: Verbs | None, device: str, port: RdmaPort, look: _Look) -> dict[str, Any]:
    document = {"device": device, "port": port.port, "netdev": port.netdev or None, "ok": False}
    if port.state != ACTIVE or verbs is None:
        return document | {"problem": f"the port is {port.state}"}
    gids = read_gids(look.files, device, port.port) if port.link_layer == ETHERNET else ()
    choice = choose_gid(gids, port.netdev, look.family)
    if port.link_layer == ETHERNET and choice.gid is None:
        return document | {"problem": choice.reason}
    index = choice.gid.index if choice.gid is not None else None
    try:
        result = verbs.ping_pong(_endpoint(device, port, choice), look.effort)
    except HostError as error:
        return document | {"gidIndex": index, "problem": str(error)}
    return document | {
        "ok": True,
        "gidIndex": index,
        "gid": result.gid,
        "pathMtuBytes": result.active_mtu_bytes,
        "latencyMedianMicroseconds": round(result.latency_median_us, 2),
        "latencyWorstMicroseconds": round(result.latency_worst_us, 2),
        "bandwidthBitsPerSecond": round(result.bandwidth_bps),
        "doubts": list(doubts(result, choice.gid, look.state.netdevs.get(port.netdev))),
    }


def _text(found: list[dict[str, Any]], style: Style) -> str:
    rows = [_row(one) for one in found]
    header = ("DEVICE", "PORT", "LINK", "GID", "PATH MTU", "LATENCY (WORST)", "BANDWIDTH", "")
    notes = [
        style("warn" if one["ok"] else "bad", f"{one['device']} port {one['port']}: {text}")
        for one in found
        for text in one.get("doubts", [one.get("problem", "")])
    ]
    return "\n".join([columns(rows, header), *notes])


def _row(one: Mapping[str, Any]) -> list[str]:
    start = [one["device"], str(one["port"]), one["netdev"] or "-"]
    index = one.get("gidIndex")
    if not one["ok"]:
        return [*start, "-" if index is None else str(index), "-", "-", "-", "failed"]
    latency = f"{one['latencyMedianMicroseconds']:g} us ({one['latencyWorstMicroseconds']:g} us)"
    bandwidth = f"{one['bandwidthBitsPerSecond'] / 1e9:.2f} Gb/s"
    return [*start, "-" if index is None else str(index), str(one["pathMtuBytes"]), latency, bandwidth, "ok"]
