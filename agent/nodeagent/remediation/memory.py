"""The memory of repair as text: one small file with a checksum, so that a damaged one is known to be damaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from nodeagent.errors import HostError
from nodeagent.state.health import Subject, SubjectKind
from nodeagent.state.repair import (
    Answer,
    Attempt,
    AttemptOutcome,
    Quarantine,
    RepairAction,
    RepairMemory,
)

VERSION = 1


def encode(memory: RepairMemory) -> str:
    """The memory as one JSON document with a checksum over its body."""
    body = {
        "version": VERSION,
        "attempts": [asdict(one) for one in memory.attempts],
        "quarantines": [asdict(one) for one in memory.quarantines],
        "answers": {name: asdict(one) for name, one in memory.answers.items()},
        "paused": memory.paused,
        "reboot_asked": memory.reboot_asked,
        "drained": memory.drained,
    }
    return json.dumps({"checksum": _checksum(body), **body}, indent=1) + "\n"


def decode(text: str, place: str) -> RepairMemory:
    """The memory in such a text, read from `place`. HostError where it is damaged: repair must then stay off."""
    try:
        body = json.loads(text)
        checksum = body.pop("checksum")
        if checksum != _checksum(body):
            raise _damaged(place, "its checksum does not match its content")
        if body["version"] != VERSION:
            raise _damaged(place, f"it has version {body['version']}, this agent writes {VERSION}")
        return _memory(body)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(place, f"its content is not the memory of repair ({error!r})") from error


def _memory(body: Mapping[str, Any]) -> RepairMemory:
    return RepairMemory(
        attempts=tuple(_attempt(one) for one in body["attempts"]),
        quarantines=tuple(Quarantine(**one | {"subject": _subject(one["subject"])}) for one in body["quarantines"]),
        answers={name: Answer(**one) for name, one in body["answers"].items()},
        paused=body["paused"],
        reboot_asked=body["reboot_asked"],
        drained=body["drained"],
    )


def _attempt(one: Mapping[str, Any]) -> Attempt:
    return Attempt(
        subject=_subject(one["subject"]),
        action=RepairAction(one["action"]),
        causes=tuple((SubjectKind(kind), name, check) for kind, name, check in one["causes"]),
        began=one["began"],
        outcome=AttemptOutcome(one["outcome"]),
        ended=one["ended"],
        text=one["text"],
    )


def _subject(one: Mapping[str, Any]) -> Subject:
    return Subject(SubjectKind(one["kind"]), one["name"], one["pci_address"], one["parent"])


def _damaged(place: str, problem: str) -> HostError:
    advice = "repair stays off, because how often it acted is not known: look at the node, then remove the file"
    return HostError("read", place, problem, advice)


def _checksum(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
