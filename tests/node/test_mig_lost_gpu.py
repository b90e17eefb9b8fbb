"""A GPU that is gone altogether gives the others its index: what a node file names by index is then left as it is."""

from __future__ import annotations

import json
from pathlib import Path

from nodeagent.host.paths import GPUS
from sim_node import SimNode, sim_node, text_of

TEXT = """\
modules: {nvidia: {modeset: false}}
mig: [{gpus: [0], mode: enabled, devices: {3g.20gb: 2}}, {gpus: GPUS, mode: disabled}]
"""


def lose_first(node: SimNode) -> str:
    """The record as it was when there was one GPU more, before all others; that GPU's UUID."""
    file, lost = Path(node.node.directory + GPUS), "GPU-00000000-aaaa-bbbb-cccc-dddddddddddd"
    before = json.loads(file.read_text())["numbers"]
    file.write_text(json.dumps({"numbers": {lost: 0} | {uuid: index + 1 for uuid, index in before.items()}}))
    return lost


def test_no_gpu_is_divided_because_another_one_is_gone(tmp_path: Path) -> None:
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as node:
        assert node.converge(TEXT.replace("GPUS", "[1, 2, 3]")).plan.converged
        lost = lose_first(node)
        before = node.everything()
        outcome = node.converge(TEXT.replace("[0]", "[1]").replace("GPUS", "[0, 2, 3]"))
        assert not outcome.steps_taken
        assert node.everything() == before
        assert text_of(outcome.plan).count(f"GPU 0 ({lost[:12]}) is not here any more") == 2
        kept = json.loads(Path(node.node.directory + GPUS).read_text())["numbers"]
        assert kept[lost] == 0, "and the next pass knows it as well"


def test_what_is_named_by_uuid_goes_on(tmp_path: Path) -> None:
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as node:
        node.converge(TEXT.replace("GPUS", "[1, 2, 3]"))
        lose_first(node)
        assert node.converge(
            TEXT.replace("[0]", f"[{node.uuid(2)}]").replace("GPUS", f"[{node.uuid(0)}]")
        ).plan.converged
        assert node.instances()[2] == ["3g.20gb", "3g.20gb"]


def test_with_a_gpu_that_is_not_on_record_indices_count_as_they_are(tmp_path: Path) -> None:
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as node:
        node.converge(TEXT.replace("GPUS", "[1, 2, 3]"))
        file = Path(node.node.directory + GPUS)
        file.write_text(json.dumps({"numbers": {"GPU-of-another-board": 0, node.uuid(1): 1}}))
        assert node.converge(TEXT.replace("[0]", "[1]").replace("GPUS", "[0, 2, 3]")).plan.converged
        assert json.loads(file.read_text())["numbers"] == {node.uuid(index): index for index in range(4)}
