"""Published files of nvidia-mig-parted through the verbs: what fits comes out equal, the rest is told with its line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.cli import main
from nodeagent.simulation.boards import board_named
from published import Row, file_text, fits, rows
from sim_node import SimNode, sim_node

DRIVER = "modules: {nvidia: {modeset: false}}\n"
PROFILE = "gpu-server-4x-a100"
OPERATORS = "o"  # the file that the GPU operator brings


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SimNode]:
    with sim_node(tmp_path, PROFILE, "in-process") as made:
        assert made.converge(DRIVER).plan.converged
        made.host.nvml.release()
        (tmp_path / "config.yaml").write_text(file_text(OPERATORS))
        yield made


def sorted_rows() -> tuple[list[Row], list[Row]]:
    """Labels that this board can have, and those that it cannot."""
    board = board_named("A100-SXM4-40GB")
    meant = [(row, row.wish(0, board.pci_device_id)) for row in rows() if OPERATORS in row.files]
    wished = [(row, dict(found.counts or {})) for row, found in meant if found is not None]
    return [row for row, counts in wished if fits(board, counts)], [
        row for row, counts in wished if not fits(board, counts)
    ]


def test_what_fits_is_applied_asserted_and_exported_to_an_equal_file(
    node: SimNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--simulate", PROFILE, "--simulate-dir", node.node.directory)
    good, _ = sorted_rows()
    assert len(good) == 10
    for row in good:
        given = ("-f", str(tmp_path / "config.yaml"), "-c", row.label)
        assert main(["mig", "apply", *where, *given]) == 0, row.label
        assert main(["mig", "assert", *where, *given]) == 0, row.label
        capsys.readouterr()
        assert main(["mig", "export", *where, "-l", row.label]) == 0
        (tmp_path / "exported.yaml").write_text(capsys.readouterr().out)
        assert main(["mig", "assert", *where, "-f", str(tmp_path / "exported.yaml")]) == 0, row.label
        wish = row.wish(0, 0x20B010DE)
        assert wish is not None
        wanted = sorted(name for name, count in (wish.counts or {}).items() for _ in range(count))
        assert node.instances() == [wanted] * 4


def test_what_does_not_fit_is_refused_with_line_and_key_and_nothing_happens(
    node: SimNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, bad = sorted_rows()
    lines = (tmp_path / "config.yaml").read_text().splitlines()
    before = node.everything()
    for row in (bad[0], bad[len(bad) // 2], bad[-1]):
        given = ("-f", str(tmp_path / "config.yaml"), "-c", row.label, "-o", "json")
        assert main(["mig", "apply", "--simulate", PROFILE, "--simulate-dir", node.node.directory, *given]) != 0
        told = capsys.readouterr()
        text = told.out + told.err
        place, _, rest = text.partition(f": mig-configs.{row.label}[")[0].rpartition("config.yaml:")[2].partition(":")
        ((profile, count),) = (row.entries[-1].counts or {}).items()
        assert lines[int(place) - 1].strip() == f"{profile}: {count}"
        assert int(rest) > 0
        assert "there is no profile" in text
    assert node.everything() == before
