"""What a running agent tells a person at its terminal or its log: one line when something has changed, else nothing."""

from __future__ import annotations

from typing import TextIO

from nodeagent.cli.output import Style, count, subject_text, with_short_gpus
from nodeagent.supervisor.status import Condition, Status

_MEANING = {Condition.CONVERGED: "good", Condition.FAILING: "bad", Condition.STARTING: "dim"}


class Narrator:
    """Told every status; prints those that a person has not read yet."""

    def __init__(self, style: Style, stream: TextIO) -> None:
        self._style = style
        self._stream = stream
        self._told: tuple[str, ...] = ()

    def __call__(self, status: Status) -> None:
        if not status.passes:
            return  # the first look is followed by a pass at once
        lines = tuple(self._lines(status))
        if lines != self._told:
            self._told = lines
            for line in lines:
                print(line, file=self._stream, flush=True)

    def _lines(self, status: Status) -> list[str]:
        condition = self._style(_MEANING.get(status.condition, "warn"), status.condition.value)
        text = f"{condition}: {_summary(status)}"
        if status.identity.metrics:
            text += f"; metrics on http://{status.identity.metrics}/metrics"
        return [text, *(part for line in _obstacles(status) for part in self._style.wrap(f"  {line}", 4))]


def _summary(status: Status) -> str:
    if status.last is None:
        return status.trouble
    state = status.last.outcome.state
    found = f"{count(len(state.gpus), 'GPU')}, {count(len(state.rdma), 'RDMA device')}"
    return f"{found}; {status.trouble}" if status.trouble else found


def _obstacles(status: Status) -> list[str]:
    """Who and what is in the way, each once."""
    if status.last is None:
        return []
    plan = status.last.outcome.plan
    indices = {uuid: found.index for uuid, found in status.last.outcome.state.gpus.items()}
    held = (f"{entry.step}: {entry.cause} by {who}" for entry in plan.blocked for who in entry.blockers)
    missing = (f"{subject_text(str(obstacle.subject))}: {obstacle.problem}" for obstacle in plan.obstacles)
    failed = (f"{failure}; tried again later" for failure in status.last.outcome.failures)
    return [with_short_gpus(line, indices) for line in dict.fromkeys((*held, *missing, *failed))]
