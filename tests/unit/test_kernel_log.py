"""Records of /dev/kmsg: parsing, marks, what is the kernel's own and what is not."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from nodeagent.host.kernel_log import KernelRecord, KmsgLog, device_records, kernel_text, parse_record


def test_a_record() -> None:
    record = (
        b"6,339,5140900,-;NVRM: loading NVIDIA UNIX Open Kernel Module\n SUBSYSTEM=pci\n DEVICE=+pci:0000:07:00.0\n"
    )
    expected = KernelRecord(339, 6, 0, 5140900, "NVRM: loading NVIDIA UNIX Open Kernel Module")
    assert parse_record(record) == expected


def test_more_fields_than_we_know_are_allowed() -> None:
    record = parse_record(b"30,1,2,c,caller=T123;text; with a semicolon\n")
    assert record == KernelRecord(1, 6, 3, 2, "text; with a semicolon")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (rb"tab\x09stays", "tab\tstays"),
        (rb"back\x5cslash", "back\\slash"),
        (rb"two\x0alines", "two lines"),
        (rb"esc\x1b[31m", "esc [31m"),
        (rb"umlaut \xc3\xbc", "umlaut ü"),
        (rb"broken \xc3", "broken �"),
        (rb"not an escape \xzz", r"not an escape \xzz"),
        (rb"no double \x5cx41 decoding", r"no double \x41 decoding"),
    ],
)
def test_escapes(raw: bytes, text: str) -> None:
    record = parse_record(b"4,1,1,-;" + raw + b"\n")
    assert record is not None
    assert record.text == text


@pytest.mark.parametrize(
    "rubbish", [b"", b"\n", b" SUBSYSTEM=pci\n", b"a,b,c,-;text", b"1,2,-;text", b"6,1,1,- no text", b"\xff\xfe;"]
)
def test_rubbish_is_no_record(rubbish: bytes) -> None:
    assert parse_record(rubbish) is None


def test_what_a_process_wrote_is_not_the_kernels() -> None:
    lines = (b"12,7,1,-;nvidia: version magic 'a' should be 'b'", b"4,8,1,-;nvidia: Unknown symbol x (err -2)")
    records = [record for line in lines if (record := parse_record(line))]
    assert kernel_text(records, 0) == ("nvidia: Unknown symbol x (err -2)",)


class Log:
    """A plain file of records below a root."""

    def __init__(self, root: Path) -> None:
        self.path = root / "dev/kmsg"
        self.path.parent.mkdir()
        self.reader = KmsgLog(str(root))

    def write(self, *records: str) -> None:
        with self.path.open("a") as file:
            file.writelines(f"{record}\n" for record in records)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def test_lines_after_a_mark_are_new(log: Log) -> None:
    log.write("4,0,1,-;old")
    mark = log.reader.mark()
    assert log.reader.since(mark) == ()
    log.write("4,1,2,-;first", "12,2,2,-;from a process", " KEY=value", "4,3,3,-;second")
    assert log.reader.since(mark) == ("first", "second")
    assert log.reader.since(mark) == ("first", "second")
    assert log.reader.since(log.reader.mark()) == ()


def test_several_marks_stand_side_by_side(log: Log) -> None:
    marks = []
    for number in range(3):
        marks.append(log.reader.mark())
        log.write(f"4,{number},1,-;line {number}")
    assert [log.reader.since(mark) for mark in marks] == [
        ("line 0", "line 1", "line 2"),
        ("line 1", "line 2"),
        ("line 2",),
    ]


def test_a_replaced_file_is_read_on(log: Log) -> None:
    log.write("4,0,1,-;old")
    mark = log.reader.mark()
    new = log.path.with_name("kmsg.new")
    new.write_text("4,0,1,-;old\n4,1,1,-;new\n")
    new.rename(log.path)
    assert log.reader.since(mark) == ("new",)


def test_numbers_that_begin_anew_are_another_boot(log: Log) -> None:
    log.write("4,100,1,-;before")
    log.reader.mark()
    log.path.write_text("4,0,1,-;after\n")
    mark = log.reader.mark()
    log.write("4,1,1,-;next")
    assert (mark, log.reader.since(mark)) == (1, ("next",))


def test_no_log_reads_as_empty(tmp_path: Path) -> None:
    reader = KmsgLog(str(tmp_path))
    assert reader.since(reader.mark()) == ()


def test_a_device_gives_one_record_a_read_until_there_is_no_more() -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_DIRECT)  # a packet a read, as /dev/kmsg
    for record in (b"4,1,1,-;one\n KEY=value\n", b"rubbish", b"4,2,1,-;two\n"):
        os.write(writing, record)
    assert [record.text for record in device_records(reading)] == ["one", "two"]
    os.close(writing)
    assert list(device_records(reading)) == []
    os.close(reading)


def test_a_closed_reader_may_be_used_again(log: Log) -> None:
    log.reader.close()
    mark = log.reader.mark()
    log.write("4,0,1,-;line")
    assert log.reader.since(mark) == ("line",)


def test_the_log_of_this_machine_refuses_what_a_process_wrote() -> None:
    reader = KmsgLog()
    mark = reader.mark()
    with suppress(OSError):  # only root may write; then there is nothing to refuse
        device = os.open("/dev/kmsg", os.O_WRONLY)
        os.write(device, b"<4>nodeagent-test: Unknown symbol nobody (err -2)\n")
        os.close(device)
    assert [line for line in reader.since(mark) if line.startswith("nodeagent-test")] == []
    reader.close()
