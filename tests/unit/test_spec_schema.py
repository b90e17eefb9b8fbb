"""The node file's JSON Schema: the parts of draft 2020-12 that it uses, applied to right and wrong documents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from nodeagent.health.check_table import CHECKS
from nodeagent.spec.example import EXAMPLES, example_text
from nodeagent.spec.health import CHECK_NAMES
from nodeagent.spec.json_schema import json_schema
from nodeagent.spec.keys import keys_of
from nodeagent.spec.schema import NodeSpec
from schema_faults import faults

BAD = Path(__file__).parents[1] / "data" / "bad-specs"


def test_it_is_json():
    assert json.loads(json.dumps(json_schema())) == json_schema()
    assert json_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_fit(name):
    schema = json_schema()
    assert faults(yaml.safe_load(example_text(name)), schema, schema) == []


WRONG = (
    "keys-unknown keys-misplaced keys-missing values-choice values-mapping values-boolean values-list mig-profiles "
    "top-no-version top-version-2"
)


@pytest.mark.parametrize("case", WRONG.split())
def test_wrong_files_do_not_fit(case):
    schema = json_schema()
    assert faults(yaml.safe_load((BAD / case / "node.yaml").read_text()), schema, schema)


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ({}, "required version"),
        ({"version": 1, "links": [{"match": "a", "mtu": 67}]}, "anyOf"),
        ({"version": 1, "mig": [{"mode": "enabled", "gpus": "some"}]}, "anyOf"),
        ({"version": 1, "mig": [{"mode": "enabled", "gpus": []}]}, "anyOf"),
        ({"version": 1, "services": ["a", "a"]}, "uniqueItems"),
        ({"version": 1, "metrics": {"listen": "nowhere"}}, "pattern 'nowhere'"),
        ({"version": 1, "loop": {"interval_seconds": 0}}, "range 0"),
    ],
)
def test_each_limit_is_in_the_schema(document, fault):
    schema = json_schema()
    assert faults(document, schema, schema) == [fault]


def test_every_key_is_documented():
    schema = json_schema()
    assert set(schema["properties"]) == {key.name for key in keys_of(NodeSpec)}
    for definition in [schema, *schema["$defs"].values()]:
        assert definition["description"]
        assert all(entry["description"] for entry in definition["properties"].values())


def test_checks_that_can_be_named_are_those_that_are_made():
    assert set(CHECK_NAMES) == set(CHECKS)
