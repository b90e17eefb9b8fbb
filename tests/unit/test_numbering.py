"""The record of numbers that the node file goes by: what it keeps when something falls off the bus."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodeagent.host.files import LocalFiles
from nodeagent.host.numbering import read_numbers, read_switched, record_numbers

PATH = "/var/lib/numbers.json"
WHOLE = {"a": 0, "b": 1, "c": 2}


def test_a_record_outlasts_what_is_gone_and_gives_way_to_what_is_new(tmp_path: Path) -> None:
    files = LocalFiles(str(tmp_path))
    assert (read_numbers(files, PATH), read_switched(files, PATH)) == ({}, False)
    record_numbers(files, PATH, WHOLE)
    record_numbers(files, PATH, {"c": 2})
    assert read_numbers(files, PATH) == WHOLE
    record_numbers(files, PATH, {"c": 0, "d": 1})
    assert read_numbers(files, PATH) == {"c": 0, "d": 1}


def test_once_seen_behind_switches_a_record_says_so_until_it_is_made_anew(tmp_path: Path) -> None:
    files = LocalFiles(str(tmp_path))
    record_numbers(files, PATH, WHOLE)
    record_numbers(files, PATH, {"a": 0}, switched=True)
    assert (read_numbers(files, PATH), read_switched(files, PATH)) == (WHOLE, True)
    record_numbers(files, PATH, {"a": 0}, switched=False)
    assert (read_numbers(files, PATH), read_switched(files, PATH)) == (WHOLE, True)
    record_numbers(files, PATH, {"z": 0}, switched=False)
    assert (read_numbers(files, PATH), read_switched(files, PATH)) == ({"z": 0}, False)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"numbers": 3}', '{"switched": 1}'])
def test_a_damaged_record_is_none(tmp_path: Path, text: str) -> None:
    files = LocalFiles(str(tmp_path))
    files.replace(PATH, text)
    assert (read_numbers(files, PATH), read_switched(files, PATH)) == ({}, False)
