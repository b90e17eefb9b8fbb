"""Other names for the same values: DCGM's newer ones, what dcgm-exporter computes, the GPU operator's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from metrics_view import FACTS, FIELDS, GIB, SAMPLE, full_view
from nodeagent.metrics.dcgm import DCGM_METRICS
from nodeagent.metrics.dcgm_labels import LABEL_ROWS
from nodeagent.metrics.dcgm_renamed import RENAMED_METRICS
from nodeagent.metrics.exposition import extended, plain_text
from nodeagent.metrics.options import DcgmNames, Options
from nodeagent.metrics.render import blocks
from nodeagent.metrics.tally import WINDOW_SECONDS, Tally
from nodeagent.state.gpu import Xid
from nodeagent.state.proofs import Finding, Outcome, Proof, Validation
from nodeagent.state.topology import NvLinks


def read(view) -> dict[tuple[str, frozenset], float]:
    text = "".join(line for line in plain_text(blocks(view)).decode().splitlines(keepends=True) if line[0] != "#")
    families = text_string_to_metric_families(text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def value(view, name: str, **wanted: str) -> float:
    found = [
        number for (key, pairs), number in read(view).items() if key == name and wanted.items() <= dict(pairs).items()
    ]
    assert len(found) == 1, f"{name}{wanted}: {found}"
    return found[0]


def names(view) -> set[str]:
    return {name for name, _ in read(view)}


NEW = Options(dcgm_names=DcgmNames.NEW)


def test_newer_names_are_in_base_units():
    view = full_view(NEW)
    assert value(view, "DCGM_FI_DEV_SM_CLOCK_HERTZ", gpu="0") == 1_980_000_000
    assert value(view, "DCGM_FI_DEV_FB_USED_BYTES", gpu="0") == 10 * GIB
    assert value(view, "DCGM_FI_DEV_GPU_UTIL_RATIO", gpu="0") == 0.97
    assert value(view, "DCGM_FI_DEV_GPU_ENERGY_JOULES_TOTAL", gpu="0") == (2**53 + 1) / 1000
    assert value(view, "DCGM_FI_DEV_GPU_POWER_THROTTLE_SECONDS_TOTAL", gpu="0") == 74
    assert value(view, "DCGM_FI_DEV_BOARD_POWER_WATTS", gpu="0") == 651.25
    assert value(view, "DCGM_FI_PROF_TENSOR_UTIL_RATIO", GPU_I_ID="1") == 0.25


def test_families_on_request_have_newer_names_too():
    wanted = {
        "DCGM_FI_DEV_BOARD_POWER_LIMIT_ENFORCED_WATTS": 690,
        "DCGM_FI_DEV_BOARD_POWER_RAW_WATTS": 250.5,
        "DCGM_FI_PROF_NVJPG_UTIL_2_RATIO": 0.42,
        "DCGM_FI_PROF_HMMA_UTIL_RATIO": 0.07,
    }
    view = full_view(Options(families=frozenset(wanted), dcgm_names=DcgmNames.NEW))
    for name, expected in wanted.items():
        assert value(view, name, gpu="0") == pytest.approx(expected)


def test_each_generation_shows_its_own_names_and_both_shows_all():
    old, new = names(full_view()), names(full_view(NEW))
    assert "DCGM_FI_DEV_GPU_TEMP" in old
    assert "DCGM_FI_DEV_GPU_TEMP" not in new
    assert "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL" in old & new, "it kept its name"
    assert names(full_view(Options(dcgm_names=DcgmNames.BOTH))) == old | new


def test_the_driver_label_goes_with_the_names():
    (pairs,) = [
        dict(pairs)
        for name, pairs in read(full_view(NEW))
        if name == "DCGM_FI_DEV_GPU_TEMP_CELSIUS" and ("gpu", "0") in pairs
    ]
    assert pairs["DCGM_FI_SYSTEM_DRIVER_VERSION"] == "550.90.07"
    assert "DCGM_FI_DRIVER_VERSION" not in pairs


def test_a_list_may_name_families_of_both_generations():
    wanted = frozenset({"DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_FB_USED_BYTES"})
    assert {name for name in names(full_view(Options(families=wanted))) if name.startswith("DCGM")} == wanted


def test_every_renamed_family_has_an_id_and_a_name_of_its_own():
    assert len({metric.name for metric in RENAMED_METRICS}) == len(RENAMED_METRICS) == len(DCGM_METRICS)
    changed = [new for old, new in zip(DCGM_METRICS, RENAMED_METRICS, strict=True) if old.name != new.name]
    assert len(changed) == 70
    assert all(new.source == old.source for old, new in zip(DCGM_METRICS, RENAMED_METRICS, strict=True))


COMPUTED = Options(
    families=frozenset(
        f"DCGM_EXP_{name}"
        for name in (
            "XID_ERRORS_COUNT",
            "XID_ERRORS_TOTAL",
            "CLOCK_EVENTS_COUNT",
            "CLOCK_EVENTS_TOTAL",
            "GPU_HEALTH_STATUS",
        )
    )
)


def computed(*rounds, now: float):
    """The view after these (sample, time)."""
    tally = Tally()
    for sample, seconds in rounds:
        tally.add([sample], seconds)
    return replace(full_view(COMPUTED), samples=(rounds[-1][0],), tallies=tally.gpus, now=now)


def test_xids_are_counted_within_the_window_and_in_total():
    failing = replace(SAMPLE, xids=(Xid(79), Xid(79), Xid(31, 2)))
    early = computed((failing, 1000.0), (SAMPLE, 1010.0), now=1010.0)
    assert value(early, "DCGM_EXP_XID_ERRORS_COUNT", xid="79", window_size_in_ms="300000") == 2
    assert value(early, "DCGM_EXP_XID_ERRORS_TOTAL", xid="31") == 1
    late = computed((failing, 1000.0), (SAMPLE, 1010.0), now=1001.0 + WINDOW_SECONDS)
    assert value(late, "DCGM_EXP_XID_ERRORS_COUNT") == 0
    assert value(late, "DCGM_EXP_XID_ERRORS_TOTAL", xid="79") == 2


def test_clock_events_count_readings():
    hot = replace(SAMPLE, clocks_event_reasons=0x40)
    view = computed((hot, 1000.0), (hot, 1015.0), (SAMPLE, 1030.0), now=1030.0)
    assert value(view, "DCGM_EXP_CLOCK_EVENTS_COUNT", clock_event="hw_thermal") == 2
    assert value(view, "DCGM_EXP_CLOCK_EVENTS_COUNT", clock_event="power_cap") == 1
    assert value(view, "DCGM_EXP_CLOCK_EVENTS_TOTAL", clock_event="gpu_idle") == 0


@pytest.mark.parametrize(
    ("change", "watch", "status"),
    [
        ({"fields": FIELDS | {4: 0}}, "MEM", 0),
        ({}, "MEM", 20),
        ({"fields": FIELDS | {4: 0, 143: 600}}, "MEM", 10),
        ({"clocks_event_reasons": 0x20}, "THERMAL", 10),
        ({"clocks_event_reasons": 0x80}, "POWER", 10),
        ({"fields": FIELDS | {230: 1}}, "DRIVER", 20),
    ],
)
def test_health_by_watch(change, watch, status):
    sample = replace(SAMPLE, **({"fields": FIELDS | {4: 0, 31: 0}} | change))
    if not change:
        sample = SAMPLE
    view = computed((sample, 1.0), now=1.0)
    assert value(view, "DCGM_EXP_GPU_HEALTH_STATUS", health_watch=watch) == status
    assert value(view, "DCGM_EXP_GPU_HEALTH_STATUS", health_watch="ALL") >= status


def test_the_operators_names():
    options = Options(operator_names=True)
    broken = full_view(options)
    assert value(broken, "gpu_operator_node_driver_ready", node="node1") == 0, "GPU-9 does not answer"
    well = replace(broken, agent=replace(FACTS, gpu_faults=()))
    assert value(well, "gpu_operator_node_driver_ready", node="node1") == 1
    assert value(well, "gpu_operator_node_driver_validation_last_success_ts_seconds") == FACTS.telemetry_seconds
    assert value(well, "gpu_operator_nvidia_pci_devices_total") == 2
    assert not {name for name in names(full_view()) if name.startswith("gpu_operator")}
    assert "gpu_operator_node_toolkit_ready" not in names(well), "not known is not 0"
    assert value(well, "gpu_operator_node_plugin_ready") == 1, "the kubelet has devices"
    assert value(well, "gpu_operator_node_device_plugin_devices_total") == 9


@pytest.mark.parametrize(("outcome", "ready"), [(Outcome.PASSED, 1), (Outcome.FAILED, 0)])
def test_what_was_proved_is_told_by_the_operators_names(outcome, ready):
    proofs = {Proof.TOOLKIT: "toolkit", Proof.PLUGIN: "plugin", Proof.CUDA: "cuda"}
    findings = tuple(Finding(proof, "node", outcome) for proof in proofs)
    view = replace(full_view(Options(operator_names=True)), validation=Validation(findings, 1790000000.0))
    for name in proofs.values():
        assert value(view, f"gpu_operator_node_{name}_ready", node="node1") == ready
    proved = "gpu_operator_node_device_plugin_validation_last_success_ts_seconds"
    assert (proved in names(view)) is bool(ready)
    if ready:
        assert value(view, proved) == 1790000000.0


LABELS = {
    "DCGM_FI_DEV_BRAND": "NVIDIA",
    "DCGM_FI_DEV_ECC_INFOROM_VER": "7.16",
    "DCGM_FI_DEV_INFOROM_IMAGE_VER": "G520.0200.00.04",
    "DCGM_FI_DEV_OEM_INFOROM_VER": "2.1",
    "DCGM_FI_DEV_SERIAL": "1560000000001",
    "DCGM_FI_DEV_VBIOS_VERSION": "96.00.74",
    "DCGM_FI_DRIVER_VERSION": "550.90.07",
    "DCGM_FI_NVML_VERSION": "12.550.90.07",
}  # in dcgm-exporter's order, by name; power management is an object that these boards do not have


def temperature_line(*names: str, **gpu: object) -> str:
    """GPU 0's, from the host's name on, with a list of counters that asks for these."""
    view = full_view(Options(families=frozenset({"DCGM_FI_DEV_GPU_TEMP", *names})))
    first = replace(view.node.gpus["GPU-0"], **gpu)
    seen = replace(view, node=replace(view.node, gpus=view.node.gpus | {"GPU-0": first}))
    lines = plain_text(blocks(seen)).decode().splitlines()
    (line,) = (line for line in lines if line.startswith('DCGM_FI_DEV_GPU_TEMP{gpu="0"'))
    assert not any(line.startswith(names) for line in lines if line[0] != "#"), "they are no families"
    return line.partition(',Hostname="node1"')[2].partition(",container=")[0]


def test_rows_of_type_label_are_labels_of_every_line_in_dcgm_exporters_order():
    shown = temperature_line(*LABELS, "DCGM_FI_DEV_POWER_INFOROM_VER")
    assert shown == "".join(f',{name}="{text}"' for name, text in LABELS.items())
    assert temperature_line("DCGM_FI_DEV_POWER_INFOROM_VER", inforom_power="1.0").endswith('_VER="1.0"')


def test_the_newer_name_of_a_row_is_the_labels_name():
    for row in LABEL_ROWS:
        old, new = temperature_line(row.name), temperature_line(row.new_name)
        assert old.replace(row.name, row.new_name) == new


@pytest.mark.parametrize(
    ("number", "word"), [(2, "Tesla"), (13, "NVIDIA RTX"), (5, "GeForce"), (0, "Unknown"), (19, "Unknown")]
)
def test_brands_have_dcgms_words(number, word):
    assert temperature_line("DCGM_FI_DEV_BRAND", brand=number) == f',DCGM_FI_DEV_BRAND="{word}"'


def test_what_a_gpu_does_not_tell_is_no_label():
    nothing = {"serial": "", "brand": None, "inforom": "", "inforom_oem": "", "inforom_ecc": "", "vbios": ""}
    assert temperature_line(*set(LABELS) - {"DCGM_FI_DRIVER_VERSION"}, **nothing, nvml_version="") == ""


def test_access_between_gpus_over_nvlink():
    options = Options(families=frozenset({"DCGM_EXP_P2P_STATUS"}))
    view = full_view(options)
    assert "DCGM_EXP_P2P_STATUS" not in names(view)
    first, second = (view.node.gpus[uuid].pci_address for uuid in ("GPU-0", "GPU-1"))
    links = (
        NvLinks(first, p2p=((second, 0), ("0000:99:00.0", 0))),
        NvLinks(second, p2p=((first, 3),)),
        NvLinks("0000:99:00.0", p2p=((first, 0),)),
    )
    seen = replace(view, nvlinks=links)
    assert value(seen, "DCGM_EXP_P2P_STATUS", gpu="0", peer_gpu="1", link_status="OK") == 0
    assert value(seen, "DCGM_EXP_P2P_STATUS", gpu="1", peer_gpu="0", link_status="TopologyNotSupported") == 3
    assert sum(key[0] == "DCGM_EXP_P2P_STATUS" for key in read(seen)) == 2, "a GPU that is not known has no labels"


@pytest.mark.parametrize(
    ("first", "more", "both"),
    [('{a="1"}', {"b": "2"}, '{a="1",b="2"}'), ("", {"b": "2"}, '{b="2"}'), ('{a="1"}', {"b": ""}, '{a="1"}')],
)
def test_label_sets_are_extended(first, more, both):
    assert extended(first, **more) == both
