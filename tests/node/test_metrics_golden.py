"""Everything /metrics says about a simulated node, compared whole; what moves by itself stands as a star.

After a wanted change: `PYTHONPATH=agent:tests python tests/node/test_metrics_golden.py`, and read the difference.
"""

from __future__ import annotations

import re
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent_process import FILE, PATIENCE_SECONDS, PROFILE, Agent, agent_on
from nodeagent.simulation.node import open_node

SAME_ROUNDS = 3
ROUND = re.compile(r"^nodeagent_telemetry_timestamp_seconds (\S+)$", re.MULTILINE)
LAST_CHECK = 'check="port-flaps"'
# The largest half and the smallest instance of each board; Ampere has no GPM, the others have.
SLICES = {
    PROFILE: ("3g.20gb", "1g.5gb"),
    "dgx-a100": ("3g.20gb", "1g.5gb"),
    "dgx-h100": ("3g.40gb", "1g.10gb"),
    "dgx-h200": ("3g.71gb", "1g.18gb"),
    "dgx-b200": ("3g.90gb", "1g.23gb"),
}
FILES = {
    profile: FILE.replace("3g.20gb", half).replace("1g.5gb", smallest) for profile, (half, smallest) in SLICES.items()
}
# Values that a second look at the same node would find the same; all others depend on time or on the machine.
STABLE = re.compile(
    r"nodeagent_(converged|blocked|drift_steps|unknown_facts|gpu_(up|info|mig_\w+|memory_total_bytes|power_limit_watts)|"
    r"driver_info|module_loaded|netdev_(up|carrier|mtu_bytes)|rdma_device_info|rdma_port_(up|rate_bytes_per_second))|"
    r"DCGM_FI_DEV_(FB_\w+|ECC_\w+|\w*REMAP\w*)"
)


def normalised(text: str, agent: Agent) -> str:
    """The exposition with names instead of UUIDs and host name, and a star for each value that moves."""
    node = open_node(agent.profile, str(agent.root))
    for gpu in node.machine.gpus:
        rows = node.machine.mig_layout(gpu.uuid).rows
        names = {gpu.uuid: f"GPU-of-minor-{gpu.minor}"}
        names |= {row.uuid: f"MIG-of-minor-{gpu.minor}-at-{row.placement.start}" for row in rows if row.uuid}
        for uuid, name in names.items():
            text = text.replace(uuid, name)
    node.machine.close()
    text = text.replace(f'"{socket.gethostname()}"', '"this-host"')
    text = re.sub(r'version="[^"]*"', 'version="*"', text)
    return "".join(f"{line}\n" for line in _families(text))


def _families(text: str) -> Iterator[str]:
    """Every family's lines; its series by name, because some are in the order of UUIDs that differ from run to run."""
    for family in re.split(r"^(?=# HELP )", text, flags=re.MULTILINE):
        lines = family.splitlines()
        yield from (line for line in lines if line.startswith("#"))
        yield from sorted(_line(line) for line in lines if not line.startswith("#"))


def _line(line: str) -> str:
    series = line.rpartition(" ")[0]
    if STABLE.fullmatch(series.partition("{")[0]):
        return line
    return f"{series} *"


def golden(profile: str) -> Path:
    return Path(__file__).parents[1] / "data" / "golden" / f"metrics-{profile}.prom"


def exposition(directory: Path, profile: str) -> str:
    """What a converged agent exposes, normalised."""
    with agent_on(directory, FILES[profile], profile=profile) as agent:
        agent.wait_converged()
        while not all(part in agent.fetch("/metrics") for part in ("nodeagent_converged 1", LAST_CHECK)):
            time.sleep(0.1)  # the snapshot of the last pass is made a moment after it, a comparison by health one later
        return _settled(agent)


def _settled(agent: Agent) -> str:
    """The exposition that so many rounds of telemetry in a row have: some families need two rounds or the last pass."""
    until, seen = time.monotonic() + PATIENCE_SECONDS, {}
    while len(seen) <= SAME_ROUNDS or len(set([*seen.values()][-SAME_ROUNDS:])) > 1:
        assert time.monotonic() < until, "the exposition does not settle"
        time.sleep(0.2)
        page = agent.fetch("/metrics")
        for round_ in ROUND.findall(page):
            seen.setdefault(round_, normalised(page, agent))
    return [*seen.values()][-1]


@pytest.mark.parametrize("profile", FILES)
def test_the_whole_exposition_is_as_before(tmp_path: Path, profile: str) -> None:
    text = exposition(tmp_path, profile)
    assert text == golden(profile).read_text(encoding="utf-8")


@pytest.mark.parametrize("profile", FILES)
def test_a_parser_reads_it(profile: str) -> None:
    text = golden(profile).read_text(encoding="utf-8").replace(" *\n", " 1\n")
    families = list(text_string_to_metric_families(text))
    assert len(families) > 20
    assert all(family.documentation and family.samples for family in families)
    series = [(sample.name, tuple(sample.labels.items())) for family in families for sample in family.samples]
    assert len(series) == len(set(series))


if __name__ == "__main__":
    for name in FILES:
        with tempfile.TemporaryDirectory() as place:
            golden(name).write_text(exposition(Path(place), name), encoding="utf-8")
