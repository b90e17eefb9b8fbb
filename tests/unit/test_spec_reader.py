"""The node file's reader: values as the schema wants them, files that cannot be read, limits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.errors import SpecError
from nodeagent.spec.document import RETRY_CHARACTERS
from nodeagent.spec.example import example_text
from nodeagent.spec.reader import LARGEST_BYTES, examine, examine_file, parse_spec, read_spec
from nodeagent.spec.schema import Disruption, Flavor, Loop, NodeSpec, NvidiaModules, PeerMemory, Policy, RdmaModules
from nodeagent.state.gpu import MigMode


def parse(body: str) -> NodeSpec:
    return parse_spec("version: 1\n" + body, "node.yaml")


def test_the_smallest_file_is_all_defaults():
    assert parse("") == NodeSpec(version=1)
    assert parse("").disruption == Disruption(gpu=Policy.WHEN_IDLE, nic=Policy.WHEN_IDLE, node=Policy.NEVER)
    assert parse("").modules is None


def test_a_whole_file():
    spec = parse(
        """
disruption: {gpu: allow}
modules:
  nvidia: {flavor: open, drm: false}
  rdma: {}
  peermem: auto
  named: {br-netfilter: {parameters: {x: 1}}}
  absent: [nouveau]
mig:
  - {mode: enabled, gpus: [0, 1], devices: {3g.20gb: 1, 1g.5gb+me: 1}}
links:
  - {match: "driver:mlx5_core", up: yes, mtu: 9000}
services: [nvidia-dcgm, a.socket]
loop: {interval_seconds: 60, backoff_seconds: 1.5e0}
"""
    )
    assert spec.disruption.gpu is Policy.ALLOW
    assert spec.modules is not None
    assert spec.modules.nvidia == NvidiaModules(flavor=Flavor.OPEN)
    assert spec.modules.rdma == RdmaModules()
    assert spec.modules.peermem is PeerMemory.AUTO
    assert dict(spec.modules.named["br_netfilter"].parameters) == {"x": "1"}
    assert spec.modules.absent == ("nouveau",)
    assert spec.mig[0].mode is MigMode.ENABLED
    assert spec.mig[0].gpus == ("0", "1")
    assert spec.mig[0].devices == {"3g.20gb": 1, "1g.5gb+me": 1}
    assert (spec.links[0].match, spec.links[0].up, spec.links[0].mtu) == ("driver:mlx5_core", True, 9000)
    assert spec.services == ("nvidia-dcgm.service", "a.socket")
    assert spec.loop == Loop(interval_seconds=60.0, backoff_seconds=1.5)
    assert isinstance(spec.loop.interval_seconds, float)


@pytest.mark.parametrize(
    "written",
    ["1", "0x1", "010", "0o17", "1_000", "-3", "1.50", "1e3", "00:02:10", "yes", "no", "off", "true", "N", "2001-01-01",
     "pci=0000:3b:00.0;a=1", ".inf", "=", "a b"],
)  # fmt: skip
def test_parameter_values_are_kept_as_written(written):
    spec = parse(f"modules: {{nvidia: {{parameters: {{EnableMSI: {written}}}}}}}\n")
    assert spec.modules is not None
    assert spec.modules.nvidia is not None
    assert dict(spec.modules.nvidia.parameters) == {"EnableMSI": written}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("0", "0"),
        ("007", "7"),
        ("3B:00.0", "0000:3b:00.0"),
        ("00000000:3B:00.0", "0000:3b:00.0"),
        ("0000:10:00.0", "0000:10:00.0"),  # a number in base 60 to YAML 1.1
        ("10:00.0", "0000:10:00.0"),
        ("gpu-4D5BD23C-11A1-31B8-9B5C-0F7B1D2F7A10", "GPU-4d5bd23c-11a1-31b8-9b5c-0f7b1d2f7a10"),
        ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-40GB"),
    ],
)
def test_gpus_are_known_in_one_form(written, read):
    assert parse(f"mig: [{{mode: disabled, gpus: [{written}]}}]\n").mig[0].gpus == (read,)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("ens*", "ens*"),
        ("driver:mlx5_core", "driver:mlx5_core"),
        ('"enp[0-9]s[0-9]f[0-9]np*"', "enp[0-9]s[0-9]f[0-9]np*"),
        ("10:00.1", "0000:10:00.1"),
        ("on", "on"),
    ],
)
def test_links_are_known_in_one_form(written, read):
    assert parse(f"links: [{{match: {written}, up: off}}]\n").links[0].match == read


@pytest.mark.parametrize(
    ("written", "read"),
    [("true", True), ("True", True), ("yes", True), ("ON", True), ("false", False), ("no", False), ("Off", False)],
)
def test_booleans(written, read):
    spec = parse(f"modules: {{nvidia: {{uvm: {written}}}}}\n")
    assert spec.modules is not None
    assert spec.modules.nvidia is not None
    assert spec.modules.nvidia.uvm is read


def test_null_is_the_same_as_leaving_an_optional_key_out():
    assert parse("modules: null\nlinks: [{match: a, mtu: ~, up: true}]\n") == parse("links: [{match: a, up: true}]\n")


def test_anchors_and_merge_keys():
    spec = parse(
        "links:\n  - &base {match: ens1, up: true, mtu: 9000}\n  - {<<: *base, match: ens2}\n"
        "  - {<<: [{mtu: 1500}, *base], match: ens3}\n"
    )
    assert [(link.match, link.up, link.mtu) for link in spec.links] == [
        ("ens1", True, 9000),
        ("ens2", True, 9000),
        ("ens3", True, 1500),
    ]


def test_prefix_of_nvidia_parameters_is_dropped_with_a_hint():
    reading = examine("version: 1\nmodules:\n  nvidia:\n    parameters:\n      NVreg_EnableMSI: 1\n", "node.yaml")
    assert reading.spec is not None
    assert reading.spec.modules is not None
    assert reading.spec.modules.nvidia is not None
    assert dict(reading.spec.modules.nvidia.parameters) == {"EnableMSI": "1"}
    assert [str(hint) for hint in reading.hints] == [
        "node.yaml:5:7: modules.nvidia.parameters.NVreg_EnableMSI: the NVreg_ prefix is not needed"
    ]


def test_empty_devices_mean_no_instances_and_none_means_left_alone():
    assert parse("mig: [{mode: enabled, devices: {}}]\n").mig[0].devices == {}
    assert parse("mig: [{mode: enabled}]\n").mig[0].devices is None


def test_no_metrics_server():
    assert parse('metrics: {listen: ""}\n').metrics.listen == ""


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    path = tmp_path / "node.yaml"
    path.write_bytes(b"\xef\xbb\xbfversion: 1\r\nservices:\r\n  - a\r\n")
    assert read_spec(str(path)).services == ("a.service",)


def only_problem(path: Path) -> str:
    (problem,) = examine_file(str(path)).problems
    return str(problem).replace(str(path), "node.yaml")


def test_a_missing_file(tmp_path):
    assert only_problem(tmp_path / "no") == (
        "node.yaml: cannot be read: no such file or directory; expected a YAML file"
    )


def test_a_directory(tmp_path):
    assert "cannot be read: is a directory" in only_problem(tmp_path)


def test_a_fifo_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert "it is not a regular file" in only_problem(tmp_path / "fifo")


def test_a_link_to_itself(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    assert "too many levels of symbolic links" in only_problem(tmp_path / "loop")


def test_a_file_without_permission(tmp_path):
    path = tmp_path / "node.yaml"
    path.write_text("version: 1\n")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # root reads everything
        os.seteuid(65534)
    try:
        assert "cannot be read: permission denied" in only_problem(path)
    finally:
        os.seteuid(user)


def test_a_file_that_is_too_large(tmp_path):
    path = tmp_path / "node.yaml"
    path.write_text("version: 1\n" + "#" * LARGEST_BYTES)
    assert f"it is larger than {LARGEST_BYTES} bytes" in only_problem(path)


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 100_000, "- " * 100_000, "? " * 100_000])
def test_deep_nesting_is_refused(text):
    (problem,) = examine(text, "node.yaml").problems
    assert "nested too deeply" in problem.problem or "not valid YAML" in problem.problem


def test_a_list_of_very_many_values_is_refused():
    (problem,) = examine("version: 1\nservices:\n" + "- a\n" * 100_000, "node.yaml").problems
    assert "too many values" in problem.problem


def test_a_syntax_error_far_down_a_large_file_has_its_line():
    lines = RETRY_CHARACTERS // 10
    (problem,) = examine("version: 1\n" + "# padding\n" * lines + "mig: [\n", "node.yaml").problems
    assert problem.line >= lines
    assert "not valid YAML" in problem.problem


def test_problems_are_sorted_by_place():
    places = [(problem.line, problem.column) for problem in examine("b: 1\na: {\nc: d}\n", "node.yaml").problems]
    assert places == sorted(places)
    assert len(places) == 3


def test_spec_error_holds_every_problem():
    with pytest.raises(SpecError) as caught:
        parse("a: 1\nb: 2\n")
    assert [problem.path for problem in caught.value.problems] == ["a", "b"]


def check_outcome(text: str) -> None:
    reading = examine(text, "node.yaml")
    assert (reading.spec is None) == bool(reading.problems)
    lines = text.count("\n") + text.count("\r") + text.count("\x85") + text.count("\u2028") + text.count("\u2029") + 2
    assert all(1 <= problem.line <= lines and problem.column >= 1 for problem in reading.problems)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text())
def test_any_text_is_read_or_refused(text):
    check_outcome(text)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.integers(min_value=0),
    st.integers(min_value=0, max_value=20),
    st.text(alphabet="[]{}:,-&*!|>'\"%@`#? \n\tax0~<", max_size=4),
)
def test_any_damage_to_a_file_is_read_or_refused(position, removed, inserted):
    text = example_text()
    place = position % len(text)
    check_outcome(text[:place] + inserted + text[place + removed :])
