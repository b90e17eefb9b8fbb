"""The command at a terminal and in a shell: colours, progress, help, completion, interruption."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent_process import PATIENCE_SECONDS, PROFILE, command, run_command
from cli_driver import Cli
from nodeagent.cli import VERBS
from nodeagent.cli.health import health_text
from nodeagent.cli.output import Style, in_blocks
from nodeagent.cli.repair import list_text, plan_text
from nodeagent.errors import UsageError
from nodeagent.host.paths import JOURNAL
from nodeagent.simulation.node import open_node
from nodeagent.state.health import Finding, Health, Subject, SubjectKind, Verdict
from nodeagent.state.repair import Standing

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
COLOUR = "\x1b["


def test_colours_only_where_asked_for(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("show") == 0
    assert COLOUR not in cli.out
    assert cli("show", "--color", "always") == 0
    assert COLOUR in cli.out
    monkeypatch.setenv("NO_COLOR", "1")
    assert cli("show", "--color", "always") == 0
    assert COLOUR in cli.out
    assert cli("show", "--color", "always", "-o", "json") == 0
    assert COLOUR not in cli.out


def on_terminal(*words: str, **variables: str) -> str:
    """What the command writes to a terminal of 100 columns."""
    leader, follower = os.openpty()
    environment = {**os.environ, "COLUMNS": "100", **variables}
    environment.pop("NO_COLOR", None) if "NO_COLOR" not in variables else None
    process = subprocess.Popen(command(*words), env=environment, stdout=follower, stderr=follower, stdin=follower)
    os.close(follower)
    found = b""
    try:
        while part := os.read(leader, 65536):
            found += part
    except OSError:
        pass  # EIO: the last writer has closed its end
    process.wait(PATIENCE_SECONDS)
    os.close(leader)
    return found.decode()


def test_a_terminal_gets_colours_and_lines_that_fit(cli: Cli) -> None:
    target = ("--simulate", PROFILE, "--simulate-dir", str(cli.root))
    shown = on_terminal("show", *target)
    assert COLOUR in shown
    plain = re.sub(r"\x1b\[[0-9;]*[mK]", "", shown)
    assert max(len(line.rstrip("\r")) for line in plain.split("\n")) <= 100
    assert COLOUR not in on_terminal("show", *target, NO_COLOR="1")
    assert COLOUR not in on_terminal("show", *target, "--color", "never")


def test_progress_on_a_terminal_shows_the_step_at_work(fresh: Cli) -> None:
    target = ("--simulate", PROFILE, "--simulate-dir", str(fresh.root), "--file", str(fresh.file))
    said = on_terminal("apply", *target)
    assert "act      load module nvidia ...\r\x1b[Kact      load module nvidia " in said


def verbs_with_help() -> list[tuple[str, ...]]:
    below = {
        "modules": ("list", "load", "unload", "reload"),
        "config": ("validate", "show", "example", "schema", "reference"),
        "simulate": ("profiles", "heal", "remove", "lose", "hang", "load", "fail-module"),
    }
    return [(verb, *more) for verb in VERBS for more in [(), *((word,) for word in below.get(verb, ()))]]


@pytest.mark.parametrize("words", verbs_with_help(), ids=" ".join)
def test_every_verb_has_help_with_an_example(fresh: Cli, words: tuple[str, ...]) -> None:
    assert fresh(*words, "--help", node=False) == 0
    assert f"usage: nodeagent {' '.join(words)}" in fresh.out
    assert "example" in fresh.out
    assert f"  nodeagent {words[0]}" in fresh.out
    assert max(len(line) for line in fresh.out.splitlines()) <= 120


def test_the_overview_names_every_verb_and_exit_code(fresh: Cli) -> None:
    assert fresh("--help", node=False) == 0
    assert all(re.search(rf"^    {verb}\b", fresh.out, re.MULTILINE) for verb in VERBS)
    codes = {int(code) for code in re.findall(r"(?:^|\s)(\d+) [a-z]", fresh.out[fresh.out.index("exit codes") :])}
    assert codes >= {0, 1, 2, 3, 6, 7, 8, UsageError.exit_code, 75}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(fresh: Cli, shell: str) -> None:
    assert fresh("completion", shell, node=False) == 0
    assert "nodeagent" in fresh.out
    program = shutil.which(shell)
    if program:  # bash is everywhere; the others check their script where they are installed
        checked = subprocess.run([program, "-n"], input=fresh.out, text=True, capture_output=True, check=False)
        assert checked.returncode == 0, checked.stderr


def completions(line: str, tmp_path: Path) -> list[str]:
    """What a shell would be offered for this command line."""
    answer = tmp_path / "completions"
    variables = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "_ARGCOMPLETE_IFS": "\n",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    code = "import sys; sys.argv[0] = 'nodeagent'; from nodeagent.cli import main; main()"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, check=False)
    return [word.strip() for word in answer.read_text().split("\n")]


def test_completion_offers_verbs_options_and_choices(tmp_path: Path) -> None:
    assert completions("nodeagent pl", tmp_path) == ["plan"]
    assert set(completions("nodeagent modules ", tmp_path)) >= {"list", "load", "unload", "reload"}
    assert completions("nodeagent plan --on", tmp_path) == ["--only"]
    assert set(completions("nodeagent plan -o ", tmp_path)) == {"table", "json", "yaml"}


@pytest.mark.parametrize("width", [0, 1, 20, 33, 40, 100])
def test_a_table_that_is_too_wide_goes_on_below_itself(width: int) -> None:
    header = ["", *(f"column{number}" for number in range(7))]
    rows = [[f"row{line}", *(f"{line}.{number}" for number in range(7))] for line in range(3)]
    blocks = [block.split("\n") for block in in_blocks(rows, header, width).split("\n\n")]
    assert [word for block in blocks for word in block[0].split()] == header[1:]
    for line, row in enumerate(rows, 1):
        assert [word for block in blocks for word in block[line].split()[1:]] == row[1:]
    assert all(line.startswith("row") for block in blocks for line in block[1:])
    if width >= 20:
        assert max(len(line) for block in blocks for line in block) <= width
    if not width:
        assert len(blocks) == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("validate", "--wait", "nan"), "nan: expected a number of seconds, 0 or more"),
        (("validate", "cuda", "--deadline", "inf"), "inf: expected a number of seconds above 0"),
        (("health", "--wait", "-1"), "-1: expected a number of seconds, 0 or more"),
        (("top", "--once", "--interval", "0"), "0: expected a number of seconds above 0"),
        (("events", "--limit", "-1"), "-1: expected a whole number, 1 or more"),
        (("events", "--limit", "many"), "many: expected a whole number, 1 or more"),
        (("simulate", "hang", "--gpu", "0", "--seconds", "-1"), "-1: expected a number of seconds above 0"),
        (("simulate", "load", "101", "--gpu", "0"), "101: expected a whole number from 0 to 100"),
    ],
)
def test_what_is_no_quantity_is_refused_before_anything_is_done(words: tuple[str, ...], expected: str) -> None:
    said = run_command(*words)
    assert said.returncode == 2
    assert expected in said.stderr
    assert "Traceback" not in said.stderr


def test_show_says_which_node_it_looked_at(fresh: Cli) -> None:
    assert fresh("show", "rdma") == 0
    assert fresh.out.startswith(f"simulated node {PROFILE}\n")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("nodeagent plan --simulate dgx-a", {"dgx-a100"}),
        ("nodeagent simulate reboot --simulate gpu-s", {"gpu-server-4x-a100"}),
        ("nodeagent config example dgx-b", {"dgx-b200"}),
        ("nodeagent health --explain row", {"row-remap"}),
        ("nodeagent apply --disruption gpu=n", {"gpu=never"}),
        ("nodeagent modules unload nvidia_p", {"nvidia_peermem"}),
        ("nodeagent config exa", {"example"}),
    ],
)
def test_completion_offers_what_values_there_are(line: str, offered: set[str], tmp_path: Path) -> None:
    assert offered <= set(completions(line, tmp_path))


def test_a_reader_that_goes_away_is_no_failure(cli: Cli) -> None:
    words = command("show", "-o", "json", "--simulate", PROFILE, "--simulate-dir", str(cli.root))
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE_SECONDS) == 0


def test_apply_stops_between_two_steps_when_asked(fresh: Cli) -> None:
    place = ("--simulate", PROFILE, "--simulate-dir", str(fresh.root), "--file", str(fresh.file))
    with subprocess.Popen(command("apply", *place), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as found:
        assert found.stderr is not None
        found.stderr.readline()
        found.send_signal(signal.SIGTERM)
        _, errors = found.communicate(timeout=PATIENCE_SECONDS)
    assert "stopped as asked" in errors
    assert found.returncode == 3
    assert not (fresh.root / JOURNAL.lstrip("/")).exists()
    assert fresh("apply", file=True) == 0


def test_status_and_simulate_find_the_only_simulated_agent(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without --simulate: the agent of this user that runs on a simulated node in its default place."""
    tmp_path = tmp_path_factory.mktemp("s")  # short, as a unix socket's path has to be
    variables = {"XDG_RUNTIME_DIR": str(tmp_path)}
    words = command("run", "--simulate", PROFILE, "--listen", "127.0.0.1:0")
    with (tmp_path / "log").open("w") as log:
        agent = subprocess.Popen(words, env={**os.environ, **variables}, stderr=log)
    try:
        until = time.monotonic() + PATIENCE_SECONDS
        while "converged: " not in (tmp_path / "log").read_text() and time.monotonic() < until:
            time.sleep(0.05)
        status = run_command("status", "-o", "json", **variables)
        assert json.loads(status.stdout)["pid"] == agent.pid
        started = run_command("simulate", "job", "start", "--gpu", "0", **variables)
        assert started.returncode == 0, started.stderr
    finally:
        agent.terminate()
        assert agent.wait(PATIENCE_SECONDS) == 0
    assert open_node(PROFILE, str(tmp_path / f"nodeagent-{PROFILE}")).profile.name == PROFILE


@pytest.mark.parametrize("standing", Standing)
@pytest.mark.parametrize("width", [0, 100])
def test_decisions_about_repair_are_aligned_and_coloured_at_a_terminal(standing: Standing, width: int) -> None:
    one = {
        "id": "3fa9c1",
        "standing": standing.value,
        "action": "reset-gpu",
        "subject": "GPU-32557c9d-1c6d-5310-ad2f-0048be9a91de",
        "findings": [{"check": "ecc"}],
        "reason": "it waits for an approval",
        "inTheWay": ["process 12"],
        "steps": ["reset"],
    }
    document = {
        "mode": "on",
        "trouble": "cannot be read",
        "paused": "",
        "rebootAsked": "ecc",
        "decisions": [one, {**one, "id": "3fa9c2", "standing": "denied"}],
        "quarantines": [],
        "slurmDrain": "",
        "attempts": [],
    }
    for text in (list_text, plan_text):
        plain, coloured = (text(document, Style(enabled=enabled, width=width)) for enabled in (False, True))
        assert re.sub(r"\x1b\[\d+m", "", coloured) == plain
        assert "\x1b[31m" in coloured
    rows = [line for line in list_text(document, Style(enabled=False)).split("\n") if line.startswith(("ID", "3fa9c"))]
    assert len({re.search(r" (ACTION|reset-gpu) ", row).start() for row in rows}) == 1


@pytest.mark.parametrize("enabled", [False, True])
def test_what_a_device_fails_for_one_reason_is_told_once(enabled: bool) -> None:
    gpu, other = (
        Subject(SubjectKind.GPU, f"GPU-{digit * 8}-1c6d-5310-ad2f-0048be9a91de", "0000:07:00.0") for digit in "12"
    )
    silent = [
        Finding(gpu, check, Verdict.UNKNOWN, "does not answer", since=9.5) for check in ("ecc", "nvlink", "clocks")
    ]
    found = Health((*silent, replace(silent[0], subject=other), Finding(gpu, "xid", Verdict.FAILED, "Xid 79")), 1.0)
    text = re.sub(r"\x1b\[\d+m", "", health_text(found, Style(enabled=enabled), everything=False))
    heads = [line.partition(", since")[0] for line in text.split("\n") if line.startswith(("unknown", "failed"))]
    assert heads[0] == "failed GPU-11111111 0000:07:00.0 xid"
    assert sorted(heads[1:]) == [
        "unknown GPU-11111111 0000:07:00.0 clocks, ecc, nvlink",
        "unknown GPU-22222222 0000:07:00.0 ecc",
    ]
