"""Checks of the node itself: log, time, disks, modules, and what is not as the node file says; pure."""

from __future__ import annotations

from collections.abc import Iterator

from nodeagent.health.look import FAILED, WARNING, Look, bad, ok, port_subject, unknown
from nodeagent.state.health import NODE, Finding, Recovery, Subject
from nodeagent.state.vitals import DiskFacts

MIB = 1 << 20
LOW_PART = 5  # a failure at a fifth of what is a warning
DRIFT_CHECKS = ("modules", "qos", "roce", "links", "mig", "sriov")
NOTE_CHECKS = ("acs", "numa")
PEER_CLIENTS = ("nvidia_peermem", "nv_peer_mem")


def check_node(look: Look) -> Iterator[Finding]:
    yield _log(look)
    yield _clock(look)
    for path in look.spec.disks:
        yield _disk(look, path)
    yield from _drift(look)
    yield from _notes(look)
    yield from _peer_memory(look)


def _log(look: Look) -> Finding:
    if look.seen.log_trouble:
        return unknown(NODE, "kernel-log", look.seen.log_trouble, "without it, Xids are seen through NVML only")
    if look.seen.log_lost:
        said = (
            f"{look.seen.log_lost} lines were overwritten before they could be read",
            "the kernel's log overran",
            "boot with a larger log_buf_len, or find out who writes that much",
        )
        return bad(NODE, "kernel-log", WARNING, said, Recovery.CONFIGURE)
    return ok(NODE, "kernel-log", "read without a gap")


def _clock(look: Look) -> Finding:
    clock = look.seen.clock
    if isinstance(clock, str):
        return unknown(NODE, "clock", clock or "it was not read")
    evidence = f"{clock.offset_seconds * 1000:+.1f} ms off, error at most {clock.error_seconds * 1000:.0f} ms"
    if not clock.synchronized:
        said = (evidence, "nobody keeps the clock", "start chronyd or systemd-timesyncd")
        return bad(NODE, "clock", WARNING, said, Recovery.CONFIGURE)
    if abs(clock.offset_seconds) > look.spec.limits.clock_offset_seconds:
        said = (evidence, "the clock is off", "see what the time service says")
        return bad(NODE, "clock", WARNING, said, Recovery.CONFIGURE)
    return ok(NODE, "clock", evidence)


def _disk(look: Look, path: str) -> Finding:
    check, found = f"disk:{path}", look.seen.disks.get(path)
    if not isinstance(found, DiskFacts):
        return unknown(NODE, check, found or "it was not looked at")
    limit = look.spec.limits.disk_free_mib * MIB
    evidence = f"{found.free_bytes / MIB:.0f} MiB free ({found.free_ratio:.0%})"
    if found.read_only:
        return bad(NODE, check, FAILED, ("read-only", "nothing can be written", "check the disk"), Recovery.INSPECT)
    said = (evidence, "the disk is nearly full", "remove what is not needed")
    if found.free_bytes * LOW_PART < limit:
        return bad(NODE, check, FAILED, said, Recovery.CONFIGURE)
    return (
        bad(NODE, check, WARNING, said, Recovery.CONFIGURE) if found.free_bytes < limit else ok(NODE, check, evidence)
    )


def _drift(look: Look) -> Iterator[Finding]:
    """What the plan would change, by section and device; a section in which nothing differs is fine."""
    if not look.seen.plan_known:
        return
    for topic in DRIFT_CHECKS:
        differing = [one for one in look.seen.drift if one.topic == topic]
        named: dict[str, list[str]] = {}
        for one in differing:
            named.setdefault(one.name, []).append(one.text)
        for name, texts in named.items():
            said = ("; ".join(texts), "it is not as the node file says", "see `nodeagent plan`")
            yield bad(_drifting(look, topic, name), f"drift-{topic}", WARNING, said, Recovery.CONFIGURE)
        if not named:
            yield ok(NODE, f"drift-{topic}", "as the node file says")


def _drifting(look: Look, topic: str, name: str) -> Subject:
    """The port that belongs to an interface or RDMA device, the GPU that a UUID names, else the node."""
    if topic == "mig" and name in look.who.addresses:
        return look.who.gpu(name)
    for device in look.seen.node.rdma.values():
        for port in device.ports:
            if name in (device.name, port.netdev, device.pci_address):
                return port_subject(f"{device.name}/{port.port}", device.pci_address)
    return NODE


def _notes(look: Look) -> Iterator[Finding]:
    for topic in NOTE_CHECKS:
        notes = [one for one in look.seen.notes if one.topic == topic]
        if notes:
            evidence = "; ".join(f"{one.address}: {one.problem}" for one in notes)
            said = (evidence, "the way between GPUs and NICs is slower than it could be", notes[0].advice)
            yield bad(NODE, topic, WARNING, said, Recovery.CONFIGURE)
        elif look.seen.gpu_pci and look.seen.node.rdma:
            yield ok(NODE, topic)


def _peer_memory(look: Look) -> Iterator[Finding]:
    """A loaded client that found nobody to register with: GPUDirect RDMA will not work through it."""
    node = look.seen.node
    clients = [name for name in PEER_CLIENTS if node.is_loaded(name)]
    if not clients:
        return
    if node.kernel.peer_memory_owner:
        yield ok(NODE, "peermem", f"{clients[0]} is registered with {node.kernel.peer_memory_owner}")
    else:
        said = (
            f"{clients[0]} is loaded, and no module offers peer memory",
            "GPU memory cannot be registered through it",
            "install an RDMA stack with peer memory, or use dma-buf",
        )
        yield bad(NODE, "peermem", WARNING, said, Recovery.CONFIGURE)
