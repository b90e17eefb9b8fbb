"""A real CRI-O takes our configuration and our CDI directory, and its containers go on meanwhile."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent_process import PROFILE
from cluster.kube import Cluster
from cluster.programs import until
from container_world import DRIVER_ROOT
from nodeagent.plan.convergence import Outcome, converge, goal_of
from nodeagent.plan.executor import Context
from nodeagent.plan.journal import Journal
from nodeagent.plan.observing import Observer
from nodeagent.simulation.node import open_node
from nodeagent.spec.reader import read_spec
from sim_node import Told, text_of
from unit_box import UnitBox

DROP_IN = Path("/etc/crio/crio.conf.d/99-nodeagent.conf")
FILE = f"""\
version: 1
modules: {{nvidia: {{}}}}
mig: [{{layout: all-disabled}}]
cdi: {{driver_root: {DRIVER_ROOT}}}
runtimes: {{containerd: off, docker: off, podman: off, crio: on, nvidia_runtime: true}}
"""
CLASS = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "nvidia"}


@pytest.fixture
def unit(cluster: Cluster) -> Iterator[UnitBox]:
    """What systemd would do for crio.service: KillMode=process, ExecReload=kill -HUP."""
    box = UnitBox(cluster.work / "unit")
    (box.out / "state").write_text("active\n")
    thread = threading.Thread(target=_obey, args=(cluster, box))
    thread.start()
    yield box
    box.close()
    thread.join()


def _obey(cluster: Cluster, box: UnitBox) -> None:
    with (box.out / "orders").open() as orders:
        for order in map(str.strip, orders):
            if order == "end":
                return
            with (box.out / "obeyed").open("a") as obeyed:
                obeyed.write(f"{order}\n")
            if order == "reload":
                os.kill(cluster.crio.pid, signal.SIGHUP)
            else:
                cluster.crio.stop()
                cluster.crio.start()
            (box.out / "idle").touch()


@contextmanager
def agent(cluster: Cluster, unit: UnitBox) -> Iterator[Observer]:
    node = open_node(PROFILE, str(cluster.node))
    host = replace(node.host("in-process"), runtimes=unit.runtimes(os.environ["PATH"]))
    yield Observer(host)
    host.nvml.close()
    node.machine.close()


def converged(cluster: Cluster, observer: Observer) -> Outcome:
    file = cluster.work / "crio.yaml"
    file.write_text(FILE)
    context = Context(observer, Journal(observer.host.files), Told())
    outcome = converge(goal_of(read_spec(str(file))), context)
    assert not outcome.failures
    assert outcome.plan.converged, text_of(outcome.plan)
    return outcome


def test_a_runtime_class_works_after_the_agents_edit_and_containers_go_on(cluster: Cluster, unit: UnitBox) -> None:
    cluster.kubectl("apply", "-f", "-", given=CLASS)
    cluster.run("stays", {})
    cluster.wait("stays")
    since = cluster.get("pod", "stays")["status"]["containerStatuses"]
    cluster.run("wants", {}, "echo done", runtimeClassName="nvidia")
    until(lambda: "nvidia" in cluster.kubectl("describe", "pod", "wants"))
    assert cluster.phase("wants") == "Pending", "CRI-O does not know the runtime"
    log = cluster.nvidia_runtime()
    with agent(cluster, unit) as observer:
        assert converged(cluster, observer).steps_taken
        assert "nvidia" in DROP_IN.read_text()
        obeyed = list(unit.obeyed)
        assert len(obeyed) == 1
        cluster.wait("wants", "Succeeded")
        assert "create" in log.read_text(), "made by the runtime of that name"
        assert not converged(cluster, observer).results
        assert unit.obeyed == obeyed, "nothing changes, nothing restarts"
        assert cluster.get("pod", "stays")["status"]["containerStatuses"] == since
    cluster.end("stays", "wants")
