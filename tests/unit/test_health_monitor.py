"""Every Xid on its GPU and on no other, and gone when it should be; damping, windows, incidents: with time by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.health.damping import Damper
from nodeagent.health.judging import judge_code
from nodeagent.health.monitor import Before, Monitor
from nodeagent.health.observation import Observation
from nodeagent.health.windows import Growth, Windows
from nodeagent.health.xid import XIDS
from nodeagent.host.kernel_follow import Cursor, LogBatch
from nodeagent.host.kernel_log import KernelRecord
from nodeagent.spec.health import Health as HealthSpec
from nodeagent.spec.health import HealthDamping
from nodeagent.state.gpu import Gpu, GpuSample, Xid
from nodeagent.state.health import NODE, EventKind, Finding, Verdict
from nodeagent.state.modules import KernelModule, Liveness
from nodeagent.state.node import NodeState
from nodeagent.state.vitals import ClockFacts, DiskFacts

ADDRESSES = tuple(f"0000:{bus:02x}:00.0" for bus in (0x1B, 0x3B, 0x5B, 0x9B))
GPUS = {
    f"GPU-{index}": Gpu(f"GPU-{index}", index, index, address, "NVIDIA", 0) for index, address in enumerate(ADDRESSES)
}
STATE = NodeState(gpus=GPUS, modules={"nvidia": KernelModule("nvidia", Liveness.LIVE)})
SPEC = HealthSpec(damping=HealthDamping(hold_seconds=0.0, quiet_seconds=600.0))
START = 1_000_000.0


def seen(now: float, *, action: int | None = 0, xids: tuple[Xid, ...] = (), on: int = 0) -> Observation:
    fields = {} if action is None else {230: float(action)}
    samples = {uuid: GpuSample(uuid, fields=fields) for uuid in GPUS}
    samples[f"GPU-{on}"] = replace(samples[f"GPU-{on}"], xids=xids)
    return Observation(
        now,
        STATE,
        samples,
        gpu_pci=ADDRESSES,
        clock=ClockFacts(True, 0.0, 0.0),
        disks={"/": DiskFacts("/", 10**12, 10**12)},
    )


def batch(now: float, *texts: str, facility: int = 0, first: int = 0) -> LogBatch:
    found = tuple(
        KernelRecord(first + number, 3, facility, round((now - START) * 1e6), text) for number, text in enumerate(texts)
    )
    kernel, foreign = (found, ()) if facility == 0 else ((), found)
    return LogBatch(kernel, foreign, cursor=Cursor("boot", first + len(texts)), booted=START)


def line(code: int, on: int, text: str = "text") -> str:
    return f"NVRM: Xid (PCI:{ADDRESSES[on].rpartition('.')[0]}): {code}, {text}"


def bad(monitor: Monitor, now: float, *texts: str, **observed: object) -> dict[tuple[str, str], Verdict]:
    cycle = monitor.cycle(seen(now, **observed), batch(now, *texts))
    return {(one.subject.name or "node", one.check): one.verdict for one in cycle.health.problems}


@pytest.mark.parametrize("code", sorted(XIDS))
def test_every_xid_is_a_verdict_of_its_gpu_alone_and_clears(code: int) -> None:
    monitor = Monitor(SPEC, Before())
    assert bad(monitor, START) == {}
    judged = judge_code(code)
    wanted = {} if judged.verdict is Verdict.OK else {("GPU-2", "xid"): judged.verdict}
    assert bad(monitor, START + 1, line(code, 2)) == wanted
    assert bad(monitor, START + 300) == wanted
    assert bad(monitor, START + 700) == {}, "the driver wants nothing done, and all was quiet"


@pytest.mark.parametrize("code", [79, 95, 48])
def test_without_the_drivers_word_what_needs_a_reset_stays(code: int) -> None:
    monitor = Monitor(SPEC, Before())
    wanted = {("GPU-1", "xid"): Verdict.FAILED}
    assert bad(monitor, START, line(code, 1), action=None) == wanted
    assert bad(monitor, START + 5000, action=None) == wanted
    loaded = "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  575.57.08"
    assert bad(monitor, START + 5001, loaded, action=None) == {}


def test_an_error_that_the_log_and_nvml_report_is_one_event() -> None:
    monitor = Monitor(SPEC, Before())
    cycle = monitor.cycle(seen(START, xids=(Xid(48),), on=1), batch(START, line(48, 1)))
    assert [one.kind for one in cycle.events if one.code == 48] == [EventKind.XID]
    (found,) = cycle.health.problems
    assert "x2" not in found.evidence


def test_without_the_log_nvml_tells() -> None:
    monitor = Monitor(SPEC, Before())
    cycle = monitor.cycle(replace(seen(START, xids=(Xid(48),), on=1), log_trouble="denied"), LogBatch())
    assert {(one.subject.name, one.check): one.verdict for one in cycle.health.problems} == {
        ("GPU-1", "xid"): Verdict.FAILED,
        ("", "kernel-log"): Verdict.UNKNOWN,
    }
    assert [dict(one.data)["source"] for one in cycle.events if one.code == 48] == ["NVML"]


def test_what_a_process_wrote_is_refused_and_said() -> None:
    monitor = Monitor(SPEC, Before())
    cycle = monitor.cycle(seen(START), batch(START, line(79, 0), "systemd[1]: hello", facility=1))
    assert cycle.health.problems == ()
    assert [(one.kind, one.text.rpartition("; ")[2]) for one in cycle.events] == [(EventKind.KERNEL, "refused")]


def test_an_applications_error_becomes_the_gpus_when_several_jobs_meet_it() -> None:
    monitor = Monitor(SPEC, Before())
    for job in (7, 7, 8):
        assert bad(monitor, START + job, line(31, 3, f"pid={job}, name=train.py, Ch 1")) == {}
    assert bad(monitor, START + 9, line(31, 3, "pid=9, name=train.py, Ch 1")) == {("GPU-3", "xid"): Verdict.WARNING}


def test_ignored_xids_and_checks_make_no_verdict_and_stay_in_the_history() -> None:
    monitor = Monitor(replace(SPEC, ignore_xids=(79,), ignore=("clock",)), Before())
    observed = replace(seen(START), clock="not read")
    cycle = monitor.cycle(observed, batch(START, line(79, 0)))
    assert cycle.health.problems == ()
    assert [one.code for one in cycle.events] == [79]


def test_a_storm_is_one_finding_and_few_events() -> None:
    monitor = Monitor(SPEC, Before())
    cycle = monitor.cycle(seen(START), batch(START, *[line(13, 0, f"pid={n}, name=a, x") for n in range(4000)]))
    assert len(cycle.events) < 30
    assert len(cycle.health.problems) == 1


def test_a_second_trouble_does_not_hide_what_lasts_of_the_first() -> None:
    monitor = Monitor(SPEC, Before())
    bad(monitor, START, line(95, 0), action=None)
    assert bad(monitor, START + 1000, line(43, 0), action=None) == {("GPU-0", "xid"): Verdict.FAILED}


def looks(damping: HealthDamping, verdicts: str) -> str:
    """The published verdicts for looks a second apart: o, w, f, u."""
    damper = Damper(damping, {})
    letters = {verdict.value[0]: verdict for verdict in Verdict}
    shown = (damper.settle([Finding(NODE, "x", letters[letter])], float(at)) for at, letter in enumerate(verdicts))
    return "".join(settled.findings[0].verdict.value[0] for settled in shown)


@pytest.mark.parametrize(
    ("damping", "seen_", "shown"),
    [
        (HealthDamping(hold_seconds=0), "owofo", "owofo"),
        (HealthDamping(hold_seconds=3), "owoooo", "owwwoo"),
        (HealthDamping(hold_seconds=3), "owowoooo", "owwwwwoo"),
        (HealthDamping(bad_cycles=2, of_cycles=3, hold_seconds=0), "owoowwo", "oooooow"[:5] + "wo"),
        (HealthDamping(bad_cycles=3, of_cycles=3, hold_seconds=0), "owwow", "ooooo"),
        (HealthDamping(hold_seconds=5), "uo", "uo"),
    ],
)
def test_damping(damping: HealthDamping, seen_: str, shown: str) -> None:
    assert looks(damping, seen_) == shown


def test_since_is_of_the_verdict_and_survives_a_restart() -> None:
    finding = Finding(NODE, "x", Verdict.WARNING)
    damper = Damper(HealthDamping(), {finding.key: (Verdict.WARNING, 5.0)})
    settled = damper.settle([finding], 100.0)
    assert (settled.findings[0].since, settled.changes) == (5.0, ())
    worse = damper.settle([replace(finding, verdict=Verdict.FAILED)], 101.0)
    assert worse.findings[0].since == 101.0
    assert [change.before for change in worse.changes] == [Verdict.WARNING]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 50), st.integers(0, 1000)), min_size=2, max_size=60))
def test_a_window_never_invents_growth(steps: list[tuple[float, int]]) -> None:
    windows, now, value = Windows(100.0), 0.0, 0
    for seconds, more in steps:
        now, value = now + seconds, value + more
        windows.add(("a",), now, value)
    growth = windows.growth(("a",))
    assert growth is not None
    assert 0 <= growth.amount <= value
    assert growth.seconds <= 100 + max(seconds for seconds, _ in steps)


def test_a_counter_that_falls_begins_anew() -> None:
    windows = Windows(100.0)
    for now, value in ((0.0, 50), (1.0, 60), (2.0, 5)):
        windows.add(("a",), now, value)
    assert windows.growth(("a",)) is None
    windows.add(("a",), 3.0, 8)
    assert windows.growth(("a",)) == Growth(3.0, 1.0)
    assert Growth(3.0, 1.0).per(60) == 3.0, "a rate over less than a minute would make a single error a storm"
