"""Webhooks against a real HTTP server: told once, in order, again after a failure, and never in anybody's way."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agent_process import PATIENCE_SECONDS
from nodeagent.health.damping import Change
from nodeagent.spec.health import HealthWebhook, TellFrom
from nodeagent.state.health import NODE, Finding, Verdict
from nodeagent.supervisor.webhooks import QUEUE, Webhooks


class Ear:
    """A server that keeps what it is told; `answers` are given first, then 200."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.tokens: list[str | None] = []
        self.answers: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        ear = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                ear.gate.wait(PATIENCE_SECONDS)
                code = ear.answers.pop(0) if ear.answers else 200
                if code == 200:
                    ear.heard.append(document)
                    ear.tokens.append(self.headers["Authorization"])
                self.send_response(code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def hears(self, count: int) -> list[dict[str, Any]]:
        until = time.monotonic() + PATIENCE_SECONDS
        while len(self.heard) < count and time.monotonic() < until:
            time.sleep(0.01)
        return self.heard

    def close(self) -> None:
        self.gate.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def ear() -> Iterator[Ear]:
    found = Ear()
    yield found
    found.close()


@pytest.fixture
def hooks() -> Iterator[Webhooks]:
    found = Webhooks(first_wait_seconds=0.01)
    yield found
    found.stop()


def change(verdict: Verdict, before: Verdict | None = Verdict.OK, check: str = "clock") -> Change:
    return Change(before, Finding(NODE, check, verdict, "evidence"))


def test_a_change_is_told_with_its_token(ear: Ear, hooks: Webhooks, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    hooks.take_over([HealthWebhook(ear.url, token_file=str(tmp_path / "token"))])
    hooks.tell([change(Verdict.FAILED)], "node1")
    (heard,) = ear.hears(1)
    assert (heard["node"], heard["before"], heard["dropped"]) == ("node1", "ok", 0)
    assert (heard["finding"]["check"], heard["finding"]["verdict"]) == ("clock", "failed")
    assert ear.tokens == ["Bearer secret"]


def test_only_what_is_bad_enough_and_its_end(ear: Ear, hooks: Webhooks) -> None:
    hooks.take_over([HealthWebhook(ear.url, tell_from=TellFrom.FAILED)])
    told = [
        change(Verdict.WARNING, check="a"),
        change(Verdict.FAILED, check="b"),
        change(Verdict.OK, Verdict.FAILED, check="c"),
        change(Verdict.OK, Verdict.WARNING, check="d"),
    ]
    hooks.tell(told, "n")
    assert [one["finding"]["check"] for one in ear.hears(2)] == ["b", "c"]


def test_a_failure_is_tried_again_and_nothing_is_told_twice(ear: Ear, hooks: Webhooks) -> None:
    ear.answers = [500, 503, 429]
    hooks.take_over([HealthWebhook(ear.url)])
    hooks.tell([change(Verdict.FAILED, check="a"), change(Verdict.FAILED, check="b")], "n")
    assert [one["finding"]["check"] for one in ear.hears(2)] == ["a", "b"]


def test_a_refusal_is_not_tried_again(ear: Ear, hooks: Webhooks) -> None:
    ear.answers = [403]
    hooks.take_over([HealthWebhook(ear.url)])
    hooks.tell([change(Verdict.FAILED, check="a"), change(Verdict.FAILED, check="b")], "n")
    (heard,) = ear.hears(1)
    assert (heard["finding"]["check"], heard["dropped"]) == ("b", 1)


def test_a_slow_webhook_holds_up_nobody_and_its_queue_is_bounded(ear: Ear, hooks: Webhooks) -> None:
    ear.gate.clear()
    hooks.take_over([HealthWebhook(ear.url)])
    for number in range(QUEUE * 3):
        hooks.tell([change(Verdict.FAILED, check=f"c{number}")], "n")
    ear.gate.set()
    heard = ear.hears(QUEUE)
    assert heard[-1]["finding"]["check"] == f"c{QUEUE * 3 - 1}" or len(heard) >= QUEUE
    assert heard[-1]["dropped"] >= QUEUE


def test_nobody_listens_and_stopping_does_not_wait() -> None:
    """Stopped while it rests for ten minutes before the next attempt, a webhook ends at once."""
    others = set(threading.enumerate())
    hooks = Webhooks(first_wait_seconds=600)
    hooks.take_over([HealthWebhook("http://127.0.0.1:9/none")])
    (ours,) = set(threading.enumerate()) - others
    hooks.tell([change(Verdict.FAILED)], "n")
    hooks.stop()
    ours.join(PATIENCE_SECONDS)
    assert not ours.is_alive()
