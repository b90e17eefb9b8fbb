"""Checkpoints in nvidia-mig-parted's format: written, read back, and refused where they do not belong here."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mig_world import A100, OFF, UUID, board, instance, node, shared, wants
from nodeagent.errors import SpecError
from nodeagent.resources.mig import plan
from nodeagent.resources.mig_placement import Slot
from nodeagent.spec.mig_checkpoint import checkpoint_document, entries_of, read_checkpoint
from nodeagent.state.gpu import MigMode, Placement

# NVML_GPU_INSTANCE_PROFILE_*: 0 one slice, 1 two, 2 three, 3 four, 4 seven, 7 one slice with media, 9 double memory
ENUMERATORS = {"1g.5gb": 0, "2g.10gb": 1, "3g.20gb": 2, "4g.20gb": 3, "7g.40gb": 4, "1g.5gb+me": 7, "1g.10gb": 9}
NUMBERED = tuple(replace(one, enumerator=ENUMERATORS[one.name]) for one in A100)
LOW, HIGH = Slot(Placement(0, 4), "3g.20gb"), Slot(Placement(4, 1), "1g.5gb")


def there():
    divided = board(0, shared(LOW, (1, 0, ()), (2, 1, ())), instance(HIGH), profiles=NUMBERED)
    return [divided, board(1, **OFF, profiles=NUMBERED), board(2, mig_mode=MigMode.UNSUPPORTED)]


def test_the_document_has_enumerators_places_and_parts():
    document = checkpoint_document(there())
    assert document["Version"] == "v1"
    first, second = document["MigState"]["Devices"]
    assert second == {"UUID": UUID.format(1), "MigMode": 0, "GpuInstances": []}
    assert first["GpuInstances"][0] == {
        "ProfileID": 2,
        "Placement": {"Start": 0, "Size": 4},
        "ComputeInstances": [{"ProfileID": 0, "EngProfileID": 0}, {"ProfileID": 1, "EngProfileID": 0}],
    }


def test_what_was_written_is_what_is_there(tmp_path):
    path = tmp_path / "layout.json"
    path.write_text(json.dumps(checkpoint_document(there())))
    entries = entries_of(read_checkpoint(str(path)), there(), str(path))
    assert plan(wants(*entries), node(*there())).steps == ()
    wish = plan(wants(*entries), node(board(0, profiles=NUMBERED), board(1, profiles=NUMBERED)))
    assert [str(step).partition(" on GPU")[0] for step in wish.steps] == [
        "create 3g.20gb at 0 as 1c + 2c",
        "create 1g.5gb at 4",
        "disable MIG",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", r"layout.json:1:2: not JSON"),
        ("[]", r"version None is not known; expected v1"),
        ('{"Version": "v2"}', r"layout.json:1:1: Version: version v2 is not known"),
        ('{"Version": "v1"}', r"MigState: expected a mapping, found None"),
        (
            '{"Version": "v1", "MigState": {"Devices": [{}]}}',
            r"MigState.Devices\[0\].UUID: expected a text, found None",
        ),
        (
            '{"Version": "v1", "MigState": {"Devices": [{"UUID": "GPU-1"}]}}',
            r"there is no GPU GPU-1; expected one of GPU-0000",
        ),
    ],
)
def test_what_is_no_checkpoint_or_of_another_node(tmp_path, text, told):
    path = tmp_path / "layout.json"
    path.write_text(text)
    with pytest.raises(SpecError, match=told):
        entries_of(read_checkpoint(str(path)), there(), str(path))


def test_a_profile_that_this_board_has_not():
    document = checkpoint_document(there())
    document["MigState"]["Devices"][0]["GpuInstances"][0]["ProfileID"] = 15
    with pytest.raises(SpecError, match=r"GpuInstances\[0\].ProfileID: there is no profile 15; expected one of 0 \(1g"):
        entries_of(document, there(), "f")
