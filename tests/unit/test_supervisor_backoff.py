"""Waits after failures: they double with jitter, end at the limit, are kept per unit and never make the loop spin."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from nodeagent.supervisor.backoff import JITTER, LONGEST_SECONDS, Backoff


@pytest.fixture
def backoff() -> Backoff:
    return Backoff(1.0, random.Random(7))


def test_waits_double_up_to_the_longest_with_jitter(backoff: Backoff) -> None:
    waits = []
    for _ in range(12):
        backoff.failed("mig", "busy", 100.0)
        waits.append(backoff.waits["mig"].until - 100.0)
    expected = [min(2.0**index, LONGEST_SECONDS) for index in range(12)]
    assert all(abs(wait / ideal - 1) <= JITTER for wait, ideal in zip(waits, expected, strict=True))
    assert len({round(wait / ideal, 9) for wait, ideal in zip(waits, expected, strict=True)}) > 6
    assert all(later > earlier for earlier, later in pairwise(waits[:8]))


def test_the_same_seed_gives_the_same_waits() -> None:
    first, second = (Backoff(1.0, random.Random(3)) for _ in range(2))
    for backoff in (first, second):
        backoff.failed("mig", "busy", 0.0)
    assert first.waits == second.waits


def test_very_many_failures_stay_at_the_longest(backoff: Backoff) -> None:
    for _ in range(2000):
        backoff.failed("mig", "busy", 0.0)
    assert backoff.waits["mig"].until <= LONGEST_SECONDS * (1 + JITTER)


def test_units_wait_each_for_themselves_and_success_forgets(backoff: Backoff) -> None:
    backoff.failed("mig", "busy", 0.0)
    backoff.failed("mig", "busy", 0.0)
    backoff.failed("links", "gone", 0.0)
    assert backoff.waits["mig"].until > backoff.waits["links"].until
    backoff.succeeded(["mig", "never failed"])
    assert list(backoff.waits) == ["links"]
    backoff.failed("mig", "busy", 0.0)
    assert backoff.waits["mig"].failures == 1


def test_postponed_says_why_and_ends_with_the_wait(backoff: Backoff) -> None:
    backoff.failed("mig", "enable MIG: busy", 10.0)
    assert backoff.postponed(10.0) == {"mig": "failed once, next try in 1 s: enable MIG: busy"}
    backoff.failed("mig", "enable MIG: busy", 10.0)
    assert "failed 2 times in a row" in backoff.postponed(10.0)["mig"]
    assert backoff.postponed(13.0) == {}


def test_a_wait_that_was_over_when_the_pass_began_does_not_ask_for_another(backoff: Backoff) -> None:
    backoff.failed("mig", "busy", 0.0)
    until = backoff.waits["mig"].until
    assert backoff.next_try(since=until - 0.5, now=until - 0.25) == pytest.approx(0.25)
    assert backoff.next_try(since=until - 0.5, now=until + 1) == 0.0
    assert backoff.next_try(since=until, now=until + 1) is None


def test_nothing_waits_after_a_reset(backoff: Backoff) -> None:
    backoff.failed("mig", "busy", 0.0)
    backoff.reset()
    assert backoff.next_try(0.0, 0.0) is None
    assert backoff.postponed(0.0) == {}
