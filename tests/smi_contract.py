"""What nvidia-smi and the agent must agree about on one node: the clauses, for simulated and for real GPUs.

nvidia-smi's words for what it cannot tell are [N/A] and [Not Supported]. Names of its fields: `nvidia-smi
--help-query-gpu`.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_process import command

UNTOLD = re.compile(r"\[(N/A|Not Supported|Unknown Error|GPU is lost)\]|")
SERIES = re.compile(r"(\w+)\{([^}]*)\} (\S+)")
LABEL = re.compile(r'(\w+)="([^"]*)"')
DEVICE = re.compile(r"^  MIG (\S+)\s+Device\s+\d+: \(UUID: (\S+)\)|^GPU \d+: .*\(UUID: (\S+)\)", re.MULTILINE)


@dataclass(frozen=True)
class Pair:
    """Both programs on one node: nvidia-smi, its environment, and the options that say which node to the agent."""

    smi: str
    environment: Mapping[str, str]
    target: tuple[str, ...] = ()

    def query(self, what: str, *names: str) -> list[dict[str, str]]:
        """Rows of `nvidia-smi --query-WHAT`, each field by its name."""
        text = self.told(f"--query-{what}={','.join(names)}", "--format=csv,noheader,nounits")
        return [dict(zip(names, re.split(r",\s*", line), strict=True)) for line in text.splitlines()]

    def told(self, *words: str) -> str:
        return _output([self.smi, *words], self.environment)

    def done(self, *words: str) -> str:
        """What the agent prints; exit code 0 is needed."""
        return _output(command(*words, *self.target))

    def said(self, *words: str) -> Any:
        """The agent's answer as a document."""
        return json.loads(self.done(*words, "-o", "json"))

    def series(self) -> dict[tuple[str, str], float]:
        """(family, UUID) to value of whole GPUs; the label `limit` stands behind the family and a dot."""
        found: dict[tuple[str, str], float] = {}
        for family, labels, value in SERIES.findall(self.done("metrics")):
            named = dict(LABEL.findall(labels))
            if "UUID" in named and "GPU_I_ID" not in named:
                found[".".join(filter(None, (family, named.get("limit")))), named["UUID"]] = float(value)
        return found


@dataclass(frozen=True)
class Reading:
    """A field of nvidia-smi and the agent's family for it. They are read one after the other, so a value may move by
    `slack`, in the field's unit; a GPU that computes moves more.
    """

    field: str
    family: str
    slack: float = 0


READINGS = (
    Reading("temperature.gpu", "DCGM_FI_DEV_GPU_TEMP", 5),
    Reading("temperature.memory", "DCGM_FI_DEV_MEMORY_TEMP", 5),
    Reading("power.draw", "DCGM_FI_DEV_POWER_USAGE", 60),
    Reading("power.min_limit", "nodeagent_gpu_power_limit_watts.min", 0.01),
    Reading("power.max_limit", "nodeagent_gpu_power_limit_watts.max", 0.01),
    Reading("power.default_limit", "nodeagent_gpu_power_limit_watts.default", 0.01),
    Reading("memory.used", "DCGM_FI_DEV_FB_USED", 64),
    Reading("memory.free", "DCGM_FI_DEV_FB_FREE", 64),
    Reading("memory.reserved", "DCGM_FI_DEV_FB_RESERVED", 1),
    Reading("utilization.gpu", "DCGM_FI_DEV_GPU_UTIL", 40),
    Reading("utilization.memory", "DCGM_FI_DEV_MEM_COPY_UTIL", 40),
    Reading("clocks.mem", "DCGM_FI_DEV_MEM_CLOCK", 50),
    Reading("ecc.errors.corrected.volatile.total", "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL"),
    Reading("ecc.errors.uncorrected.volatile.total", "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL"),
    Reading("ecc.errors.corrected.aggregate.total", "DCGM_FI_DEV_ECC_SBE_AGG_TOTAL"),
    Reading("ecc.errors.uncorrected.aggregate.total", "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL"),
)
# A MIG GPU has no utilization of its own: there the agent must be as silent as nvidia-smi. Its memory the agent tells
# by instance, so that sums count it once.
SILENT = ("utilization.gpu", "utilization.memory")
BY_INSTANCE = ("memory.used", "memory.free", "memory.reserved")


def identity(pair: Pair) -> None:
    """Index, UUID, PCI address, product, serial number, memory and MIG modes of every GPU."""
    fields = ("index", "uuid", "pci.bus_id", "name", "serial", "memory.total", "mig.mode.current", "mig.mode.pending")
    rows = pair.query("gpu", *fields)
    ours = [
        {
            "index": str(one["index"]),
            "uuid": one["uuid"],
            "pci.bus_id": f"0000{one['pciAddress']}".upper(),
            "name": one["product"],
            "serial": one["serial"] or "[N/A]",
            "memory.total": str(one["memoryTotalBytes"] >> 20),
            "mig.mode.current": _mode(one["migMode"]),
            "mig.mode.pending": _mode(one["pendingMigMode"]),
        }
        for one in pair.said("show", "gpus")["gpus"]
    ]
    assert rows
    assert ours == rows


def _mode(word: str) -> str:
    return "[N/A]" if word == "unsupported" else word.capitalize()


def versions(pair: Pair) -> None:
    """Driver, VBIOS and InfoROM versions."""
    text = pair.done("metrics")
    for row in pair.query("gpu", "uuid", "driver_version", "vbios_version", "inforom.img"):
        infos = [dict(LABEL.findall(line)) for line in text.splitlines() if line.startswith("nodeagent_gpu_info{")]
        mine = next(info for info in infos if info["UUID"] == row["uuid"])
        told = [row["vbios_version"], row["inforom.img"]]
        assert [mine["vbios"], mine["inforom"]] == ["" if UNTOLD.fullmatch(word) else word for word in told]
        assert f'DCGM_FI_DRIVER_VERSION="{row["driver_version"]}"' in text


def readings(pair: Pair) -> None:
    """Every number that both tell; the agent tells each that nvidia-smi does."""
    series = pair.series()
    rows = pair.query("gpu", "uuid", "mig.mode.current", *(one.field for one in READINGS))
    wrong = [text for row in rows for one in READINGS if (text := _disagreement(one, row, series))]
    assert not wrong, "\n".join(wrong)


def _disagreement(one: Reading, row: Mapping[str, str], series: Mapping[tuple[str, str], float]) -> str:
    told, ours = row[one.field], series.get((one.family, row["uuid"]))
    what = f"{row['uuid']} {one.field}: nvidia-smi says {told}, {one.family} {ours}"
    if row["mig.mode.current"] == "Enabled" and one.field in BY_INSTANCE:
        return what if ours is not None else ""
    if UNTOLD.fullmatch(told):
        return what if ours is not None and one.field in SILENT else ""
    return what if ours is None or abs(ours - float(told)) > one.slack else ""


def devices(pair: Pair) -> None:
    """MIG devices by UUID and profile, GPU by GPU, as `nvidia-smi -L` lists them."""
    listed: dict[str, list[tuple[str, str]]] = {}
    for profile, device, gpu in DEVICE.findall(pair.told("-L")):
        if gpu:
            current = listed.setdefault(gpu, [])
        else:
            current.append((device, profile.split(".", 1)[1] if profile.count("c.") else profile))
    ours = {
        one["uuid"]: [(device, part["profile"]) for part in one["instances"] for device in part["devices"]]
        for one in pair.said("show", "gpus")["gpus"]
    }
    assert {gpu: sorted(rows) for gpu, rows in ours.items()} == {gpu: sorted(rows) for gpu, rows in listed.items()}


def computing(pair: Pair) -> None:
    """Whoever computes on a GPU by nvidia-smi holds it by the agent."""
    holders = {one["uuid"]: " ".join(one["holders"]) for one in pair.said("show", "gpus")["gpus"]}
    for row in pair.query("compute-apps", "gpu_uuid", "pid"):
        assert f"process {row['pid']} (" in holders[row["gpu_uuid"]]


def layouts(pair: Pair, checkpoint: Path, between: Callable[[], None] = lambda: None) -> None:
    """GPU 0 through two layouts and back to what it was; both programs see the same devices at every stage.

    `between` is called on each layout. It changes the GPU, which has to be idle.
    """
    pair.done("mig", "checkpoint", "--gpus", "0", "--file", str(checkpoint))
    try:
        for layout in ("all-balanced", "all-enabled", "all-balanced"):
            pair.done("mig", "apply", "--gpus", "0", "--layout", layout)
            pair.done("mig", "assert", "--gpus", "0", "--layout", layout)
            pair.done("mig", "plan", "--gpus", "0", "--layout", layout)
            identity(pair)
            devices(pair)
            between()
    finally:
        pair.done("mig", "restore", "--gpus", "0", "--file", str(checkpoint))
    identity(pair)
    devices(pair)


CLAUSES: Mapping[str, Callable[[Pair], None]] = {
    function.__name__: function for function in (identity, versions, readings, devices)
}


def _output(words: list[str], environment: Mapping[str, str] | None = None) -> str:
    found = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 0, f"{' '.join(words)} ended with {found.returncode}: {found.stdout}{found.stderr}"
    return found.stdout
