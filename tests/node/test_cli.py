"""The command as a person and a script meet it: verbs and errors, exit codes, forms of output."""

from __future__ import annotations

import json
import os
import re
import socket
from pathlib import Path

import pytest
import yaml

from agent_process import FILE, PROFILE
from cli_driver import Cli
from nodeagent import __version__
from nodeagent.host.lock import node_lock
from nodeagent.host.paths import CONTROL_SOCKET, JOURNAL, NODE_FILE

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


def golden(name: str, text: str) -> None:
    """Compare with tests/data/golden/NAME.txt."""
    assert text == (GOLDEN / f"{name}.txt").read_text(), f"see tests/data/golden/{name}.txt"


def test_plan_of_a_fresh_node_reads_like_a_diff(fresh: Cli) -> None:
    assert fresh("plan", file=True) == 3
    golden("plan-fresh", fresh.out)
    assert fresh("plan", "--only", "modules") == 3  # its own file appears from the profile's example
    golden("plan-example", fresh.out)
    assert (fresh.root / NODE_FILE.lstrip("/")).exists()


def test_plan_names_who_is_in_the_way_and_what_is_quiesced(cli: Cli, job: str, tmp_path: Path) -> None:
    other = tmp_path / "more.yaml"
    other.write_text(FILE.replace("gpus: [0]", "gpus: [0, 1, 2]"))
    assert cli("plan", "--file", str(other)) == 3
    text = re.sub(r"GPU-[0-9a-f]{8}", "GPU-########", cli.out).replace(job, "PID")
    golden("plan-blocked", text)
    assert cli("apply", "--file", str(other)) == 6
    assert f"process {job} (train.py" in cli.err
    assert "nothing was changed; end them, or use --partial for the rest" in cli.err
    assert cli("check", file=True) == 0


def test_apply_does_the_rest_with_partial(fresh: Cli) -> None:
    assert fresh("apply", file=True) == 0
    assert fresh.out == f"simulated node {PROFILE}: {_steps(fresh.out)} steps done, the node is as the file says\n"
    assert re.search(r"^act      load module nvidia +\d+\.\d\d s  ok$", fresh.err, re.MULTILINE)
    assert fresh("apply", file=True) == 0
    assert fresh.out == f"simulated node {PROFILE}: nothing to do, the node is as the file says\n"
    assert fresh.err == ""
    assert fresh("simulate", "job", "start", "--gpu", "1") == 0
    fresh.file.write_text(FILE.replace("gpus: [0]", "gpus: [0, 1, 2]"))
    assert fresh("apply", "--partial", file=True) == 6
    assert "blocked, will not be touched" in fresh.out
    assert fresh("show", "gpus") == 0
    assert len(re.findall(r"^  2 .* enabled ", fresh.out, re.MULTILINE)) == 1
    assert len(re.findall(r"^  1 .* disabled ", fresh.out, re.MULTILINE)) == 1


def _steps(text: str) -> str:
    return re.findall(r"(\d+) steps done", text)[0]


def test_a_failing_step_is_told_with_its_cause_and_exit_1(fresh: Cli) -> None:
    fresh("plan", file=True)
    assert fresh("simulate", "fail-module", "nvidia_uvm", "--on", "load", "--errno", "EINVAL") == 0
    assert fresh("apply", file=True) == 1
    assert "failed: load module nvidia_uvm: refused by its own init function" in fresh.out
    assert re.search(r"^act      load module nvidia_uvm +\d+\.\d\d s  failed$", fresh.err, re.MULTILINE)
    assert fresh("simulate", "heal") == 0
    assert fresh("apply", file=True) == 0


def test_dry_run_and_disruption(cli: Cli, tmp_path: Path) -> None:
    other = tmp_path / "off.yaml"
    other.write_text(FILE.replace("mode: enabled, gpus: [0], devices: {3g.20gb: 1, 1g.5gb: 1}", "mode: disabled"))
    assert cli("apply", "--dry-run", "--file", str(other)) == 3
    assert "destroy 3g.20gb" in cli.out
    assert cli("plan", "--disruption", "gpu=never", "--file", str(other)) == 3
    assert "disruption.gpu is never" in cli.out
    assert cli("plan", "--disruption", "gpu=sometimes", file=True) == 2
    assert "expected gpu, nic or node, =, and one of never, when-idle, allow" in cli.err
    assert cli("check", file=True) == 0


def test_check_lists_the_differences(fresh: Cli) -> None:
    assert fresh("check", file=True) == 3
    assert re.match(r"\d+ differences\n  load module ", fresh.out)
    assert fresh("check", "--only", "links", "-o", "json", file=True) == 3
    assert json.loads(fresh.out)["obstacles"][0]["waits"] is True


def test_status_without_an_agent_looks_directly(cli: Cli) -> None:
    assert cli("status", file=True) == 0
    assert "no agent is running, looking at the node directly" in cli.err
    assert "nothing to do" in cli.out


def test_a_socket_that_a_killed_agent_left_is_no_agent(cli: Cli) -> None:
    place = cli.root / CONTROL_SOCKET.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(place))
    assert cli("status", file=True) == 0
    assert "no agent is running" in cli.err
    assert cli("show", "links") == 0
    place.unlink()


@pytest.mark.parametrize("what", ["all", "gpus", "modules", "links", "rdma"])
def test_show(cli: Cli, what: str) -> None:
    assert cli("show", what) == 0
    headings = {"gpus": "PRODUCT", "modules": "REFS", "links": "MTU", "rdma": "LINK LAYER"}
    assert {name: title in cli.out for name, title in headings.items()} == dict.fromkeys(headings, what == "all") | (
        {} if what == "all" else {what: True}
    )
    assert "nvml worker" not in cli.out  # our own session is not part of the picture
    assert cli("show", what, "-o", "json") == 0
    document = json.loads(cli.out)
    assert document["schemaVersion"] == 1
    assert set(document) - {"schemaVersion"} == (
        {"kernel", "driver", "gpus", "modules", "links", "rdma", "unknown"} if what == "all" else {what}
    )


def test_show_names_the_jobs_on_a_gpu(cli: Cli, job: str) -> None:
    assert cli("show", "gpus") == 0
    assert f"process {job} (train.py --gpu 1)" in cli.out
    assert "3g.20gb" in cli.out
    assert "MIG-" in cli.out


def test_modules_list_load_unload_reload(cli: Cli) -> None:
    assert cli("modules", "list") == 0
    assert re.search(r"^  nvidia +live ", cli.out, re.MULTILINE)
    assert "igb" not in cli.out
    assert cli("modules", "list", "--all") == 0
    assert "igb" in cli.out
    assert cli("modules", "unload", "gdrdrv") == 0
    assert cli("check", "--only", "modules", file=True) == 3
    assert cli("modules", "load", "gdrdrv") == 0
    assert cli("modules", "reload", "nvidia", "--dry-run") == 0
    assert cli.out.index("unload module nvidia_uvm") < cli.out.index("load module nvidia ")
    assert cli("modules", "unload", "no_such_module", "-o", "json") == 2
    assert cli("apply", file=True) == 0


def test_modules_unload_refuses_while_somebody_holds_on(cli: Cli, job: str) -> None:
    assert cli("modules", "unload", "nvidia", "--dry-run") == 6
    assert cli("modules", "unload", "nvidia") == 6
    assert f"process {job}" in cli.err
    assert cli("check", file=True) == 0


def test_simulate_tells_what_it_knows(cli: Cli) -> None:
    assert cli("simulate", "profiles", node=False) == 0
    assert PROFILE in cli.out
    assert cli("simulate", "load", "--gpu", "9", "50") == 2
    assert "there are 0 to 3" in cli.err
    assert cli("simulate", "fail-module", "nvidia", "--on", "load", "--errno", "EWHAT") == 2
    assert cli("simulate", "job", "end", "1") == 2
    assert cli("simulate", "load", "--gpu", "0", "50") == 0


def test_simulate_remove(fresh: Cli) -> None:
    assert fresh("simulate", "remove") == 2
    assert "there is no simulated node" in fresh.err
    fresh("plan", file=True)
    assert fresh("simulate", "remove") == 0
    assert not fresh.root.exists()


def test_version_in_every_form(fresh: Cli) -> None:
    assert fresh("version", node=False) == 0
    assert fresh.out == f"nodeagent {__version__}\n"
    assert fresh("version", "-o", "json", node=False) == 0
    assert json.loads(fresh.out)["version"] == __version__
    assert fresh("version", "-o", "yaml", node=False) == 0
    assert yaml.safe_load(fresh.out)["version"] == __version__


PLAN_KEYS = ["schemaVersion", "converged", "steps", "transitions", "blocked", "obstacles", "remarks", "owed"]


def test_json_and_yaml_say_the_same_with_stable_keys(fresh: Cli) -> None:
    assert fresh("plan", "-o", "json", file=True) == 3
    plan = json.loads(fresh.out)
    assert list(plan) == PLAN_KEYS
    assert list(plan["transitions"][0]) == ["quiesce", "acts", "restore", "disturbs", "disturbed", "leftDown", "owed"]
    assert list(plan["transitions"][0]["acts"][0]) == ["step", "subject", "unit", "reason", "change", "disturbs"]
    assert fresh("plan", "-o", "yaml", file=True) == 3
    assert yaml.safe_load(fresh.out) == plan
    assert fresh("apply", "-o", "json", file=True) == 0
    done = json.loads(fresh.out)
    assert list(done) == ["stepsTaken", "rounds", "failures", "plan"]
    assert done["plan"]["converged"] is True


def test_errors_are_json_where_json_was_asked_for(fresh: Cli) -> None:
    fresh.file.write_text("version: 1\nwhat: 1\n")
    assert fresh("plan", "-o", "json", file=True) == 2
    assert fresh.out == ""
    error = json.loads(fresh.err)
    assert error["error"] == "SpecError"
    assert "node.yaml:2:1" in error["message"]


@pytest.mark.parametrize("verb", ["plan", "check", "apply", "run", "status"])
def test_a_bad_or_unreadable_file_is_exit_2_with_its_place(fresh: Cli, verb: str) -> None:
    fresh.file.write_text("version: 1\nmodules:\n  nvidia: {uvm: perhaps}\n")
    assert fresh(verb, file=True) == 2
    assert re.search(r"^nodeagent: \S+node\.yaml:3:\d+: modules\.nvidia\.uvm: ", fresh.err, re.MULTILINE)
    fresh.file.unlink()
    fresh.file.mkdir()
    assert fresh(verb, file=True) == 2
    assert "cannot be read: is a directory" in fresh.err
    fresh.file.rmdir()
    assert fresh(verb, file=True) == 2
    assert "no such file" in fresh.err


def test_wrong_usage_is_exit_2(fresh: Cli, tmp_path: Path) -> None:
    assert fresh(node=False) == 2
    assert fresh("planet", node=False) == 2
    assert "invalid choice: 'planet'" in fresh.err
    assert fresh("plan", "--only", "wheels", file=True) == 2
    assert fresh("plan", "--simulate-dir", str(tmp_path), node=False) == 2
    assert "--simulate-dir needs --simulate PROFILE" in fresh.err
    assert fresh("plan", "--simulate", "cray-1", "--simulate-dir", str(tmp_path / "x"), node=False) == 2
    assert PROFILE in fresh.err
    assert not (tmp_path / "x").exists()


def test_a_directory_with_something_else_in_it_is_not_touched(fresh: Cli) -> None:
    fresh.root.mkdir()
    (fresh.root / "diary").write_text("mine")
    for verb in ("plan", "apply", "show"):
        assert fresh(verb, *(() if verb == "show" else ("--file", str(fresh.file)))) == 1
        assert "the directory is not empty" in fresh.err
    assert [path.name for path in fresh.root.iterdir()] == ["diary"]


def test_a_second_instance_is_exit_75(cli: Cli) -> None:
    with node_lock(str(cli.root)):
        for words in (("apply",), ("modules", "unload", "gdrdrv"), ("run",)):
            assert cli(*words, file=True) == 75
            assert f"held by process {os.getpid()}" in cli.err
        assert cli("plan", file=True) == 0
        assert cli("check", file=True) == 0
        assert cli("simulate", "remove") == 75


def test_a_truncated_journal_is_exit_65_with_its_place(cli: Cli) -> None:
    journal = cli.root / JOURNAL.lstrip("/")
    journal.write_text('{"checksum": "5bd1e9')
    for verb in ("plan", "check", "apply"):
        assert cli(verb, file=True) == 65
        assert f"read journal {journal}: " in cli.err
        assert "line 1, byte" in cli.err
        assert "then remove the file" in cli.err
    assert journal.read_text() == '{"checksum": "5bd1e9'
    journal.unlink()
