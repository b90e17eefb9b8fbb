"""What a line of the kernel's log means to health; pure. Only lines of the kernel itself belong in here.

A process chooses its own name, and the driver prints it: so nothing is searched for in the whole text, every pattern is
anchored, and what follows the name is matched to the end of the line.

Sources, in NVIDIA/open-gpu-kernel-modules: src/nvidia/src/kernel/gpu/rc/kernel_rc.c (Xid),
src/common/nvswitch/kernel/inc/common_nvswitch.h (SXid),
src/nvidia/src/kernel/gpu/arch/ampere/kern_gpu_error_cont_ga100.c (contained errors).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from nodeagent.health.host_lines import HOST_LINES


class LineKind(StrEnum):
    """What sort of line it is."""

    XID = "xid"
    SXID = "sxid"
    SXID_DETAIL = "sxid detail"  # belongs to the SXid before it and counts nothing
    BUS_LOST = "bus lost"
    RESET_REQUIRED = "reset required"
    IDENTITY = "identity"
    DRIVER_LOADED = "driver loaded"
    HOST = "host"


@dataclass(frozen=True)
class Link5:
    """The fixed part of Xids 144 to 150 (NVLink 5); `link` is -1 where it concerns none.

    The first word in brackets is the unit's interrupt information, the second its error status.
    """

    unit: str
    fatal: bool
    injected: bool
    link: int
    words: tuple[int, ...]

    @property
    def status(self) -> int:
        return self.words[1] if len(self.words) > 1 else 0

    @property
    def sub_code(self) -> int:
        return (self.words[0] >> 20) & 0x3F if self.words else 0


@dataclass(frozen=True)
class Line:
    """A line that means something. What it does not say is "", None or -1.

    `pci_address` has domain, bus, device and function, as sysfs. `gi_id` and `ci_id` are those of a MIG instance.
    `fatal` is the word of the line itself. `reset` and `drain_reset` are RST and D-RST of Xids 94 and 95. `check`
    names the check that a host line belongs to.
    """

    kind: LineKind
    text: str
    code: int | None = None
    pci_address: str = ""
    gi_id: int = -1
    ci_id: int = -1
    pid: int | None = None
    process: str = ""
    fatal: bool | None = None
    reset: bool | None = None
    drain_reset: bool | None = None
    caused_by: int | None = None
    action: int | None = None
    link5: Link5 | None = None
    uuid: str = ""
    switch: int = -1
    check: str = ""


_XID = re.compile(
    r"NVRM: Xid \((?:PCI:)?(?P<pci>[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})(?:\.[0-7])?"
    r"(?: GPU-I:(?P<gi>[0-9]{1,4}))?(?: GPU-CI:(?P<ci>[0-9]{1,4}))?\): (?P<code>[0-9]{1,4})(?:,\s*(?P<rest>.*))?"
)
_WHO = re.compile(r"pid=(?:'?<?unknown>?'?|(?P<pid>[0-9]{1,9})),\s+(?:name=(?P<name>.{0,16}?),\s+)?(?P<text>.*)")
_CONTAINMENT = re.compile(r"(?P<how>Contained|Uncontained): .*?RST: (?P<rst>Yes|No), D-RST: (?P<drst>Yes|No)")
_CAUSED_BY = re.compile(r".*\bcaused by previous Xid ([0-9]{1,4})")
_ACTION = re.compile(r".*\brecovery action changed from 0x[0-9a-fA-F]+ \(.*?\) to 0x([0-9a-fA-F]+) \(.*\)\.?")
_LINK5 = re.compile(
    r"(?P<unit>[A-Z][A-Z0-9_]*) (?P<how>Fatal|Nonfatal) XC[0-9] i(?P<injected>[0-9]+) Link (?P<link>-?[0-9]{1,3})"
    r" \((?P<words>0x[0-9a-fA-F]{8}(?: 0x[0-9a-fA-F]{8})*)\)"
)
_SXID = re.compile(
    r"nvidia-nvswitch(?P<switch>[0-9]{1,3}): "
    r"SXid \(PCI:(?P<pci>[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7])\): "
    r"(?P<code>[0-9]{5}), (?P<rest>.*)"
)
_NVLINK5 = range(144, 151)
_SEVERITY = re.compile(r"(?P<word>Fatal|Non-fatal), (?P<text>.*)")
_SXID_DETAILS = ("Data {", "Severity ")
_LOST = (
    re.compile(r"NVRM: GPU (?P<pci>[0-9a-fA-F:.]{7,16}): GPU has fallen off the bus\.?"),
    re.compile(r"NVRM: The NVIDIA GPU (?P<pci>[0-9a-fA-F:.]{7,16})\s.*fallen off the bus and is not responding .*"),
)
_LOST_BEGINS = re.compile(r"NVRM: The NVIDIA GPU (?P<pci>[0-9a-fA-F:.]{7,16})")
_LOST_ENDS = re.compile(r"NVRM: fallen off the bus and is not responding .*")
_IDENTITY = re.compile(r"NVRM: GPU at PCI:(?P<pci>[0-9a-fA-F:.]{7,16}): (?P<uuid>GPU-[0-9a-f-]{36})")
_RESET_REQUIRED = re.compile(r"NVRM: .*NV_ERR_RESET_REQUIRED\] \(0x0*62\).*")
_LOADED = re.compile(r"NVRM: loading NVIDIA UNIX .*")


def pci_address(text: str) -> str:
    """An address as sysfs spells it: `0000:3B:00` and `00000000:3b:00.0` are 0000:3b:00.0."""
    found = re.fullmatch(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})(?:\.([0-7]))?", text.lower())
    if not found:
        return ""
    domain = int(found[1] or "0", 16)
    return f"{domain:04x}:{found[2]}:{found[3]}.{found[4] or 0}"


class LineReader:
    """Reads lines in their order: one message comes in three records, and only together do they mean anything."""

    def __init__(self) -> None:
        self._begun = ""

    def read(self, text: str) -> Line | None:
        """What the line means, None where it means nothing to us."""
        begun, self._begun = self._begun, ""
        if begins := _LOST_BEGINS.fullmatch(text):
            self._begun = pci_address(begins["pci"])
            return None
        if begun and text.startswith("NVRM: (PCI ID:"):
            self._begun = begun
            return None
        if begun and _LOST_ENDS.fullmatch(text):
            return Line(LineKind.BUS_LOST, "the gpu has fallen off the bus", pci_address=begun)
        return read_line(text)


def read_line(text: str) -> Line | None:
    """What one line by itself means, None where it means nothing to us."""
    if text.startswith("NVRM: "):
        return _xid(text) or _nvrm(text) or _host(text)
    if text.startswith("nvidia-nvswitch"):
        return _sxid(text)
    return _host(text)


def _xid(text: str) -> Line | None:
    found = _XID.fullmatch(text)
    if not found:
        return None
    rest = found["rest"] or ""
    who = _WHO.fullmatch(rest)
    detail = who["text"] if who else rest
    line = Line(
        kind=LineKind.XID,
        text=detail,
        code=int(found["code"]),
        pci_address=pci_address(found["pci"]),
        gi_id=_number(found["gi"], -1),
        ci_id=_number(found["ci"], -1),
        pid=int(who["pid"]) if who and who["pid"] else None,
        process=_process(who["name"]) if who else "",
    )
    return _with_detail(line, detail)


def _with_detail(line: Line, detail: str) -> Line:
    """What the text says beyond the number, each only with the numbers whose text has it."""
    if line.code in (94, 95) and (found := _CONTAINMENT.fullmatch(detail)):
        return replace(line, reset=found["rst"] == "Yes", drain_reset=found["drst"] == "Yes")
    if line.code == 45 and (found := _CAUSED_BY.fullmatch(detail)):
        return replace(line, caused_by=int(found[1]))
    if line.code == 154 and (found := _ACTION.fullmatch(detail)):
        return replace(line, action=int(found[1], 16))
    if line.code in _NVLINK5 and (found := _LINK5.fullmatch(detail)):
        link5 = Link5(
            unit=found["unit"],
            fatal=found["how"] == "Fatal",
            injected=found["injected"] != "0",
            link=int(found["link"]),
            words=tuple(int(word, 16) for word in found["words"].split()),
        )
        return replace(line, link5=link5, fatal=link5.fatal)
    return line


def _sxid(text: str) -> Line | None:
    found = _SXID.fullmatch(text)
    if not found:
        return None
    rest = found["rest"]
    severity = _SEVERITY.fullmatch(rest)
    return Line(
        kind=LineKind.SXID_DETAIL if rest.startswith(_SXID_DETAILS) else LineKind.SXID,
        text=severity["text"] if severity else rest,
        code=int(found["code"]),
        pci_address=pci_address(found["pci"]),
        fatal=severity["word"] == "Fatal" if severity else None,
        switch=int(found["switch"]),
    )


def _nvrm(text: str) -> Line | None:
    for pattern in _LOST:
        if found := pattern.fullmatch(text):
            return Line(LineKind.BUS_LOST, "the gpu has fallen off the bus", pci_address=pci_address(found["pci"]))
    if found := _IDENTITY.fullmatch(text):
        return Line(LineKind.IDENTITY, text, pci_address=pci_address(found["pci"]), uuid=found["uuid"])
    if _RESET_REQUIRED.fullmatch(text):
        return Line(LineKind.RESET_REQUIRED, text)
    return Line(LineKind.DRIVER_LOADED, text) if _LOADED.fullmatch(text) else None


def _host(text: str) -> Line | None:
    for entry in HOST_LINES:
        if found := entry.pattern.fullmatch(text):
            groups = found.groupdict()
            return Line(
                kind=LineKind.HOST,
                text=text,
                pci_address=pci_address(groups.get("pci") or ""),
                process=groups.get("name") or "",
                fatal=entry.fatal,
                check=entry.check,
            )
    return None


def _number(text: str | None, otherwise: int) -> int:
    return otherwise if text is None else int(text)


def _process(name: str | None) -> str:
    bare = (name or "").strip("'")
    return "" if bare == "<unknown>" else bare
