"""The files of other device plugins, read as they are: what they mean, and what is told of a wrong one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.errors import SpecError
from nodeagent.spec.network_plugins import FunctionPool, Parent, Selector, SharedPool, parse_functions, parse_shared

PF = "0000:4b:00.0"
BAD = {
    "[]": "expected a mapping",
    '{"configList": [{"resourceName": "a b", "rdmaHcaMax": 1}]}': "configList[0].resourceName: expected letters",
    '{"configList": [{"resourceName": "a"}]}': "key rdmaHcaMax is missing",
    '{"configList": [{"resourceName": "a", "rdmaHcaMax": -1}]}': "expected a whole number from 0",
    '{"configList": [{"resourceName": "a", "rdmaHcaMax": 1, "selektors": {}}]}': "unknown key selektors",
    '{"configList": [{"resourceName": "a", "rdmaHcaMax": 1}, {"resourceName": "a", "rdmaHcaMax": 1}]}': "rdma/a is",
    "{}": "key configList is missing",
}
WRONG = {
    '{"resourceList": [{"selectors": {"vendors": ["15b3"]}}]}': "resourceList[0].resourceName: key resourceName is",
    '{"resourceList": [{"resourceName": "a", "selectors": {"pfNames": ["e#1-"]}}]}': "expected NAME or NAME#0,2-7",
    '{"resourceList": [{"resourceName": "a", "selectors": {"rootDevices": ["e1"]}}]}': "expected a PCI address",
    '{"resourceList": [{"resourceName": "a", "selectors": [{"vendors": ["15b"]}]}]}': "four hexadecimal digits",
    '{"resourceList": [{"resourceName": "a", "deviceType": "gpu"}]}': "expected netDevice or accelerator",
    '{"resourcelist": []}': "unknown key resourcelist; did you mean resourceList",
}


def _sriov(selectors: object, **more: object) -> FunctionPool:
    text = json.dumps({"resourceList": [{"resourceName": "vf", "selectors": selectors, **more}]})
    (pool,) = parse_functions(text, "config.json", "nvidia.com")
    return pool


def test_the_shared_plugins_file_is_read_as_it_is() -> None:
    with open("tests/data/import/config.json", encoding="utf-8") as file:
        first, second, third = parse_shared(file.read(), "config.json")
    assert (first.resource, first.shares, first.selector.interfaces) == (
        "rdma/hca_shared_devices_a",
        1000,
        ("ib0", "ib1"),
    )
    assert (second.resource, second.shares) == ("example_prefix/hca_shared_devices_b", 500)
    assert (second.selector.devices, second.selector.link_types) == (("1017", "101b"), ("ether",))
    assert third.selector == Selector(drivers=("mlx5_core",), is_rdma=True)


@pytest.mark.parametrize("text", BAD)
def test_a_wrong_file_of_the_shared_plugin_is_told_with_its_place(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_shared(text, "config.json")
    assert BAD[text] in str(caught.value)
    assert "config.json:1:" in str(caught.value)


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_of_the_sriov_plugin_is_told_with_its_place(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_functions(text, "config.json", "intel.com")
    assert WRONG[text] in str(caught.value)


_WORDS = st.sampled_from(
    [
        "resourceList",
        "configList",
        "resourceName",
        "selectors",
        "pfNames",
        "rdmaHcaMax",
        "vendors",
        "e#1",
        "15b3",
        "a",
        "",
    ]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(_WORDS, _VALUES, max_size=4), st.integers(0, 300))
def test_whatever_a_file_holds_it_is_read_or_told(content: dict[str, object], cut: int) -> None:
    for text in (json.dumps(content), json.dumps(content)[:cut]):
        for said in (_read(parse_shared, text, "x"), _read(parse_functions, text, "x", "a.b")):
            assert said.startswith("x:") or "/" in said or not said


def _read(parse: Callable[..., Sequence[SharedPool | FunctionPool]], *arguments: str) -> str:
    """Names of resources, or what is wrong."""
    try:
        return " ".join(pool.resource for pool in parse(*arguments))
    except SpecError as error:
        return str(error)


def test_the_sriov_plugins_file_is_read_as_it_is() -> None:
    pool = _sriov(
        [{"vendors": ["15b3"], "isRdma": True, "pfNames": ["enp12s0#0,2-3"]}, {"rootDevices": [PF], "pKeys": []}],
        resourcePrefix="example.com", excludeTopology=True, additionalInfo={"*": {"token": "x"}},
    )  # fmt: skip
    first, second = pool.selectors
    assert (pool.resource, pool.with_topology, pool.unsupported) == ("example.com/vf", False, ())
    assert first == Selector(vendors=("15b3",), is_rdma=True, parents=(Parent("enp12s0", frozenset({0, 2, 3})),))
    assert second.roots == (Parent(PF),)
    assert _sriov({}, isRdma=True).selectors[0].is_rdma, "where older files have it"
    assert _sriov({"ddpProfiles": ["GTP"], "vdpaType": ""}).unsupported == (
        "config.json:1:56: resourceList[0].selectors.ddpProfiles",
    )
