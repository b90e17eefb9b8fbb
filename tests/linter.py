"""`promtool check metrics`, and all that it may say about an exposition: it is about names that are others'."""

from __future__ import annotations

import re
import subprocess

CAMEL_CASE = "label names should be written in 'snake_case' not 'camelCase'"  # modelName
NO_TOTAL = 'counter metrics should have "_total" suffix'  # DCGM's is upper case, where it has one
TYPES = re.compile(r"^# TYPE (\S+) (\S+)$", re.MULTILINE)
ABBREVIATED = "metric names should not contain abbreviated units"
SINGLE = {
    ("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "metric name should not include type 'counter'"),
    *((f"DCGM_FI_DEV_CLOCKS_EVENT_REASON_{name}_NS", ABBREVIATED) for name in ("SYNC_BOOST", "SW_POWER_CAP")),
    *(
        (f"DCGM_FI_DEV_CLOCKS_EVENT_REASON_{name}_SLOWDOWN_NS", ABBREVIATED)
        for name in ("SW_THERM", "HW_THERM", "HW_POWER_BRAKE")
    ),
    *(
        (f"gpu_operator_{name}_devices_total", 'non-counter metrics should not have "_total" suffix')
        for name in ("nvidia_pci", "node_device_plugin")
    ),
}
"""About single names of DCGM's, and of the GPU operator's node-status-exporter's."""


def complaints(text: str) -> set[tuple[str, str]]:
    """(name, complaint); AssertionError where it cannot be read at all: lint is 3, a syntax error 1."""
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text.encode(), capture_output=True, check=False, timeout=60
    )
    found = {tuple(line.split(" ", 1)) for line in (done.stdout + done.stderr).decode().splitlines()}
    assert done.returncode == (3 if found else 0), found
    return {(name, complaint) for name, complaint in found}


def expected(text: str) -> set[tuple[str, str]]:
    """Exactly what must be said of this exposition: of DCGM's names by their rule, of single ones by the list."""
    kinds = dict(TYPES.findall(text))
    ours = {(name, complaint) for name, complaint in SINGLE if name in kinds}
    ours |= {(name, CAMEL_CASE) for name in kinds if name.startswith("DCGM_")}
    return ours | {(name, NO_TOTAL) for name, kind in kinds.items() if name.startswith("DCGM_") and kind == "counter"}
