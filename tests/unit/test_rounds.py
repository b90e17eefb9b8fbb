"""Rounds: a thread that works, rests, is woken and stopped; complaints are made once."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nodeagent.errors import GoneError, SpecError, SpecProblem
from nodeagent.host.rounds import Complaint, Rest, Rounds

LONG = 3600.0
PATIENCE = 60.0  # what a test waits for comes at once, or something is wrong


class Work:
    """Counts its rounds; each may be held up, and may fail."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.held = False
        self.errors: list[Exception] = []
        self.done = 0
        self.ended = 0

    def __call__(self) -> None:
        self.begun.release()
        if self.held:
            assert self.go_on.acquire(timeout=PATIENCE)
        self.done += 1
        if self.errors:
            raise self.errors.pop(0)

    def at_end(self) -> None:
        self.ended += 1

    def wait(self, rounds: int = 1) -> None:
        for _ in range(rounds):
            assert self.begun.acquire(timeout=PATIENCE)


@contextmanager
def running(work: Work, rest: Rest, about: str = "") -> Iterator[Rounds]:
    rounds = Rounds("under test", work, lambda: rest, at_end=work.at_end, about=about)
    rounds.start()
    try:
        yield rounds
    finally:
        assert rounds.stop(PATIENCE)


def threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "under test"]


@pytest.mark.parametrize("rest", [Rest(None), Rest(LONG), Rest(0.0, LONG), Rest(None, LONG)])
def test_it_is_stopped_while_it_rests(rest: Rest) -> None:
    work = Work()
    with running(work, rest) as rounds:
        work.wait()
    assert rounds.is_stopping
    assert (work.done, work.ended) == (1, 1)


def test_without_rest_it_goes_round_and_round() -> None:
    work = Work()
    with running(work, Rest(0.0)):
        work.wait(20)
    assert work.done >= 20


def test_whoever_wakes_it_ends_its_rest() -> None:
    work = Work()
    with running(work, Rest(None)) as rounds:
        for _ in range(5):
            work.wait()
            rounds.wake()
        work.wait()


def test_a_wake_during_a_round_is_another_round() -> None:
    work = Work()
    work.held = True
    with running(work, Rest(None)) as rounds:
        work.wait()
        rounds.wake()
        rounds.wake()
        work.go_on.release()
        work.wait()
        work.go_on.release()
    assert work.done == 2, "however often it was woken"


def test_a_wake_before_the_start_costs_no_further_round() -> None:
    work = Work()
    rounds = Rounds("under test", work, lambda: Rest(None))
    rounds.wake()
    rounds.start()
    work.wait()
    rounds.wake()
    work.wait()
    assert rounds.stop(PATIENCE)
    assert work.done == 2


def test_the_least_rest_holds_against_a_wake() -> None:
    work = Work()
    with running(work, Rest(0.0, LONG)) as rounds:
        work.wait()
        rounds.wake()
        assert not work.begun.acquire(timeout=0.05)
    assert work.done == 1


def test_a_stop_waits_for_the_round_under_way_and_says_if_it_took_too_long() -> None:
    work = Work()
    work.held = True
    with running(work, Rest(0.0)) as rounds:
        work.wait()
        assert not rounds.stop(0.0)
        assert work.ended == 0
        work.go_on.release()
    assert (work.done, work.ended) == (1, 1)


def test_what_waits_in_a_round_is_broken_off() -> None:
    told: list[bool] = []
    waiting = threading.Event()

    def do() -> None:
        waiting.set()
        told.append(rounds.pause(LONG))

    rounds = Rounds("under test", do, lambda: Rest(None))
    assert not rounds.pause(0.0)
    rounds.start()
    assert waiting.wait(PATIENCE)
    rounds.end()
    assert rounds.stop(PATIENCE)
    assert told == [True]


def test_one_that_was_never_started_can_be_stopped_and_does_nothing_then() -> None:
    work = Work()
    rounds = Rounds("under test", work, lambda: Rest(0.0), at_end=work.at_end)
    assert rounds.stop(PATIENCE)
    rounds.start()
    assert rounds.stop(PATIENCE)
    assert rounds.stop(PATIENCE)
    assert (work.done, work.ended) == (0, 1)


def test_an_error_is_told_once_and_the_next_round_comes(caplog: pytest.LogCaptureFixture) -> None:
    work = Work()
    gone, wrong = GoneError("read", "it", "it is gone"), SpecError((SpecProblem("f", 1, 1, "a", "no"),))
    work.errors = [gone, gone, wrong, gone]
    with caplog.at_level(logging.WARNING), running(work, Rest(0.0), about="the work") as rounds:
        work.wait(6)
        assert rounds.complaint.text == ""
    told = [record.getMessage() for record in caplog.records]
    assert told == ["the work: read it: it is gone", "the work: f:1:1: a: no", "the work: read it: it is gone"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_ends_the_thread_and_what_it_held_is_let_go() -> None:
    work = Work()
    work.errors, work.held = [ZeroDivisionError()], True
    with running(work, Rest(0.0)):
        work.wait()
        (thread,) = threads()
        work.go_on.release()
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert (work.done, work.ended) == (1, 1)


def test_nothing_is_left_of_many() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        with running(Work(), Rest(None)):
            pass
    assert threads() == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_complaint_is_made_anew_when_it_was_over(caplog: pytest.LogCaptureFixture) -> None:
    complaint = Complaint("disk", logging.ERROR)
    with caplog.at_level(logging.WARNING):
        for text in ("full", "full", "", "full"):
            complaint.say(text)
        complaint.over()
        complaint.say("full")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("ERROR", "disk: full")] * 3
