"""Verb `roce`: what RDMA over Converged Ethernet uses on this node, and what NCCL should be told."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from nodeagent.cli import roce_access, roce_qos
from nodeagent.cli.output import columns, emit, in_blocks, natural, style_for, warn
from nodeagent.cli.parsing import add_verb
from nodeagent.cli.target import add_target_options, target_of
from nodeagent.errors import UsageError
from nodeagent.host.gid_facts import read_gids
from nodeagent.host.link_facts import read_rdma
from nodeagent.host.ports import Files
from nodeagent.resources.gid_selection import GidChoice, choices, choose_gid
from nodeagent.resources.link_selection import select_rdma, what_there_is
from nodeagent.resources.nccl import NcclSettings, Port, conf_lines, nccl_settings, shell_lines
from nodeagent.state.gids import Family, Gid
from nodeagent.state.network import RdmaPort
from nodeagent.state.node import NodeState
from nodeagent.state.rails import rails_of

ETHERNET = "Ethernet"
_EPILOG = """\
MATCH is a selector as in the node file: rail:0, rail:*, rdma:mlx5_*, a netdev, a PCI address, closest-to-gpu:3 ...

examples:
  nodeagent roce show
  nodeagent roce gids --match rail:0
  nodeagent roce qos --setup lossless-dscp26-prio3
  eval "$(nodeagent roce nccl-env)"
  nodeagent roce nccl-env --conf > nccl.conf
  nodeagent roce holders
  nodeagent roce access
"""
_VERBS = {
    "show": "ports with RoCE mode, type of service, MTU of the link and the GID to use",
    "gids": "the used entries of the GID tables, and the one to use for each interface",
    "counters": "counters of the ports that tell about congestion, loss and errors",
    "nccl-env": "environment variables for NCCL, with reasons, to be read by a shell",
}
# What a healthy lossless fabric leaves at zero, and what shows congestion control at work (mlx5 counters.c).
_TELLING = (
    "np_cnp_sent",
    "np_ecn_marked_roce_packets",
    "rp_cnp_handled",
    "rp_cnp_ignored",
    "out_of_sequence",
    "packet_seq_err",
    "local_ack_timeout_err",
    "implied_nak_seq_err",
    "rnr_nak_retry_err",
    "rx_icrc_encapsulated",
    "roce_adp_retrans",
    "roce_slow_restart",
    "symbol_error",
    "link_downed",
    "port_rcv_errors",
    "port_xmit_discards",
    "port_xmit_wait",
    "sent_pkts",
    "rcvd_pkts",
    "completer_retry_err",
    "retry_exceeded_err",
)


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    text = "GIDs, RoCE mode, counters and NCCL settings of the RDMA NICs"
    parser = subparsers.add_parser("roce", help=text, description=text, epilog=_EPILOG)
    verbs = parser.add_subparsers(dest="operation", metavar="OPERATION", required=True)
    runs = {"show": run_show, "gids": run_gids, "counters": run_counters, "nccl-env": run_nccl_env}
    for name, words in _VERBS.items():
        verb = add_verb(verbs, name, common, words, _EPILOG)
        verb.add_argument("-m", "--match", default="", metavar="MATCH", help="only these devices")
        if name != "counters":
            verb.add_argument(
                "--family", choices=[one.value for one in Family], help="only GIDs of this kind of address"
            )
        if name == "nccl-env":
            verb.add_argument("--conf", action="store_true", help="lines for nccl.conf instead")
        add_target_options(verb)
        verb.set_defaults(run=runs[name])
    roce_qos.add_qos(verbs, common)
    roce_access.add_verbs(verbs, common)


def run_show(arguments: argparse.Namespace) -> int:
    state, gids = _look(arguments)
    document = {
        "netnsMode": {True: "shared", False: "exclusive", None: None}[state.rdma_netns_shared],
        "ports": [_port_document(device, port, state, gids, arguments) for device, port in _ports(arguments, state)],
    }
    width = style_for(arguments, sys.stdout).width
    emit(document, arguments.output, lambda: _show_text(document, width) or "no RDMA devices")
    return 0


def _look(arguments: argparse.Namespace) -> tuple[NodeState, Mapping[tuple[str, int], tuple[Gid, ...]]]:
    with target_of(arguments).observer() as observer:
        state = observer.observe((), with_roce=True)
        return state, gid_tables(observer.host.files, state)


def gid_tables(files: Files, state: NodeState) -> Mapping[tuple[str, int], tuple[Gid, ...]]:
    """The GID table of every port."""
    return {
        (device.name, port.port): read_gids(files, device.name, port.port)
        for device in state.rdma.values()
        for port in device.ports
    }


def _ports(arguments: argparse.Namespace, state: NodeState) -> list[tuple[str, RdmaPort]]:
    """The ports of the devices that --match names, all without it. UsageError if it names none."""
    names: tuple[str, ...] = tuple(sorted(state.rdma, key=natural))
    if arguments.match:
        names = select_rdma(arguments.match, state)
        if not names:
            raise UsageError(f"match {arguments.match}: no rdma device; {what_there_is(arguments.match, state)}")
    return [(name, port) for name in names for port in state.rdma[name].ports]


def _family(arguments: argparse.Namespace) -> Family | None:
    return Family(arguments.family) if arguments.family else None


def _port_document(
    device: str,
    port: RdmaPort,
    state: NodeState,
    gids: Mapping[tuple[str, int], tuple[Gid, ...]],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    address = state.rdma[device].pci_address
    netdev = state.netdevs.get(port.netdev)
    choice = choose_gid(gids[device, port.port], port.netdev, _family(arguments))
    is_ethernet = port.link_layer == ETHERNET
    return {
        "device": device,
        "port": port.port,
        "rail": next((rail.number for rail in rails_of(state) if rail.address == address), None),
        "state": port.state,
        "linkLayer": port.link_layer,
        "netdev": port.netdev or None,
        "mtuBytes": netdev.mtu if netdev is not None else None,
        "roceMode": port.roce_mode or None,
        "tos": port.roce_tos,
        "trafficClass": port.traffic_class,
        "gidIndex": choice.gid.index if is_ethernet and choice.gid is not None else None,
        "gid": choice.gid.text if is_ethernet and choice.gid is not None else None,
        "gidReason": choice.reason if is_ethernet else "InfiniBand needs no choice",
    }


def _show_text(document: Mapping[str, Any], width: int) -> str:
    keys = ("device", "port", "rail", "state", "linkLayer", "netdev", "mtuBytes", "roceMode", "tos", "trafficClass")
    rows = [
        [*(_text(port[key]) for key in keys), _text(port["gidIndex"]), _gid_text(port)] for port in document["ports"]
    ]
    header = ("DEVICE", "PORT", "RAIL", "STATE", "LAYER", "LINK", "MTU", "MODE", "TOS", "CLASS", "INDEX", "GID")
    table = columns(rows, header, width=width) if rows else ""
    mode = document["netnsMode"]
    without = [
        f"{port['device']}:{port['port']} has no GID to use: {port['gidReason']}"
        for port in document["ports"]
        if _gid_text(port) == "none"
    ]
    parts = (table, "\n".join(without), f"network namespaces: {mode}" if mode else "")
    return "\n\n".join(part for part in parts if part)


def _gid_text(port: Mapping[str, Any]) -> str:
    return port["gid"] or "none" if port["linkLayer"] == ETHERNET else "-"


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def run_gids(arguments: argparse.Namespace) -> int:
    state, gids = _look(arguments)
    tables = []
    for device, port in _ports(arguments, state):
        found = choices(gids[device, port.port], _family(arguments))
        tables.append(_table_document(device, port, gids[device, port.port], found))
    emit({"tables": tables}, arguments.output, lambda: _gids_text(tables) or "no GIDs")
    return 0


def _table_document(device: str, port: RdmaPort, gids: tuple[Gid, ...], found: tuple[GidChoice, ...]) -> dict[str, Any]:
    chosen = {choice.gid.index for choice in found if choice.gid is not None}
    return {
        "device": device,
        "port": port.port,
        "entries": [
            {
                "index": gid.index,
                "type": gid.kind,
                "netdev": gid.netdev or None,
                "address": gid.text,
                "gid": gid.address.exploded,
                "use": gid.index in chosen,
            }
            for gid in gids
        ],
        "choices": [
            {
                "netdev": choice.netdev,
                "index": choice.gid.index if choice.gid is not None else None,
                "reason": choice.reason,
            }
            for choice in found
        ],
    }


def _gids_text(tables: list[dict[str, Any]]) -> str:
    rows = [
        [
            table["device"],
            str(table["port"]),
            str(entry["index"]),
            entry["type"] or "-",
            entry["netdev"] or "-",
            "use" if entry["use"] else "",
            entry["address"],
        ]
        for table in tables
        for entry in table["entries"]
    ]
    lines = [columns(rows, ("DEVICE", "PORT", "INDEX", "TYPE", "LINK", "", "ADDRESS"))] if rows else []
    missing = [
        f"{table['device']} port {table['port']}: {choice['reason']}"
        for table in tables
        for choice in table["choices"]
        if choice["index"] is None
    ]
    return "\n".join([*lines, *missing])


def run_counters(arguments: argparse.Namespace) -> int:
    with target_of(arguments).observer() as observer:
        state = observer.observe((), with_roce=True)
        counted = read_rdma(observer.host.files)
    wanted = {device for device, _ in _ports(arguments, state)}
    ports = [
        {"device": name, "port": port.port, "counters": dict(port.counters)}
        for name, device in sorted(counted.items(), key=lambda item: natural(item[0]))
        if name in wanted
        for port in device.ports
    ]
    width = style_for(arguments, sys.stdout).width
    emit({"ports": ports}, arguments.output, lambda: _counters_text(ports, width) or "no counters")
    return 0


def _counters_text(ports: list[dict[str, Any]], width: int) -> str:
    """A row for each counter that tells something, a column for each port."""
    names = [name for name in _TELLING if any(name in port["counters"] for port in ports)]
    rows = [[name, *(_text(port["counters"].get(name)) for port in ports)] for name in names]
    return in_blocks(rows, ("COUNTER", *(f"{port['device']}:{port['port']}" for port in ports)), width) if rows else ""


def run_nccl_env(arguments: argparse.Namespace) -> int:
    state, gids = _look(arguments)
    found = nccl_settings(tuple(_candidates(arguments, state, gids)), state)
    document = {
        "settings": [{"name": one.name, "value": one.value, "reason": one.reason} for one in found.settings],
        "remarks": list(found.remarks),
    }
    lines = conf_lines if arguments.conf else shell_lines
    emit(document, arguments.output, lambda: "\n".join(lines(found)))
    _warn_of_remarks(found, arguments)
    return 0 if found.settings else 1


def _warn_of_remarks(found: NcclSettings, arguments: argparse.Namespace) -> None:
    """In nccl.conf there is no room for them; a terminal shows them among the lines."""
    if arguments.conf and not sys.stderr.closed:
        for remark in found.remarks:
            warn(remark)


def _candidates(
    arguments: argparse.Namespace, state: NodeState, gids: Mapping[tuple[str, int], tuple[Gid, ...]]
) -> Iterator[Port]:
    """The matched ports; without --match the rails in their order, and every port where there are no rails."""
    order = {rail.address: rail.number for rail in rails_of(state)}
    ports = _ports(arguments, state)
    if not arguments.match and order:
        ports = [item for item in ports if state.rdma[item[0]].pci_address in order]
    for device, port in sorted(ports, key=lambda item: order.get(state.rdma[item[0]].pci_address, len(order))):
        is_ethernet = port.link_layer == ETHERNET
        choice = choose_gid(gids[device, port.port], port.netdev, _family(arguments)) if is_ethernet else None
        yield Port(device, port, choice)
