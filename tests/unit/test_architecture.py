"""The rules of docs/architecture.md that can be checked are checked here."""

from __future__ import annotations

import ast
import graphlib
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "agent" / "nodeagent"
SOURCES = sorted(PACKAGE.rglob("*.py"))
CODE = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "native").rglob("*.py")), ROOT / "setup.py"]

CORE = {"errors", "state", "spec", "host", "resources", "plan"}
# package -> packages it may import besides itself
MAY_IMPORT = {
    "errors": set(),
    "state": {"errors"},
    "host": {"errors", "state"},
    "spec": {"errors", "state"},
    "resources": {"errors", "state", "spec", "host"},
    "plan": {"errors", "state", "spec", "host", "resources"},
    "metrics": {"errors", "state", "host"},
    "kubernetes": {"errors", "state", "host"},
    "health": {"errors", "state", "host", "spec"},
    "remediation": {"errors", "state", "spec", "resources"},
    "validation": {"errors", "state", "host"},
    "supervisor": {*CORE, "metrics", "health", "remediation", "kubernetes", "validation"},
    "simulation": {"errors", "state", "host", "simulation"},
    "cli": {*CORE, "metrics", "health", "remediation", "kubernetes", "validation", "supervisor", "simulation"},
    "__main__": {"cli"},
}
# What resources may take from host: the port types, and our own record of load options. All else is effects.
HOST_FOR_RESOURCES = {"nodeagent.host.ports", "nodeagent.host.loaded_options", "nodeagent.host.paths"}
PURE = {"state", "resources"}
EFFECTS = {"os", "pathlib", "socket", "subprocess", "time", "logging", "threading", "shutil", "ctypes", "cffi"}
PATH_LITERAL = re.compile(r"^/(sys|proc|dev|etc|run|var|lib)(/|$)")
PATH_TABLES = {PACKAGE / "host" / "files.py", PACKAGE / "host" / "paths.py"}
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "managers"}


def package_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else Path(parts[0]).stem


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "nodeagent"}
    return found


def docstrings(tree: ast.AST) -> set[int]:
    owners = (n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef))
    return {id(n.body[0].value) for n in owners if n.body and isinstance(n.body[0], ast.Expr)}


def functions(path: Path) -> list[tuple[str, int, ast.FunctionDef]]:
    """Name, lines without the docstring, node."""
    result = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.end_lineno:
            lines = node.end_lineno - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node) and first.end_lineno:
                lines -= first.end_lineno - first.lineno + 1
            result.append((f"{path.relative_to(ROOT)}:{node.name}", lines, node))
    return result


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    mine = package_of(path)
    if mine == "__init__":
        return
    allowed = MAY_IMPORT[mine] | {mine}
    ours = {name for name in imports(path) if name.startswith("nodeagent.")}
    wrong = {name for name in ours if name.split(".")[1] not in allowed | {"__version__", "_kmod", "_calls"}}
    if mine == "resources":
        wrong |= {name for name in ours if name.startswith("nodeagent.host") and name not in HOST_FOR_RESOURCES}
    assert not wrong, f"{path.name} may not import {sorted(wrong)}"


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def import_graph() -> dict[str, set[str]]:
    """Which module of ours names which others anywhere: at its head, for its types only, or lazily in a function."""
    known = {module_name(path) for path in SOURCES}
    return {module_name(path): (members_imported(path) & known) - {module_name(path)} for path in SOURCES}


def members_imported(path: Path) -> set[str]:
    """Like `imports`, with every name taken as if it were a module."""
    froms = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    return imports(path) | {f"{node.module}.{alias.name}" for node in froms for alias in node.names}


def test_no_import_circles() -> None:
    """A module can be read, and understood, before all that use it."""
    graphlib.TopologicalSorter(import_graph()).prepare()  # CycleError names the modules of a circle


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if package_of(p) in PURE], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_pure_packages_import_no_effects(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & EFFECTS


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_native_types_and_printing_stay_where_they_belong(path: Path) -> None:
    mine = package_of(path)
    found = {name.split(".")[0] for name in imports(path)}
    if mine not in {"host", "simulation"}:
        assert not found & {"ctypes", "cffi", "pynvml"}
    if mine != "cli":
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        names = {n.func.id for n in calls if isinstance(n.func, ast.Name)}
        assert "print" not in names
        assert mine == "__main__" or "exit" not in names


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if p not in PATH_TABLES], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_system_paths_stand_in_one_table(path: Path) -> None:
    tree = ast.parse(path.read_text())
    skip = docstrings(tree) | {
        id(part) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in n.values[1:]
    }
    strings = (
        n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in skip
    )
    assert not [f"line {n.lineno}: {n.value}" for n in strings if PATH_LITERAL.match(n.value)]


def test_sizes() -> None:
    too_long = [f"{p.relative_to(ROOT)}" for p in CODE if len(p.read_text().splitlines()) > 400]
    found = [entry for path in SOURCES for entry in functions(path)]
    long = [f"{name}: {lines} lines" for name, lines, _ in found if lines > 50]
    wide = [name for name, _, node in found if parameters(node) > 5]
    assert not too_long
    assert not long
    assert not wide
    assert statistics.median(lines for _, lines, _ in found) <= 8


def parameters(node: ast.FunctionDef) -> int:
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def test_names_say_something() -> None:
    assert not [path for path in SOURCES if path.stem in BANNED_NAMES]


def test_resources_are_mostly_pure() -> None:
    """At least 60 % of the function lines in resources/ have no Host in their signature (design.md section 6)."""
    found = [entry for path in SOURCES if package_of(path) == "resources" for entry in functions(path)]
    total = sum(lines for _, lines, _ in found)
    effects = sum(lines for _, lines, node in found if any(argument.arg == "host" for argument in node.args.args))
    assert effects / total <= 0.4


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "tool",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
    ],
    ids=["ruff", "format", "mypy"],
)
def test_linters(tool: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *tool], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
