"""The last findings of each proof, kept in a file of this boot: a command leaves them there for the agent's metrics."""

from __future__ import annotations

import json

from nodeagent.host.paths import VALIDATION_RESULTS
from nodeagent.host.ports import Files
from nodeagent.state.proofs import Validation
from nodeagent.supervisor.validation_facts import merged
from nodeagent.validation.documents import document_of, validation_of


def kept(files: Files) -> Validation:
    """What is there; nothing where the file is missing or of another version."""
    text = files.read_optional(VALIDATION_RESULTS)
    try:
        return validation_of(json.loads(text)) if text else Validation()
    except (KeyError, TypeError, ValueError):
        return Validation()


def keep(files: Files, found: Validation) -> Validation:
    """Put the findings in place of the earlier ones of the same proofs; all of them afterwards. HostError."""
    everything = merged(kept(files), found)
    files.replace(VALIDATION_RESULTS, json.dumps(document_of(everything)), 0o644)
    return everything
