"""The table of NVML functions in docs/nvml-simulator.md, made from the simulator's sources.

`python tests/nvml_table.py` writes it into the page; a test compares.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NATIVE = ROOT / "native" / "nvml"
PAGE = ROOT / "docs" / "nvml-simulator.md"
BEGIN, END = "<!-- functions: begin -->\n", "<!-- functions: end -->\n"
PROTOTYPE = re.compile(r"^[\w ]+?\*?(nvml[A-Z]\w+)\([^;]*?\);( /\* constant \*/)?$", re.MULTILINE | re.DOTALL)
UNSUPPORTED = re.compile(r"^NOT_SUPPORTED\((\w+)\)$", re.MULTILINE)


def functions() -> dict[str, str]:
    """What each exported function is: simulated, constant or not supported."""
    found = dict.fromkeys(UNSUPPORTED.findall((NATIVE / "unsupported.c").read_text()), "not supported")
    for name, constant in PROTOTYPE.findall((NATIVE / "api.h").read_text()):
        found[name] = "constant" if constant else "simulated"
    return found


def table() -> str:
    """The rows by name; NVML's versions of a function stand beside each other."""
    found = functions()
    counts = {kind: list(found.values()).count(kind) for kind in ("simulated", "constant", "not supported")}
    summary = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    rows = "".join(f"| {name} | {kind} |\n" for name, kind in sorted(found.items()))
    return f"{len(found)} functions: {summary}.\n\n| function | answer |\n|---|---|\n{rows}"


def filled(page: str) -> str:
    """The page with this table between its marks."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
