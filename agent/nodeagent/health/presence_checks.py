"""Whether the GPUs are there and answer: bus, driver, number, MIG instances; pure."""

from __future__ import annotations

from collections.abc import Iterator

from nodeagent.health.look import FAILED, UNKNOWN, WARNING, Look, bad, ok, unknown
from nodeagent.state.health import NODE, Finding, Recovery, Subject, SubjectKind

LOST_WORDS = ("lost", "fell off", "fallen off")
POWER_ADVICE = "drain and power-cycle the node once; then inspect power, slot and cooling"


def check_presence(look: Look) -> Iterator[Finding]:
    for uuid, address in look.who.addresses.items():
        yield from _one(look, look.who.gpu(uuid), address)
    yield from _driver(look)
    yield from _count(look)
    yield from _instances(look)


def _one(look: Look, gpu: Subject, address: str) -> Iterator[Finding]:
    """Off the bus, silent, or there. Configuration space of all ones is the sign that needs no driver."""
    if address in look.seen.given_pci:
        return
    silent = look.seen.unanswered.get(gpu.name)
    sampled = gpu.name in look.seen.samples
    is_lost = silent is not None and not sampled and any(word in silent.reason for word in LOST_WORDS)
    off_bus = address in look.seen.gone_pci or (bool(look.seen.gpu_pci) and address not in look.seen.gpu_pci)
    if is_lost or off_bus:
        evidence = silent.reason if silent else "its configuration space reads as all ones, or it left the bus"
        said = (evidence, "the GPU has fallen off the bus", POWER_ADVICE)
        yield bad(gpu, "gpu-on-bus", FAILED, said, Recovery.POWER_CYCLE)
        return
    yield ok(gpu, "gpu-on-bus", f"at {address}")
    if sampled and silent is None:
        yield ok(gpu, "gpu-answers")
    elif silent is not None and silent.hangs:
        said = (
            silent.reason,
            "a driver call about this GPU does not come back",
            "see the log for Xid 62, 79 or 119; reset or reboot",
        )
        yield bad(gpu, "gpu-answers", FAILED, said, Recovery.RESET_GPU)
    elif silent is not None:
        said = (silent.reason, "the driver cannot read this GPU", "see the kernel's log")
        yield bad(gpu, "gpu-answers", FAILED, said, Recovery.RESET_GPU)
    else:
        yield unknown(gpu, "gpu-answers", look.seen.driver_trouble or "it was not read in this cycle")


def _driver(look: Look) -> Iterator[Finding]:
    if "nvidia" not in look.seen.node.modules:
        return
    if not look.seen.driver_trouble:
        yield ok(NODE, "driver", "NVML answers")
        return
    hangs = "no answer" in look.seen.driver_trouble or "unresponsive" in look.seen.driver_trouble
    said = (
        look.seen.driver_trouble,
        "NVML as a whole does not work",
        "see the kernel's log; reload the driver or reboot",
    )
    yield bad(NODE, "driver", FAILED if hangs else UNKNOWN, said, Recovery.REBOOT if hangs else Recovery.SUPPORT)


def _count(look: Look) -> Iterator[Finding]:
    """Three numbers: expected, on the bus, and known to NVML; whatever is missing is named.

    GPUs that belong to virtual machines count for none of them.
    """
    seen, known = look.seen, look.who.addresses
    expected = look.spec.expect.gpus
    given = seen.given_pci
    on_bus = set(seen.gpu_pci) - given
    learned = look.learned.gpus - given
    wanted = max(0, expected - len(given)) if expected is not None else len(on_bus | learned)
    if not wanted and not on_bus:
        return
    if "nvidia" not in seen.node.modules:
        yield unknown(NODE, "gpu-count", "the nvidia driver is not loaded")
        return
    answering = {known.get(uuid, uuid) for uuid in seen.samples}
    evidence = f"{len(answering)} answer, {len(on_bus)} on the bus, {wanted} expected"
    missing = sorted((on_bus | learned) - answering)
    if len(answering) < wanted and seen.driver_trouble:
        yield unknown(NODE, "gpu-count", seen.driver_trouble)
    elif len(answering) < wanted:
        named = f"; missing: {', '.join(missing)}" if missing else ""
        said = (evidence + named, "GPUs are missing", "see which are off the bus or silent")
        yield bad(NODE, "gpu-count", FAILED, said, Recovery.INSPECT)
    else:
        yield ok(NODE, "gpu-count", evidence)


def _instances(look: Look) -> Iterator[Finding]:
    """A MIG device is no better than its GPU, of which it is known only while the GPU answers."""
    for gpu in look.seen.node.gpus.values():
        sample = look.seen.samples.get(gpu.uuid)
        shown = {one.gi_id for one in sample.instances} if sample else set()
        for instance in gpu.instances:
            for device in instance.compute_instances:
                subject = Subject(SubjectKind.MIG, device.uuid, gpu.pci_address, gpu.uuid)
                if sample is None:
                    yield unknown(subject, "mig-device", "its GPU does not answer")
                elif instance.gi_id not in shown:
                    said = (
                        "NVML does not show it any more",
                        "the instance is gone",
                        "look at the GPU's MIG layout again",
                    )
                    yield bad(subject, "mig-device", WARNING, said, Recovery.NONE)
                else:
                    yield ok(subject, "mig-device", instance.profile)
