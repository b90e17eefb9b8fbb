"""What is decided about findings: by the rules, within the limits, and never more than that."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest

from nodeagent.errors import HostError
from nodeagent.remediation.decide import decide, ready
from nodeagent.remediation.follow import began, ended, findings_of, follow, resumed
from nodeagent.remediation.memory import decode, encode
from nodeagent.resources.gpu_units import Around, Unit, problem_of
from nodeagent.spec.remediation import (
    Remediation,
    RemediationMode,
    RepairLimits,
    RepairQuarantine,
    RepairRule,
)
from nodeagent.state.health import NODE, Finding, Health, Recovery, Subject, SubjectKind, Verdict
from nodeagent.state.repair import (
    Answer,
    AttemptOutcome,
    Decision,
    RepairAction,
    RepairMemory,
    Standing,
)

LIMITS = RepairLimits(settle_seconds=10, verify_seconds=100, cooldown_seconds=5, per_node=3, window_seconds=10_000)
LADDER = (RepairAction.RESET_GPU, RepairAction.ASK_REBOOT)
RULES = (
    RepairRule(recoveries=(Recovery.RESET_GPU,), quarantine=True, actions=LADDER, approval=False),
    RepairRule(recoveries=(Recovery.REBIND_NIC,), actions=(RepairAction.REBIND_NIC,), approval=True),
    RepairRule(recoveries=(Recovery.RELOAD_DRIVER,), actions=(RepairAction.RELOAD_MODULES,), approval=False),
    RepairRule(recoveries=(Recovery.INSPECT,)),
)
ON = Remediation(RemediationMode.ON, RULES, LIMITS, RepairQuarantine(lift_after_seconds=50))


def gpu(index: int) -> Subject:
    return Subject(SubjectKind.GPU, f"GPU-{index}", f"0000:{index:02x}:00.0")


def port(index: int, address: str = "0000:50:00.0") -> Subject:
    return Subject(SubjectKind.PORT, f"mlx5_{index}/1", address)


def bad(subject: Subject, recovery: Recovery, since: float = 0.0, check: str = "xid") -> Finding:
    return Finding(subject, check, Verdict.FAILED, recovery=recovery, since=since)


def well(subjects: Iterable[Subject], check: str = "gpu-answers") -> tuple[Finding, ...]:
    return tuple(Finding(one, check, Verdict.OK) for one in subjects)


ALL = well(map(gpu, range(8)))


def one(findings: Iterable[Finding], memory: RepairMemory, now: float, section: Remediation = ON) -> Decision:
    (decision,) = decide((*ALL, *findings), section, memory, now)
    return decision


def test_nothing_is_decided_unless_it_is_declared() -> None:
    findings = (*ALL, bad(gpu(0), Recovery.RESET_GPU))
    assert decide(findings, Remediation(), RepairMemory(), 100) == ()
    assert one(findings, RepairMemory(), 100, replace(ON, mode=RemediationMode.DRY_RUN)).standing is Standing.DRY_RUN
    assert one([bad(gpu(0), Recovery.INSPECT)], RepairMemory(), 100).standing is Standing.REPORTED
    assert not decide([bad(gpu(0), Recovery.SUPPORT)], ON, RepairMemory(), 100)
    unread = Finding(gpu(0), "xid", Verdict.UNKNOWN, recovery=Recovery.RESET_GPU)
    assert decide((*ALL, unread), ON, RepairMemory(), 100) == ()


def test_the_usual_rules_ask_before_anything_is_done() -> None:
    usual = Remediation(RemediationMode.ON)
    for recovery, action in (
        (Recovery.RESET_GPU, RepairAction.RESET_GPU),
        (Recovery.DRAIN_AND_RESET, RepairAction.RESET_GPU),
        (Recovery.RELOAD_DRIVER, RepairAction.RELOAD_MODULES),
    ):
        found = one([bad(gpu(0), recovery)], RepairMemory(), 1000, usual)
        assert (found.action, found.standing) == (action, Standing.ASKS)
    assert one([bad(NODE, Recovery.REBOOT)], RepairMemory(), 1000, usual).standing is Standing.ASKED


def test_a_young_finding_is_left_alone_for_a_while() -> None:
    assert one([bad(gpu(0), Recovery.RESET_GPU, 95)], RepairMemory(), 100).standing is Standing.SETTLING
    assert one([bad(gpu(0), Recovery.RESET_GPU, 90)], RepairMemory(), 100).standing is Standing.READY


def test_findings_on_one_gpu_and_its_mig_devices_are_one_reset() -> None:
    mig = Subject(SubjectKind.MIG, "MIG-1", gpu(0).pci_address, "GPU-0")
    found = one([bad(gpu(0), Recovery.RESET_GPU), bad(mig, Recovery.RESET_GPU)], RepairMemory(), 100)
    assert found.subject.key == gpu(0).key
    assert len(found.findings) == 2


def test_two_ports_of_one_card_are_bound_anew_once() -> None:
    ports = well([port(0), port(1), *(port(n, f"0000:6{n}:00.0") for n in range(2, 9))], "port-state")
    found = decide((*ports, *(bad(port(n), Recovery.REBIND_NIC, check="gid") for n in (0, 1))), ON, RepairMemory(), 99)
    assert [(one.action, one.standing, len(one.findings)) for one in found] == [
        (RepairAction.REBIND_NIC, Standing.ASKS, 2)
    ]


def test_an_answer_is_for_one_time_only() -> None:
    ports = well([port(0), *(port(n, f"0000:6{n}:00.0") for n in range(2, 9))], "port-state")
    findings = (*ports, bad(port(0), Recovery.REBIND_NIC, check="gid"))
    section = replace(ON, limits=replace(LIMITS, attempts=2))
    (asks,) = decide(findings, section, RepairMemory(), 100)
    memory = RepairMemory(answers={asks.identity: Answer(approved=True, by=0, time=99)})
    (approved,) = decide(findings, section, memory, 100)
    assert approved.standing is Standing.READY
    memory = ended(began(memory, approved, 100), AttemptOutcome.FAILED, "refused", 101)
    (again,) = decide(findings, section, memory, 200)
    assert again.standing is Standing.ASKS
    no = RepairMemory(answers={asks.identity: Answer(approved=False, by=7, time=99)})
    (denied,) = decide(findings, section, no, 100)
    assert (denied.standing, "user 7" in denied.reason) == (Standing.DENIED, True)
    assert follow(ports, (), section, no, 101).memory.answers == {}


def test_what_did_not_heal_escalates_and_then_gives_up() -> None:
    findings, memory = [bad(gpu(0), Recovery.RESET_GPU)], RepairMemory()
    memory = ended(began(memory, one(findings, memory, 100), 100), AttemptOutcome.DONE, "", 101)
    assert one(findings, memory, 110).standing is Standing.VERIFYING
    late = follow((*ALL, *findings), (), ON, memory, 300)
    assert late.memory.attempts[0].outcome is AttemptOutcome.UNHEALED
    asked = one(findings, late.memory, 310)
    assert (asked.action, asked.standing) == (RepairAction.ASK_REBOOT, Standing.ASKED)
    told = follow((*ALL, *findings), (asked,), ON, late.memory, 311)
    assert "xid of gpu GPU-0" in told.memory.reboot_asked
    assert {one.check for one in findings_of(told.memory)} == {"quarantine", "reboot-asked"}
    only = replace(ON, rules=(replace(RULES[0], actions=(RepairAction.RESET_GPU,)),))
    assert one(findings, late.memory, 310, only).standing is Standing.GIVEN_UP


def test_healed_means_that_the_check_looked_and_found_nothing() -> None:
    finding = bad(gpu(0), Recovery.RESET_GPU)
    memory = ended(began(RepairMemory(), one([finding], RepairMemory(), 100), 100), AttemptOutcome.DONE, "", 101)
    unseen = well(map(gpu, range(1, 8)))
    unread = (*unseen, replace(finding, verdict=Verdict.UNKNOWN))
    for findings, outcome in ((ALL, "healed"), (unseen, "done"), (unread, "done"), ((*ALL, finding), "done")):
        assert follow(findings, (), ON, memory, 110).memory.attempts[0].outcome == outcome
    assert follow(ALL, (), ON, memory, 101).memory.attempts[0].outcome == "done"  # seen before it was done


def test_a_quarantine_ends_when_the_device_was_well_for_long_enough() -> None:
    finding = bad(gpu(0), Recovery.RESET_GPU)
    memory = follow((*ALL, finding), (), ON, RepairMemory(), 100).memory
    assert [one.subject for one in memory.quarantines] == [gpu(0)]
    memory = follow(ALL, (), ON, memory, 110).memory
    assert follow(ALL, (), ON, memory, 159).memory.quarantines
    assert not follow(ALL, (), ON, memory, 160).memory.quarantines
    unread = (*ALL, Finding(gpu(0), "ecc", Verdict.UNKNOWN))
    assert follow(unread, (), ON, memory, 160).memory.quarantines
    assert not follow((*ALL, finding), (), replace(ON, mode=RemediationMode.OFF), memory, 110).memory.quarantines


def test_who_is_in_quarantine_is_offered_to_nobody() -> None:
    memory = follow((*ALL, bad(gpu(0), Recovery.RESET_GPU)), (), ON, RepairMemory(), 100).memory
    around = Around(health=Health((*ALL, *findings_of(memory))))
    problems = [problem_of(Unit("gpu", f"GPU-{n}", str(n), f"GPU-{n}"), around) for n in range(2)]
    assert problems == ["quarantine: xid", ""]


def test_when_most_devices_are_bad_none_is_touched() -> None:
    findings = [bad(gpu(n), Recovery.RESET_GPU) for n in range(5)]
    found = decide((*ALL, *findings), ON, RepairMemory(), 100)
    assert {one.standing for one in found} == {Standing.STORM}
    assert not follow((*ALL, *findings), found, ON, RepairMemory(), 100).memory.quarantines
    assert ready(decide((*ALL, *findings[:4]), ON, RepairMemory(), 100))


def test_the_memory_comes_back_as_it_was_and_damage_is_told() -> None:
    finding = bad(gpu(0), Recovery.RESET_GPU)
    memory = began(RepairMemory(), one([finding], RepairMemory(), 100), 100)
    memory = follow((*ALL, finding), (), ON, memory, 100).memory
    memory = replace(memory, answers={"abc": Answer(approved=True, by=0, time=5)}, paused="by user 0", drained="x")
    text = encode(memory)
    assert decode(text, "here") == memory
    assert resumed(memory, 200).attempts[0].outcome is AttemptOutcome.DONE
    rng = random.Random(3)
    for _ in range(200):
        at = rng.randrange(len(text) - 2)
        broken = text[:at] + rng.choice(["", "0", "}", "x"]) + text[at + 1 :]
        if "".join(broken.split()) == "".join(text.split()):
            continue
        with pytest.raises(HostError, match="repair stays off"):
            decode(broken, "here")


@dataclass
class World:
    """A node on which faults come and go at random, and actions help or do not; the pure model of what repair sees."""

    rng: random.Random
    section: Remediation
    memory: RepairMemory = field(default_factory=RepairMemory)
    now: float = 1000.0
    ill: dict[tuple[Subject, str], Finding] = field(default_factory=dict)
    acted: list[tuple[float, Decision]] = field(default_factory=list)

    def findings(self) -> tuple[Finding, ...]:
        return (*ALL, *well([port(n, f"0000:6{n}:00.0") for n in range(4)], "port-state"), *self.ill.values())

    def fault(self) -> None:
        subject = self.rng.choice([gpu(self.rng.randrange(8)), port(self.rng.randrange(4), "0000:60:00.0"), NODE])
        recovery = self.rng.choice([Recovery.RESET_GPU, Recovery.REBIND_NIC, Recovery.RELOAD_DRIVER, Recovery.INSPECT])
        check = self.rng.choice(["xid", "ecc", "gid"])
        self.ill[subject, check] = bad(subject, recovery, self.now, check)

    def cycle(self) -> None:
        found = decide(self.findings(), self.section, self.memory, self.now)
        assert len({one.identity for one in found}) == len(found)
        self.memory = follow(self.findings(), found, self.section, self.memory, self.now).memory
        if chosen := ready(decide(self.findings(), self.section, self.memory, self.now))[:1]:
            self.act(chosen[0])

    def act(self, decision: Decision) -> None:
        assert not any(one.outcome.is_open for one in self.memory.attempts)  # one at a time
        self.acted.append((self.now, decision))
        self.memory = began(self.memory, decision, self.now)
        if self.rng.random() < 0.1:
            self.memory = decode(encode(self.memory), "")
        end = self.rng.random()
        if end < 0.2:  # the agent died
            self.memory = resumed(self.memory, self.now + 1)
            return
        outcome = AttemptOutcome.FAILED if end < 0.4 else AttemptOutcome.DONE
        self.memory = ended(self.memory, outcome, "", self.now + 1)
        if end > 0.7:
            for finding in decision.findings:
                self.ill.pop((finding.subject, finding.check), None)


def check_bounds(world: World) -> None:
    """Whatever came: never more than the limits within any window, one at a time, with rests between."""
    limits = world.section.limits
    for at, _ in world.acted:
        within = [other for when, other in world.acted if at <= when < at + limits.window_seconds]
        assert len(within) <= limits.per_node
        by_action = Counter((one.subject.key, one.action) for one in within)
        assert max(by_action.values()) <= limits.attempts
        devices = Counter(one.subject.key for one in within if one.action and not one.action.is_of_node)
        assert max(devices.values(), default=0) <= limits.per_device
    times = [at for at, _ in world.acted]
    assert all(later - earlier >= limits.cooldown_seconds for earlier, later in pairwise(times))


def test_attempts_are_bounded_in_10000_random_histories() -> None:
    rng = random.Random(6)
    acted = 0
    for _ in range(10_000):
        limits = replace(LIMITS, per_node=rng.randint(1, 4), per_device=rng.randint(1, 3), attempts=rng.randint(1, 2))
        limits = replace(limits, window_seconds=rng.choice([300.0, 10_000.0]), settle_seconds=0.0)
        rules = tuple(replace(rule, approval=rule.approval and rng.random() < 0.5) for rule in RULES)
        world = World(rng, replace(ON, limits=limits, rules=rules))
        for _ in range(rng.randint(2, 6)):
            if rng.random() < 0.7:
                world.fault()
            world.cycle()
            world.now += rng.choice([1, 20, 120, 400])
        check_bounds(world)
        acted += len(world.acted)
    assert acted > 5_000  # the bounds were not kept by doing nothing


@pytest.mark.parametrize("heals", [True, False])
def test_a_storm_of_1000_faults_leads_to_few_actions(heals: bool) -> None:
    world = World(random.Random(9), replace(ON, limits=replace(LIMITS, systemic_ratio=1.0, settle_seconds=0)))
    for _ in range(1000):
        world.fault()
        world.cycle()
        world.now += 7
        if heals and world.rng.random() < 0.3:
            world.ill.clear()
    check_bounds(world)
    assert 1 <= len(world.acted) <= LIMITS.per_node
