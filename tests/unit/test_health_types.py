"""Verdicts, findings and what is worst of them."""

from __future__ import annotations

import pytest

from nodeagent.state.health import NODE, Finding, Health, Recovery, Subject, SubjectKind, Verdict, worst

GPU = Subject(SubjectKind.GPU, "GPU-1", "0000:3b:00.0")


def test_unknown_is_worse_than_ok_and_better_than_a_known_fault() -> None:
    assert worst([Verdict.OK, Verdict.UNKNOWN]) is Verdict.UNKNOWN
    assert worst([Verdict.UNKNOWN, Verdict.WARNING]) is Verdict.WARNING
    assert worst(Verdict) is Verdict.FAILED


def test_what_was_never_checked_is_not_healthy() -> None:
    assert Health().verdict is Verdict.UNKNOWN
    assert Health((Finding(NODE, "clock", Verdict.OK),)).verdict_of(GPU) is Verdict.UNKNOWN


def test_problems_come_worst_first_and_only_of_their_subject() -> None:
    health = Health(
        (
            Finding(NODE, "clock", Verdict.OK),
            Finding(NODE, "disk", Verdict.WARNING),
            Finding(GPU, "xid", Verdict.FAILED),
        )
    )
    assert [finding.check for finding in health.problems] == ["xid", "disk"]
    assert health.verdict_of(GPU) is Verdict.FAILED
    assert health.verdict_of(NODE) is Verdict.WARNING


def test_an_address_that_becomes_known_does_not_make_another_gpu() -> None:
    assert Subject(SubjectKind.GPU, "GPU-1").key == GPU.key
    assert Subject(SubjectKind.GPU, "", "0000:3b:00.0").key != GPU.key


@pytest.mark.parametrize("recovery", [Recovery.RESET_GPU, Recovery.REBOOT, Recovery.RESTART_JOB, Recovery.NONE])
def test_what_a_program_can_do(recovery: Recovery) -> None:
    assert not recovery.is_for_people
    assert Recovery.INSPECT.is_for_people
