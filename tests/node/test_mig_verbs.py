"""The verbs of `nodeagent mig` on a simulated node, from words and files to what is then there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from nodeagent.cli import main
from nodeagent.spec.mig_parted import PartedFile, parse_parted
from nodeagent.spec.reader import parse_spec
from sim_node import GIB, SimNode, sim_node

PARTED = Path(__file__).parents[1] / "data" / "mig-parted"
DRIVER = "modules: {nvidia: {modeset: false}}\n"
Mig = Callable[..., tuple[int, str, str]]


@pytest.fixture(params=["dgx-a100"])
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SimNode]:
    with sim_node(tmp_path, request.param, "in-process") as made:
        assert made.converge(DRIVER).plan.converged
        made.host.nvml.release()
        yield made


@pytest.fixture
def mig(node: SimNode, capsys: pytest.CaptureFixture[str]) -> Mig:
    """The exit code and what is printed of `nodeagent mig WORDS` on the node."""
    profile = node.node.kernel.profile.name

    def call(*words: str) -> tuple[int, str, str]:
        operation, *rest = words
        where = ("--simulate", profile, "--simulate-dir", node.node.directory)
        code = main(["mig", operation, *where, *rest])
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


def devices(node: SimNode) -> list[list[str]]:
    return node.instances()


def test_apply_words_assert_them_and_apply_again(node: SimNode, mig: Mig) -> None:
    wanted = ("3g=1", "1g=2,1g+me=1", "--gpus", "0,2")
    code, out, _ = mig("assert", *wanted)
    assert code == 3
    assert "10 differences, to be as wanted" in out
    assert "create 3g.20gb at 0 on GPU 0" in out
    assert mig("apply", *wanted)[0] == 0
    assert devices(node)[0] == devices(node)[2] == ["1g.5gb", "1g.5gb", "1g.5gb+me", "3g.20gb"]
    assert [layout.enabled for layout in node.mig()] == [True, False, True, *[False] * 5]
    assert mig("assert", *wanted)[:2] == (0, "the layout is as wanted\n")
    code, out, _ = mig("apply", *wanted)
    assert code == 0
    assert "nothing to do" in out


def test_the_picture_shows_slices_and_who_uses_them(node: SimNode, mig: Mig) -> None:
    assert mig("apply", "3g.20gb=1", "1g.5gb=1", "--gpus", "0")[0] == 0
    (row,) = (row for row in node.mig()[0].rows if row.profile == "1g.5gb")
    pid = node.node.start_mig_job(0, row.uuid, "serve.py", GIB)
    code, out, _ = mig("show", "--gpus", "0")
    assert code == 0
    head, top, middle, bottom, numbers, *rows = out.splitlines()
    assert head.startswith("GPU 0  NVIDIA A100-SXM4-40GB  0000:07:00.0  MIG enabled")
    assert "3g.20gb" in middle
    assert "1g.5gb *" in middle
    assert len(top) == len(middle) == len(bottom)
    assert numbers.split() == [str(index) for index in range(8)]
    assert any(f"process {pid} (serve.py --gpu 0)" in line for line in rows)
    document = json.loads(mig("show", "--gpus", "0", "-o", "json")[1])
    (first, second) = document["gpus"][0]["instances"]
    assert [first["profile"], second["profile"]] == ["3g.20gb", "1g.5gb"]
    assert second["computeInstances"][0]["processes"] == [{"pid": pid, "name": "serve.py --gpu 0"}]


def test_an_orphan_is_shown_and_repaired(node: SimNode, mig: Mig) -> None:
    assert mig("apply", "3g.20gb=2", "--gpus", "0")[0] == 0
    gpu = node.uuid(0)
    (found,) = (one for one in node.host.nvml.gpus()[0] if one.uuid == gpu)
    orphan = found.instances[1]
    node.host.nvml.destroy_compute_instance(gpu, orphan.placement, orphan.compute_instances[0].placement)
    assert "(orphan)" in mig("show", "--gpus", "0")[1]
    code, out, _ = mig("plan", "3g.20gb=2", "--gpus", "0")
    assert code == 3
    assert "create the whole compute instance at 0 in 3g.20gb at 4" in out
    node.host.nvml.release()
    assert mig("apply", "3g.20gb=2", "--gpus", "0")[0] == 0
    assert mig("assert", "3g.20gb=2", "--gpus", "0")[0] == 0


def test_profiles_tells_places_limits_and_layouts(mig: Mig) -> None:
    code, out, _ = mig("profiles")
    assert code == 0
    assert "NVIDIA A100-SXM4-40GB (GPU 0-7)" in out
    assert "3g.20gb    9   3        4       19.5 GiB  2    0, 4" in out
    assert "all-balanced" in out


def test_fit_says_which_layouts_are_possible(node: SimNode, mig: Mig) -> None:
    code, out, _ = mig("fit", "2g=2", "--gpus", "0", "-o", "json")
    assert code == 0
    layouts = json.loads(out)["boards"][0]["layouts"]
    assert {"2g.10gb": 2, "3g.20gb": 1} in layouts
    assert all(layout["2g.10gb"] >= 2 for layout in layouts)
    code, out, _ = mig("fit", "4g=1", "3g=1", "1g=1", "--gpus", "0")
    assert code == 3
    assert "they need 8 compute slices, the board has 7" in out
    assert mig("apply", "1g=1", "--gpus", "0")[0] == 0
    node.node.start_mig_job(0, node.mig()[0].rows[0].uuid, "serve.py", GIB)
    code, out, _ = mig("fit", "4g=1", "--gpus", "0")
    assert code == 3
    assert "in use: 1g.5gb at 0 by process" in out
    assert "do not fit beside what is in use" in out


def parted(path: Path) -> PartedFile:
    return parse_parted(path.read_text(), str(path))


def labels() -> list[tuple[str, str]]:
    return [("a100-40gb.yaml", label) for label in parted(PARTED / "good" / "a100-40gb.yaml").configs]


def test_every_configuration_of_mig_parted_is_applied_asserted_and_exported_to_an_equal_file(
    node: SimNode, mig: Mig, tmp_path: Path
) -> None:
    for name, label in labels():
        given = ("-f", str(PARTED / "good" / name), "-c", label)
        assert mig("apply", *given)[0] == 0, label
        assert mig("assert", *given)[0] == 0, label
        copy = tmp_path / "exported.yaml"
        copy.write_text(mig("export", "-l", label)[1])
        assert mig("assert", "-f", str(copy), "-c", label)[0] == 0, label
        again = mig("apply", "-f", str(copy))
        assert again[0] == 0
        assert "nothing to do" in again[1], label
        assert mig("export", "-l", label)[1] == copy.read_text()
        assert meaning(copy, label) == meaning(PARTED / "good" / name, label), label


def meaning(path: Path, label: str) -> list[tuple[bool, dict[str, int]]]:
    """What each of eight GPUs of the kind A100 is to be."""
    found: list[tuple[bool, dict[str, int]]] = [(False, {})] * 8
    for entry in parted(path).config(label):
        for index in range(8) if entry.devices is None else entry.devices:
            if not entry.filters or "0x20B010DE" in entry.filters:
                found[index] = (entry.enabled, dict(entry.counts))
    return found


def test_a_file_of_mig_parted_on_the_standard_input(node: SimNode) -> None:
    words = ("mig", "assert", "--simulate", node.node.kernel.profile.name, "--simulate-dir", node.node.directory)

    def given(text: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "nodeagent", *words, "-f", "-"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    off = "version: v1\nmig-configs: {a: [{devices: all, mig-enabled: false}]}\n"
    assert given(off) == (0, "the layout is as wanted\n")
    code, told = given(off.replace("all", "some"))
    assert code == 2
    assert "standard input:2:29: mig-configs.a[0].devices: expected all or a list of indices, found some" in told
    code, told = given("version: 1\n")
    assert code == 2
    assert "--file -: standard input has no key mig-configs" in told


@pytest.mark.parametrize("node", ["dgx-h100"], indirect=True)
def test_files_for_another_board_on_that_board(node: SimNode, mig: Mig) -> None:
    for label in ("mixed", "all-1g.20gb"):
        given = ("-f", str(PARTED / "good" / "h100-80gb.json"), "-c", label)
        assert mig("apply", *given)[0] == 0
        assert mig("assert", *given)[0] == 0
    code, out, _ = mig("plan", "-f", str(PARTED / "good" / "a100-40gb.yaml"), "-c", "all-1g.5gb")
    assert code == 3
    assert "there is no profile 1g.5gb; did you mean 1g.10gb or 1g.20gb" in out


@pytest.mark.parametrize("name", sorted(path.stem for path in (PARTED / "bad").iterdir()))
def test_wrong_files_are_refused_before_anything_is_looked_at(node: SimNode, mig: Mig, name: str) -> None:
    before = node.everything()
    path = PARTED / "bad" / f"{name}.yaml"
    code, _, told = mig("apply", "-f", str(path), "-c", "a")
    assert code == 2
    assert f"{path}:" in told
    assert node.everything() == before


def test_only_the_mode_as_mig_parted_does_with_m(node: SimNode, mig: Mig) -> None:
    given = ("-f", str(PARTED / "good" / "a100-40gb.yaml"), "-c", "all-3g.20gb", "-m")
    assert mig("apply", *given)[0] == 0
    assert all(layout.enabled and not layout.rows for layout in node.mig())
    assert mig("assert", *given)[0] == 0
    assert mig("assert", *given[:-1])[0] == 3


@pytest.mark.parametrize("exact", [(), ("--exact",)])
def test_an_exported_node_file_is_one_and_changes_nothing(
    node: SimNode, mig: Mig, tmp_path: Path, exact: tuple[str, ...]
) -> None:
    assert mig("apply", "1c.3g.20gb=2", "1g.5gb=3", "--gpus", "1,2")[0] == 0
    text = mig("export", "--format", "node", *exact)[1]
    assert len(parse_spec(text, "exported").mig) == 2
    (tmp_path / "exported.yaml").write_text(text)
    assert mig("assert", "-f", str(tmp_path / "exported.yaml"))[0] == 0
    assert yaml.safe_load(text)["version"] == 1


def test_a_checkpoint_brings_back_places_and_parts(node: SimNode, mig: Mig, tmp_path: Path) -> None:
    path = str(tmp_path / "layout.json")
    assert mig("apply", "1c.3g.20gb=2", "1g.5gb+me=1", "--gpus", "0,5")[0] == 0
    before = [[(row.profile, row.placement) for row in layout.rows] for layout in node.mig()]
    assert mig("checkpoint", "-f", path)[0] == 0
    assert mig("apply", "--layout", "all-1g.5gb")[0] == 0
    assert mig("restore", "-f", path, "--dry-run")[0] == 0
    assert mig("restore", "-f", path)[0] == 0
    assert [[(row.profile, row.placement) for row in layout.rows] for layout in node.mig()] == before
    assert json.loads(mig("checkpoint")[1]) == json.loads(Path(path).read_text())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("plan", "3g.20gb=x"), "3g.20gb=x: expected PROFILE=COUNT such as 3g.20gb=1"),
        (("show", "--gpus", "9"), "--gpus 9: no GPU is 9; valid are indices 0 to 7"),
        (("plan", "3g=1", "--layout", "all-3g"), "--layout all-3g: excludes profiles; expected one or the other"),
        (("apply", "-f", "/nonexistent/file"), "/nonexistent/file: cannot be read"),
        (("apply", "-f", str(PARTED / "good" / "a100-40gb.yaml"), "-c", "x"), "no configuration x; there are"),
    ],
)
def test_wrong_words_are_told(mig: Mig, words: tuple[str, ...], told: str) -> None:
    code, _, said = mig(*words)
    assert code == 2
    assert told in said


def test_a_node_file_without_the_section_says_so(node: SimNode, mig: Mig, tmp_path: Path) -> None:
    code, _, told = mig("plan", "-f", node.write(DRIVER))
    assert code == 2
    assert "has no section mig; name profiles such as 3g.20gb=1, a --layout, or another --file" in told
    code, _, told = mig("plan", "-f", node.write(DRIVER), "-c", "a")
    assert code == 2
    assert "has no key mig-configs, so there are no labels; expected a file of nvidia-mig-parted" in told


def test_drift_report_binds_the_agent_and_not_the_operator(node: SimNode, mig: Mig) -> None:
    text = DRIVER + "mig: [{layout: all-3g, gpus: [0], drift: report}]\n"
    plan = node.plan(text)
    assert not plan.transitions
    assert "drift: report leaves it so: enable MIG; create 3g.20gb at 0" in plan.obstacles[0].problem
    node.host.nvml.release()
    assert mig("apply", "-f", node.write(text))[0] == 0
    left = node.plan(text)
    assert not left.obstacles
    assert all("nvidia-cap" in str(step) for one in left.transitions for step in one.acts), "their nodes are all"
