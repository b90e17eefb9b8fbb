"""Keys of section `kubernetes` that contradict each other or others."""

from __future__ import annotations

import pytest

from nodeagent.errors import SpecError
from nodeagent.spec.checks import check
from nodeagent.spec.kubernetes_checks import RULES
from nodeagent.spec.reader import parse_spec

SHARED = "sharing: {strategy: time-slicing, replicas: {gpu: 4}}"


@pytest.mark.parametrize(
    ("gpus", "problem"),
    [
        ("sharing: {strategy: mps}", "shares need a strategy"),
        ("sharing: {replicas: {gpu: 2}}", "shares need a strategy"),
        ("device_list: [envvar, volume-mounts]", "both set NVIDIA_VISIBLE_DEVICES"),
        ("sharing: {strategy: mps, replicas: {gpu: 2, mig-1g.5gb: 2}}", "mps does not share MIG devices"),
    ],
)
def test_contradictions_are_mistakes(gpus, problem):
    with pytest.raises(SpecError, match=problem):
        parse_spec(f"version: 1\nkubernetes: {{gpus: {{{gpus}}}}}", "f")


@pytest.mark.parametrize(
    ("text", "hints"),
    [
        ("kubernetes: {}", []),
        (f"kubernetes: {{gpus: {{{SHARED}}}}}\nlabels: {{{SHARED}}}", []),
        (f"kubernetes: {{gpus: {{{SHARED}}}}}\nlabels: {{}}", [("labels", "sharing")]),
        ("kubernetes: {gpus: {mig_strategy: mixed}}\nlabels: {}", [("labels", "mig_strategy")]),
        ("kubernetes: {gpus: {config_file: /x, mig_strategy: mixed}}\nlabels: {}", []),
        ("kubernetes: {gpus: {device_list: [cdi-cri]}}", [("kubernetes", "gpus", "device_list")]),
        ("kubernetes: {gpus: {device_list: [cdi-cri]}}\ncdi: {}", []),
    ],
)
def test_what_may_be_meant_is_a_hint(text, hints):
    spec = parse_spec(f"version: 1\n{text}", "f")
    assert [one.path for rule in RULES for one in rule(spec)] == hints
    assert all(one.is_hint for one in check(spec))
