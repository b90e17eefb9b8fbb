"""The guest's tests as the host sees them: which there are, and how each one ended."""

from __future__ import annotations

import ast
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Case:
    """One test (with its parameters) that ran in the guest; `failure` is pytest's report, empty if it passed."""

    name: str
    seconds: float
    failure: str = ""


def declared(path: Path) -> list[str]:
    """Names of the test functions in a guest's test file, without importing it."""
    tree = ast.parse(path.read_text())
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


def read(junit: Path) -> dict[tuple[str, str], list[Case]]:
    """(file stem, function) -> the cases of it, from pytest's junit.xml."""
    found: dict[tuple[str, str], list[Case]] = {}
    for element in ET.parse(junit).iter("testcase"):
        stem = element.get("classname", "").rsplit(".", 1)[-1]
        name = element.get("name", "")
        # A skipped test counts as failed: the guest has everything the tests need.
        failures = [
            child.text or child.get("message") or ""
            for child in element
            if child.tag in ("failure", "error", "skipped")
        ]
        case = Case(name, float(element.get("time", "0")), "\n".join(failures))
        found.setdefault((stem, name.split("[")[0]), []).append(case)
    return found
