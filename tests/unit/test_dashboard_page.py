"""The page that draws dashboards without Grafana: units, thresholds, tables put together, states over time."""

from __future__ import annotations

import pytest

from dashboard_page import stretches
from dashboard_source import Line, Source, legend, merged
from dashboard_units import number, shown, threshold_color

STEPS = [{"value": None, "color": "green"}, {"value": 1, "color": "orange"}, {"value": 5, "color": "red"}]


@pytest.mark.parametrize(
    ("value", "unit", "decimals", "text"),
    [
        (0, "none", None, "0"),
        (3, "none", None, "3"),
        (0.1239, "percentunit", None, "12.4%"),
        (97, "percent", None, "97%"),
        (4630, "watt", None, "4.63 kW"),
        (61440, "mbytes", None, "60 GiB"),
        (58 * 1024**2, "bytes", None, "58 MiB"),
        (4e11, "bps", None, "400 Gb/s"),
        (1.98e9, "hertz", None, "1.98 GHz"),
        (48.0, "celsius", None, "48 °C"),
        (0.00024, "s", None, "240 µs"),
        (0, "s", None, "0 s"),
        (150, "s", None, "2.5 min"),
        (7200, "s", 0, "2 hours"),
        (3 * 86400, "s", None, "3 days"),
        (0.0433, "none", 3, "0.043"),
    ],
)
def test_values_are_written_as_grafana_writes_them(value, unit, decimals, text):
    assert number(value, unit, decimals) == text


def test_a_unit_that_is_not_known_is_refused():
    with pytest.raises(KeyError):
        number(1, "furlongs")


def test_a_mapping_goes_before_thresholds():
    assert [threshold_color(value, STEPS) for value in (0, 1, 4.9, 5)] == ["green", "orange", "orange", "red"]
    mappings = [{"type": "value", "options": {"3": {"text": "failed", "color": "red", "index": 0}}}]
    assert shown(3.0, {"mappings": mappings}) == ("failed", "red")
    assert shown(2.0, {"mappings": mappings, "thresholds": {"steps": STEPS}}) == ("2", "orange")


def test_variables_are_filled_in():
    source = Source("", 0, 240, 5)
    asked = source.filled('rate(x{instance=~"$instance"}[$__rate_interval]) + increase(y[$__range])')
    assert asked == 'rate(x{instance=~".*"}[20s]) + increase(y[240s])'


def test_legends():
    assert legend("{{instance}} GPU {{ gpu }} {{nothing}}", {"instance": "n1", "gpu": "0"}) == "n1 GPU 0"
    assert legend("__auto", {"a": "b"}) == "a=b"


def test_rows_that_agree_in_what_all_have_become_one():
    first = [{"instance": "n1", "gpu": "0", "Value #A": 1.0}, {"instance": "n1", "gpu": "1", "Value #A": 2.0}]
    second = [{"instance": "n1", "gpu": "1", "Value #B": 3.0}]
    assert merged([first, [], second]) == [first[0], first[1] | second[0]]
    assert merged([[], []]) == []


def test_a_state_lasts_until_it_changes_or_nothing_is_known():
    line = Line("x", ((0, 1.0), (10, 1.0), (20, 0.0), (50, 0.0)))
    assert stretches(line, 10) == [(0, 20, 1.0), (20, 30, 0.0), (50, 60, 0.0)]
