"""What a reported error comes to: the word of the line first, then the tables; pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nodeagent.health.host_lines import HOST_LINES
from nodeagent.health.kernel_lines import Line, LineKind, Link5
from nodeagent.health.nvlink5 import ruling
from nodeagent.health.recovery import driver_action
from nodeagent.health.sxid import sxid_entry
from nodeagent.health.xid import XidEntry, xid_entry
from nodeagent.state.health import Recovery, Verdict


@dataclass(frozen=True)
class Judgement:
    """`verdict` ok: no fault by itself. The rest as in `XidEntry`; `by_driver`: the driver itself asks for it."""

    verdict: Verdict
    recovery: Recovery
    meaning: str
    advice: str
    repeats: int = 0
    follows: bool = False
    lasting: bool = False
    by_driver: bool = False


BUS_LOST = 79  # the same by another line
_DRIVER_CHANGED = 154


def judge(line: Line) -> Judgement:
    """What a line comes to by itself."""
    if line.kind is LineKind.XID and line.code is not None:
        return _judge_xid(line, xid_entry(line.code))
    if line.kind is LineKind.BUS_LOST:
        return _of_entry(xid_entry(BUS_LOST))
    if line.kind is LineKind.SXID and line.code is not None:
        return _judge_sxid(line.code, line.fatal)
    if line.kind is LineKind.RESET_REQUIRED:
        meaning = "the driver noted that a GPU needs a reset"
        return Judgement(Verdict.WARNING, Recovery.RESET_GPU, meaning, "see which GPU asks for recovery")
    if line.kind is LineKind.HOST:
        return _judge_host(line)
    return Judgement(Verdict.OK, Recovery.NONE, line.kind.value, "")


def judge_code(code: int) -> Judgement:
    """What an Xid comes to of which only the number is known, as from NVML's event."""
    return judge(Line(LineKind.XID, "", code=code))


def _of_entry(entry: XidEntry) -> Judgement:
    return Judgement(
        verdict=entry.verdict,
        recovery=entry.recovery,
        meaning=entry.meaning,
        advice=entry.advice,
        repeats=entry.repeats,
        follows=entry.follows,
        lasting=entry.lasting,
    )


def _judge_xid(line: Line, entry: XidEntry) -> Judgement:
    found = _of_entry(entry)
    if line.action is not None and line.code == _DRIVER_CHANGED:
        said = driver_action(line.action)
        meaning = f"{entry.meaning}: {said.name}"
        lasting = said.verdict is not Verdict.OK
        return Judgement(said.verdict, said.recovery, meaning, said.advice, lasting=lasting, by_driver=True)
    if line.link5 is not None and line.code is not None:
        return _judge_link5(line.code, line.link5, found)
    if line.drain_reset:
        return replace(found, verdict=Verdict.FAILED, recovery=Recovery.DRAIN_AND_RESET, lasting=True, by_driver=True)
    if line.reset:
        return replace(found, verdict=Verdict.FAILED, recovery=Recovery.RESET_GPU, lasting=True, by_driver=True)
    return found


def _judge_link5(code: int, link5: Link5, found: Judgement) -> Judgement:
    """Fatal is the word of the line; the tables say what to do, and what may be ignored where it is not fatal."""
    table = ruling(code, link5)
    where = f" on link {link5.link}" if link5.link >= 0 else ""
    meaning = f"{found.meaning} ({link5.unit}){where}" + (f": {table.note}" if table else "")
    if link5.fatal:
        recovery = table.recovery if table and table.recovery is not Recovery.NONE else Recovery.RESET_GPU
        return replace(found, verdict=Verdict.FAILED, recovery=recovery, meaning=meaning, lasting=True)
    if table is None:
        return replace(found, meaning=meaning)
    if table.asks_driver:
        return replace(found, verdict=Verdict.WARNING, recovery=Recovery.RESTART_JOB, meaning=meaning)
    harmless = table.recovery is Recovery.NONE
    verdict = Verdict.OK if harmless else Verdict.WARNING
    return replace(found, verdict=verdict, recovery=table.recovery, meaning=meaning)


def _judge_sxid(code: int, fatal: bool | None) -> Judgement:
    entry = sxid_entry(code, fatal)
    lasting = entry.verdict is Verdict.FAILED
    return Judgement(entry.verdict, entry.recovery, entry.meaning, entry.advice, lasting=lasting)


_BY_SEVERITY = {
    None: (Verdict.OK, Recovery.NONE),
    False: (Verdict.WARNING, Recovery.INSPECT),
    True: (Verdict.FAILED, Recovery.INSPECT),
}


def _judge_host(line: Line) -> Judgement:
    entry = next((one for one in HOST_LINES if one.check == line.check and one.pattern.fullmatch(line.text)), None)
    verdict, recovery = _BY_SEVERITY[line.fatal]
    if entry is None:
        return Judgement(verdict, recovery, line.check, "")
    return Judgement(verdict, recovery, entry.meaning, entry.advice)
