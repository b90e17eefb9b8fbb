"""Verbs `show` and `status`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nodeagent.cli.output import Style, columns, count, emit, natural, style_for, with_short_gpus
from nodeagent.cli.render import plan_text
from nodeagent.cli.target import (
    Target,
    add_file_option,
    add_target_options,
    agents_nvml,
    running_simulations,
    target_of,
)
from nodeagent.errors import GoneError, UsageError
from nodeagent.host.control_client import agent_listens, ask

_MIB = 1 << 20
_CONDITION = {
    "starting": "dim",
    "converging": "name",
    "converged": "good",
    "waiting": "warn",
    "blocked": "warn",
    "failing": "bad",
}


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    show = subparsers.add_parser(
        "show",
        parents=[common],
        help="show what is observed: driver, GPUs, MIG, modules, links, holders",
        description="What is observed: driver, GPUs, MIG, modules, links, RDMA devices, and who holds them. As the\n"
        "running agent saw it; without one, the node is looked at directly.",
        epilog="examples:\n  nodeagent show\n  nodeagent show gpus\n  nodeagent show modules -o json",
    )
    show.add_argument("what", nargs="?", choices=("all", "gpus", "modules", "links", "rdma"), default="all")
    add_target_options(show)
    show.set_defaults(run=run_show)
    status = subparsers.add_parser(
        "status",
        parents=[common],
        help="what the running agent reports; without one, a direct look",
        description="What the running agent reports; without one, a direct look. The only simulated node with a\n"
        "running agent is found by itself where none runs on this machine.",
        epilog="exit codes: 0 converged, 3 not, 1 the node cannot be looked at,\n"
        "65 the journal of an earlier run is damaged (the text says where, and what to do)\n\n"
        "examples:\n  nodeagent status\n  nodeagent status -o json",
    )
    add_file_option(status)
    add_target_options(status)
    status.set_defaults(run=run_status)


def run_show(arguments: argparse.Namespace) -> int:
    target = target_of(arguments)
    document = _state(target)
    if arguments.what != "all":
        kept = ("schemaVersion", "observedUnixSeconds", arguments.what)
        document = {key: value for key, value in document.items() if key in kept}
    style = style_for(arguments, sys.stdout)
    emit(document, arguments.output, lambda: state_text(document, target.title, style))
    return 0


def run_status(arguments: argparse.Namespace) -> int:
    document = _running_status(arguments)
    if document is None:
        from nodeagent.cli.convergence import direct_status

        return direct_status(arguments)
    style = style_for(arguments, sys.stdout)
    emit(document, arguments.output, lambda: status_text(document, style))
    return 0 if document["condition"] == "converged" and not document["specError"] else 3


def _running_status(arguments: argparse.Namespace) -> dict[str, Any] | None:
    target = target_of(arguments)
    if arguments.simulate or agent_listens(target.root):
        return _asked(target, "/v1/status")
    simulated = running_simulations()
    if len(simulated) > 1:
        found = ", ".join(one.simulated for one in simulated)
        raise UsageError(f"say which node with --simulate PROFILE; simulated nodes with a running agent: {found}")
    return _asked(simulated[0], "/v1/status") if simulated else None


def _asked(target: Target, path: str) -> dict[str, Any] | None:
    """The agent's answer, None when no agent runs on the node."""
    if not agent_listens(target.root):
        return None
    try:
        return ask(target.root, "GET", path)
    except GoneError:
        return None  # it has just ended


def _state(target: Target) -> dict[str, Any]:
    """From the running agent, which need not open the driver for it; else observed directly."""
    return _asked(target, "/v1/state") or observed(target, ())


def observed(target: Target, interest: Sequence[str]) -> dict[str, Any]:
    """The node as it is now, without the NVML session of this command; `interest` are modules to look up on disk."""
    from nodeagent.plan.quiet import KNOWN_SERVICES
    from nodeagent.plan.summary import state_document

    with target.observer() as observer:
        state = observer.add_holders(observer.observe(interest), KNOWN_SERVICES)
    agents = agents_nvml(target)
    document = state_document(state, agents)
    ours = () if agents else (f"nvml worker {state.nvml_pid}",)
    for entry in (*document["gpus"], *document["modules"]):
        entry["holders"] = [holder for holder in entry["holders"] if holder not in ours]
    return document


def status_text(document: Mapping[str, Any], style: Style) -> str:
    """The agent's condition in a few lines, and its plan when there is anything left to do."""
    last = document["lastPass"]
    document = with_short_gpus(document, last["gpuIndices"] if last else {})
    last = document["lastPass"]
    rows = [*_identity_rows(document), *_trouble_rows(document), *(_last_rows(last) if last else ())]
    lines = [_status_headline(document, style)]
    for meaning, label, text in rows:
        folded = style.wrap(f"{label:<9}{text}", 9)
        lines += [style(meaning, line) for line in folded] if meaning else folded
    if last and not last["plan"]["converged"]:
        lines += ["", plan_text(last["plan"], style, "left to do")]
    return "\n".join(lines)


def _status_headline(document: Mapping[str, Any], style: Style) -> str:
    kind = f"simulated node {document['simulated']}" if document["simulated"] else f"node {document['hostname']}"
    condition = style(_CONDITION.get(document["condition"], "bold"), document["condition"])
    return f"{style('bold', kind)}: {condition}" + (f", {document['step']}" if document["step"] else "")


def _identity_rows(document: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    passes = "1 pass" if document["passes"] == 1 else f"{document['passes']} passes"
    yield "", "agent", f"version {document['version']}, process {document['pid']}, {passes}"
    yield "", "file", document["file"]
    if document["metrics"]:
        yield "", "metrics", f"http://{document['metrics']}/metrics"


def _trouble_rows(document: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    for line in document["specError"].splitlines():
        yield "bad", "file", f"not in force, the last good one is: {line}"
    for key in document["needsRestart"]:
        yield "warn", "restart", f"{key} comes into force with the next start of the agent"
    if document["trouble"]:
        yield "bad", "trouble", document["trouble"]
    for text in document["degraded"]:
        yield "warn", "degraded", text
    for unit, why in document["postponed"].items():
        yield "bad", "waits", f"{unit}: {why}"


def _last_rows(last: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    age = max(0.0, time.time() - last["endedUnixSeconds"])
    took, because = last["durationSeconds"], ", ".join(last["reasons"])
    yield "", "last", f"{age:.0f} s ago, took {took:.2f} s, {count(last['stepsTaken'], 'step')}, because: {because}"
    yield "", "found", f"{count(last['gpus'], 'GPU')}, {count(last['rdmaDevices'], 'RDMA device')}"
    for text in last["unknown"]:
        yield "warn", "unknown", text
    for step in last["plan"].get("owed", ()):  # an agent from before does not tell it
        yield "bad", "owed", step["step"]
    for failure in last["failures"]:
        yield "bad", "failed", f"{failure['step']}: {failure['message']}"


def state_text(document: Mapping[str, Any], title: str, style: Style) -> str:
    """Which node it is, then each section as a table under its name."""
    sections = (("gpus", _gpus), ("modules", modules_text), ("links", _links), ("rdma", _rdma))
    parts = [style("bold", title)]
    if "kernel" in document:
        driver = document["driver"]
        text = f"{driver['version']} ({driver['flavor']})" if driver else "not loaded"
        parts[0] += f": kernel {document['kernel']['release']}, nvidia driver {text}"
    if "observedUnixSeconds" in document:
        age = max(0.0, time.time() - document["observedUnixSeconds"])
        parts.append(style("dim", f"as the agent saw it {age:.0f} s ago; holders as of now"))
    for key, table in sections:
        if key in document:
            parts.append(style("bold", key) + "\n" + (table(document[key], style) or "  none"))
    parts += [style("warn", f"unknown: {item['what']}: {item['reason']}") for item in document.get("unknown", ())]
    return "\n\n".join(parts)


def _gpus(gpus: Sequence[Mapping[str, Any]], style: Style) -> str:
    rows = []
    for gpu in gpus:
        pending = "" if gpu["migMode"] == gpu["pendingMigMode"] else f", {gpu['pendingMigMode']} pending"
        rows.append(
            (
                str(gpu["index"]),
                with_short_gpus(gpu["uuid"], {}),
                gpu["product"].removeprefix("NVIDIA "),
                gpu["pciAddress"],
                f"{gpu['memoryTotalBytes'] // _MIB} MiB",
                gpu["migMode"] + pending,
                _names(gpu["holders"]),
            )
        )
    table = _table(rows, ("GPU", "UUID", "PRODUCT", "PCI", "MEMORY", "MIG", "HELD BY"), style)
    instances = _instances(gpus, style)
    return table + (f"\n\n{instances}" if instances else "")


def _instances(gpus: Iterable[Mapping[str, Any]], style: Style) -> str:
    rows = [
        (
            str(gpu["index"]),
            one["profile"],
            f"{one['start']}-{one['start'] + one['size'] - 1}" if one["size"] > 1 else str(one["start"]),
            " ".join(one["devices"]) or "none",
            ", ".join(map(str, one["pids"])) or "-",
        )
        for gpu in gpus
        for one in gpu["instances"]
    ]
    return _table(rows, ("GPU", "INSTANCE", "SLICES", "DEVICE", "PROCESSES"), style)


def _table(rows: Sequence[Sequence[str]], header: Sequence[str], style: Style) -> str:
    return columns(rows, header, "  ", style.width) if rows else ""


def _names(holders: Iterable[str]) -> str:
    """Modules by their name alone, as `lsmod` has them; our own session as what it is."""
    shown = (holder.removeprefix("module ") for holder in holders)
    return ", ".join("agent" if name.startswith("nvml worker") else name for name in shown) or "-"


def modules_text(modules: Iterable[Mapping[str, Any]], style: Style) -> str:
    rows = [
        (
            module["name"],
            module["state"],
            "-" if module["references"] is None else str(module["references"]),
            (module["version"] or module["srcversion"][:8] or "-")
            + (" (reload pending)" if module["reloadPending"] else ""),
            _names(module["holders"]),
        )
        for module in modules
    ]
    return _table(rows, ("MODULE", "STATE", "REFS", "VERSION", "HELD BY"), style)


def _links(links: Iterable[Mapping[str, Any]], style: Style) -> str:
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
        for link in sorted(links, key=lambda one: natural(one["name"]))
    ]
    return _table(rows, ("LINK", "STATE", "CARRIER", "MTU", "DRIVER", "PCI", "IN USE FOR"), style)


def _rdma(devices: Iterable[Mapping[str, Any]], style: Style) -> str:
    rows = [
        (
            device["name"],
            str(port["port"]),
            port["state"],
            port["linkLayer"],
            port["rate"] or "-",
            port["netdev"] or "-",
        )
        for device in sorted(devices, key=lambda one: natural(one["name"]))
        for port in device["ports"]
    ]
    return _table(rows, ("RDMA DEVICE", "PORT", "STATE", "LINK LAYER", "RATE", "LINK"), style)
