"""Checks of `links[].qos` and `sriov`: what no single key of them shows. Each docstring is its rule.

Sources: IEEE 802.1Q (transmission selection), mlx5's en_dcbnl.c for what a marking leads to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nodeagent.spec.decode import Path
from nodeagent.spec.findings import Finding
from nodeagent.spec.qos import Qos, expanded
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.qos import Trust


def qos_tables(spec: NodeSpec) -> Iterator[Finding]:
    """`links[].qos`: `ets`, `buffers` and `max_rate_mbps` have eight items in each table; bandwidths add up to 100."""
    for index, entry in enumerate(spec.links):
        place: Path = ("links", index, "qos")
        ets = entry.qos.ets if entry.qos else None
        rates = entry.qos.max_rate_mbps if entry.qos else None
        tables = {"max_rate_mbps": rates}
        if ets is not None:
            tables |= {"ets.bandwidth": ets.bandwidth, "ets.classes": ets.classes}
        buffers = entry.qos.buffers if entry.qos else None
        if buffers is not None:
            tables |= {"buffers.of_priority": buffers.of_priority, "buffers.bytes": buffers.bytes}
        for name, table in tables.items():
            if table is not None and len(table) != 8:
                yield Finding((*place, *name.split(".")), f"expected eight numbers, found {len(table)}")
        shares = [share for number, share in enumerate(ets.bandwidth) if number not in ets.strict] if ets else [100]
        if sum(shares) != 100 or (ets and sum(ets.bandwidth) != 100):
            problem = f"traffic classes that are not strict have {sum(shares)} percent; expected 100, and 0 for strict"
            yield Finding((*place, "ets", "bandwidth"), problem, ((*place, "ets", "strict"),))


def qos_marking(spec: NodeSpec) -> Iterator[Finding]:
    """`links[].qos`: `trust: dscp` wants a `dscp` table, `trust: pcp` none, and with `pfc` a DSCP must lead to it."""
    for index, entry in enumerate(spec.links):
        qos = expanded(entry.qos) if entry.qos else Qos()
        place: Path = ("links", index, "qos")
        parts: tuple[Path, ...] = tuple((*place, name) for name in ("setup", "trust", "dscp", "pfc"))
        if qos.trust is Trust.DSCP and not qos.dscp:
            yield Finding(place, "trust: dscp needs a table; expected dscp such as {26: 3}", parts)
        if qos.trust is Trust.PCP and qos.dscp:
            yield Finding(place, "trust: pcp empties the DSCP table; expected no dscp, or trust: dscp", parts)
        if qos.dscp and qos.pfc and not set(qos.pfc) & set(qos.dscp.values()):
            wanted = ", ".join(map(str, qos.pfc))
            problem = (
                f"no DSCP leads to priority {wanted}, so nothing would be lossless; expected one that does in dscp"
            )
            yield Finding(place, problem, parts)


def qos_buffers(spec: NodeSpec) -> Iterator[Finding]:
    """`links[].qos.buffers`: a priority's buffer is not empty, and it has no priority with flow control beside others.

    The second is a hint: what shares a lossless buffer is paused with it.
    """
    for index, entry in enumerate(spec.links):
        qos = expanded(entry.qos) if entry.qos else Qos()
        place: Path = ("links", index, "qos", "buffers")
        used, sizes = (qos.buffers.of_priority or (), qos.buffers.bytes or ()) if qos.buffers else ((), ())
        empty = sorted({buffer for buffer in used if buffer < len(sizes) and not sizes[buffer]})
        if empty:
            problem = f"of_priority uses buffer {', '.join(map(str, empty))}, which has no bytes; expected some"
            yield Finding((*place, "bytes"), problem, ((*place, "of_priority"),))
        lossless = {used[priority] for priority in qos.pfc or () if priority < len(used)}
        shared = [
            priority for priority, buffer in enumerate(used) if buffer in lossless and priority not in (qos.pfc or ())
        ]
        if shared:
            problem = (
                f"priority {', '.join(map(str, shared))} shares a buffer with one in pfc; expected a buffer of its own"
            )
            yield Finding((*place, "of_priority"), problem, (("links", index, "qos", "pfc"),), is_hint=True)


def one_entry_per_function(spec: NodeSpec) -> Iterator[Finding]:
    """Two entries of `sriov` cannot have the same `match`, nor more `macs` or `guids` than `vfs`."""
    seen: dict[str, int] = {}
    for index, entry in enumerate(spec.sriov):
        first = seen.setdefault(entry.match, index)
        if first != index:
            problem = f"{entry.match} is also the match of sriov[{first}]; expected one entry"
            yield Finding(("sriov", index, "match"), problem, (("sriov", first, "match"),))
        for name, items in (("macs", entry.macs), ("guids", entry.guids)):
            if len(items) > entry.vfs:
                problem = f"{len(items)} items for {entry.vfs} virtual functions; expected {entry.vfs} at most"
                yield Finding(("sriov", index, name), problem, (("sriov", index, "vfs"),))


RULES: tuple[Callable[[NodeSpec], Iterator[Finding]], ...] = (
    qos_tables,
    qos_marking,
    qos_buffers,
    one_entry_per_function,
)
