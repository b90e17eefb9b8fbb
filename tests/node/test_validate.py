"""`nodeagent validate` on a simulated node: what passes, who is in the way, what fails, and what others wait for."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_process import FILE, PATIENCE_SECONDS, agent_on, is_alive
from cli_driver import Cli
from nodeagent.host.paths import VALIDATION_RESULTS, VALIDATIONS

FAULTS = "NODEAGENT_CUDA_FAULTS"


def findings(cli: Cli, *words: str, code: int = 0) -> list[dict[str, Any]]:
    assert cli("validate", *words, "-o", "json", file=True) == code, cli.err
    document = json.loads(cli.out)
    return [one for one in document["findings"] if isinstance(one, dict)]


def by_outcome(found: list[dict[str, Any]], outcome: str) -> list[str]:
    return [one["subject"] for one in found if one["outcome"] == outcome]


def uuids(cli: Cli) -> list[str]:
    return [one["subject"] for one in findings(cli, "driver")]


@pytest.fixture
def ready(cli: Cli) -> Iterator[Path]:
    """Where the ready files go; empty before and after."""
    folder = Path(f"{cli.root}{VALIDATIONS}")

    def clear() -> None:
        for path in folder.glob("*") if folder.exists() else ():
            path.unlink()
        for path in folder.glob(".*") if folder.exists() else ():
            path.unlink()

    clear()
    yield folder
    clear()


def test_every_gpu_and_every_mig_device_is_tried(cli: Cli) -> None:
    found = findings(cli, "cuda")
    kinds = sorted(one["subject"][:4] for one in found)
    assert kinds == ["GPU-", "GPU-", "GPU-", "MIG-", "MIG-"]  # GPU 0 is divided
    assert {one["outcome"] for one in found} == {"passed"}
    assert all(one["simulated"] for one in found)


def test_the_table_says_that_no_gpu_answered(cli: Cli) -> None:
    assert cli("validate", "cuda", file=True) == 0
    assert "no GPU" in cli.out
    assert cli.out.count("(simulated)") == 5
    assert "5 findings: 5 passed" in cli.out


def test_a_gpu_in_use_is_skipped_and_its_holder_named(cli: Cli, job: str) -> None:
    found = findings(cli, "cuda", code=6)
    (skipped,) = [one for one in found if one["outcome"] == "skipped"]
    assert skipped["subject"] == uuids(cli)[1]
    assert skipped["text"].startswith(f"held by process {job} (train.py")
    assert len(by_outcome(found, "passed")) == 4
    pairs = findings(cli, "p2p", code=6)
    assert len(by_outcome(pairs, "passed")) == 1
    assert len(by_outcome(pairs, "skipped")) == 2
    assert len(by_outcome(findings(cli, "cuda", "--in-use"), "passed")) == 5


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("add=wrong", "sums: "),
        ("cuMemAlloc_v2=2", "its memory is full"),
        ("cuInit=803", "different versions"),
        ("cuInit=hang", "no answer in 10 seconds"),
    ],
)
def test_a_fault_of_one_gpu_is_found_on_that_gpu_alone(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    bad = uuids(cli)[2]
    monkeypatch.setenv(FAULTS, f"{fault}@{bad}")
    is_held = fault == "cuMemAlloc_v2=2"
    found = findings(cli, "cuda", "--deadline", "10" if "hang" in fault else "60", code=6 if is_held else 1)
    (one,) = [one for one in found if one["outcome"] != "passed"]
    assert one["subject"] == bad
    assert words in one["text"]
    assert one["outcome"] == ("skipped" if is_held else "failed")


def test_without_a_driver_nothing_passes(fresh: Cli) -> None:
    found = findings(fresh, "driver", "cuda", code=1)
    assert [(one["proof"], one["outcome"]) for one in found] == [("driver", "failed"), ("cuda", "absent")]
    assert "nvidia and nvidia_uvm not loaded" in found[0]["text"]


def test_what_is_asked_for_by_name_must_be_there(cli: Cli) -> None:
    assert findings(cli, "gds", code=1)[0]["outcome"] == "absent"
    assert findings(cli, "gdrcopy")[0]["outcome"] == "passed"


def test_everything_at_once(cli: Cli) -> None:
    found = findings(cli, code=6)  # simulated NICs carry no traffic, which is said and is no pass
    assert {one["proof"] for one in found if one["outcome"] == "passed"} == {"driver", "cuda", "p2p", "gdrcopy", "ofed"}
    assert by_outcome(found, "failed") == []
    assert [one["proof"] for one in found if one["outcome"] == "skipped"] == ["rdma", "gpudirect"]


def test_wrong_words(cli: Cli) -> None:
    assert cli("validate", "cuda", "warp") == 2
    assert "there is no such proof; there are driver, cuda" in cli.err
    assert cli("validate", "cuda", "--deadline", "0") == 2


def test_waiting_ends_with_its_time(fresh: Cli) -> None:
    assert fresh("validate", "driver", "--wait", "1", file=True) == 7
    assert "nvidia and nvidia_uvm not loaded" in fresh.out


def test_ready_files_in_the_operators_form(cli: Cli, ready: Path) -> None:
    findings(cli, "driver", "cuda", "ofed", "--ready-files")
    assert sorted(path.name for path in ready.iterdir()) == [
        ".driver-ctr-ready",
        "cuda-ready",
        "driver-ready",
        "mofed-ready",
    ]
    sourced = dict(line.split("=") for line in (ready / "driver-ready").read_text().splitlines()[1:])
    assert sourced["IS_HOST_DRIVER"] == "true"
    assert sourced["DRIVER_ROOT_CTR_PATH"] == "/host"
    assert "GDRCOPY_ENABLED=true\n" in (ready / ".driver-ctr-ready").read_text()


def test_a_ready_file_goes_with_what_it_stood_for(cli: Cli, ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    findings(cli, "cuda", "--ready-files")
    assert (ready / "cuda-ready").exists()
    monkeypatch.setenv(FAULTS, "add=wrong")
    findings(cli, "cuda", "--ready-files", code=1)
    assert not (ready / "cuda-ready").exists()


def test_a_proof_that_was_skipped_takes_no_file_away(cli: Cli, ready: Path, job: str) -> None:
    findings(cli, "cuda", "--ready-files", "--in-use")
    findings(cli, "cuda", "--ready-files", code=6)
    assert (ready / "cuda-ready").exists()


def test_somebody_elses_ready_file_is_left_alone(cli: Cli, ready: Path) -> None:
    ready.mkdir(parents=True, exist_ok=True)
    (ready / "driver-ready").write_text("IS_HOST_DRIVER=false\n")
    findings(cli, "driver", "--ready-files")
    assert "driver-ready was written by another tool" in cli.err
    assert (ready / "driver-ready").read_text() == "IS_HOST_DRIVER=false\n"


def test_results_stay_for_the_agent(cli: Cli) -> None:
    Path(f"{cli.root}{VALIDATION_RESULTS}").unlink(missing_ok=True)
    findings(cli, "driver")
    findings(cli, "ofed")
    kept = json.loads(Path(f"{cli.root}{VALIDATION_RESULTS}").read_text())
    assert [one["proof"] for one in kept["findings"]] == ["driver"] * 4 + ["ofed"]


def test_the_agent_proves_in_the_background_and_tells_prometheus(tmp_path: Path) -> None:
    text = FILE + "validation: {interval_seconds: 1, gpu_trials: at-start}\nmetrics: {operator_names: true}\n"
    with agent_on(tmp_path, text) as agent:
        agent.wait_converged()
        until = time.monotonic() + 2 * PATIENCE_SECONDS
        while "gpu_operator_node_cuda_ready" not in (page := agent.fetch("/metrics")) and time.monotonic() < until:
            time.sleep(0.5)
        assert 'nodeagent_validation_findings{proof="cuda",outcome="passed"} 5' in page
        assert 'nodeagent_validation_passed{proof="driver",subject="GPU-' in page
        assert page.count('nodeagent_validation_passed{proof="p2p"') == 3
        assert (tmp_path / "n" / VALIDATIONS.removeprefix("/") / "cuda-ready").exists()
        assert agent.stop() == 0


def test_an_agent_that_is_told_to_stop_does_not_wait_for_a_gpu_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAULTS, "cuInit=hang")
    with agent_on(
        tmp_path, FILE + "validation: {interval_seconds: 1, gpu_trials: at-start, deadline_seconds: 600}\n"
    ) as agent:
        agent.wait_converged()
        until = time.monotonic() + PATIENCE_SECONDS
        while not (trials := hanging(agent.process.pid)) and time.monotonic() < until:
            time.sleep(0.1)
        assert trials
        assert agent.stop() == 0
        while any(is_alive(pid) for pid in trials) and time.monotonic() < until:
            time.sleep(0.1)
        assert not any(is_alive(pid) for pid in trials)


def hanging(parent: int) -> list[int]:
    """Trials that the agent's threads have started."""
    lists = [path.read_text().split() for path in Path(f"/proc/{parent}/task").glob("*/children")]
    pids = [int(pid) for pids in lists for pid in pids]
    return [pid for pid in pids if b"cuda_child" in Path(f"/proc/{pid}/cmdline").read_bytes()]
