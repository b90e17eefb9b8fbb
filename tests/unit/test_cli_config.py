"""Verb `config`: exit codes and output of validate, show, example, schema and reference."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nodeagent.cli import main
from nodeagent.spec.example import EXAMPLES, example_text
from nodeagent.spec.json_schema import json_schema
from nodeagent.spec.reader import parse_spec
from nodeagent.spec.reference import reference_page

AGENT = Path(__file__).parents[2] / "agent"


@pytest.fixture
def right(tmp_path):
    path = tmp_path / "right.yaml"
    path.write_text("version: 1\nmodules: {nvidia: {parameters: {NVreg_EnableMSI: 0x1}}}\n")
    return str(path)


@pytest.fixture
def wrong(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text("version: 1\nmig: {}\nlink: []\n")
    return str(path)


def test_validate_says_that_a_file_is_valid_and_hints(capsys, right):
    assert main(["config", "validate", right]) == 0
    hint = f"{right}:2:33: modules.nvidia.parameters.NVreg_EnableMSI: the NVreg_ prefix is not needed (hint)"
    assert capsys.readouterr().out == f"{hint}\n{right}: valid\n"


def test_validate_tells_every_problem_of_every_file(capsys, right, wrong):
    assert main(["config", "validate", wrong, right]) == 2
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"{wrong}:2:6: mig: expected a list, found a mapping",
        f"{wrong}:3:1: link: unknown key link; did you mean links",
    ]


def test_validate_as_json_is_a_list_of_problems(capsys, wrong):
    assert main(["config", "validate", "-o", "json", wrong]) == 2
    first = json.loads(capsys.readouterr().out)[0]
    problem = "expected a list, found a mapping"
    assert first == {"severity": "error", "file": wrong, "line": 2, "column": 6, "path": "mig", "problem": problem}


def test_validate_reads_standard_input(wrong):
    command = [sys.executable, "-m", "nodeagent", "config", "validate", "-"]
    environment = {**os.environ, "PYTHONPATH": str(AGENT)}
    with open(wrong, "rb") as text:
        done = subprocess.run(command, stdin=text, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr == ""
    assert "standard input:2:6: mig: expected a list, found a mapping" in done.stdout


def test_show_fills_in_the_defaults(capsys, right):
    assert main(["config", "show", right]) == 0
    text = capsys.readouterr().out
    assert "interval_seconds: 300.0" in text
    assert parse_spec(text, "shown") == parse_spec(Path(right).read_text(), "given")


def test_show_as_json_and_yaml_are_the_same(capsys, right):
    assert main(["config", "show", "-o", "json", right]) == 0
    document = json.loads(capsys.readouterr().out)
    assert main(["config", "show", "-o", "yaml", right]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == document
    assert document["modules"]["nvidia"]["parameters"] == {"EnableMSI": "0x1"}


def test_show_refuses_a_wrong_file(capsys, wrong):
    assert main(["config", "show", wrong]) == 2
    assert "mig: expected a list" in capsys.readouterr().err


def test_example_prints_what_the_examples_folder_holds(capsys):
    assert main(["config", "example", "dgx-a100"]) == 0
    assert capsys.readouterr().out == example_text("dgx-a100")


def test_example_without_a_name_has_every_key(capsys):
    assert main(["config", "example"]) == 0
    assert capsys.readouterr().out == example_text()


@pytest.mark.parametrize("form", ["json", "yaml"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_as_a_document(capsys, name, form):
    assert main(["config", "example", name, "-o", form]) == 0
    assert parse_spec(capsys.readouterr().out, form) == parse_spec(example_text(name), "example")


def test_example_list(capsys):
    assert main(["config", "example", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(EXAMPLES)


def test_an_unknown_example_is_a_usage_error(capsys):
    assert main(["config", "example", "cray"]) == 2
    assert "expected one of every-key" in capsys.readouterr().err


def test_schema_is_json_in_every_form_but_yaml(capsys):
    assert main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


def test_reference_is_the_page_in_docs(capsys):
    assert main(["config", "reference"]) == 0
    assert capsys.readouterr().out == reference_page()
