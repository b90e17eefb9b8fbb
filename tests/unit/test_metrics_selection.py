"""dcgm-exporter's lists of counters, the choices of the node file, and the ethtool statistics' names."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

import pytest

from nodeagent.errors import HostError
from nodeagent.host.ethtool_facts import DriverStatistics
from nodeagent.host.files import LocalFiles
from nodeagent.metrics.netdev_metrics import is_wanted
from nodeagent.metrics.selection import parse_counters
from nodeagent.spec.schema import Metrics
from nodeagent.supervisor.choices import Choices

LIST = """\
# Format
# DCGM FIELD, Prometheus metric type, help message

DCGM_FI_DEV_SM_CLOCK,  gauge, SM clock frequency (in MHz).
DCGM_FI_DEV_DEC_UTIL ,     gauge, Decoder utilization (in %).
  DCGM_FI_DRIVER_VERSION, label, Driver Version
# DCGM_FI_DEV_FB_USED, gauge, Framebuffer memory used (in MiB).
DCGM_FI_DEV_VGPU_LICENSE_STATUS, gauge, vGPU License status
DCGM_FI_DEV_SERIAL, label, Device Serial Number
DCGM_FI_DEV_PSTATE, label, a number
"""


def test_a_list_is_read_as_dcgm_exporter_does():
    found = parse_counters(LIST, "c.csv")
    assert found.families == {
        *("DCGM_FI_DEV_SM_CLOCK", "DCGM_FI_DEV_DEC_UTIL", "DCGM_FI_DEV_PSTATE"),
        *("DCGM_FI_DRIVER_VERSION", "DCGM_FI_DEV_SERIAL"),
    }
    assert found.warnings == (
        "c.csv:8: DCGM_FI_DEV_VGPU_LICENSE_STATUS is not something NVML can give; it is left out",
        "c.csv:10: DCGM_FI_DEV_PSTATE cannot be a label; it is shown as a family",
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("DCGM_FI_DEV_SM_CLOCK, gauge", "read c.csv:2: 2 cells instead of 3; a row is FIELD, TYPE, HELP"),
        ("DCGM_FI_DEV_SM_CLOCK, gauge, SM clock, in MHz", "4 cells instead of 3"),
        ("DCGM_FI_DEV_SM_CLOCK, speed, x", "speed is not a type; valid are gauge, counter, histogram, summary, label"),
        ("DCGM_FI_DEV_SM_CLOCK, , x", "nothing is not a type"),
    ],
)
def test_a_broken_list_says_where(line, message):
    with pytest.raises(HostError) as caught:
        parse_counters(f"# x\n{line}\n", "c.csv")
    assert message in str(caught.value)


@pytest.fixture
def choices(tmp_path):
    (tmp_path / "list.csv").write_text(LIST)
    return Choices(Metrics(counters_file="/list.csv", job_mapping_dir="/jobs"), LocalFiles(str(tmp_path)))


def test_the_list_is_read_again_when_it_changes(choices, tmp_path, caplog):
    assert "DCGM_FI_DEV_SM_CLOCK" in choices.options().families
    (tmp_path / "list.csv").write_text("DCGM_FI_DEV_FB_USED, gauge, used\n")
    assert choices.options().families == {"DCGM_FI_DEV_FB_USED"}
    (tmp_path / "list.csv").write_text("broken\n")
    caplog.clear()
    with caplog.at_level(logging.ERROR):
        assert choices.options().families == choices.options().families == {"DCGM_FI_DEV_FB_USED"}
    assert len(caplog.records) == 1, "said once, not with every round"
    assert "read /list.csv:1: 1 cells instead of 3" in caplog.text
    assert choices.errors == 2
    (tmp_path / "list.csv").unlink()
    assert choices.options().families == {"DCGM_FI_DEV_FB_USED"}
    choices.take_over(Metrics())
    assert choices.options().families is None


def test_job_files(choices, tmp_path):
    assert choices.jobs() == {}
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "0").write_text("4711\n4712\n")
    (tmp_path / "jobs" / "1.2").write_text("\n")
    assert choices.jobs() == {"0": ("4711", "4712")}
    assert Choices(Metrics(), LocalFiles(str(tmp_path))).jobs() == {}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("rx_prio3_pause", True),
        ("tx_prio0_bytes", True),
        ("rx_prio3_pause_transition", True),
        ("rx_discards_phy", True),
        ("rx_prio9_pause", False),
        ("rx_prio3_something", False),
        ("rx_packets", False),
        ("rx0_packets", False),
    ],
)
def test_which_statistics_are_wanted(name, wanted):
    assert is_wanted(name) is wanted


def test_statistics_of_the_interfaces_of_this_machine():
    """Whatever the drivers here count: the same as the kernel says through ethtool's own ioctl, or nothing."""
    names = sorted(entry.name for entry in Path("/sys/class/net").iterdir())
    found = DriverStatistics(lambda _name: True)([*names, "none0"])
    assert set(found) <= set(names)
    for values in found.values():
        assert all(name and isinstance(value, int) for name, value in values.items())


def test_virtual_interfaces_have_statistics_by_name():
    made = subprocess.run(
        ["ip", "link", "add", "nag-t0", "type", "veth", "peer", "name", "nag-t1"], capture_output=True, check=False
    )
    try:
        found = DriverStatistics(lambda name: name == "peer_ifindex")(["nag-t0", "nag-t1"])
        assert made.returncode != 0 or found["nag-t0"]["peer_ifindex"] > 0
        assert set(found) == (set() if made.returncode else {"nag-t0", "nag-t1"})
    finally:
        subprocess.run(["ip", "link", "del", "nag-t0"], capture_output=True, check=False)
