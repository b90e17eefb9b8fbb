"""Verbs `roce holders` and `roce access`: who uses the RDMA devices, and what keeps programs from using them."""

from __future__ import annotations

import argparse
from typing import Any

from nodeagent.cli.output import columns, emit
from nodeagent.cli.parsing import add_verb
from nodeagent.cli.target import add_target_options, target_of
from nodeagent.host.limit_facts import read_memory_locks
from nodeagent.resources.rdma_access import JOB_SERVICES, findings
from nodeagent.state.network import RdmaObject

FOUND = 3
_HOLDERS = """\
Programs with contexts, queue pairs, connections or memory regions on RDMA devices, as RDMA netlink tells them.
They stand in the way of whatever takes the device away: a driver reload, another number of virtual functions.

examples:
  nodeagent roce holders
  nodeagent roce holders -o json
"""
_ACCESS = """\
Device nodes that are missing or closed to users, and services whose jobs may lock too little memory. Registered memory
is locked memory: with the usual limit of 8 MiB, NCCL and MPI fail with "cannot allocate memory".

exit codes: 0, and 3 where something was found

examples:
  nodeagent roce access
"""


def add_verbs(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add `holders` and `access` below `roce`."""
    text = "programs that use the RDMA devices, and what they have on them"
    _verb(verbs, common, "holders", text, _HOLDERS).set_defaults(run=run_holders)
    text = "what keeps programs from using RDMA: device nodes, locked memory"
    _verb(verbs, common, "access", text, _ACCESS).set_defaults(run=run_access)


def _verb(verbs: Any, common: argparse.ArgumentParser, name: str, text: str, epilog: str) -> argparse.ArgumentParser:
    verb = add_verb(verbs, name, common, text, epilog)
    add_target_options(verb)
    return verb


def run_holders(arguments: argparse.Namespace) -> int:
    with target_of(arguments).observer() as observer:
        found = observer.host.links.rdma.holders()
        pids = sorted({one.pid for holders in found.values() for one in holders})
        processes = {one.pid: one for one in observer.host.processes.describe(pids)}
    rows = [
        {
            "device": device,
            "pid": holder.pid,
            "process": str(processes[holder.pid]) if holder.pid in processes else None,
            "objects": {kind.value: count for kind, count in holder.objects},
        }
        for device, holders in sorted(found.items())
        for holder in holders
    ]
    emit({"holders": rows}, arguments.output, lambda: _holders_text(rows) or "nobody uses an RDMA device")
    return 0


def _holders_text(rows: list[dict[str, Any]]) -> str:
    kinds = [kind.value for kind in RdmaObject]
    lines = [
        [row["device"], str(row["pid"]), *(str(row["objects"].get(kind, 0)) for kind in kinds), row["process"] or "-"]
        for row in rows
    ]
    header = ("DEVICE", "PID", *(f"{kind}s".upper() for kind in kinds), "PROCESS")
    return columns(lines, header) if lines else ""


def run_access(arguments: argparse.Namespace) -> int:
    with target_of(arguments).observer() as observer:
        state = observer.observe(())
        services = observer.host.services.show(JOB_SERVICES)
        found = list(findings(state, read_memory_locks(observer.host.files, services)))
    rows = [{"subject": one.subject, "problem": one.problem, "advice": one.advice} for one in found]
    text = "\n".join(f"{one.subject}: {one.problem}; {one.advice}" for one in found)
    emit({"findings": rows}, arguments.output, lambda: text or "nothing keeps programs from using RDMA")
    return FOUND if rows else 0
