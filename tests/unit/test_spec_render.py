"""Node files written by the agent: what is rendered reads back as the same, examples and reference page are fresh."""

from __future__ import annotations

import re
from pathlib import Path
from types import MappingProxyType

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.errors import UsageError
from nodeagent.spec import names
from nodeagent.spec.decode import key_paths
from nodeagent.spec.example import EVERY_KEY, EXAMPLES, example_text
from nodeagent.spec.links import LinkEntry
from nodeagent.spec.reader import examine, examine_file, parse_spec
from nodeagent.spec.reference import reference_page
from nodeagent.spec.render import render, to_document
from nodeagent.spec.schema import Loop, MigEntry, Modules, NamedModule, NodeSpec, NvidiaModules, PeerMemory, RdmaModules
from nodeagent.state.gpu import MigMode

ROOT = Path(__file__).parents[2]

VALUES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters='"'), max_size=12)
PARAMETERS = st.dictionaries(
    st.from_regex(names.PARAMETER, fullmatch=True).map(names.nvidia_parameter), VALUES, max_size=3
)
USABLE = PARAMETERS.filter(lambda table: not {"", "uvm_enable_builtin_tests", "EnableGpuFirmware"} & table.keys())
WORDS = st.sampled_from(
    ["no", "on", "1", "1e3", "null", "a", "0x10", "-x", "*", "ens*", "a b", "10:00.0", "y", "~x", "#x"]
)
INTERFACES = WORDS.filter(lambda word: " " not in word).map(names.link_match)


def specs() -> st.SearchStrategy[NodeSpec]:
    nvidia = st.builds(NvidiaModules, parameters=USABLE.map(MappingProxyType))
    links = st.lists(
        st.builds(LinkEntry, match=INTERFACES, up=st.none() | st.booleans(), mtu=st.none() | st.integers(68, 65536)),
        unique_by=lambda link: link.match,
        max_size=3,
    )
    gpus = st.just("all") | st.lists(st.integers(0, 15).map(str), min_size=1, unique=True).map(tuple)
    devices = st.none() | st.just(MappingProxyType({})) | st.just(MappingProxyType({"1g.5gb": 2, "3g.20gb": 0}))
    return st.builds(
        NodeSpec,
        version=st.just(1),
        modules=st.none()
        | st.builds(
            Modules,
            nvidia=nvidia,
            rdma=st.none() | st.just(RdmaModules()),
            peermem=st.just(PeerMemory.NONE),
            named=st.just(MappingProxyType({"br_netfilter": NamedModule()})) | st.just(MappingProxyType({})),
        ),
        mig=st.builds(MigEntry, mode=st.just(MigMode.ENABLED), gpus=gpus, devices=devices).map(lambda entry: (entry,)),
        links=links.map(tuple),
        services=st.lists(st.sampled_from(["a", "no", "1"]).map(names.unit_name), unique=True).map(tuple),
        loop=st.builds(Loop, interval_seconds=st.floats(1, 86400)),
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(specs())
def test_what_is_rendered_reads_back_as_the_same(spec):
    document = to_document(spec)
    assert parse_spec(render(document), "node.yaml") == spec
    assert parse_spec(render(document, notes={}, title="with comments"), "node.yaml") == spec
    assert parse_spec(yaml.safe_dump(document, sort_keys=False, width=120), "node.yaml") == spec


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_valid_and_without_hints(name):
    reading = examine(example_text(name), name)
    assert reading.problems == ()
    assert reading.hints == ()


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_fresh(name):
    path = ROOT / "examples" / f"{name}.yaml"
    assert path.read_text() == example_text(name), f"run: nodeagent config example {name} > examples/{name}.yaml"


def test_every_file_below_examples_is_valid():
    paths = sorted((ROOT / "examples").glob("*.yaml"))
    assert [path.name for path in paths if examine_file(str(path)).spec is None] == []


def test_one_example_has_every_key():
    text = example_text(EVERY_KEY)
    leaves = {path.rpartition(".")[2] for path in key_paths(NodeSpec)}
    assert {leaf for leaf in leaves if not re.search(rf"^\s*(- )?{leaf}:", text, re.MULTILINE)} == set()


def test_an_unknown_example_names_those_there_are():
    with pytest.raises(UsageError, match="print example dgx: no such example; expected one of every-key, dgx-a100"):
        example_text("dgx")


def test_reference_page_is_fresh():
    page = (ROOT / "docs" / "node-file.md").read_text()
    assert page == reference_page(), "run: nodeagent config reference > docs/node-file.md"


def test_reference_page_has_every_key_and_its_links_lead_somewhere():
    page = reference_page()
    for path in key_paths(NodeSpec):
        assert f"| `{path.rpartition('.')[2]}` |" in page
    headings = {re.sub(r"[^a-z0-9_ -]", "", line[3:].lower()) for line in page.splitlines() if line.startswith("## ")}
    assert set(re.findall(r"\]\(#([^)]*)\)", page)) <= headings
