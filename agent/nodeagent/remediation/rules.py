"""The rules in force, and what a rule says to a finding; pure."""

from __future__ import annotations

from nodeagent.spec.remediation import LeastVerdict, Remediation, RepairRule
from nodeagent.state.health import KEPT_FROM_WORK, NODE, Finding, Recovery, Subject, SubjectKind, Verdict
from nodeagent.state.repair import RepairAction

OWN_CHECKS = frozenset(KEPT_FROM_WORK)  # what repair itself says is no reason for repair

# In force where the node file has none: resets only what failed or waits for one, never the node.
USUAL_RULES = (
    RepairRule(
        recoveries=(Recovery.RESET_GPU, Recovery.DRAIN_AND_RESET),
        quarantine=True,
        actions=(RepairAction.RESET_GPU, RepairAction.ASK_REBOOT),
    ),
    RepairRule(
        recoveries=(Recovery.RESET_GPU,), at_least=LeastVerdict.WARNING, actions=(RepairAction.RESET_GPU,)
    ),
    RepairRule(recoveries=(Recovery.REBIND_NIC,), actions=(RepairAction.REBIND_NIC,)),
    RepairRule(
        recoveries=(Recovery.RELOAD_DRIVER,), actions=(RepairAction.RELOAD_MODULES, RepairAction.ASK_REBOOT)
    ),
    RepairRule(recoveries=(Recovery.REBOOT,), quarantine=True, actions=(RepairAction.ASK_REBOOT,)),
    RepairRule(recoveries=(Recovery.POWER_CYCLE,), quarantine=True),
)  # fmt: skip


def rule_for(finding: Finding, section: Remediation) -> RepairRule | None:
    """The first rule that fits, None for a finding that is well, unknown, our own or in nobody's rules."""
    if finding.check in OWN_CHECKS or finding.verdict not in (Verdict.WARNING, Verdict.FAILED):
        return None
    return next((rule for rule in section.rules or USUAL_RULES if _fits(rule, finding)), None)


def _fits(rule: RepairRule, finding: Finding) -> bool:
    bad_enough = finding.verdict is Verdict.FAILED or rule.at_least is LeastVerdict.WARNING
    named = not rule.checks or finding.check.partition(":")[0] in rule.checks
    return bad_enough and named and (not rule.recoveries or finding.recovery in rule.recoveries)


def device_of(finding: Finding) -> Subject:
    """The device that can be acted on: the GPU of a MIG device, else the subject itself."""
    subject = finding.subject
    if subject.kind is SubjectKind.MIG and subject.parent:
        return Subject(SubjectKind.GPU, subject.parent, subject.pci_address)
    return subject


def target_of(action: RepairAction, finding: Finding) -> Subject:
    """What the action would be done to."""
    return NODE if action.is_of_node else device_of(finding)


def can_be_done(action: RepairAction, finding: Finding) -> bool:
    """Whether such an action can be done to what the finding is about."""
    device = device_of(finding)
    if action is RepairAction.RESET_GPU:
        return device.kind is SubjectKind.GPU and bool(device.name)
    if action is RepairAction.REBIND_NIC:
        return device.kind is SubjectKind.PORT and bool(device.pci_address)
    return True
