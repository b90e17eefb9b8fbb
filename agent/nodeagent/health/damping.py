"""How verdicts settle: worse when enough looks were bad, better when all has been well for a while; no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from nodeagent.spec.health import HealthDamping
from nodeagent.state.health import Finding, SubjectKind, Verdict

Key = tuple[SubjectKind, str, str]
BAD = (Verdict.WARNING, Verdict.FAILED)


@dataclass
class _Track:
    """One finding over time: what is published, the last looks, and when it last was as bad as that."""

    published: Finding
    looks: deque[int]
    last_bad: float


@dataclass(frozen=True)
class Change:
    """A published verdict became another; `before` is None for what was never looked at."""

    before: Verdict | None
    finding: Finding


@dataclass(frozen=True)
class Settled:
    findings: tuple[Finding, ...] = ()
    changes: tuple[Change, ...] = field(default=())


class Damper:
    """Remembers what was published. `before` is what an earlier run had: (verdict, since) by finding."""

    def __init__(self, damping: HealthDamping, before: Mapping[Key, tuple[Verdict, float]]) -> None:
        self.damping = damping
        self._before = dict(before)
        self._tracks: dict[Key, _Track] = {}

    def settle(self, findings: Iterable[Finding], now: float) -> Settled:
        """What to publish of these findings; those that are not among them any more are dropped."""
        published, changes = [], []
        for finding in findings:
            shown, change = self._one(finding, now)
            published.append(shown)
            changes += [change] if change else []
        gone = self._tracks.keys() - {finding.key for finding in published}
        for key in gone:
            del self._tracks[key]
        self._before.clear()
        return Settled(tuple(published), tuple(changes))

    def _one(self, finding: Finding, now: float) -> tuple[Finding, Change | None]:
        track = self._tracks.get(finding.key)
        if track is None:
            return self._first(finding, now)
        track.looks.append(finding.verdict.rank)
        while len(track.looks) > self.damping.of_cycles:
            track.looks.popleft()
        verdict = self._verdict(track, finding, now)
        if verdict is track.published.verdict:
            track.published = self._same(track, finding)
            return track.published, None
        change = Change(track.published.verdict, replace(finding, verdict=verdict, since=now))
        track.published = change.finding
        track.last_bad = now
        return change.finding, change

    def _first(self, finding: Finding, now: float) -> tuple[Finding, Change | None]:
        """At once; since when is known if an earlier run saw the same."""
        verdict, since = self._before.get(finding.key, (None, 0.0))
        same = verdict is finding.verdict
        shown = replace(finding, since=since if same else now)
        self._tracks[finding.key] = _Track(shown, deque([finding.verdict.rank]), now)
        new_and_fine = verdict is None and finding.verdict not in BAD
        return shown, None if same or new_and_fine else Change(verdict, shown)

    def _verdict(self, track: _Track, finding: Finding, now: float) -> Verdict:
        shown = track.published.verdict
        if finding.verdict.rank > shown.rank:
            as_bad = sum(1 for rank in track.looks if rank >= finding.verdict.rank)
            return finding.verdict if as_bad >= min(self.damping.bad_cycles, self.damping.of_cycles) else shown
        if finding.verdict is shown:
            track.last_bad = now
            return shown
        held = shown in BAD and now - track.last_bad < self.damping.hold_seconds
        return shown if held else finding.verdict

    def _same(self, track: _Track, finding: Finding) -> Finding:
        """The latest evidence for a verdict that stays; while it is merely held, the last evidence for it."""
        if finding.verdict is track.published.verdict:
            return replace(finding, since=track.published.since)
        return track.published
