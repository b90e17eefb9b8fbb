"""Wrong node files: each folder of data/bad-specs holds one and every line the agent says about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodeagent.errors import SpecError
from nodeagent.spec.reader import examine_file, read_spec

CASES = sorted(path.parent for path in (Path(__file__).parents[1] / "data" / "bad-specs").glob("*/node.yaml"))


def said_about(path: Path) -> str:
    reading = examine_file(str(path))
    lines = [f"{problem}\n" for problem in reading.problems] + [f"{hint} (hint)\n" for hint in reading.hints]
    return "".join(lines).replace(str(path), "node.yaml")


def test_there_are_cases():
    assert len(CASES) >= 50


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_problem_is_told_with_its_place(case):
    assert said_about(case / "node.yaml") == (case / "errors.txt").read_text()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_wrong_file_is_refused(case):
    with pytest.raises(SpecError) as caught:
        read_spec(str(case / "node.yaml"))
    assert caught.value.exit_code == 2
    assert len(caught.value.problems) == str(caught.value).count("\n") + 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_messages_say_what_would_be_right(case):
    for problem in examine_file(str(case / "node.yaml")).problems:
        helpful = (
            "expected",
            "did you mean",
            "it belongs to",
            "is there twice",
            "in the list twice",
            "save the file",
            "quote",
        )
        assert any(word in problem.problem for word in helpful), problem
        assert not problem.problem.endswith(".")
        assert problem.line > 0
        assert problem.column > 0
