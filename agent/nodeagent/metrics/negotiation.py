"""Which form of the metrics a scraper wants: by its Accept and Accept-Encoding headers (RFC 9110, section 12.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_OPENMETRICS = "application/openmetrics-text"
_PLAIN = ("text/plain", "text/*", "*/*")
_VERSIONS = ("", "0.0.1", "1.0.0")  # 0.0.1 is what the first implementations asked for; 1.0.0 satisfies them


def wants_openmetrics(accept: str) -> bool:
    """Whether OpenMetrics is accepted, and not less gladly than plain text."""
    openmetrics = plain = 0.0
    for kind, parameters in _entries(accept):
        weight = _weight(parameters)
        if kind == _OPENMETRICS and parameters.get("version", "") in _VERSIONS:
            openmetrics = max(openmetrics, weight)
        elif kind in _PLAIN:
            plain = max(plain, weight)
    return openmetrics > 0 and openmetrics >= plain


def accepts_gzip(accepted: str) -> bool:
    """Whether gzip is named, or everything is, and not with a weight of 0."""
    for coding, parameters in _entries(accepted):
        if coding in ("gzip", "*"):
            return _weight(parameters) > 0
    return False


def _entries(header: str) -> Iterator[tuple[str, dict[str, str]]]:
    for entry in header.lower().split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        pairs = (parameter.partition("=") for parameter in parameters)
        yield name, {key.strip(): value.strip().strip('"') for key, _, value in pairs}


def _weight(parameters: dict[str, str]) -> float:
    try:
        return float(parameters.get("q", "1"))
    except ValueError:
        return 0.0
