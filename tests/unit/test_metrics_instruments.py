"""The agent's own figures: prometheus_client keeps them, our exposition writes them."""

from __future__ import annotations

from types import MappingProxyType

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from nodeagent.metrics.exposition import Kind, block, openmetrics, plain_text
from nodeagent.metrics.instruments import Instruments
from nodeagent.state.gpu import GpuSample

CALLS = MappingProxyType({"nvmlDeviceGetClockInfo": (3, 0.5), "nvmlDeviceGetFieldValues": (1, 0.25)})
MOVING = ("process_", "python_gc")


@pytest.fixture
def instruments() -> Instruments:
    made = Instruments("1.2.3")
    for seconds in (0.04, 0.3, 1000.0):
        made.passes.observe(seconds)
    made.rounds.labels("gpus").observe(0.02)
    made.rounds.labels('odd "name"').observe(2)
    made.add_calls([GpuSample("GPU-0", calls=CALLS), GpuSample("GPU-1", calls=CALLS)])
    return made


def samples(text: str, parse) -> dict:
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in parse(text)
        for one in family.samples
        if not one.name.endswith("_created") and not one.name.startswith(MOVING)
    }


def test_both_forms_say_what_prometheus_clients_own_writer_says(instruments):
    blocks = [block(*one) for one in instruments.families()]
    wanted = samples(generate_latest(instruments._registry).decode(), parse_text)
    assert samples(plain_text(blocks).decode(), parse_text) == wanted
    assert samples(openmetrics(blocks).decode(), parse_openmetrics) == wanted
    assert wanted["nodeagent_nvml_calls_total", (("function", "nvmlDeviceGetClockInfo"),)] == 6
    assert wanted["nodeagent_pass_seconds_bucket", (("le", "0.05"),)] == 1
    assert wanted["nodeagent_pass_seconds_count", ()] == 3
    assert wanted["nodeagent_build_info", (("version", "1.2.3"),)] == 1


def test_heads_and_names_are_those_of_prometheus_client(instruments):
    theirs = [line for line in generate_latest(instruments._registry).decode().splitlines() if line.startswith("#")]
    ours = plain_text(block(*one) for one in instruments.families()).decode().splitlines()
    assert [line for line in ours if line.startswith("#")] == [line for line in theirs if "_created " not in line]


def test_the_process_and_its_interpreter_are_told(instruments):
    names = {family.name: family.kind for family, _ in instruments.families()}
    assert names["process_cpu_seconds_total"] is Kind.COUNTER
    assert names["process_resident_memory_bytes"] is Kind.GAUGE
    assert names["nodeagent_round_seconds"] is Kind.HISTOGRAM
    assert {"process_open_fds", "process_max_fds", "process_start_time_seconds", "python_info"} <= set(names)


def test_two_agents_in_one_process_count_apart(instruments):
    other = dict(Instruments("1").families())
    assert all(found == () for family, found in other.items() if family.name.startswith("nodeagent_nvml"))


def test_counts_are_written_as_whole_numbers(instruments):
    text = plain_text(block(*one) for one in instruments.families() if one[1]).decode()
    assert "nodeagent_pass_seconds_count 3\n" in text
    assert "nodeagent_pass_seconds_sum 1000.34\n" in text
    assert 'nodeagent_round_seconds_bucket{source="odd \\"name\\"",le="5.0"} 1\n' in text
