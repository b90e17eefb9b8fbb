"""Other programs' files as node files: what each key comes to, what has no counterpart, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from nodeagent.cli import main
from nodeagent.errors import SpecError
from nodeagent.spec.foreign import Imported
from nodeagent.spec.import_kubernetes import _POLICY, _TEMPLATE  # the keys that the formats have
from nodeagent.spec.importing import import_text
from nodeagent.spec.reader import parse_spec
from nodeagent.spec.render import render

DATA = Path(__file__).parents[1] / "data" / "import"
FILES = ["config.json", "configmap.yaml", "policy.yaml", "several.yaml", "switches.conf", "template.yaml"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_comes_to_the_node_file_beside_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "import", str(DATA / name)]) == 0
    text = capsys.readouterr().out.replace(f"{DATA}/", "")
    assert text == (DATA / f"{name}.node.yaml").read_text()
    assert parse_spec(text, name).version == 1


def test_the_document_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "import", "-o", "json", str(DATA / "policy.yaml")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["document"]["sriov"][1] == {
        "match": "ens2f0",
        "vfs": 4,
        "driver": "vfio-pci",
        "eswitch_mode": "switchdev",
    }
    assert [(one["line"], one["path"]) for one in found["remarks"]][:2] == [
        (5, "spec.resourceName"),
        (6, "spec.nodeSelector"),
    ]


def template(**values: Any) -> Imported:
    spec = {"nicSelector": {"nicType": "101b"}, "template": values}
    return import_text(json.dumps({"kind": "NicConfigurationTemplate", "spec": spec}), "f")


def test_marking_is_kept_where_it_leads_to_flow_control() -> None:
    found = template(roceOptimized={"enabled": True, "roceMode": 1, "qos": {"trust": "dscp", "tos": 104}})
    assert found.document["roce"]["devices"] == [{"match": "id:15b3:101b", "mode": "v1", "tos": 104}]
    assert found.document["links"][0]["qos"] == {"trust": "dscp", "dscp": {"26": 3}, "pfc": [3], "dcbx": "host"}
    assert found.remarks == ()
    by_tag = template(roceOptimized={"enabled": True, "qos": {"trust": "pfc", "pfc": "0,0,0,0,1,0,0,0"}})
    assert by_tag.document["links"][0]["qos"] == {"trust": "pcp", "pfc": [4], "dcbx": "host"}
    assert template(roceOptimized={"enabled": False}).document == {"version": 1, "modules": {"rdma": {}}}


def test_queues_are_taken_over_where_they_are_switched_on_and_pause_only_without_flow_control() -> None:
    queues = {"rxRingSize": 8192, "combinedChannels": 16, "lro": True}
    found = template(runtimePerformanceOptimized={"enabled": True, **queues})
    wanted = {"rings": {"rx": 8192}, "channels": {"combined": 16}, "features": {"lro": True}}
    assert found.document["links"] == [{"match": "id:15b3:101b", **wanted}]
    assert "links" not in template(runtimePerformanceOptimized={"enabled": False, **queues}).document
    for is_on, priorities, pause in (
        (True, "0,0,0,0,0,0,0,0", {"rx": True, "tx": True}),
        (False, "0,0,0,1,0,0,0,0", {"rx": False, "tx": False}),
        (True, "0,0,0,1,0,0,0,0", None),
    ):
        qos = {"trust": "pfc", "pfc": priorities, "pauseFrames": {"enabled": is_on}}
        imported = template(roceOptimized={"enabled": True, "qos": qos})
        assert imported.document["links"][0].get("pause") == pause
        told = [one.path.rpartition(".")[2] for one in imported.remarks]
        assert told == ([] if pause else ["pauseFrames"])


BAD = sorted(path.name for path in (DATA / "bad").glob("*.in"))


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_file_is_refused_with_line_and_key(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        import_text((DATA / "bad" / name).read_text(), name)
    assert f"{caught.value}\n" == (DATA / "bad" / name).with_suffix(".errors").read_text()
    assert caught.value.exit_code == 2


def test_there_are_wrong_files() -> None:
    assert len(BAD) >= 8


LEAVES = (
    some.none() | some.booleans() | some.integers(-5, 70000) | some.sampled_from(["", "15b3", "1021", "dscp", "x#1"])
)
VALUES = some.recursive(
    LEAVES,
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
SELECTORS = some.fixed_dictionaries(
    {}, optional=dict.fromkeys(("vendor", "deviceID", "rootDevices", "pfNames", "nicType", "pciAddresses"), VALUES)
)
SPECS = some.fixed_dictionaries(
    {"nicSelector": SELECTORS},
    optional={
        **{name: VALUES for name in _POLICY if name != "nicSelector"},
        "template": some.fixed_dictionaries({}, optional=dict.fromkeys(_TEMPLATE, VALUES)),
    },
)
ROOTS = some.one_of(
    some.fixed_dictionaries(
        {"kind": some.sampled_from(["NicConfigurationTemplate", "SriovNetworkNodePolicy"]), "spec": SPECS}
    ),
    some.fixed_dictionaries({"configList": VALUES | some.lists(SPECS, max_size=2)}),
    some.fixed_dictionaries({"kind": some.just("ConfigMap"), "data": VALUES}),
)


@settings(max_examples=200, deadline=None)
@given(ROOTS)
def test_whatever_stands_there_is_imported_or_refused_in_words(root: Mapping[str, Any]) -> None:
    found = None
    with suppress(SpecError):
        found = import_text(json.dumps(root), "f")
    assert found is None or parse_spec(render(found.document), "f").version == 1
