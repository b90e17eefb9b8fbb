"""What a person gets wrong on the command line: exit code 2, what there is, and what was probably meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli_driver import Cli
from nodeagent.host.paths import JOURNAL


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("sttus",), "status"),
        (("modules", "unlod", "nvidia"), "unload"),
        (("plan", "--oly", "mig"), "--only"),
        (("apply", "--only", "mgi"), "mig"),
        (("config", "exmple"), "example"),
        (("mig", "export", "--fromat=node"), "--format"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(cli: Cli, words: tuple[str, ...], meant: str) -> None:
    assert cli(*words, node=False) == 2
    assert f"did you mean {meant}?" in cli.err


def test_an_option_that_does_not_exist_shows_the_usage_of_its_verb(cli: Cli) -> None:
    assert cli("plan", "--zzz", node=False) == 2
    assert cli.err.startswith("usage: nodeagent plan")
    assert cli.err.endswith("nodeagent plan: error: unrecognized arguments: --zzz\n")


def test_a_module_that_does_not_exist_is_no_success(cli: Cli) -> None:
    for verb in ("unload", "reload"):
        assert cli("modules", verb, "nvidia_pearmem") == 2
        assert "module nvidia_pearmem: there is no such module or set; did you mean nvidia_peermem? " in cli.err
        assert "loaded are gdrdrv, nvidia_" in cli.err
        assert "sets are nvidia, " in cli.err


def test_a_slip_in_what_is_to_be_loaded_is_told_and_a_module_without_a_file_is_a_matter_of_packages(cli: Cli) -> None:
    assert cli("modules", "load", "nvida") == 2
    assert "module nvida: there is no such module or set; did you mean nvidia? " in cli.err
    assert cli("modules", "load", "nvidia", "rdam", "--dry-run") == 2
    assert "did you mean rdma? " in cli.err
    assert cli("modules", "load", "irdma", "--dry-run") == 0, "of the table, and without a file here"
    assert "module irdma: no file for kernel " in cli.out
    assert cli("modules", "load", "zzz") == 3
    assert "module zzz: no file for kernel " in cli.out


def test_what_is_not_loaded_need_not_be_unloaded_and_no_file_is_spoken_of(cli: Cli) -> None:
    assert cli("modules", "unload", "nouveau") == 0
    assert cli.out.endswith("nothing to do, the modules are as asked\nnote: module nouveau is not loaded\n")
    assert cli("modules", "unload", "nouveau", "--dry-run") == 0
    assert "nothing to do, the modules are as asked" in cli.out


def test_a_layout_by_words_is_told_in_those_words(cli: Cli) -> None:
    assert cli("mig", "plan", "--gpus", "99", "1g.5gb=7") == 3
    assert "--gpus 99: no GPU is 99; valid are indices 0 to " in " ".join(cli.out.split())
    assert "mig[" not in cli.out
    assert cli("mig", "apply", "--gpus", "1", "7g.40gb=1") == 0
    assert cli.out.endswith("the layout is as asked\n")
    assert cli("mig", "plan", "--gpus", "1", "7g.40gb=1") == 0
    assert cli.out.endswith("nothing to do, the layout is as asked\n")


def test_a_missing_file_is_told_with_the_kind_that_is_expected(cli: Cli, tmp_path: Path) -> None:
    missing = str(tmp_path / "none")
    assert cli("config", "import", missing, node=False) == 2
    assert "no such file or directory; expected a file of another program" in cli.err
    assert cli("mig", "restore", "--file", missing) == 2
    assert "no such file or directory; expected a checkpoint (JSON)" in cli.err
    assert cli("config", "show", missing, node=False) == 2
    assert "expected a YAML file" in cli.err


def test_a_report_that_cannot_be_put_there_is_a_slip(cli: Cli, tmp_path: Path) -> None:
    assert cli("report", "--output-file", str(tmp_path / "none" / "x.tar.gz")) == 2
    assert f"there is no directory {tmp_path / 'none'}; make it" in cli.err
    there = tmp_path / "there.tar.gz"
    there.write_text("mine")
    assert cli("report", "--output-file", str(there)) == 2
    assert "it is there already" in cli.err
    assert there.read_text() == "mine"


def test_status_tells_of_a_damaged_journal_where_it_is_and_what_to_do(cli: Cli) -> None:
    journal = cli.root / JOURNAL.lstrip("/")
    journal.write_text("{")
    assert cli("status", file=True) == 65
    assert f"read journal {journal}: line 1, byte 1 of 1" in cli.err
    assert "compare `nodeagent show` with what you expect, then remove the file" in cli.err
    journal.unlink()
    assert cli("status", "--help", node=False) == 0
    assert "65 the journal of an earlier run is damaged" in cli.out


def test_nodes_that_ask_for_no_rdma_do_not_fail_for_want_of_it(cli: Cli, tmp_path: Path) -> None:
    assert cli("modules", "unload", "rdma") == 0
    found = {}
    for text in ("modules: {nvidia: {}}", "modules: {nvidia: {}, rdma: {}}", "loop: {}"):
        file = tmp_path / "wish.yaml"
        file.write_text(f"version: 1\n{text}\n")
        assert cli("validate", "ofed", "--file", str(file), "-o", "json") == 1  # asked for by name
        (finding,) = json.loads(cli.out)["findings"]
        found[text] = (finding["outcome"], "the node file does not ask for it (modules.rdma)" in finding["text"])
    assert list(found.values()) == [("absent", True), ("failed", False), ("failed", False)]
