"""What is to be done about findings now: `decide` is a pure function of findings, policy, memory and time.

Whether a device is in use is not decided here: whatever is decided becomes ordinary steps with claims, and the
sequencer holds them back under everybody who is in the way.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from nodeagent.remediation.rules import can_be_done, device_of, rule_for, target_of
from nodeagent.spec.remediation import Remediation, RemediationMode, RepairLimits, RepairRule
from nodeagent.state.health import Finding, Subject, SubjectKind
from nodeagent.state.repair import Attempt, Decision, RepairAction, RepairMemory, Standing

LEAST_SYSTEMIC = 2  # one bad device is never a storm


@dataclass(frozen=True)
class _Case:
    """A finding with its rule and what would be tried next; None: nothing is left, or nothing is declared."""

    finding: Finding
    rule: RepairRule
    action: RepairAction | None
    verifying: Attempt | None = None

    @property
    def target(self) -> Subject:
        if self.verifying:
            return self.verifying.subject
        return target_of(self.action, self.finding) if self.action else device_of(self.finding)


def decide(findings: Iterable[Finding], section: Remediation, memory: RepairMemory, now: float) -> tuple[Decision, ...]:
    """One decision for each action on each subject, the readiest first; empty while repair is off."""
    if section.mode is RemediationMode.OFF:
        return ()
    findings = tuple(findings)
    recent = replace(memory, attempts=recent_attempts(memory, section.limits, now))
    cases = [_case(one, rule, recent, section.limits) for one in findings if (rule := rule_for(one, section))]
    storm = systemic(findings, section)
    groups: dict[tuple[Subject, RepairAction | None], list[_Case]] = defaultdict(list)
    for case in cases:
        groups[same_device(case.target), case.action].append(case)
    decisions = [
        _decision(_Group(subject, action, tuple(group)), section, recent, (now, storm))
        for (subject, action), group in groups.items()
    ]
    return tuple(sorted(decisions, key=lambda one: (list(Standing).index(one.standing), one.identity)))


def same_device(subject: Subject) -> Subject:
    """Two ports of one function are the same device to whoever rebinds it."""
    if subject.kind is SubjectKind.PORT and subject.pci_address:
        return Subject(SubjectKind.PORT, "", subject.pci_address)
    return subject


def recent_attempts(memory: RepairMemory, limits: RepairLimits, now: float) -> tuple[Attempt, ...]:
    """Those within the window, and those from a future that a wrong clock made: they count, which is the safe side."""
    return tuple(one for one in memory.attempts if now - one.began < limits.window_seconds or one.outcome.is_open)


def systemic(findings: Iterable[Finding], section: Remediation) -> frozenset[SubjectKind]:
    """Kinds of which so many are bad at once that none of them is to blame."""
    seen: dict[SubjectKind, set[Subject]] = defaultdict(set)
    bad: dict[SubjectKind, set[Subject]] = defaultdict(set)
    for finding in findings:
        device = device_of(finding)
        key = Subject(*device.key)
        seen[device.kind].add(key)
        if rule_for(finding, section):
            bad[device.kind].add(key)
    ratio = section.limits.systemic_ratio
    return frozenset(
        kind for kind, found in bad.items() if len(found) >= LEAST_SYSTEMIC and len(found) > ratio * len(seen[kind])
    )


def tried(memory: RepairMemory, subject: Subject, action: RepairAction | None = None) -> tuple[Attempt, ...]:
    """Attempts on the subject, with this action if one is given."""
    return tuple(
        one
        for one in memory.attempts
        if same_device(one.subject).key == same_device(subject).key and (action is None or one.action is action)
    )


def _case(finding: Finding, rule: RepairRule, memory: RepairMemory, limits: RepairLimits) -> _Case:
    verifying = next((one for one in memory.attempts if one.outcome.is_open and _concerns(one, finding)), None)
    if verifying:
        return _Case(finding, rule, verifying.action, verifying)
    left = (action for action in rule.actions if _is_left(action, finding, memory, limits))
    return _Case(finding, rule, next(left, None))


def _concerns(attempt: Attempt, finding: Finding) -> bool:
    """What comes up on a device while an action on it is being verified may be the action's own doing."""
    device = same_device(device_of(finding))
    return finding.key in attempt.causes or attempt.action.is_of_node or same_device(attempt.subject).key == device.key


def _is_left(action: RepairAction, finding: Finding, memory: RepairMemory, limits: RepairLimits) -> bool:
    if action is RepairAction.ASK_REBOOT:
        return True
    target = target_of(action, finding)
    spent = not action.is_of_node and len(tried(memory, target)) >= limits.per_device
    return can_be_done(action, finding) and not spent and len(tried(memory, target, action)) < limits.attempts


@dataclass(frozen=True)
class _Group:
    subject: Subject
    action: RepairAction | None
    cases: tuple[_Case, ...]

    @property
    def identity(self) -> str:
        text = f"{self.subject.kind} {self.subject.name or self.subject.pci_address} {self.action}"
        return hashlib.sha256(text.encode()).hexdigest()[:6]


def _decision(
    group: _Group, section: Remediation, memory: RepairMemory, moment: tuple[float, frozenset[SubjectKind]]
) -> Decision:
    standing, reason = next(iter(_standings(group, section, memory, moment)))
    findings = tuple(case.finding for case in group.cases)
    return Decision(group.identity, group.subject, group.action, standing, reason, findings)


def _standings(
    group: _Group, section: Remediation, memory: RepairMemory, moment: tuple[float, frozenset[SubjectKind]]
) -> Iterator[tuple[Standing, str]]:
    """What holds it back, the weightiest first; at last that nothing does."""
    (now, storm), limits = moment, section.limits
    verifying = group.cases[0].verifying
    if verifying:
        yield Standing.VERIFYING, f"{verifying.action} was done; the finding may still go"
    if group.action is None:
        yield _without_action(group)
        return
    if all(now - case.finding.since < limits.settle_seconds for case in group.cases):
        yield Standing.SETTLING, f"younger than {limits.settle_seconds:g} s"
    if section.mode is RemediationMode.DRY_RUN:
        yield Standing.DRY_RUN, "mode is dry-run"
    if group.action is RepairAction.ASK_REBOOT:
        yield Standing.ASKED, "a reboot is asked for"
    if memory.paused:
        yield Standing.PAUSED, f"repair is paused {memory.paused}"
    answer = memory.answers.get(group.identity)
    if answer and not answer.approved:
        yield Standing.DENIED, f"denied by user {answer.by}"
    kinds = {device_of(case.finding).kind for case in group.cases} & storm
    if kinds:
        yield Standing.STORM, f"too many of kind {min(kinds)} are bad at once: look for one cause of all"
    yield from _limited(limits, memory, now)
    if any(case.rule.approval for case in group.cases) and not answer:
        yield Standing.ASKS, f"`nodeagent repair approve {group.identity}` approves it"
    yield Standing.READY, f"approved by user {answer.by}" if answer else "the rule needs no approval"


def _without_action(group: _Group) -> tuple[Standing, str]:
    if any(case.rule.actions for case in group.cases):
        return Standing.GIVEN_UP, "all that is declared was tried or cannot be done; a person must look"
    return Standing.REPORTED, "no action is declared"


def _limited(limits: RepairLimits, memory: RepairMemory, now: float) -> Iterator[tuple[Standing, str]]:
    window = f"in {limits.window_seconds:g} s"
    if len(memory.attempts) >= limits.per_node:
        yield Standing.STORM, f"{len(memory.attempts)} actions on the node {window}, per_node is {limits.per_node}"
    busy = next((one for one in memory.attempts if one.outcome.is_open), None)
    if busy:
        yield Standing.WAITING, f"{busy.action} on {busy.subject} is being verified; one at a time"
    last = max((one.ended or one.began for one in memory.attempts), default=float("-inf"))
    if now - last < limits.cooldown_seconds:
        yield Standing.WAITING, f"the last action was less than {limits.cooldown_seconds:g} s ago"


def ready(decisions: Sequence[Decision]) -> tuple[Decision, ...]:
    return tuple(one for one in decisions if one.standing is Standing.READY)


def by_identity(decisions: Iterable[Decision]) -> Mapping[str, Decision]:
    return {one.identity: one for one in decisions}
