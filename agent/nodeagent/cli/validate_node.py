"""Verb `validate` for the node: every proof, or one of them."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nodeagent.cli.output import Style, columns, count, emit, style_for, warn, with_short_gpus
from nodeagent.cli.parsing import add_verb
from nodeagent.cli.quantities import seconds, some_seconds
from nodeagent.cli.target import Target, add_file_option, add_target_options, spec_of, target_of
from nodeagent.errors import DeadlineError, UsageError
from nodeagent.state.proofs import Finding, Outcome, Proof, Validation

if TYPE_CHECKING:
    from nodeagent.plan.observing import Observer
    from nodeagent.spec.schema import NodeSpec
    from nodeagent.supervisor.validation_facts import Round

TEXT = "prove that driver, GPUs, NICs and containers work, by using them"
PROOFS: Mapping[Proof, str] = {
    Proof.DRIVER: "the driver is loaded, its device nodes are there, every GPU answers",
    Proof.CUDA: "memory and a vector addition on every GPU and MIG device",
    Proof.P2P: "copies from each GPU to the next, over NVLink or PCIe, and how fast",
    Proof.PEERMEM: "the peer memory module is loaded and an RDMA stack has taken it",
    Proof.GDRCOPY: "GDRCopy can be opened",
    Proof.GDS: "GPUDirect Storage can be opened, cufile.json can be read",
    Proof.OFED: "the driver of NVIDIA's NICs is loaded",
    Proof.GPUDIRECT: "NICs write and read memory of the GPUs beside them, by DMA-BUF or peer memory",
    Proof.TOOLKIT: "every container runtime knows CDI, and a specification gives each GPU and MIG device",
    Proof.PLUGIN: "the kubelet can hand out GPUs",
}
EPILOG = """\
passed: it was tried and worked. failed: it does not work. skipped: it could not be tried, as on a GPU that a job holds,
and nothing is proved. absent: the node has nothing of the kind.

exit codes:
  0 everything passed, or is absent    1 something failed, or what was asked for by name is absent
  6 nothing failed, something could not be tried    7 not all passed in the time of --wait

examples:
  nodeagent validate
  nodeagent validate cuda -o json
  nodeagent validate driver toolkit --wait 300
  nodeagent validate --ready-files
  nodeagent validate rdma --match rail:0
  nodeagent validate --simulate dgx-a100
"""
COLOURS = {Outcome.PASSED: "good", Outcome.FAILED: "bad", Outcome.SKIPPED: "warn", Outcome.ABSENT: "dim"}
POLL_SECONDS = 5.0  # between two tries; what is waited for (drivers, runtimes, the kubelet) tells nobody


def register(subparsers: Any, common: argparse.ArgumentParser) -> Any:
    """The verb and its proofs; gives back where more of them can be added."""
    parser = add_verb(subparsers, "validate", common, TEXT, EPILOG)
    _add_options(parser)
    parser.set_defaults(run=run, proofs=())
    verbs = parser.add_subparsers(dest="operation", metavar="WHAT", required=False, help="left out: all of them")
    for proof, words in PROOFS.items():
        verb = add_verb(verbs, proof.value, common, words, EPILOG)
        names = [one.value for one in (*PROOFS, Proof.RDMA)]
        verb.add_argument("more", nargs="*", metavar="WHAT", help=f"more of them: {', '.join(names)}")
        _add_options(verb)
        verb.set_defaults(run=run, proofs=(proof,))
    return verbs


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait", type=seconds, default=0.0, metavar="SECONDS", help="try again this long until all pass"
    )
    parser.add_argument("--in-use", action="store_true", help="also on GPUs that are in use; slows their jobs down")
    parser.add_argument(
        "--deadline",
        type=some_seconds,
        default=None,
        metavar="SECONDS",
        help="of one trial on a GPU (default: the node file's)",
    )
    parser.add_argument(
        "--ready-files", action="store_true", help="also write the operator's ready files to /run/nvidia/validations"
    )
    add_file_option(parser)
    add_target_options(parser)


def run(arguments: argparse.Namespace) -> int:
    target = target_of(arguments)
    spec = _spec(arguments, target)
    asked = _asked(arguments)
    choice = _round(arguments, spec, asked or frozenset(Proof))
    until = time.monotonic() + arguments.wait
    with target.observer(spec.loop.nvml_deadline_seconds) as observer:
        while True:
            found, indices = _once(arguments, observer, choice, simulated=bool(target.simulated))
            code = exit_code(found, asked)
            if not code or time.monotonic() >= until:
                break
            observer.host.clock.sleep(min(POLL_SECONDS, max(0.1, until - time.monotonic())))
    _show(arguments, found, indices)
    return DeadlineError.exit_code if code and arguments.wait else code


def _spec(arguments: argparse.Namespace, target: Target) -> NodeSpec:
    """The node file; its defaults where there is none, for proofs do not need one."""
    import os

    from nodeagent.spec.schema import NodeSpec

    if arguments.file or target.simulated or os.path.exists(target.default_file):
        return spec_of(arguments, target)[0]
    return NodeSpec(version=1)


def _asked(arguments: argparse.Namespace) -> frozenset[Proof]:
    """By name; empty: everything."""
    known = {proof.value: proof for proof in (*PROOFS, Proof.RDMA)}
    more = getattr(arguments, "more", [])
    wrong = [name for name in more if name not in known]
    if wrong:
        raise UsageError(f"validate {wrong[0]}: there is no such proof; there are {', '.join(known)}")
    return frozenset((*arguments.proofs, *(known[name] for name in more)))


def _round(arguments: argparse.Namespace, spec: NodeSpec, proofs: frozenset[Proof]) -> Round:
    from nodeagent.spec.containers import Cdi
    from nodeagent.spec.validation import Validation as Section
    from nodeagent.supervisor.validation_facts import Round, asks_for_rdma

    given = arguments.deadline
    deadline = (spec.validation or Section()).deadline_seconds if given is None else given
    return Round(proofs, deadline, arguments.in_use, spec.cdi or Cdi(), asks_for_rdma(spec))


def _once(
    arguments: argparse.Namespace, observer: Observer, choice: Round, *, simulated: bool
) -> tuple[Validation, Mapping[str, int]]:
    from nodeagent.supervisor.validation_facts import gather, prove
    from nodeagent.supervisor.validation_results import keep
    from nodeagent.validation.ready_files import bring, texts

    facts = gather(observer, choice.cdi, wants_rdma=choice.wants_rdma)
    found = prove(observer.host, facts, choice, simulated=simulated)
    keep(observer.host.files, found)
    if arguments.ready_files:
        for path in bring(observer.host.files, texts(found, facts.state)):
            warn(f"{path} was written by another tool and is left alone")
    return found, {uuid: gpu.index for uuid, gpu in facts.state.gpus.items()}


def exit_code(found: Validation, asked: frozenset[Proof]) -> int:
    """0, 1 or 6. What was asked for by name must be there."""
    outcomes = {finding.outcome for finding in found.findings}
    absent = any(all(one.outcome is Outcome.ABSENT for one in found.of(proof)) for proof in asked)
    if Outcome.FAILED in outcomes or absent:
        return 1
    return 6 if Outcome.SKIPPED in outcomes else 0


def _show(arguments: argparse.Namespace, found: Validation, indices: Mapping[str, int]) -> None:
    from nodeagent.validation.documents import document_of

    style = style_for(arguments, sys.stdout)
    emit(document_of(found), arguments.output, lambda: text_of(found, style, indices))


def text_of(found: Validation, style: Style, indices: Mapping[str, int]) -> str:
    """A line for each finding, then how many there are of each kind."""
    rows = [_row(one, indices) for one in found.findings]
    header, *lines = columns(rows, ("PROOF", "SUBJECT", "OUTCOME", ""), width=style.width).split("\n")
    painted = [header, *(_painted(line, style) for line in lines)]
    numbers = {outcome: sum(one.outcome is outcome for one in found.findings) for outcome in Outcome}
    parts = [style(COLOURS[outcome], f"{number} {outcome.value}") for outcome, number in numbers.items() if number]
    notes = (
        ["simulated: a stand-in for the CUDA driver answered, no GPU"]
        if any(one.simulated for one in found.findings)
        else []
    )
    return "\n".join([*painted, f"{count(len(rows), 'finding')}: {', '.join(parts)}", *notes])


def _row(one: Finding, indices: Mapping[str, int]) -> list[str]:
    text = with_short_gpus(one.text, indices) + (" (simulated)" if one.simulated else "")
    return [one.proof.value, with_short_gpus(one.subject, indices), one.outcome.value, text]


def _painted(line: str, style: Style) -> str:
    """Colour the outcome, which stands alone between two spaces."""
    for outcome, meaning in COLOURS.items():
        before, found, after = line.partition(f"  {outcome.value}  ")
        if found:
            return f"{before}  {style(meaning, outcome.value)}  {after}"
    return line
