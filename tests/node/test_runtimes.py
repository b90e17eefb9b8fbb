"""Container runtimes on a simulated node: changed once, restarted once, rolled back when they do not come up."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from nodeagent.host.paths import CONTAINERD_CONFIG, DOCKER_CONFIG
from nodeagent.plan.journal import Phase
from nodeagent.simulation.container_runtimes import SimulatedRuntimes
from sim_node import Told, sim_node, text_of

SECTION = "runtimes: {}\n"
TEXT = '# ours\nversion = 2\n[plugins."io.containerd.grpc.v1.cri"]\n  sandbox_image = "pause" # keep\n'


class Site:
    def __init__(self, node):
        self.node, self.runtimes = node, SimulatedRuntimes(node.node.directory)

    def put(self, path, text, mode=0o644):
        place = Path(self.node.node.directory + path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    def text(self, path):
        place = Path(self.node.node.directory + path)
        return place.read_text() if place.exists() else None


@pytest.fixture
def site(tmp_path):
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as node:
        found = Site(node)
        found.runtimes.install("containerd", "1.7.24")
        found.put(CONTAINERD_CONFIG, TEXT, 0o600)
        yield found


def test_changed_with_a_backup_restarted_once_and_then_left_alone(site):
    plan = text_of(site.node.plan(SECTION))
    assert "+enable_cdi = true" in plan
    assert "restart containerd" in plan
    told = Told()
    assert site.node.converge(SECTION, told).plan.converged
    assert [line.split(":")[0] for line in told.lines] == [
        f"act update containerd configuration {CONTAINERD_CONFIG}",
        "act restart containerd",
    ]
    assert site.text(CONTAINERD_CONFIG) == TEXT + "enable_cdi = true\n"
    assert stat.S_IMODE(os.stat(site.node.node.directory + CONTAINERD_CONFIG).st_mode) == 0o600
    assert site.text("/var/lib/nodeagent/backup/etc_containerd_config.toml") == TEXT
    assert site.text("/var/lib/nodeagent/restart-due/containerd") is None
    assert not site.node.converge(SECTION).results
    assert site.runtimes.restarts("containerd") == 1


def test_a_runtime_that_does_not_come_up_gets_its_old_configuration_back(site):
    def sabotage(_phase, step):
        if str(step) == "restart containerd":
            site.put(CONTAINERD_CONFIG, site.text(CONTAINERD_CONFIG) + "# refuse_to_start\n")

    told = Told(sabotage)
    outcome = site.node.converge(SECTION, told)
    assert [str(one.phase) for one in outcome.failures] == [Phase.ACT]
    assert "the unit is failed" in str(outcome.failures[0])
    assert told.lines[-1] == f"undo put back containerd configuration {CONTAINERD_CONFIG}"
    assert site.text(CONTAINERD_CONFIG) == TEXT
    assert site.runtimes.is_active("containerd"), "it runs again, as before"
    assert site.runtimes.restarts("containerd") == 2
    assert site.text("/var/lib/nodeagent/restart-due/containerd") is None


def test_killed_between_change_and_restart_the_restart_is_still_due(site):
    class Killed(BaseException):
        pass

    def kill(_phase, step):
        if str(step) == "restart containerd":
            raise Killed

    with pytest.raises(Killed):
        site.node.converge(SECTION, Told(kill))
    assert site.runtimes.restarts("containerd") == 0
    told = Told()
    assert site.node.converge(SECTION, told).plan.converged
    assert told.lines == ["act restart containerd"]
    assert site.runtimes.restarts("containerd") == 1


def test_one_that_does_not_run_is_changed_and_not_started(site):
    site.runtimes.install("containerd", "1.7.24", active=False)
    told = Told()
    assert site.node.converge(SECTION, told).plan.converged
    assert len(told.lines) == 1
    assert site.runtimes.restarts("containerd") == 0


def test_docker_is_not_restarted_under_its_containers_unless_the_policy_lets_it(site):
    site.runtimes.install("docker", "26.1.0")
    section = SECTION.replace("{}", "{containerd: off}")
    outcome = site.node.converge(section)
    assert site.text(DOCKER_CONFIG) is None
    assert "disruption.node is never" in text_of(outcome.plan)
    assert site.node.converge("disruption: {node: allow}\n" + section).plan.converged
    assert '"cdi": true' in site.text(DOCKER_CONFIG)
    assert site.runtimes.restarts("docker") == 1


def test_live_restore_keeps_containers_so_that_docker_may_be_restarted(site):
    site.runtimes.install("docker", "26.1.0")
    site.put(DOCKER_CONFIG, '{"live-restore": true}')
    assert site.node.converge(SECTION.replace("{}", "{containerd: off}")).plan.converged
    assert site.runtimes.restarts("docker") == 1


WRAPPED = SECTION.replace("{}", "{containerd: off, nvidia_runtime: true}")
WRAPPER = "/usr/bin/nvidia-container-runtime"


class Killed(BaseException):
    pass


def killed_before(words):
    def kill(_phase, step):
        if str(step).startswith(words):
            raise Killed

    return Told(kill)


def test_docker_only_reloads_what_it_can_reload(site):
    site.runtimes.install("docker", "26.1.0")
    site.put(DOCKER_CONFIG, '{"features": {"cdi": true}}')
    site.put(WRAPPER, "")
    with pytest.raises(Killed):
        site.node.converge(WRAPPED, killed_before("reload"))
    told = Told()
    assert site.node.converge(WRAPPED, told).plan.converged
    assert told.lines == ["act reload configuration of docker"], "still due after the crash"
    assert (site.runtimes.reloads("docker"), site.runtimes.restarts("docker")) == (1, 0)
    assert WRAPPER in site.text(DOCKER_CONFIG)
    assert not site.node.converge(WRAPPED).results


def test_a_reload_that_fails_is_undone(site):
    site.runtimes.install("docker", "26.1.0")
    site.put(DOCKER_CONFIG, '{"features": {"cdi": true}}')
    site.put(WRAPPER, "")

    def stop_docker(_phase, step):
        if str(step).startswith("reload"):
            site.runtimes.install("docker", "26.1.0", active=False)

    outcome = site.node.converge(WRAPPED, Told(stop_docker))
    assert "the unit is inactive" in str(outcome.failures[0])
    assert site.text(DOCKER_CONFIG) == '{"features": {"cdi": true}}'


def test_a_restart_of_docker_that_is_still_due_waits_for_the_policy_too(site):
    site.runtimes.install("docker", "26.1.0")
    allowed = "disruption: {node: allow}\n" + SECTION.replace("{}", "{containerd: off}")
    with pytest.raises(Killed):
        site.node.converge(allowed, killed_before("restart"))
    outcome = site.node.converge(SECTION.replace("{}", "{containerd: off}"))
    assert "disruption.node is never" in text_of(outcome.plan)
    assert site.runtimes.restarts("docker") == 0
    site.put(DOCKER_CONFIG, site.text(DOCKER_CONFIG).replace("{", '{"live-restore": true, ', 1))
    assert site.node.converge(SECTION.replace("{}", "{containerd: off}")).plan.converged
    assert (site.runtimes.reloads("docker"), site.runtimes.restarts("docker")) == (1, 1)


def test_auto_remarks_what_on_complains_of(site):
    site.runtimes.install("containerd", "1.6.20~ds1")
    plan = site.node.plan(SECTION)
    assert plan.converged
    assert "containerd is left alone: version 1.6.20~ds1 has no CDI" in plan.remarks
    plan = site.node.plan("runtimes: {containerd: on, crio: on}\n")
    assert [one.problem for one in plan.obstacles] == ["version 1.6.20~ds1 has no CDI", "it is not installed"]


def test_imported_files_are_followed_also_in_circles(site):
    site.put(CONTAINERD_CONFIG, 'version = 2\nimports = ["conf.d/*.toml", "/etc/containerd/config.toml"]\n')
    site.put("/etc/containerd/conf.d/10.toml", 'imports = ["../config.toml"]\nversion = 2\n')
    site.put(
        "/etc/containerd/conf.d/20.toml", 'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\nenable_cdi = true\n'
    )
    assert site.node.plan(SECTION).converged


def test_k3s_writes_its_own_and_is_only_told_about(site):
    path = "/var/lib/rancher/k3s/agent/etc/containerd/config.toml"
    site.put(path, 'version = 3\n[plugins."io.containerd.cri.v1.runtime"]\nenable_cdi = false\n')
    before = site.text(path)
    plan = site.node.converge("runtimes: {containerd: on}\n").plan
    assert "is written anew at each start" in plan.obstacles[0].problem
    assert site.text(path) == before
