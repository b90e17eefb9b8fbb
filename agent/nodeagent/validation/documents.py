"""Validation as a document: for programs, for the control socket, and for the file that outlives a command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodeagent.state.proofs import Finding, Outcome, Proof, Validation
from nodeagent.validation.running import worst


def document_of(validation: Validation) -> dict[str, Any]:
    return {
        "outcome": worst(validation.findings).value,
        "atUnixSeconds": round(validation.at, 3),
        "findings": [_finding(one) for one in validation.findings],
    }


def _finding(one: Finding) -> dict[str, Any]:
    return {
        "proof": one.proof.value,
        "subject": one.subject,
        "outcome": one.outcome.value,
        "text": one.text,
        "figures": {name: round(value, 6) for name, value in one.figures.items()},
        "simulated": one.simulated,
    }


def validation_of(document: Mapping[str, Any]) -> Validation:
    """What `document_of` made. KeyError, TypeError or ValueError for anything else."""
    findings = tuple(
        Finding(
            Proof(one["proof"]),
            str(one["subject"]),
            Outcome(one["outcome"]),
            str(one["text"]),
            {str(name): float(value) for name, value in one["figures"].items()},
            bool(one["simulated"]),
        )
        for one in document["findings"]
    )
    return Validation(findings, float(document["atUnixSeconds"]))
