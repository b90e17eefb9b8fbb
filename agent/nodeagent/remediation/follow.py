"""What follows from the findings of a cycle for what repair remembers: what healed, who is kept from work; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from nodeagent.remediation.decide import by_identity, recent_attempts, systemic
from nodeagent.remediation.rules import device_of, rule_for
from nodeagent.spec.remediation import Remediation, RemediationMode
from nodeagent.state.health import NODE, Finding, Recovery, Subject, SubjectKind, Verdict
from nodeagent.state.repair import (
    Attempt,
    AttemptOutcome,
    Decision,
    Quarantine,
    RepairAction,
    RepairMemory,
    Standing,
)

Key = tuple[SubjectKind, str, str]


@dataclass(frozen=True)
class Told:
    """Something that the history shall keep."""

    subject: Subject
    text: str


@dataclass(frozen=True)
class Followed:
    memory: RepairMemory
    told: tuple[Told, ...] = ()


def follow(
    findings: Iterable[Finding], decisions: Iterable[Decision], section: Remediation, memory: RepairMemory, now: float
) -> Followed:
    """The memory after a cycle. What was asked of people who need not answer any more is forgotten."""
    findings, decisions = tuple(findings), tuple(decisions)
    attempts, told = _judged(findings, section, memory, now)
    quarantines, more = _quarantines(findings, section, memory, now)
    known = by_identity(decisions)
    asked = "; ".join(sorted({_why(one) for one in decisions if one.standing is Standing.ASKED}))
    if bool(asked) != bool(memory.reboot_asked):
        more = (*more, Told(NODE, f"a reboot is asked for: {asked}" if asked else "no reboot is asked for any more"))
    kept = replace(
        memory,
        attempts=attempts,
        quarantines=quarantines,
        answers={name: answer for name, answer in memory.answers.items() if name in known},
        reboot_asked=asked,
    )
    return Followed(kept, (*told, *more))


def _why(decision: Decision) -> str:
    return ", ".join(f"{one.check} of {one.subject}" for one in decision.findings)


def _judged(
    findings: tuple[Finding, ...], section: Remediation, memory: RepairMemory, now: float
) -> tuple[tuple[Attempt, ...], tuple[Told, ...]]:
    limits = section.limits
    attempts, told = [], []
    for attempt in recent_attempts(memory, limits, now):
        outcome = attempt.outcome
        if outcome is AttemptOutcome.DONE and now > attempt.ended:  # seen after it was done
            outcome = _outcome(attempt, findings, now - attempt.ended >= limits.verify_seconds)
        if outcome is not attempt.outcome:
            told.append(Told(attempt.subject, f"{attempt.action}: {_TEXTS[outcome]}"))
        attempts.append(replace(attempt, outcome=outcome))
    return tuple(attempts), tuple(told)


_TEXTS: Mapping[AttemptOutcome, str] = {
    AttemptOutcome.HEALED: "healed, the checks find nothing any more",
    AttemptOutcome.UNHEALED: "did not heal it in time",
}


def _outcome(attempt: Attempt, findings: tuple[Finding, ...], late: bool) -> AttemptOutcome:
    if all(is_clear(cause, findings) for cause in attempt.causes):
        return AttemptOutcome.HEALED
    return AttemptOutcome.UNHEALED if late else AttemptOutcome.DONE


def is_clear(cause: Key, findings: tuple[Finding, ...]) -> bool:
    """Whether the check says ok, or has nothing to say of a subject that others look at and can read.

    A subject that nobody looked at is not healed, and neither is one that is unknown.
    """
    found = next((one for one in findings if one.key == cause), None)
    if found is not None:
        return found.verdict is Verdict.OK
    others = [one for one in findings if one.subject.key == cause[:2]]
    return any(one.verdict is Verdict.OK for one in others)


def _quarantines(
    findings: tuple[Finding, ...], section: Remediation, memory: RepairMemory, now: float
) -> tuple[tuple[Quarantine, ...], tuple[Told, ...]]:
    wanted = _wanted(findings, section, now) if section.mode is RemediationMode.ON else {}
    storm = systemic(findings, section)
    kept, told = [], []
    for one in memory.quarantines:
        reason = wanted.pop(one.subject.key, (one.subject, ""))[1]
        follows = _followed(one, reason, findings, now)
        seconds = section.quarantine.lift_after_seconds if section.mode is RemediationMode.ON else 0.0
        if section.mode is not RemediationMode.ON or (follows.clean_since and now - follows.clean_since >= seconds):
            told.append(Told(one.subject, "gets work again"))
        else:
            kept.append(follows)
    for subject, reason in wanted.values():
        if subject.kind not in storm:
            kept.append(Quarantine(subject, reason, now))
            told.append(Told(subject, f"gets no more work: {reason}"))
    return tuple(kept), tuple(told)


def _wanted(
    findings: tuple[Finding, ...], section: Remediation, now: float
) -> dict[tuple[SubjectKind, str], tuple[Subject, str]]:
    """Devices that must get no work, and why."""
    found: dict[tuple[SubjectKind, str], tuple[Subject, str]] = {}
    for finding in findings:
        rule, device = rule_for(finding, section), device_of(finding)
        if rule and rule.quarantine and now - finding.since >= section.limits.settle_seconds:
            before = found.get(device.key, (device, ""))[1]
            found[device.key] = (device, f"{before}, {finding.check}" if before else finding.check)
    return found


def _followed(one: Quarantine, reason: str, findings: tuple[Finding, ...], now: float) -> Quarantine:
    """Clean means seen to be well: a device that cannot be read stays where it is."""
    own = [finding for finding in findings if device_of(finding).key == one.subject.key]
    seen = any(finding.verdict is Verdict.OK for finding in own)
    unread = any(finding.verdict is Verdict.UNKNOWN for finding in own)
    if reason or unread or not seen:
        return replace(one, reason=reason or one.reason, clean_since=0.0)
    return replace(one, clean_since=one.clean_since or now)


def findings_of(memory: RepairMemory) -> Iterator[Finding]:
    """What repair itself says of the node's health, for all who read verdicts: device plugins, metrics, people."""
    for one in memory.quarantines:
        yield Finding(
            one.subject,
            "quarantine",
            Verdict.FAILED,
            one.reason,
            "kept from work by repair",
            "see `nodeagent repair list`",
            since=one.since,
        )
    if memory.reboot_asked:
        yield Finding(
            NODE,
            "reboot-asked",
            Verdict.WARNING,
            memory.reboot_asked,
            "nothing less than a reboot is left",
            "drain the node and reboot it",
            Recovery.REBOOT,
        )


def began(memory: RepairMemory, decision: Decision, now: float) -> RepairMemory:
    """The memory that must be on disk before the action is taken: the attempt counts from here, whatever happens."""
    action = decision.action or RepairAction.ASK_REBOOT
    attempt = Attempt(decision.subject, action, tuple(one.key for one in decision.findings), now)
    answers = {name: answer for name, answer in memory.answers.items() if name != decision.identity}
    return replace(memory, attempts=(*memory.attempts, attempt), answers=answers)


def ended(memory: RepairMemory, outcome: AttemptOutcome, text: str, now: float) -> RepairMemory:
    """The memory once the last begun attempt has come to an end."""
    attempts = tuple(
        replace(one, outcome=outcome, text=text, ended=now) if one.outcome is AttemptOutcome.BEGUN else one
        for one in memory.attempts
    )
    return replace(memory, attempts=attempts)


def resumed(memory: RepairMemory, now: float) -> RepairMemory:
    """After a restart: what was begun may have happened. It is not done again, but looked at."""
    return ended(memory, AttemptOutcome.DONE, "interrupted: it may or may not have happened", now)
