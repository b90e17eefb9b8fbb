"""A hang of any NVML call costs the GPU it is about and nothing else: loop, metrics, socket and watchdog live on."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from hangs import OF_THE_MACHINE, Problem, Ward, called, rounds, ward_in


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    with ward_in(tmp_path_factory.mktemp("h")) as found:
        yield found


def check_alive(ward: Ward) -> None:
    """Passes are made, scrapes answered with the age of their telemetry, and the watchdog fed, all while calls hang."""
    passes, fed = ward.agent.status()["passes"], len(ward.agent.manager.fed)
    ward.agent.ask_for("reconcile")
    ward.agent.wait_until(lambda status: status["passes"] > passes and len(ward.agent.manager.fed) > fed)
    text = ward.agent.fetch("/metrics")
    assert re.search(r"^nodeagent_telemetry_timestamp_seconds [0-9.e+]+$", text, re.MULTILINE)
    assert int(re.findall(r"^nodeagent_nvml_hangs_total ([0-9]+)$", text, re.MULTILINE)[0]) > 0


def failures(found: set[Problem]) -> set[Problem]:
    """Of GPUs and ports; how many GPUs answer follows from them."""
    return {one for one in found if one[2] == "failed" and one[1] != "gpu-count"}


@pytest.mark.timeout(1200)
def test_a_hang_in_any_call_about_a_gpu_is_this_gpus_alone(ward: Ward) -> None:
    functions = called(ward.node)
    tried: set[str] = set()
    for hanging in rounds(functions):
        ward.hang(hanging)
        wanted = {(f"gpu {index}", "gpu-answers", "failed") for index in hanging}
        found = ward.wait_until(lambda found, wanted=wanted: failures(found) == wanted)
        blamed = {f"gpu {index}" for index in hanging}
        assert {one[0] for one in found if one[2] == "unknown"} <= blamed | {"mig"}, hanging
        check_alive(ward)
        ward.heal()
        tried |= set(hanging.values())
    assert tried == functions - {*OF_THE_MACHINE}


@pytest.mark.timeout(1200)
def test_a_hang_in_a_call_about_no_gpu_is_said_of_the_driver_or_of_all(ward: Ward) -> None:
    """Opening NVML has a deadline of its own, 10 s, so each is only waited for until it is told."""
    assert called(ward.node) >= {*OF_THE_MACHINE}
    for function in OF_THE_MACHINE:
        fed = len(ward.agent.manager.fed)
        ward.hang({-1: function})
        found = ward.wait_until(failures)
        assert {check for _, check, _ in failures(found)} <= {"driver", "gpu-answers"}, function
        assert "nodeagent_telemetry_timestamp_seconds" in ward.agent.fetch("/metrics")
        ward.heal()
        assert len(ward.agent.manager.fed) > fed
