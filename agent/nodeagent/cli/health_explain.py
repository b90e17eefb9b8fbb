"""What `nodeagent health --explain` says: the catalogue for a person."""

from __future__ import annotations

import re
from typing import Any

from nodeagent.errors import UsageError
from nodeagent.health.check_table import CHECKS
from nodeagent.health.sxid import sxid_entry
from nodeagent.health.xid import XIDS, xid_entry

_FAULTS = {
    "A": "application",
    "D": "driver or firmware",
    "H": "GPU hardware",
    "L": "NVLink or fabric",
    "P": "power, slot, heat or host",
    "O": "operator",
    "?": "unknown",
}
_SXID_DIGITS = 5
_WORDS = {
    "xid": "Xid",
    "sxid": "SXid",
    "meaning": "means",
    "recovery": "action",
    "advice": "do",
    "mayComeFrom": "may come from",
    "driver": "but",
    "looksAt": "looks at",
    "wellAgain": "well again",
}


def explain(what: str) -> dict[str, Any]:
    """An Xid (`79`, `xid 79`), an SXid (five digits) or the name of a check. UsageError for anything else."""
    found = re.fullmatch(r"(?:s?xid)?[ -]?(\d{1,5})", what.strip().lower())
    if found:
        code = int(found[1])
        return _sxid(code) if len(found[1]) == _SXID_DIGITS else _xid(code)
    entry = CHECKS.get(what)
    if entry is None:
        raise UsageError(f"--explain {what}: expected an Xid, an SXid or a check; checks are {', '.join(CHECKS)}")
    return {"check": entry.name, "of": entry.of, "looksAt": entry.looks_at, "wellAgain": entry.well}


def explanation_rows(document: dict[str, Any]) -> list[tuple[str, str]]:
    """The same for a person, in the words that `nodeagent health` has for a finding."""
    shown = {key: value for key, value in document.items() if value and key != "known"}
    if document.get("verdict") == "ok":
        shown["verdict"] = "none by itself; it is kept in the history"
    if document.get("known") is False:
        shown["xid"] = f"{document['xid']}, which the catalogue does not have"
    return [(_WORDS.get(key, key), str(value)) for key, value in shown.items()]


def _xid(code: int) -> dict[str, Any]:
    entry = xid_entry(code)
    repeats = f"a warning when {entry.repeats} jobs meet it on one GPU within a day" if entry.repeats else ""
    return {
        "xid": code,
        "known": code in XIDS,
        "meaning": entry.meaning,
        "verdict": entry.verdict.value,
        "recovery": entry.recovery.value,
        "advice": entry.advice,
        "mayComeFrom": ", ".join(_FAULTS[letter] for letter in entry.faults if letter in _FAULTS),
        "repeated": repeats,
        "follows": "another error, to which it belongs" if entry.follows else "",
        "driver": "the driver's own recovery action goes before this" if entry.asks_driver else "",
    }


def _sxid(code: int) -> dict[str, Any]:
    entry = sxid_entry(code)
    return {
        "sxid": code,
        "meaning": entry.meaning,
        "reach": entry.kind.value,
        "verdict": entry.verdict.value,
        "recovery": entry.recovery.value,
        "advice": entry.advice,
    }
