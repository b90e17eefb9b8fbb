"""Verbs `show` and `status`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

from nodeagent.cli.output import Style, columns, emit, style_for
from nodeagent.cli.render import plan_text
from nodeagent.cli.target import Target, add_file_option, add_target_options, running_simulations, target_of
from nodeagent.errors import GoneError
from nodeagent.host.control_client import agent_listens, ask

_MIB = 1 << 20
_CONDITION = {"converged": "good", "starting": "dim", "waiting": "warn", "blocked": "warn", "failing": "bad"}


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    show = subparsers.add_parser(
        "show",
        parents=[common],
        help="show what is observed: driver, GPUs, MIG, modules, links, holders",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  nodeagent show\n  nodeagent show gpus\n  nodeagent show modules -o json",
    )
    show.add_argument("what", nargs="?", choices=("all", "gpus", "modules", "links", "rdma"), default="all")
    add_target_options(show)
    show.set_defaults(run=run_show)
    status = subparsers.add_parser(
        "status",
        parents=[common],
        help="what the running agent reports; without one, a direct look",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit codes: 0 converged, 3 not\n\nexamples:\n  nodeagent status\n  nodeagent status -o json",
    )
    add_file_option(status)
    add_target_options(status)
    status.set_defaults(run=run_status)


def run_show(arguments: argparse.Namespace) -> int:
    target = target_of(arguments)
    document = _state(target)
    if arguments.what != "all":
        document = {"schemaVersion": document["schemaVersion"], arguments.what: document[arguments.what]}
    style = style_for(arguments, sys.stdout)
    emit(document, arguments.output, lambda: state_text(document, style))
    return 0


def run_status(arguments: argparse.Namespace) -> int:
    document = _running_status(arguments)
    if document is None:
        from nodeagent.cli.convergence import direct_status  # noqa: PLC0415 - only without a running agent

        return direct_status(arguments)
    style = style_for(arguments, sys.stdout)
    emit(document, arguments.output, lambda: status_text(document, style))
    return 0 if document["condition"] == "converged" else 3


def _running_status(arguments: argparse.Namespace) -> dict[str, Any] | None:
    target = target_of(arguments)
    candidates = [target] if arguments.simulate else [target, *running_simulations()]
    for candidate in candidates:
        if agent_listens(candidate.root):
            try:
                return ask(candidate.root, "GET", "/v1/status")
            except GoneError:
                continue  # a socket that a killed agent left behind
    return None


def _state(target: Target) -> dict[str, Any]:
    """From the running agent, because its own NVML session would look foreign; else observed directly."""
    if agent_listens(target.root):
        try:
            return ask(target.root, "GET", "/v1/state")
        except GoneError:
            pass  # a socket that a killed agent left behind
    from nodeagent.plan.quiet import KNOWN_SERVICES  # noqa: PLC0415 - only without a running agent
    from nodeagent.plan.summary import state_document  # noqa: PLC0415

    with target.observer() as observer:
        return state_document(observer.add_holders(observer.observe(()), KNOWN_SERVICES))


def status_text(document: Mapping[str, Any], style: Style) -> str:
    """The agent's condition in a few lines, and its plan when there is anything left to do."""
    simulated = f" (simulated {document['simulated']})" if document["simulated"] else ""
    lines = [
        f"{document['hostname']}{simulated}: {style(_CONDITION[document['condition']], document['condition'])}",
        f"agent    version {document['version']}, process {document['pid']}, {document['passes']} pass(es)",
        f"file     {document['file']}",
    ]
    if document["metrics"]:
        lines.append(f"metrics  http://{document['metrics']}/metrics")
    lines += [style("bad", f"trouble  {text}") for text in (document["specError"], document["trouble"]) if text]
    lines += [style("warn", f"degraded {text}") for text in document["degraded"]]
    lines += [style("bad", f"waits    {unit}: {why}") for unit, why in document["postponed"].items()]
    last = document["lastPass"]
    if last:
        lines += _last_pass(last, style)
    return "\n".join(lines)


def _last_pass(last: Mapping[str, Any], style: Style) -> Iterable[str]:
    age = max(0.0, time.time() - last["endedUnixSeconds"])
    took, because = last["durationSeconds"], ", ".join(last["reasons"])
    yield f"last     {age:.0f} s ago, took {took:.2f} s, {last['stepsTaken']} step(s), because: {because}"
    yield f"node     {last['gpus']} GPU(s), {last['rdmaDevices']} RDMA device(s)"
    for text in last["unknown"]:
        yield style("warn", f"unknown  {text}")
    for failure in last["failures"]:
        yield style("bad", f"failed   {failure['step']}: {failure['message']}")
    if not last["plan"]["converged"]:
        yield ""
        yield plan_text(last["plan"], style)


def state_text(document: Mapping[str, Any], style: Style) -> str:
    """Each section as a table under its name."""
    sections = (("gpus", _gpus), ("modules", modules_text), ("links", _links), ("rdma", _rdma))
    parts = []
    if "kernel" in document:
        driver = document["driver"]
        text = f"{driver['version']} ({driver['flavor']})" if driver else "not loaded"
        parts.append(f"kernel {document['kernel']['release']}   nvidia driver {text}")
    for key, table in sections:
        if key in document:
            parts.append(style("bold", key) + "\n" + (table(document[key]) or "  none"))
    parts += [style("warn", f"unknown: {item['what']}: {item['reason']}") for item in document.get("unknown", ())]
    return "\n\n".join(parts)


def _gpus(gpus: Iterable[Mapping[str, Any]]) -> str:
    rows = []
    for gpu in gpus:
        memory = f"{gpu['memoryTotalBytes'] // _MIB} MiB"
        pending = "" if gpu["migMode"] == gpu["pendingMigMode"] else f" (pending {gpu['pendingMigMode']})"
        layout = " ".join(f"{one['profile']}@{one['start']}" for one in gpu["instances"]) or "-"
        held = "; ".join(gpu["holders"]) or "-"
        rows.append(
            (str(gpu["index"]), gpu["product"], gpu["pciAddress"], memory, gpu["migMode"] + pending, layout, held)
        )
    return columns(rows, ("GPU", "PRODUCT", "PCI", "MEMORY", "MIG", "INSTANCES", "HELD BY"), "  ") if rows else ""


def modules_text(modules: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        (
            module["name"],
            module["state"],
            "-" if module["references"] is None else str(module["references"]),
            (module["version"] or module["srcversion"] or "-") + (" reload pending" if module["reloadPending"] else ""),
            "; ".join(module["holders"]) or "-",
        )
        for module in modules
    ]
    return columns(rows, ("MODULE", "STATE", "REFS", "VERSION", "HELD BY"), "  ") if rows else ""


def _links(links: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        (
            link["name"],
            "up" if link["up"] else "down",
            "yes" if link["carrier"] else "no",
            str(link["mtu"]),
            link["driver"] or "-",
            link["pciAddress"] or "-",
            ", ".join(link["uses"]) or "-",
        )
        for link in links
    ]
    return columns(rows, ("LINK", "STATE", "CARRIER", "MTU", "DRIVER", "PCI", "IN USE FOR"), "  ") if rows else ""


def _rdma(devices: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        (
            device["name"],
            str(port["port"]),
            port["state"],
            port["linkLayer"],
            port["rate"] or "-",
            port["netdev"] or "-",
        )
        for device in devices
        for port in device["ports"]
    ]
    return columns(rows, ("RDMA DEVICE", "PORT", "STATE", "LINK LAYER", "RATE", "LINK"), "  ") if rows else ""
