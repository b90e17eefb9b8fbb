"""A random walk over node files on one node: every state is reached from every other, then nothing moves."""

from __future__ import annotations

import errno
import random
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from nodeagent.plan.adopting import adopt_node
from nodeagent.plan.journal import Journal
from sim_node import PERSISTENCED, SimNode, sim_node, text_of

GPUS = 8
LAYOUTS = ({}, {"7g.40gb": 1}, {"3g.20gb": 2}, {"3g.20gb": 1, "2g.10gb": 1, "1g.5gb": 2}, {"1g.5gb": 7})
DRIVERS = (
    {},
    {"drm": True},
    {"modeset": False},
    {"parameters": {"EnableStreamMemOPs": 1}},
    {"parameters": {"EnableStreamMemOPs": 0, "EnablePCIERelaxedOrderingMode": 1}, "drm": True},
)
FAULTS = 4
PEERS = {"nvidia_peermem", "nv_peer_mem"}
PARTS = (
    "gdrdrv",
    "nvidia_fs",
    "nvidia_drm",
    "nvidia_modeset",
    "nvidia_peermem",
    "nv_peer_mem",
    "ib_ipoib",
    "ipmi_devintf",
)


def draw_spec(chance: random.Random) -> dict[str, object]:
    """A node file that makes sense: modules wanted and absent, MIG only with a driver, links only with theirs."""
    has_driver, has_rdma = chance.random() < 0.85, chance.random() < 0.85
    modules = _modules(chance, has_driver=has_driver, has_rdma=has_rdma)
    spec: dict[str, object] = {"version": 1, "modules": modules}
    if has_driver:
        spec["mig"] = _mig(chance)
    if has_rdma:
        up = chance.choice([True, False])
        spec["links"] = [{"match": "driver:mlx5_core", "up": up, "mtu": chance.choice([1500, 4200, 9000])}]
    return spec


def _modules(chance: random.Random, *, has_driver: bool, has_rdma: bool) -> dict[str, object]:
    modules: dict[str, object] = {}
    absent = set(chance.sample(PARTS, 3))
    if has_rdma:
        modules["rdma"] = {"ipoib": chance.choice([True, False])}
        absent -= {"ib_ipoib"}
    else:
        absent |= {"mlx5_core", "ib_core"}
    if has_driver:
        modules["nvidia"] = driver = chance.choice(DRIVERS)
        modules["gdrcopy"] = chance.choice([True, False])
        absent -= {"nvidia_modeset", "gdrdrv", *(["nvidia_drm"] if "drm" in driver else [])}
    else:
        absent |= {"nvidia"}
    if has_driver and has_rdma:
        flavours = ["auto", "dma-buf", "nvidia_peermem", "nv_peer_mem", "none"]
        modules["peermem"] = chance.choice(flavours)
        absent -= PEERS
        absent |= PEERS - {modules["peermem"]} if modules["peermem"] in PEERS else set()
    if chance.random() < 0.5:
        modules["named"] = {"ipmi_devintf": {}}
        absent -= {"ipmi_devintf"}
    return modules | {"absent": sorted(absent)}


def _mig(chance: random.Random) -> list[dict[str, object]]:
    """The GPUs in up to three entries; some are named by none and left alone."""
    gpus = chance.sample(range(GPUS), GPUS - chance.randrange(3))
    cut = sorted(chance.sample(range(1, len(gpus)), 2))
    parts = (gpus[: cut[0]], gpus[cut[0] : cut[1]], gpus[cut[1] :])
    return [
        {"gpus": sorted(part), "mode": "enabled", "devices": chance.choice(LAYOUTS)}
        if chance.random() < 0.7
        else {"gpus": sorted(part), "mode": "disabled"}
        for part in parts
    ]


def as_text(spec: Mapping[str, object]) -> str:
    return yaml.safe_dump({key: value for key, value in spec.items() if key != "version"})


def assert_settled(node: SimNode, text: str) -> None:
    """The node is as the text says, owes nothing, and another run takes no step and writes nothing."""
    before = node.marks(), node.everything()
    outcome = node.converge(text)
    assert outcome.plan.converged, text_of(outcome.plan)
    assert outcome.steps_taken == 0
    assert not outcome.failures
    assert (node.marks(), node.everything()) == before
    assert not node.journal.exists()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_state_is_reached_from_every_other(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with sim_node(tmp_path, "dgx-a100", "in-process") as node:
        for _ in range(9):
            text = as_text(draw_spec(chance))
            start_persistenced(node, chance)
            services = dict(node.kernel.services)
            outcome = node.converge(text)
            assert not outcome.failures, (text, [str(failure) for failure in outcome.failures])
            assert outcome.plan.converged, (text, text_of(outcome.plan))
            assert_settled(node, text)
            assert adopt_node(node.observer).differences == ()
            assert is_serving(node, services)


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_with_faults_on_the_way_every_state_is_still_reached(tmp_path: Path, seed: int) -> None:
    """A run with faults says so and owes only what is missing; the next one without faults reaches the goal."""
    chance = random.Random(seed)
    struck = 0
    with sim_node(tmp_path, "dgx-a100", "in-process") as node:
        for _ in range(8):
            text = as_text(draw_spec(chance))
            start_persistenced(node, chance)
            services = dict(node.kernel.services)
            set_faults(node, chance)
            outcome = node.converge(text)
            hit = len(node.kernel.faults) < FAULTS
            struck += hit
            assert bool(outcome.failures) == hit, text
            owed = Journal(node.host.files).read()
            assert not [str(step) for step in owed if step.satisfied(outcome.state)]
            node.node.kernel.clear_faults()
            node.converge(text)
            assert_settled(node, text)
            assert is_serving(node, services)
    assert struck > 2


def start_persistenced(node: SimNode, chance: random.Random) -> None:
    """Somebody starts the daemon, which then holds every GPU."""
    if "nvidia" in node.kernel.modules and chance.random() < 0.5:
        node.host.services.start(PERSISTENCED)


def is_serving(node: SimNode, services: Mapping[str, int]) -> bool:
    """What ran before runs again, unless the driver it needs was not wanted any more."""
    return "nvidia" not in node.kernel.modules or set(services) <= set(node.kernel.services)


def set_faults(node: SimNode, chance: random.Random) -> None:
    """The next insert or remove of some modules fails, of those that a transition is likely to move."""
    moved = ("nvidia", "nvidia_uvm", "nvidia_modeset", "gdrdrv", "nvidia_peermem", "mlx5_core", "mlx5_ib", "ib_core")
    for name in chance.sample(moved, FAULTS):
        operation = chance.choice(["insert", "remove"])
        number = chance.choice([errno.ENOMEM, errno.EIO] if operation == "insert" else [errno.EAGAIN, errno.EBUSY])
        node.node.kernel.fail(operation, name, number)
