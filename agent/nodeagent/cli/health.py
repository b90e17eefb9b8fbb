"""Verb `health`: what is ill, since when, what it means and what to do."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from nodeagent.cli.completing import check_names, offer
from nodeagent.cli.output import Style, columns, count, emit, style_for, with_short_gpus
from nodeagent.cli.parsing import add_verb
from nodeagent.cli.quantities import seconds
from nodeagent.cli.target import Target, add_file_option, add_target_options, running_simulations, spec_of, target_of
from nodeagent.errors import UsageError
from nodeagent.health.documents import health_document, health_of
from nodeagent.host.control_client import agent_listens, ask
from nodeagent.state.health import Finding, Health, Subject, SubjectKind, Verdict, worst

if TYPE_CHECKING:
    from collections.abc import Iterable
from dataclasses import replace

TEXT = "which GPU, MIG device, port or part of the node is ill, since when, what it means and what to do"
EPILOG = """\
exit codes (for prolog, epilog and health check programs; --fail-on says from where on it is not 0):
  0 healthy    4 something failed    5 something is doubtful    9 something could not be looked at
with --nagios: 0 ok, 1 warning, 2 failed, 3 could not look

examples:
  nodeagent health
  nodeagent health --all -o json
  nodeagent health --explain 79
  nodeagent health --explain row-remap
  nodeagent health --wait 120 --fail-on failed
  nodeagent health --gpu "$SLURM_JOB_GPUS" --fail-on failed
"""
CODES = {Verdict.OK: 0, Verdict.FAILED: 4, Verdict.WARNING: 5, Verdict.UNKNOWN: 9}
NAGIOS = {Verdict.OK: 0, Verdict.WARNING: 1, Verdict.FAILED: 2, Verdict.UNKNOWN: 3}
COLOURS = {Verdict.OK: "good", Verdict.WARNING: "warn", Verdict.FAILED: "bad", Verdict.UNKNOWN: "dim"}
POLL_SECONDS = 1.0  # verdicts change with a look of the agent, or with one of our own where none runs


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = add_verb(subparsers, "health", common, TEXT, EPILOG)
    parser.add_argument("--all", action="store_true", help="also what is well")
    parser.add_argument("--gpu", default="", metavar="LIST", help="only these GPUs: indices, UUIDs or PCI addresses")
    parser.add_argument("--wait", type=seconds, metavar="SECONDS", default=0.0, help="wait this long for it to be well")
    parser.add_argument(
        "--fail-on",
        choices=("unknown", "warning", "failed"),
        default="unknown",
        help="from which verdict on the exit code is not 0 (default: unknown)",
    )
    parser.add_argument("--nagios", action="store_true", help="exit codes 0 to 3, as Nagios and node-problem-detector")
    explain = parser.add_argument(
        "--explain", metavar="XID|CHECK", default="", help="what an Xid, an SXid or a check means"
    )
    offer(explain, check_names)
    parser.add_argument(
        "--acknowledge", metavar="GPU|SWITCH", default="", help="the errors of this GPU or NVSwitch are dealt with"
    )
    add_file_option(parser)
    add_target_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.explain:
        return _explain(arguments)
    target = node_of(arguments)
    if arguments.acknowledge:
        return _acknowledge(arguments, target)
    least = Verdict(arguments.fail_on)
    until = time.monotonic() + arguments.wait
    chosen = _chosen(look(arguments, target), arguments.gpu)
    while _is_bad(chosen, least) and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
        chosen = _chosen(look(arguments, target), arguments.gpu)
    style = style_for(arguments, sys.stdout)
    emit(health_document(chosen), arguments.output, lambda: health_text(chosen, style, everything=arguments.all))
    verdict = worst(finding.verdict for finding in chosen.findings)
    return (NAGIOS if arguments.nagios else CODES)[verdict] if _is_bad(chosen, least) else 0


def node_of(arguments: argparse.Namespace) -> Target:
    """The machine itself, or the only simulated node that an agent runs on if none runs here."""
    if arguments.simulate or agent_listens("/"):
        return target_of(arguments)
    running = running_simulations()
    return running[0] if len(running) == 1 else target_of(arguments)


def look(arguments: argparse.Namespace, target: Target) -> Health:
    """What the agent says; a look of our own where none runs, or where it has not looked yet."""
    if agent_listens(target.root):
        for _ in range(20):  # an agent that has just started: its first look takes some seconds
            found = health_of(ask(target.root, "GET", "/v1/health"))
            if found.generated:
                return found
            time.sleep(0.5)
        return found
    from nodeagent.supervisor.health_once import look as look_once

    spec, _ = spec_of(arguments, target)
    with target.observer(spec.loop.nvml_deadline_seconds) as observer:
        return look_once(observer, spec)


def _chosen(health: Health, wanted: str) -> Health:
    """Only findings about these GPUs and their MIG devices; all of them where none are named."""
    names = [name for name in wanted.replace(",", " ").split() if name]
    if not names:
        return health
    gpus = sorted({one.subject for one in health.findings if one.subject.kind is SubjectKind.GPU}, key=_by_address)
    uuids = {_gpu(name, gpus).name for name in names}
    return Health(
        tuple(one for one in health.findings if {one.subject.name, one.subject.parent} & uuids), health.generated
    )


def _by_address(subject: Subject) -> str:
    return subject.pci_address


def _gpu(name: str, gpus: list[Subject]) -> Subject:
    """A GPU by index in the order of PCI addresses (NVML's order), UUID or address."""
    if name.isdecimal() and int(name) < len(gpus):
        return gpus[int(name)]
    for gpu in gpus:
        if name in (gpu.name, gpu.pci_address):
            return gpu
    known = ", ".join(f"{index} ({gpu.name})" for index, gpu in enumerate(gpus)) or "none"
    raise UsageError(f"--gpu {name}: there is no such GPU; there are {known}")


def _is_bad(health: Health, least: Verdict) -> bool:
    return health.verdict.rank >= least.rank or not health.findings


def health_text(health: Health, style: Style, *, everything: bool) -> str:
    """A headline, then what is wrong (or all), each with evidence, meaning and advice."""
    subjects = health.subjects
    kinds = {kind: sum(1 for one in subjects if one.kind is kind) for kind in SubjectKind}
    parts = ", ".join(
        count(number, kind.value) for kind, number in kinds.items() if number and kind is not SubjectKind.NODE
    )
    verdict = style(COLOURS[health.verdict], health.verdict.value)
    lines = [
        f"{style('bold', 'node health')}: {verdict}, {count(len(health.findings), 'check')}"
        + (f" on {parts}" if parts else "")
    ]
    for alike in _alike(health.problems):
        lines += ["", *_problem(alike, style)]
    if everything:
        rows = [
            (name_of(one.subject), one.check, one.evidence or "-")
            for one in health.findings
            if one.verdict is Verdict.OK
        ]
        lines += ["", style("bold", "well"), columns(rows, (), "  ", style.width)]
    return "\n".join(lines)


def _alike(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Findings of one device that say the same together: a GPU that is silent fails a dozen checks at once."""
    groups: dict[Finding, list[Finding]] = {}
    for one in findings:
        groups.setdefault(replace(one, check="", since=int(one.since)), []).append(one)
    return list(groups.values())


def _problem(alike: list[Finding], style: Style) -> Iterable[str]:
    finding = alike[0]
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(finding.since))
    name, verdict, checks = name_of(finding.subject), finding.verdict.value, ", ".join(one.check for one in alike)
    first, *more = style.wrap(f"{verdict} {name} {checks}, since {since}", 2)
    yield first.replace(f"{verdict} {name}", f"{style(COLOURS[finding.verdict], verdict)} {style('bold', name)}", 1)
    yield from more
    action = f"{finding.recovery.value}" + (" (the driver asks for it)" if finding.by_driver else "")
    for label, text in (
        ("seen", finding.evidence),
        ("means", finding.cause),
        ("do", finding.advice),
        ("action", action),
    ):
        if text:
            yield from style.wrap(f"  {label:<7}{text}", 9)


def name_of(subject: Subject) -> str:
    name = with_short_gpus(subject.name, {})
    words = [subject.kind.value if not name.startswith("GPU-") else "", name, subject.pci_address]
    return " ".join(word for word in words if word)


def _acknowledge(arguments: argparse.Namespace, target: Target) -> int:
    """Written into the history, from where a running agent takes it up with its next cycle."""
    from nodeagent.host.history import Entry, History
    from nodeagent.state.health import EventKind, HealthEvent

    subject = _of_errors(arguments.acknowledge, look(arguments, target))
    history = History(target.root)
    try:
        event = HealthEvent(time.time(), EventKind.ACTION, subject, "its errors were acknowledged", "xid")
        history.record(Entry((event,)))
    finally:
        history.close()
    emit({"acknowledged": subject.name}, arguments.output, lambda: f"errors of {name_of(subject)} are acknowledged")
    return 0


def _of_errors(name: str, health: Health) -> Subject:
    """A GPU, or an NVSwitch by the name or the address that its finding has. UsageError for anything else."""
    subjects = sorted({one.subject for one in health.findings}, key=_by_address)
    switches = [one for one in subjects if one.kind is SubjectKind.NVSWITCH]
    for switch in switches:
        if name in (switch.name, switch.pci_address):
            return switch
    try:
        return _gpu(name, [one for one in subjects if one.kind is SubjectKind.GPU])
    except UsageError as error:
        told = ", ".join(one.name for one in switches) or "none"
        text = str(error).removeprefix("--gpu ")
        raise UsageError(f"--acknowledge {text}; NVSwitches with errors: {told}") from error


def _explain(arguments: argparse.Namespace) -> int:
    from nodeagent.cli.health_explain import explain, explanation_rows

    document = explain(arguments.explain)
    emit(document, arguments.output, lambda: columns(explanation_rows(document)))
    return 0
