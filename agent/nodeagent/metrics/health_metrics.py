"""Families about health: one line per finding, so that "never looked at" can be told from "fine"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodeagent.metrics.exposition import Family, Kind, labels
from nodeagent.state.health import SubjectKind, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nodeagent.metrics.view import View
    from nodeagent.state.health import Finding

    Samples = Iterable[tuple[str, float]]


def _labels(view: View, finding: Finding) -> str:
    """A GPU by the labels of our other families, so that they can be joined; anything else by its name."""
    subject = finding.subject
    uuid = subject.parent or (subject.name if subject.kind is SubjectKind.GPU else "")
    gpu = view.gpu_identity(uuid) if uuid in view.node.gpus else {"UUID": uuid}
    name = "" if subject.kind is SubjectKind.GPU else subject.name
    return labels(kind=subject.kind.value, name=name, **gpu, pci_address=subject.pci_address, check=finding.check)


def _verdicts(view: View) -> Samples:
    return ((_labels(view, finding), finding.verdict.rank) for finding in view.health.findings)


def _since(view: View) -> Samples:
    return ((_labels(view, finding), finding.since) for finding in view.health.problems)


def _node(view: View) -> Samples:
    return (("", view.health.verdict.rank),) if view.health.generated else ()


def _counts(view: View) -> Samples:
    counts = dict.fromkeys(Verdict, 0)
    for finding in view.health.findings:
        counts[finding.verdict] += 1
    return (
        ((labels(verdict=verdict.value), count) for verdict, count in counts.items()) if view.health.generated else ()
    )


HEALTH_FAMILIES: tuple[tuple[Family, Callable[[View], Samples]], ...] = (
    (
        Family(
            "nodeagent_health_verdict", Kind.GAUGE, "Verdict of a check: 0 ok, 1 could not look, 2 warning, 3 failed."
        ),
        _verdicts,
    ),
    (
        Family(
            "nodeagent_health_since_timestamp_seconds", Kind.GAUGE, "Since when a verdict that is not ok is in force."
        ),
        _since,
    ),
    (Family("nodeagent_health_node_verdict", Kind.GAUGE, "The worst verdict of the node, in the same numbers."), _node),
    (Family("nodeagent_health_findings", Kind.GAUGE, "How many findings have each verdict."), _counts),
)
