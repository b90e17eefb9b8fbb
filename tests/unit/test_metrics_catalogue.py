"""The catalogue: every family once, values in DCGM's units, nothing of the whole GPU on its instances."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

import metrics_view
from linter import SINGLE, complaints, expected
from metrics_view import DIVIDED_SAMPLE, FACTS, GIB, INSTANCES, MIB, NODE, SAMPLE, full_view
from nodeagent.host.files import LocalFiles
from nodeagent.host.nvml_fields import FIELDS
from nodeagent.host.nvml_gpm import GPM_OF_GPU
from nodeagent.metrics.catalogue import KNOWN_FAMILIES, families
from nodeagent.metrics.dcgm import DCGM_METRICS
from nodeagent.metrics.gpu_family import Shown
from nodeagent.metrics.gpu_metrics import OWN_GPU_METRICS
from nodeagent.metrics.options import DcgmNames, HostLabel, Options
from nodeagent.metrics.render import blocks, snapshot
from nodeagent.metrics.sources import Field, Getter, Gpm
from nodeagent.metrics.view import View
from nodeagent.spec.containers import Component
from nodeagent.spec.schema import Metrics
from nodeagent.state.gpu import GpuSample, InstanceSample
from nodeagent.supervisor.choices import Choices

GOLDEN = Path(__file__).parents[1] / "data" / "metrics"
EVERYTHING = Options(families=frozenset(KNOWN_FAMILIES), node_exporter_names=True)


Read = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read_text(text: str) -> Read:
    """Without the types of DCGM's counters: the parser would add _total to names that lack it."""
    kept = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("# TYPE DCGM_"))
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_text(kept)
        for sample in family.samples
    }


def samples(view: View) -> Read:
    return read_text(snapshot(view).body.decode())


def value(view: View, name: str, **wanted: str) -> float:
    found = [
        number
        for (key, pairs), number in samples(view).items()
        if key == name and wanted.items() <= dict(pairs).items()
    ]
    assert len(found) == 1, f"{name}{wanted}: {found}"
    return found[0]


def count(view: View, name: str) -> int:
    return sum(1 for key, _ in samples(view) if key == name)


@pytest.mark.parametrize("form", ["prom", "openmetrics"])
def test_the_whole_exposition(form):
    """Compared whole; a changed file belongs into the change that explains it."""
    rendered = snapshot(full_view(EVERYTHING))
    body = rendered.body if form == "prom" else rendered.openmetrics
    assert body.decode() == (GOLDEN / f"full.{form}").read_text()


def test_the_page_is_whole():
    text = snapshot(full_view()).page.decode()
    assert text.count("<table>") == text.count("</table>") == 2
    assert "H100 80GB HBM3" in text
    assert "as the node file says" in text
    assert "<script" not in text
    hostile = replace(FACTS, hostname="<b>&")
    assert "&lt;b&gt;&amp;" in snapshot(replace(full_view(), agent=hostile)).page.decode()


def test_both_formats_say_the_same():
    rendered = snapshot(full_view(EVERYTHING))
    plain = read_text(rendered.body.decode())
    openmetrics = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_openmetrics(rendered.openmetrics.decode())
        for sample in family.samples
    }
    assert plain == openmetrics


def test_openmetrics_has_units_and_an_end():
    text = snapshot(full_view()).openmetrics.decode()
    assert text.endswith("\n# EOF\n")
    assert "# TYPE nodeagent_gpu_energy_joules counter\n# UNIT nodeagent_gpu_energy_joules joules\n" in text
    assert "# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION unknown\n" in text


def test_names_are_unique_and_ids_too():
    names = [metric.name for metric in (*DCGM_METRICS, *OWN_GPU_METRICS)]
    ids = [metric.field_id for metric in DCGM_METRICS]
    assert len(names) == len(set(names))
    assert len(ids) == len(set(ids))
    rendered = [block.family.name for block in blocks(full_view(EVERYTHING))]
    assert len(rendered) == len(set(rendered))


def test_what_the_catalogue_shows_is_what_the_worker_reads():
    for metric in (*DCGM_METRICS, *OWN_GPU_METRICS):
        match metric.source:
            case Field(numbers):
                assert set(numbers) <= set(FIELDS), metric.name
            case Gpm(number):
                assert number in GPM_OF_GPU, metric.name
            case Getter(attribute, _, on_instances):
                assert hasattr(GpuSample("x"), attribute), metric.name
                assert not on_instances or hasattr(InstanceSample(0), attribute), metric.name


def test_every_family_of_the_catalogue_shows_on_a_gpu_that_has_it():
    """All but the per-link rates of links that the example lacks are there at once."""
    shown = {block.family.name for block in blocks(full_view(EVERYTHING))}
    assert {metric.name for metric in DCGM_METRICS} <= shown


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("DCGM_FI_DEV_POWER_USAGE", 651.25),
        ("DCGM_FI_DEV_POWER_USAGE_INSTANT", 250.5),
        ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 2**53 + 1),
        ("DCGM_FI_DEV_FB_USED", 10 * 1024),
        ("DCGM_FI_DEV_FB_USED_PERCENT", 10 / 79),
        ("DCGM_FI_DEV_THERMAL_VIOLATION", 75e9),
        ("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", 12.5),
        ("DCGM_FI_DEV_XID_ERRORS", 79),
        ("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", 4),
        ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", 0.05),
        ("DCGM_FI_PROF_PCIE_TX_BYTES", 20 * MIB),
        ("DCGM_FI_PROF_NVLINK_L0_TX_BYTES", 63 * MIB),
        ("DCGM_FI_PROF_NVLINK_L0_RX_BYTES", 62 * MIB),
        ("DCGM_FI_PROF_NVJPG2_ACTIVE", 0.42),
        ("DCGM_FI_PROF_C2C_RX_DATA_BYTES", 1.5 * MIB),
        ("DCGM_FI_PROF_PEERMEM_CACHE_HIT", 1.5),
        ("DCGM_FI_PROF_SM_CYCLES_ELAPSED_TOTAL", 248e12),
        ("DCGM_FI_PROF_PCIE_RX_BYTES_TOTAL", 256e12),
        ("DCGM_FI_PROF_FP16_CYCLES_ACTIVE_TOTAL", 260e12),
        ("nodeagent_gpu_power_watts", 651.25),
        ("nodeagent_gpu_nvlink_sent_bytes_total", 1000 * 1024),
        ("nodeagent_gpu_sm_clock_hertz", 1980e6),
        ("nodeagent_gpu_utilization_ratio", 0.97),
    ],
)
def test_units(name, expected):
    assert value(full_view(EVERYTHING), name, UUID="GPU-0") == pytest.approx(expected, rel=1e-12)


def test_instances_show_their_own_values_in_place_of_the_gpus():
    view = full_view()
    assert value(view, "DCGM_FI_DEV_FB_USED", UUID="GPU-1", GPU_I_ID="1", GPU_I_PROFILE="1g.10gb") == 2048
    assert value(view, "DCGM_FI_DEV_FB_USED", UUID="GPU-1", GPU_I_ID="2", GPU_I_PROFILE="3g.40gb") == 1024
    assert count(view, "DCGM_FI_DEV_FB_USED") == 3, "the divided GPU's own line would count memory twice"
    assert value(view, "DCGM_FI_PROF_GR_ENGINE_ACTIVE", UUID="GPU-1") == 0.5
    assert value(view, "nodeagent_gpu_memory_used_bytes", UUID="GPU-1") == 3 * GIB


def test_values_of_the_whole_gpu_stand_there_once():
    assert value(full_view(), "DCGM_FI_DEV_POWER_USAGE", UUID="GPU-1") == 100
    copies = full_view(Options(instance_copies=True))
    assert count(copies, "DCGM_FI_DEV_POWER_USAGE") == 3
    assert value(copies, "DCGM_FI_DEV_POWER_USAGE", UUID="GPU-1", GPU_I_ID="2") == 100
    assert count(copies, "nodeagent_gpu_power_watts") == 2


def test_an_instance_that_the_last_observation_does_not_know_has_no_line():
    unknown = replace(DIVIDED_SAMPLE, instances=(*INSTANCES, InstanceSample(7, GIB)))
    view = replace(full_view(), samples=(SAMPLE, unknown))
    assert count(view, "DCGM_FI_DEV_FB_USED") == 3


def test_only_what_was_asked_for():
    view = full_view(Options(families=frozenset({"DCGM_FI_DEV_PSTATE"})))
    assert {name for name, _ in samples(view) if name.startswith("DCGM_")} == {"DCGM_FI_DEV_PSTATE"}
    assert "DCGM_FI_DRIVER_VERSION" not in snapshot(view).body.decode()
    usual = {metric.name for metric in DCGM_METRICS if metric.shown is not Shown.ON_REQUEST}
    assert {name for name, _ in samples(full_view()) if name.startswith("DCGM_")} == usual


@pytest.mark.parametrize(
    ("label", "found"), [(HostLabel.UPPER, {"Hostname"}), (HostLabel.LOWER, {"hostname"}), (HostLabel.NONE, set())]
)
def test_the_label_of_the_host(label, found):
    pairs = next(
        dict(pairs) for name, pairs in samples(full_view(Options(host_label=label))) if name == "DCGM_FI_DEV_GPU_TEMP"
    )
    assert {name for name in pairs if name.lower() == "hostname"} == found


def test_xids_count_from_zero():
    view = full_view()
    assert value(view, "nodeagent_gpu_xid_errors_total", UUID="GPU-0", xid="79") == 1
    assert value(view, "nodeagent_gpu_xid_errors_total", UUID="GPU-0", xid="48") == 0
    assert value(view, "DCGM_FI_DEV_XID_ERRORS", UUID="GPU-1") == 0
    assert value(view, "nodeagent_gpu_last_xid_timestamp_seconds") == 1790000050


def test_users_of_gpus():
    view = full_view()
    assert value(view, "DCGM_FI_DEV_GPU_TEMP", UUID="GPU-0", hpc_job="4711", pod_uid="pod-1") == 61
    assert value(view, "nodeagent_gpu_job_info", hpc_job="4713", GPU_I_ID="1") == 1
    assert count(view, "nodeagent_gpu_job_info") == 3
    assert "hpc_job" not in {
        name
        for key, pairs in samples(view)
        if key == "DCGM_FI_DEV_FB_USED" and ("GPU_I_ID", "1") in pairs
        for name, _ in pairs
    }, "two jobs have no one name"
    assert value(view, "nodeagent_gpu_process_info", pid="12", GPU_I_ID="1", unit="triton.service") == 1


def test_rdma_and_network():
    view = full_view(EVERYTHING)
    assert (
        value(view, "nodeagent_rdma_port_transmitted_bytes_total", device="mlx5_0", rail="0", gpu="0", netdev="ens1")
        == 400
    )
    assert value(view, "nodeagent_rdma_port_rate_bytes_per_second", device="mlx5_0") == 50e9
    assert value(view, "nodeagent_rdma_port_up", device="mlx5_1", rail="1", gpu="1") == 0
    assert "rail" not in dict(next(pairs for name, pairs in samples(view) if ("device", "mlx5_2") in pairs))
    assert value(view, "node_infiniband_port_data_received_bytes_total", device="mlx5_0", port="1") == 40
    assert value(view, "node_infiniband_np_cnp_packets_sent_total", device="mlx5_0") == 3
    assert value(view, "node_infiniband_state_id", device="mlx5_1") == 1
    assert value(view, "nodeagent_netdev_priority_paused_seconds_total", priority="3", direction="received") == 1.5
    assert value(view, "nodeagent_netdev_priority_bytes_total", priority="3", direction="sent") == 77
    assert value(view, "nodeagent_netdev_pci_stalled_reads_ratio", netdev="ens1") == 0.25
    assert not any(name.startswith("node_infiniband") for name, _ in samples(full_view()))


def test_what_is_not_there_is_absent():
    view = View(NODE, (GpuSample("GPU-0"),), FACTS, 1.0)
    names = {name for name, pairs in samples(view) if ("UUID", "GPU-0") in pairs and name.startswith("DCGM_")}
    assert names == {"DCGM_FI_DEV_XID_ERRORS"}, "what is counted by the agent begins at 0"


OTHER_NAMES = Options(node_exporter_names=True, operator_names=True)


@pytest.mark.parametrize(
    "options",
    [
        *(replace(OTHER_NAMES, dcgm_names=names) for names in DcgmNames),
        replace(OTHER_NAMES, families=frozenset(KNOWN_FAMILIES)),
    ],
    ids=[*DcgmNames, "everything"],
)
def test_the_linter_objects_to_the_names_that_are_others_and_to_nothing_else(options):
    text = snapshot(full_view(options)).body.decode()
    assert complaints(text) == expected(text) != set()
    assert all(name.startswith(("DCGM_", "gpu_operator_")) for name, _ in expected(text))


def test_every_name_on_the_list_of_objections_is_one_of_ours():
    view = full_view(replace(OTHER_NAMES, families=frozenset(KNOWN_FAMILIES)))
    assert {name for name, _ in SINGLE} <= {family.name for family, _ in families(view)}


def test_without_dcgms_names_the_linter_finds_nothing():
    """`metrics.dcgm: off`, as under dcgm-exporter; names of node_exporter's are clean as well."""
    options = Choices(Metrics(dcgm=Component.OFF, node_exporter_names=True), LocalFiles("/")).options()
    text = snapshot(full_view(options)).body.decode()
    assert "nodeagent_gpu_power_watts{" in text
    assert complaints(text) == set()


def test_a_long_exposition_stays_in_order():
    gpus = {f"GPU-{index}": metrics_view.gpu(index) for index in range(64)}
    view = replace(
        full_view(), node=replace(NODE, gpus=gpus), samples=tuple(replace(SAMPLE, uuid=uuid) for uuid in gpus)
    )
    found = samples(view)
    assert len(found) > 5000
    assert sum(1 for name, _ in found if name == "DCGM_FI_DEV_GPU_TEMP") == 64
