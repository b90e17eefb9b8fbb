"""A program gets into a MIG instance only by its nodes below /dev/nvidia-caps; whoever loads the driver makes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodeagent.cli import main
from nodeagent.state.gpu import Placement
from sim_node import Told, sim_node

PROFILE = "gpu-server-4x-a100"
MODULES = "modules: {nvidia: {}}\n"
LAYOUT = "mig: [{gpus: [0], mode: enabled, devices: {3g.20gb: 2}}]\n"


@pytest.mark.parametrize("containers", ["", "cdi: {}\n"], ids=["alone", "with section cdi"])
def test_instances_get_their_nodes_and_only_they(tmp_path: Path, containers: str) -> None:
    with sim_node(tmp_path, PROFILE, "in-process") as node:
        words = ("--simulate", PROFILE, "--simulate-dir", node.node.directory, "--file")
        folder = Path(node.node.directory, "dev/nvidia-caps")
        assert main(["apply", *words, node.write(MODULES)]) == 0
        assert not folder.exists() or not [path for path in folder.iterdir() if "nvidia-cap" in path.name[3:]]
        assert main(["apply", *words, node.write(MODULES + LAYOUT + containers)]) == 0
        access = Path(node.node.directory, "proc/driver/nvidia/capabilities/gpu0/mig").glob("gi*/**/access")
        minors = {line.split()[1] for path in access for line in path.read_text().splitlines() if "Minor" in line}
        assert len(minors) == 4  # two GPU instances with one compute instance each
        for minor in minors:
            assert (folder / f"nvidia-cap{minor}").read_text().startswith("c ")


@pytest.mark.parametrize("containers", ["", "cdi: {}\n"], ids=["alone", "with section cdi"])
def test_a_layout_that_is_about_to_go_gets_no_nodes(tmp_path: Path, containers: str) -> None:
    """Somebody divided the GPU another way, and nobody made its nodes: they would be made for nothing."""
    with sim_node(tmp_path, PROFILE, "in-process") as node:
        assert node.converge(MODULES + LAYOUT).plan.converged
        uuid, told = node.uuid(0), Told()
        for place in {row.placement for row in node.mig()[0].rows}:
            node.host.nvml.destroy_gpu_instance(uuid, place)
        node.host.nvml.create_gpu_instance(uuid, "1g.5gb", Placement(6, 1), ())
        for path in Path(node.node.directory, "dev/nvidia-caps").glob("nvidia-cap*"):
            path.unlink()
        assert node.converge(MODULES + LAYOUT + containers, told).plan.converged
        changes = [line for line in told.lines if "device node" in line or "1g.5gb" in line]
        assert [line for line in changes if "make device node /dev/nvidia-caps" in line]
        assert "destroy 1g.5gb" in changes[0], changes
        assert sum("make device node" in line for line in changes) == 4, changes


def test_nodes_are_left_alone_without_the_driver_section(tmp_path: Path) -> None:
    with sim_node(tmp_path, PROFILE, "in-process") as node:
        words = ("--simulate", PROFILE, "--simulate-dir", node.node.directory, "--file")
        assert main(["apply", *words, node.write(MODULES + LAYOUT)]) == 0
        made = sorted(Path(node.node.directory, "dev/nvidia-caps").glob("nvidia-cap*"))
        for path in made:
            path.unlink()
        assert main(["apply", *words, node.write(LAYOUT)]) == 0
        assert not [path for path in made if path.exists()]
