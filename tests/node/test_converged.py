"""Once a node is as its file says, no verb that looks or applies writes anything; for the examples of all profiles."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodeagent.cli import main
from nodeagent.cli.target import EXAMPLE_OF
from nodeagent.simulation.profiles import profiles
from nodeagent.spec.example import example_text
from sim_node import sim_node


@pytest.mark.parametrize("profile", tuple(profiles()))
def test_applying_again_does_nothing_and_writes_nothing(
    tmp_path: Path, profile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with sim_node(tmp_path, profile, "in-process") as node:
        file = node.write(example_text(EXAMPLE_OF.get(profile, profile)).replace("version: 1\n", "", 1))
        words = ("--simulate", profile, "--simulate-dir", node.node.directory, "--file", file)
        assert main(["apply", *words]) == 0
        capsys.readouterr()
        before = node.marks(), node.everything()
        for verb in ("apply", "check", "plan"):
            assert main([verb, *words]) == 0
            said = capsys.readouterr()
            assert "as the file says" in said.out
            assert not said.err
        assert (node.marks(), node.everything()) == before
