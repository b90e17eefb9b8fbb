"""Families about validation: what was proved, of what, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodeagent.metrics.exposition import Family, Kind, labels
from nodeagent.state.proofs import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nodeagent.metrics.view import View

    Samples = Iterable[tuple[str, float]]


def _passed(view: View) -> Samples:
    """What was skipped or is absent has no line: nothing is proved of it."""
    return (
        (labels(proof=one.proof.value, subject=one.subject), float(one.outcome is Outcome.PASSED))
        for one in view.validation.findings
        if one.outcome in (Outcome.PASSED, Outcome.FAILED)
    )


def _counts(view: View) -> Samples:
    counts: dict[tuple[str, str], int] = {}
    for one in view.validation.findings:
        key = (one.proof.value, one.outcome.value)
        counts[key] = counts.get(key, 0) + 1
    return ((labels(proof=proof, outcome=outcome), count) for (proof, outcome), count in counts.items())


def _at(view: View) -> Samples:
    return (("", view.validation.at),) if view.validation.at else ()


VALIDATION_FAMILIES: tuple[tuple[Family, Callable[[View], Samples]], ...] = (
    (
        Family(
            "nodeagent_validation_passed", Kind.GAUGE, "Whether what was tried worked; none where it was not tried."
        ),
        _passed,
    ),
    (Family("nodeagent_validation_findings", Kind.GAUGE, "How many findings of a proof have each outcome."), _counts),
    (Family("nodeagent_validation_timestamp_seconds", Kind.GAUGE, "When something was last proved (Unix time)."), _at),
)
