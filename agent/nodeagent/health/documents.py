"""Health as documents with stable keys, and back: for the control socket, `-o json`, webhooks and the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodeagent.state.health import Finding, Health, HealthEvent, Recovery, Subject, SubjectKind, Verdict

SCHEMA_VERSION = 1


def subject_document(subject: Subject) -> dict[str, Any]:
    return {
        "kind": subject.kind.value,
        "name": subject.name,
        "pciAddress": subject.pci_address,
        "parent": subject.parent,
    }


def finding_document(finding: Finding) -> dict[str, Any]:
    return {
        "subject": subject_document(finding.subject),
        "check": finding.check,
        "verdict": finding.verdict.value,
        "evidence": finding.evidence,
        "cause": finding.cause,
        "advice": finding.advice,
        "recovery": finding.recovery.value,
        "byDriver": finding.by_driver,
        "codes": list(finding.codes),
        "sinceUnixSeconds": finding.since,
    }


def health_document(health: Health) -> dict[str, Any]:
    return {
        "schemaVersion": SCHEMA_VERSION,
        "verdict": health.verdict.value,
        "generatedUnixSeconds": health.generated,
        "findings": [finding_document(finding) for finding in health.findings],
    }


def health_of(document: Mapping[str, Any]) -> Health:
    """The health that a document tells of. KeyError or ValueError where it is another version's."""
    findings = tuple(_finding_of(one) for one in document["findings"])
    return Health(findings, document["generatedUnixSeconds"])


def _finding_of(document: Mapping[str, Any]) -> Finding:
    subject = document["subject"]
    return Finding(
        subject=Subject(SubjectKind(subject["kind"]), subject["name"], subject["pciAddress"], subject["parent"]),
        check=document["check"],
        verdict=Verdict(document["verdict"]),
        evidence=document["evidence"],
        cause=document["cause"],
        advice=document["advice"],
        recovery=Recovery(document["recovery"]),
        by_driver=document["byDriver"],
        codes=tuple(document["codes"]),
        since=document["sinceUnixSeconds"],
    )


def event_document(event: HealthEvent) -> dict[str, Any]:
    return {
        "number": event.number,
        "unixSeconds": event.time,
        "kind": event.kind.value,
        "subject": subject_document(event.subject),
        "check": event.check,
        "verdict": event.verdict.value if event.verdict else None,
        "code": event.code,
        "recovery": event.recovery.value,
        "text": event.text,
        "data": dict(event.data),
    }
