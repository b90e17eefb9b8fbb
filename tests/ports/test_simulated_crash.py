"""A simulated node is shared by processes, and survives their sudden death."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from nodeagent.simulation.module_table import PEER_SYMBOL, symbol_crc
from nodeagent.simulation.tree import TreeWriter, render
from sim_kernel import (
    Rig,
    assert_consistent,
    file_of,
    line_from,
    make_rig,
    open_rig,
    start_python,
)

WALKER = """
import random, sys
from sim_kernel import open_rig
from nodeagent.errors import HostError
rig, walk = open_rig(sys.argv[1]), random.Random(int(sys.argv[2]))
names = ("nvidia", "nvidia_uvm", "mlx_compat", "ib_core", "dummy", "gdrdrv", "mlxfw", "video")
print("ready", flush=True)
for _ in range(int(sys.argv[3])):
    name = walk.choice(names)
    try:
        (rig.kmod.unload if walk.random() < 0.5 else rig.kmod.load)(name)
    except HostError:
        pass
"""


@pytest.fixture
def rig(tmp_path) -> Rig:
    return make_rig(tmp_path / "node")


# Several processes, and sudden death.


def test_two_processes_change_one_node_at_once(rig):
    walkers = [start_python(WALKER, rig.directory, str(seed), "25") for seed in (1, 2)]
    for walker in walkers:
        walker.communicate()
        assert walker.returncode == 0
    assert_consistent(open_rig(rig.directory))


def test_kill_at_any_moment_leaves_a_node_that_recovers(rig):
    chance = random.Random(7)
    for seed in range(6):
        walker = start_python(WALKER, rig.directory, str(seed), "1000000")
        with walker:
            assert line_from(walker) == "ready"
            time.sleep(chance.uniform(0.01, 0.3))
            walker.send_signal(signal.SIGKILL)
        again = open_rig(rig.directory)
        assert_consistent(again)
        again.kernel.log(f"round {seed}")
        assert_consistent(again)


def test_death_between_state_and_tree_is_made_good(rig):
    state = rig.kernel.state
    rig.load("dummy")
    newer = rig.kernel.state
    writer = TreeWriter(rig.directory, f"{rig.directory}/.simulation/scratch")
    tree = render(rig.kernel.profile, state, {})
    writer.update(render(rig.kernel.profile, newer, {}), tree)
    with open(f"{rig.directory}/.simulation/shown", "w", encoding="ascii") as file:
        file.write(str(newer.generation - 1))
    assert_consistent(open_rig(rig.directory))


def test_unchanged_files_are_not_touched(rig):
    rig.load("mlx5_core")
    place = f"{rig.directory}/sys/class/net/enp12s0np0/mtu"
    before = os.stat(place)
    rig.load("dummy", "nvidia")
    after = os.stat(place)
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_importer_and_exporter_agree_about_versions(rig):
    assert dict(file_of(rig, "nvidia_peermem").imports)[PEER_SYMBOL] == symbol_crc(PEER_SYMBOL)
