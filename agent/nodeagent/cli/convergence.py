"""Verbs `plan`, `apply` and `check`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from nodeagent.cli.completing import offer, policy_words
from nodeagent.cli.interrupt import Interrupt
from nodeagent.cli.output import Style, count, emit, style_for, subject_text, warn, with_short_gpus
from nodeagent.cli.parsing import add_verb
from nodeagent.cli.progress import Progress
from nodeagent.cli.render import AS_THE_FILE_SAYS, plan_text
from nodeagent.cli.target import add_file_option, add_target_options, agents_nvml, spec_of, target_of
from nodeagent.errors import BlockedError, UsageError
from nodeagent.plan.convergence import Goal, Outcome, converge, goal_of, survey_owed
from nodeagent.plan.document import failure_document, plan_document
from nodeagent.plan.executor import Context
from nodeagent.plan.journal import Journal
from nodeagent.plan.model import Plan
from nodeagent.plan.observing import Observer
from nodeagent.resources.registry import RESOURCES
from nodeagent.spec.schema import Disruption, NodeSpec, Policy
from nodeagent.state.node import NodeState

NOT_AS_WISHED = 3
BLOCKED = 6

_EXAMPLES = {
    "plan": "  nodeagent plan\n  nodeagent plan --only mig -o json\n  nodeagent plan --simulate dgx-a100",
    "apply": "  nodeagent apply\n  nodeagent apply --partial --only mig\n  nodeagent apply --disruption gpu=never",
    "check": "  nodeagent check && echo as wished\n  nodeagent check -o json",
}

_EXIT_CODES = {
    "plan": "exit codes: 0 nothing to do, 3 something to do",
    "apply": "exit codes: 0 the node is as the file says, 1 a step failed, 3 it is not yet, 6 somebody is in the way",
    "check": "exit codes: 0 the node is as the file says, 3 it is not",
}


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    verbs = (
        ("plan", "show what would be done, why, what it disturbs and what is in the way", run_plan),
        ("apply", "do it once: nothing at all when somebody is in the way, unless --partial", run_apply),
        ("check", "say whether the node is as the file says", run_check),
    )
    for name, text, function in verbs:
        parser = add_verb(subparsers, name, common, text, f"{_EXIT_CODES[name]}\n\nexamples:\n{_EXAMPLES[name]}")
        add_file_option(parser)
        add_target_options(parser)
        add_goal_options(parser)
        if name == "apply":
            add_apply_options(parser)
        parser.set_defaults(run=function)


def add_goal_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only",
        metavar="SECTION",
        action="append",
        choices=tuple(RESOURCES),
        default=[],
        help=f"only these sections: {', '.join(RESOURCES)}",
    )
    add_disruption_option(parser)


def add_disruption_option(parser: argparse.ArgumentParser) -> None:
    disruption = parser.add_argument(
        "--disruption",
        action="append",
        default=[],
        metavar="KIND=POLICY",
        help="override the file: gpu, nic or node = never, when-idle or allow",
    )
    offer(disruption, policy_words)


def add_apply_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--partial", action="store_true", help="do what is not blocked, leave the rest")
    parser.add_argument("--dry-run", action="store_true", help="show the plan and do nothing")


def override(disruption: Disruption, words: list[str]) -> Disruption:
    """The policies with `KIND=POLICY` words applied."""
    for word in words:
        kind, _, policy = word.partition("=")
        if kind not in ("gpu", "nic", "node") or policy not in tuple(Policy):
            choices = ", ".join(Policy)
            raise UsageError(f"--disruption {word}: expected gpu, nic or node, =, and one of {choices}")
        disruption = replace(disruption, **{kind: Policy(policy)})
    return disruption


def run_plan(arguments: argparse.Namespace) -> int:
    state, plan = _survey(arguments)
    show_plan(plan, state, arguments)
    return 0 if plan.converged else NOT_AS_WISHED


def run_check(arguments: argparse.Namespace) -> int:
    state, plan = _survey(arguments)
    style = style_for(arguments, sys.stdout)
    emit(plan_document(plan), arguments.output, lambda: _check_text(plan, state, style))
    return 0 if plan.converged else NOT_AS_WISHED


def run_apply(arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        return run_plan(arguments)
    target = target_of(arguments)
    spec, _ = spec_of(arguments, target)
    goal = _goal(arguments, spec, ())
    with target.lock(), target.observer(spec.loop.nvml_deadline_seconds) as observer:
        return carry_out(goal, observer, arguments)


def carry_out(
    goal: Goal, observer: Observer, arguments: argparse.Namespace, cycle: Callable[[Goal, Context], Outcome] = converge
) -> int:
    """Converge with progress on stderr, print the outcome, and say by the exit code how it ended."""
    with Interrupt() as interrupt:
        report = Progress(style_for(arguments, sys.stderr), sys.stderr)
        context = Context(observer, Journal(observer.host.files), report, lambda: interrupt.asked)
        if not arguments.partial:
            _refuse_if_blocked(goal, context, arguments)
        outcome = cycle(goal, context)
    if interrupt.asked:
        warn("stopped as asked; what was half done is undone, what was taken away is back")
    emit(outcome_document(outcome), arguments.output, lambda: _outcome_text(outcome, arguments))
    return exit_code(outcome)


def exit_code(outcome: Outcome) -> int:
    if outcome.plan.converged:
        return 0  # what failed on the way was mended by a later round, and the text names it
    if outcome.failures:
        return max(failure.error.exit_code for failure in outcome.failures)
    if any(entry.blockers for entry in outcome.plan.blocked):
        return BLOCKED
    return NOT_AS_WISHED


def outcome_document(outcome: Outcome) -> dict[str, Any]:
    return {
        "stepsTaken": outcome.steps_taken,
        "rounds": outcome.rounds,
        "failures": [failure_document(failure) for failure in outcome.failures],
        "plan": plan_document(outcome.plan),
    }


def direct_status(arguments: argparse.Namespace) -> int:
    """`status` where no agent runs: look at the node, or only say so when there is no node file."""
    target = target_of(arguments)
    warn("no agent is running, looking at the node directly")
    if not arguments.file and not target.simulated and not os.path.exists(target.default_file):
        advice = "name one with --file, or begin with `nodeagent config adopt` or `config example`"
        raise UsageError(f"no node file {target.default_file}; {advice}")
    arguments.only, arguments.disruption = [], []
    return run_plan(arguments)


def show_plan(plan: Plan, state: NodeState, arguments: argparse.Namespace) -> None:
    document = plan_document(plan)
    style, title = style_for(arguments, sys.stdout), target_of(arguments).title
    emit(document, arguments.output, lambda: plan_text(document, style, title, gpu_indices(state), _wished(arguments)))


def _wished(arguments: argparse.Namespace) -> str:
    """What an empty plan means: `wished` says it where it is not the node file that decides."""
    text: str = getattr(arguments, "wished", AS_THE_FILE_SAYS)
    return text


def gpu_indices(state: NodeState) -> dict[str, int]:
    return {uuid: found.index for uuid, found in state.gpus.items()}


def _survey(arguments: argparse.Namespace) -> tuple[NodeState, Plan]:
    target = target_of(arguments)
    spec, _ = spec_of(arguments, target)
    goal = _goal(arguments, spec, agents_nvml(target))
    with target.observer(spec.loop.nvml_deadline_seconds) as observer:
        state, plan, _ = survey_owed(goal, Journal(observer.host.files).read(), observer)
    return state, plan


def _goal(arguments: argparse.Namespace, spec: NodeSpec, own_pids: tuple[int, ...]) -> Goal:
    goal = goal_of(spec, arguments.only)
    disruption = override(spec.disruption, arguments.disruption)
    return replace(goal, terms=replace(goal.terms, disruption=disruption, own_pids=own_pids))


def _refuse_if_blocked(goal: Goal, context: Context, arguments: argparse.Namespace) -> None:
    """All or nothing: with somebody in the way, nothing is touched."""
    state, plan, _ = survey_owed(goal, context.journal.read(), context.observer)
    blockers = [str(blocker) for entry in plan.blocked for blocker in entry.blockers]
    if not blockers:
        return
    if arguments.output == "table":
        show_plan(plan, state, arguments)
    advice = "nothing was changed; end them, or use --partial for the rest"
    raise BlockedError("apply", (*dict.fromkeys(blockers), advice))


def _check_text(plan: Plan, state: NodeState, style: Style) -> str:
    if plan.converged:
        return style("good", "the node is as the file says")
    found = differences(plan, state, style)
    return "\n".join([style("warn", count(len(found), "difference")), *found])


def differences(plan: Plan, state: NodeState, style: Style) -> list[str]:
    """What is not as wanted, one text each, folded for the terminal."""
    lines = [f"{step}  ({step.reason})" for transition in plan.transitions for step in transition.acts]
    lines += [f"{entry.step}: {entry.cause}" for entry in plan.blocked]
    lines += [f"{subject_text(str(obstacle.subject))}: {obstacle.problem}" for obstacle in plan.obstacles]
    indices = gpu_indices(state)
    return ["\n".join(style.wrap(f"  {with_short_gpus(line, indices)}", 4)) for line in lines]


def _outcome_text(outcome: Outcome, arguments: argparse.Namespace) -> str:
    style, title, wished = style_for(arguments, sys.stdout), target_of(arguments).title, _wished(arguments)
    indices = gpu_indices(outcome.state)
    lines = [style("bad", with_short_gpus(f"failed: {failure}", indices)) for failure in outcome.failures]
    if outcome.plan.converged:
        done = f"{count(outcome.steps_taken, 'step')} done" if outcome.steps_taken else "nothing to do"
        remarks = [] if outcome.steps_taken else [style("dim", f"note: {remark}") for remark in outcome.plan.remarks]
        return "\n".join([*lines, style("bold", title) + ": " + style("good", f"{done}, {wished}"), *remarks])
    return "\n".join([*lines, plan_text(plan_document(outcome.plan), style, title, indices, wished)])
