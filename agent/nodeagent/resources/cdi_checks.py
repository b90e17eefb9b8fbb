"""What is wrong with the CDI specifications of a node, whoever wrote them; pure.

Rules: container-device-interface SPEC.md (names, versions, precedence of directories) and pkg/cdi/cache.go (conflicts).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from nodeagent.host.paths import CDI_DYNAMIC, CDI_STATIC
from nodeagent.resources.cdi_specs import lowest_version
from nodeagent.state.containers import CdiFile

DEVICE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?")
CLASS_LIMIT = 63


class Severity(StrEnum):
    """error: a container that asks for the device does not start, or starts without what it needs."""

    ERROR = "error"
    REMARK = "remark"


@dataclass(frozen=True)
class CdiFinding:
    """One thing that is wrong, or worth knowing, with one file."""

    path: str
    severity: Severity
    text: str


def priority(directory: str) -> int:
    """Later directories win, as they stand in the runtimes' configuration."""
    return 0 if directory == CDI_STATIC else 1 if directory == CDI_DYNAMIC else 2


def findings(files: Sequence[CdiFile], missing: Iterable[str]) -> tuple[CdiFinding, ...]:
    """All of them, in the order of the files; `missing` are needed paths that are not on the node."""
    gone = frozenset(missing)
    return tuple(finding for file in files for finding in _of_file(file, files, gone))


def _of_file(file: CdiFile, files: Sequence[CdiFile], gone: frozenset[str]) -> Iterator[CdiFinding]:
    if file.problem:
        yield CdiFinding(file.path, Severity.ERROR, file.problem)
        return
    for text in (*_names(file), *_version(file)):
        yield CdiFinding(file.path, Severity.ERROR, text)
    for path in file.paths:
        if path in gone:
            yield CdiFinding(file.path, Severity.ERROR, f"{path} is not there; generate the specification anew")
    yield from _rivals(file, files)


def _names(file: CdiFile) -> Iterator[str]:
    if len(file.kind.partition("/")[2]) > CLASS_LIMIT:
        yield f"the class of {file.kind} is longer than {CLASS_LIMIT} characters"
    if not file.devices:
        yield "it has no devices"
    for name in sorted({name for name in file.devices if file.devices.count(name) > 1}):
        yield f"device {name} is there twice"
    for name in file.devices:
        if not DEVICE_NAME.fullmatch(name):
            yield f"device name {name!r} must begin and end with a letter or digit, with _ - . : inside"


def _version(file: CdiFile) -> Iterator[str]:
    """A runtime refuses a file whose version is lower than what it uses; only seen in JSON, as most tools write."""
    if not file.path.endswith(".json"):
        return
    document = json.loads(file.text)
    needed, said = lowest_version(document), str(document.get("cdiVersion", ""))
    if _number(said) < _number(needed):
        yield f"cdiVersion is {said or 'missing'}, its content needs {needed}"


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def _rivals(file: CdiFile, files: Sequence[CdiFile]) -> Iterator[CdiFinding]:
    for other in files:
        common = sorted(set(file.devices) & set(other.devices))
        if other is file or other.kind != file.kind or not common:
            continue
        few = ", ".join(common[:3]) + (" ..." if len(common) > 3 else "")
        mine, its = priority(file.directory), priority(other.directory)
        if mine == its:
            text = f"{other.path} defines {file.kind}={few} too: a runtime refuses these devices; remove one of the two"
            yield CdiFinding(file.path, Severity.ERROR, text)
        elif mine < its:
            text = f"{other.path} wins over it for {file.kind}={few}"
            yield CdiFinding(file.path, Severity.REMARK, text)
