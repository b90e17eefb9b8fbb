"""Lines of the kernel's log: what is understood of them, and that nothing else is."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.health.judging import judge, judge_code
from nodeagent.health.kernel_lines import Line, LineKind, LineReader, pci_address, read_line
from nodeagent.health.nvlink5 import STATUS, SUB_CODES, WHOLE, ruling
from nodeagent.health.recovery import ACTIONS, driver_action
from nodeagent.health.sxid import SXIDS, UNITS, SxidClass, sxid_entry
from nodeagent.health.xid import XIDS, xid_entry
from nodeagent.state.health import Recovery, Verdict

CORPUS = yaml.safe_load((Path(__file__).parents[1] / "data/kernel-lines/corpus.yaml").read_text())
REAL = [(item["source"], line) for item in CORPUS for line in item["lines"]]
# Every number that docs/health.md promises, from NVIDIA's catalogue and the driver's own header.
PROMISED = {
    8, 11, 13, 25, 31, 32, *range(37, 42), *range(43, 49), 54, *range(56, 87), 88, 89, 90, *range(92, 111),
    *range(119, 177), 185,
}  # fmt: skip


@pytest.mark.parametrize(("source", "entry"), REAL, ids=[str(number) for number in range(len(REAL))])
def test_real_lines(source: str, entry: dict[str, Any]) -> None:
    assert source.startswith("https://")
    line = read_line(entry["line"])
    if entry["kind"] is None:
        assert line is None
        return
    assert line is not None
    assert line.kind == entry["kind"]
    of_link = {"unit", "link", "status", "sub_code"}
    for key in entry.keys() - {"line", "kind", "verdict", "recovery"}:
        owner = line.link5 if key in of_link else line
        assert getattr(owner, key) == entry[key], key
    judged = judge(line)
    assert judged.verdict == entry.get("verdict", judged.verdict)
    assert judged.recovery == entry.get("recovery", judged.recovery)


def test_the_corpus_is_large_enough() -> None:
    assert len(REAL) >= 60
    assert len({source for source, _ in REAL}) >= 20
    assert {entry["kind"] for _, entry in REAL} >= {"xid", "sxid", "host", "bus lost", "identity", None}


@pytest.mark.parametrize(
    ("where", "gi", "ci"),
    [("", -1, -1), (" GPU-I:03", 3, -1), (" GPU-I:03 GPU-CI:00", 3, 0), (" GPU-I:12 GPU-CI:1", 12, 1)],
)
def test_mig_instances(where: str, gi: int, ci: int) -> None:
    line = read_line(f"NVRM: Xid (PCI:0000:3b:00{where}): 31, pid=7, name=a, Ch 1")
    assert line is not None
    assert (line.gi_id, line.ci_id, line.pci_address) == (gi, ci, "0000:3b:00.0")


@pytest.mark.parametrize("place", ["0000:3B:00", "PCI:0000:3b:00.0", "PCI:00000000:3b:00"])
def test_older_forms_of_the_address(place: str) -> None:
    line = read_line(f"NVRM: Xid ({place}): 79, GPU has fallen off the bus.")
    assert line is not None
    assert (line.code, line.pci_address) == (79, "0000:3b:00.0")


def test_a_name_chosen_to_deceive_changes_nothing() -> None:
    line = read_line("NVRM: Xid (PCI:0000:3b:00): 45, pid=7, name=): 79, x, Ch 0 caused by previous Xid 31")
    assert line is not None
    assert (line.code, line.caused_by) == (45, 31)
    assert read_line("oom: NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.") is None
    quoted = read_line("NVRM: Xid (PCI:0000:3b:00): 13, pid=7, name=RST: Yes, D-RST: Yes")
    assert quoted is not None
    assert quoted.reset is None


def test_three_records_that_are_one_message() -> None:
    reader = LineReader()
    lines = [
        "NVRM: The NVIDIA GPU 0000:b3:00.0",
        "NVRM: (PCI ID: 10de:26b5) installed in this system has",
        "NVRM: fallen off the bus and is not responding to commands.",
    ]
    assert [reader.read(text) for text in lines[:2]] == [None, None]
    found = reader.read(lines[2])
    assert found is not None
    assert (found.kind, found.pci_address) == (LineKind.BUS_LOST, "0000:b3:00.0")
    assert judge(found).verdict is Verdict.FAILED
    assert reader.read(lines[2]) is None


def test_an_interrupted_message_is_none() -> None:
    reader = LineReader()
    reader.read("NVRM: The NVIDIA GPU 0000:b3:00.0")
    reader.read("usb 1-1: new device")
    assert reader.read("NVRM: fallen off the bus and is not responding to commands.") is None


@pytest.mark.parametrize("code", sorted(PROMISED))
def test_every_xid_is_known_and_reached_by_its_line(code: int) -> None:
    line = read_line(f"NVRM: Xid (PCI:0000:3b:00): {code}, text")
    assert line is not None
    assert XIDS[code].meaning in judge(line).meaning
    assert judge(line) == judge(Line(LineKind.XID, "text", code=code, pci_address="0000:3b:00.0"))


def test_the_catalogue_has_nothing_else() -> None:
    assert set(XIDS) == PROMISED


def test_the_catalogue_is_consistent() -> None:
    for entry in XIDS.values():
        assert entry.advice, entry
        if entry.verdict is Verdict.FAILED:
            assert entry.recovery not in (Recovery.NONE, Recovery.RESTART_JOB), entry
            assert entry.lasting, entry
        if entry.follows:
            assert entry.verdict is Verdict.OK, entry


@pytest.mark.parametrize("code", [1, 87, 186, 999])
def test_an_unknown_xid_is_a_warning(code: int) -> None:
    line = read_line(f"NVRM: Xid (PCI:0000:3b:00): {code}, whatever")
    assert line is not None
    assert judge(line).verdict is Verdict.WARNING
    assert xid_entry(code).recovery is Recovery.SUPPORT


@pytest.mark.parametrize("value", range(8))
def test_what_the_driver_asks_for_goes_before_the_table(value: int) -> None:
    text = f"GPU recovery action changed from 0x0 (None) to 0x{value:x} (GPU Reset Required)"
    line = read_line(f"NVRM: Xid (PCI:0000:3b:00): 154, {text}")
    assert line is not None
    judged = judge(line)
    assert (judged.recovery, judged.by_driver) == (ACTIONS[value].recovery, True)
    assert judged.lasting is (value != 0)


def test_an_action_we_do_not_know_is_unknown() -> None:
    assert driver_action(42).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("code", "flags", "verdict", "recovery"),
    [
        (94, "RST: No, D-RST: No", Verdict.WARNING, Recovery.RESTART_JOB),
        (94, "RST: No, D-RST: Yes", Verdict.FAILED, Recovery.DRAIN_AND_RESET),
        (95, "RST: Yes, D-RST: No", Verdict.FAILED, Recovery.RESET_GPU),
    ],
)
def test_what_a_contained_error_asks_for(code: int, flags: str, verdict: Verdict, recovery: Recovery) -> None:
    line = read_line(
        f"NVRM: Xid (PCI:0000:3b:00): {code}, pid=7, name=a, Contained: SM (0x1, 0x2). physAddr 0x1 {flags}"
    )
    assert line is not None
    assert (judge(line).verdict, judge(line).recovery) == (verdict, recovery)


def link5(code: int, unit: str, how: str, words: tuple[int, int]) -> Line:
    text = f"{unit} {how} XC0 i0 Link 3 (0x{words[0]:08x} 0x{words[1]:08x} 0x00000000)"
    line = read_line(f"NVRM: Xid (PCI:0000:3b:00): {code}, {text}")
    assert line is not None
    assert line.link5 is not None, text
    return line


@pytest.mark.parametrize("key", STATUS, ids=str)
def test_every_status_bit_of_nvlink_5_is_reached(key: tuple[int, str]) -> None:
    for bit, expected in STATUS[key].items():
        line = link5(*key, "Nonfatal", (0, bit))
        assert line.link5 is not None
        assert ruling(key[0], line.link5) == expected
        harmless = expected.recovery is Recovery.NONE and not expected.asks_driver
        assert judge(line).verdict is (Verdict.OK if harmless else Verdict.WARNING)
        assert judge(link5(*key, "Fatal", (0, bit))).verdict is Verdict.FAILED


@pytest.mark.parametrize("key", SUB_CODES, ids=str)
def test_every_sub_code_of_nvlink_5_is_reached(key: tuple[int, str]) -> None:
    for code, expected in SUB_CODES[key].items():
        line = link5(*key, "Nonfatal", (code << 20 | 0x1C6, 0))
        assert line.link5 is not None
        assert line.link5.sub_code == code
        assert ruling(key[0], line.link5) == expected


@pytest.mark.parametrize("key", WHOLE, ids=str)
def test_units_that_are_judged_as_a_whole(key: tuple[int, str]) -> None:
    line = link5(key[0], key[1] or "ANY_UNIT", "Nonfatal", (0, 0))
    assert line.link5 is not None
    assert ruling(key[0], line.link5) == WHOLE[key]


def test_of_several_status_bits_the_worst_counts() -> None:
    assert judge(link5(144, "SAW_MVB", "Nonfatal", (0, 0x2 | 0x4))).recovery is Recovery.RESET_GPU
    assert judge(link5(144, "SAW_MVB", "Nonfatal", (0, 0x40))).verdict is Verdict.WARNING


@pytest.mark.parametrize("code", sorted(SXIDS))
def test_every_sxid_is_reached_by_its_line(code: int) -> None:
    line = read_line(f"nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): {code}, Link 12 something")
    assert line is not None
    assert (line.code, line.switch, line.fatal) == (code, 0, None)
    entry = sxid_entry(code)
    assert judge(line).verdict is entry.verdict
    assert entry.kind is SXIDS[code]
    assert code // 1000 in UNITS


def test_the_word_of_an_sxid_goes_before_the_table() -> None:
    for code in (11012, 99999, 19084):
        assert sxid_entry(code, fatal=True).verdict is Verdict.FAILED
    assert sxid_entry(12020, fatal=False).verdict is Verdict.WARNING
    assert sxid_entry(99999).kind is SxidClass.UNKNOWN
    assert sxid_entry(99999).verdict is Verdict.WARNING


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0000:3B:00", "0000:3b:00.0"),
        ("3b:00.1", "0000:3b:00.1"),
        ("00010000:01:00.0", "10000:01:00.0"),
        ("", ""),
        ("3b:00.9", ""),
        ("zz:00", ""),
    ],
)
def test_addresses(text: str, expected: str) -> None:
    assert pci_address(text) == expected


@settings(max_examples=400, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    for prefix in (
        "",
        "NVRM: ",
        "NVRM: Xid (PCI:0000:3b:00): ",
        "NVRM: Xid (PCI:0000:3b:00): 94, ",
        "nvidia-nvswitch0: ",
    ):
        line = read_line(prefix + text)
        if line is not None:
            judge(line)
    assert read_line(text) is None or text.startswith(("NVRM: ", "nvidia-", "mlx5", "EDAC", "INFO", "watchdog"))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 999), st.text(alphabet=st.characters(codec="ascii", exclude_characters="\n\r"), max_size=120))
def test_the_number_is_never_mistaken(code: int, text: str) -> None:
    line = read_line(f"NVRM: Xid (PCI:0000:3b:00): {code}, {text}")
    if line is None:  # a control character that no record has
        assert not text.isprintable()
        return
    assert (line.kind, line.code, line.pci_address) == (LineKind.XID, code, "0000:3b:00.0")


def test_damaged_real_lines_never_become_another_device() -> None:
    """Random cuts and swaps of the corpus: read or not, but never a number or an address that is not in the text."""
    chance = random.Random(6)
    for _ in range(4000):
        text = chance.choice(REAL)[1]["line"]
        at, length = chance.randrange(len(text)), chance.randrange(12)
        damaged = text[:at] + chance.choice(["", "x", ", ", "): 79, ", " "]) + text[at + length :]
        line = read_line(damaged)
        if line is None:
            continue
        assert line.code is None or str(line.code) in damaged
        assert line.pci_address[5:10] in damaged.lower()
        judge(line)


def test_an_xid_of_which_only_the_number_is_known() -> None:
    assert judge_code(79).recovery is Recovery.POWER_CYCLE
    assert judge_code(154).verdict is Verdict.OK
