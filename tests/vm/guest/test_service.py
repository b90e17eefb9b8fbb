"""The service as the unit describes it, under a real systemd: its whole sandbox, its watchdog, its ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from vm.guest import kernel

UNIT = "nodeagent.service"
DAEMON = "nvidia-persistenced.service"
NODE_FILE = Path("/etc/nodeagent/node.yaml")
PROBE = "nodeagent-probe.service"
PROBE_ANSWERS = Path("/vm/results/probe.json")
LOG = Path("/vm/results/nodeagent.log")
NODE = """\
version: 1
modules:
  nvidia: {parameters: {EnableStreamMemOPs: %d}}
  gdrcopy: true
  named:
    dummy: {parameters: {numdummies: 1}}
    standin_plain: {parameters: {count: 4}}
links:
- {match: dummy0, up: true, mtu: 4000}
"""
PATIENCE_SECONDS = 300.0  # of a loaded machine that emulates this one
LOOK_SECONDS = 1.5  # asking systemd costs this machine a good part of a second, which the agent then lacks
STAND_INS = {"nvidia", "nvidia_uvm", "nvidia_modeset", "gdrdrv", "dummy", "standin_plain"}


def systemctl(*words: str, expect: int = 0) -> str:
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    said = f"{done.stdout}{done.stderr}{told()}"
    assert done.returncode == expect, f"systemctl {' '.join(words)}: {done.returncode}\n{said}"
    return done.stdout.strip()


def shown(name: str, unit: str = UNIT) -> str:
    return systemctl("show", "--value", f"--property={name}", unit)


def told() -> str:
    """What the service wrote so far."""
    return LOG.read_text() if LOG.exists() else ""


def until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}; status: {shown('StatusText')}\n{told()}"
        time.sleep(LOOK_SECONDS)


def converged() -> bool:
    return shown("StatusText").startswith("converged")


def streaming() -> str:
    """The driver's parameter as the driver shows it, empty while there is none."""
    with suppress(FileNotFoundError):
        text = Path("/proc/driver/nvidia/params").read_text()
        return dict(line.split(": ", 1) for line in text.splitlines())["EnableStreamMemOPs"]
    return ""


@pytest.fixture(autouse=True)
def as_booted() -> None:
    """In place of the cleaning after each test: a start of the agent takes long here, so the tests share one."""


@pytest.fixture(scope="module", autouse=True)
def tidy() -> Iterator[None]:
    NODE_FILE.parent.mkdir(exist_ok=True)
    yield
    print(told())


@pytest.fixture
def running() -> None:
    """The service has made the node as the file says."""
    if shown("ActiveState") != "active":
        NODE_FILE.write_text(NODE % 0)
        systemctl("start", UNIT)
    until(converged, "converged")


@pytest.mark.usefixtures("running")
def test_it_makes_the_node_as_the_file_says_and_serves_metrics() -> None:
    assert kernel.loaded() >= STAND_INS
    found = os.stat("/dev/nvidiactl")
    assert (os.major(found.st_rdev), os.minor(found.st_rdev), found.st_mode & 0o777) == (195, 255, 0o666)
    assert kernel.in_force()["standin_plain"]["count"] == "4"
    assert Path("/sys/class/net/dummy0/mtu").read_text() == "4000\n"
    until(lambda: "nodeagent_converged 1\n" in scraped(), "metrics say converged")
    for check in ("clock", "kernel-log", "disk:/"):  # the sandbox lets the agent look: 1 would be "could not"
        (value,) = [line.split()[-1] for line in scraped().splitlines() if f'kind="node",check="{check}"}}' in line][:1]
        assert value != "1", check


def scraped() -> str:
    with urllib.request.urlopen("http://127.0.0.1:9400/metrics", timeout=20) as answer:
        return answer.read().decode()


@pytest.mark.usefixtures("running")
def test_a_reload_takes_the_new_file_over_and_quiesces_a_service_that_holds_a_gpu() -> None:
    wanted = "0" if streaming() == "1" else "1"
    systemctl("start", DAEMON)
    before, process = shown("MainPID"), shown("MainPID", DAEMON)
    NODE_FILE.write_text(NODE % int(wanted))
    systemctl("reload", UNIT)
    until(lambda: streaming() == wanted and converged(), "the driver is reloaded")
    assert kernel.loaded() >= STAND_INS
    assert (shown("ActiveState"), shown("MainPID"), shown("NRestarts")) == ("active", before, "0")
    assert shown("ActiveState", DAEMON) == "active"
    assert shown("MainPID", DAEMON) != process
    systemctl("stop", DAEMON)


@pytest.mark.usefixtures("running")
def test_a_process_that_no_longer_moves_is_replaced() -> None:
    stuck, restarts = int(shown("MainPID")), int(shown("NRestarts"))
    os.kill(stuck, signal.SIGSTOP)
    until(lambda: int(shown("NRestarts")) == restarts + 1, "restarted")
    until(lambda: shown("ActiveState") == "active" and converged(), "converged again")
    assert int(shown("MainPID")) != stuck
    assert kernel.loaded() >= STAND_INS


@pytest.mark.usefixtures("running")
def test_a_stop_is_clean_and_leaves_the_node_as_it_is() -> None:
    systemctl("stop", UNIT)
    assert (shown("Result"), shown("ExecMainStatus"), shown("ActiveState")) == ("success", "0", "inactive")
    assert kernel.loaded() >= STAND_INS
    assert not Path("/run/nodeagent").exists()


def test_a_wrong_node_file_ends_it_for_good() -> None:
    systemctl("stop", UNIT)
    NODE_FILE.write_text("version: 1\nmodules: {nvidai: {}}\n")
    systemctl("start", UNIT, expect=1)
    assert (shown("ExecMainStatus"), shown("Result"), shown("ActiveState")) == ("2", "exit-code", "failed")
    assert shown("NRestarts") == "0"
    assert "nvidai" in told()
    systemctl("reset-failed", UNIT)


def test_the_sandbox_lets_through_what_the_agent_needs_and_nothing_else() -> None:
    subprocess.run(["/sbin/modprobe", "nvidia"], check=True)
    if not os.path.exists("/dev/nvidia0"):
        os.mknod("/dev/nvidia0", 0o020666, os.makedev(195, 0))
    systemctl("start", DAEMON)
    systemctl("start", PROBE)
    answers = json.loads(PROBE_ANSWERS.read_text())
    assert answers == {
        "gpu": True,
        "gpu holders": [int(shown("MainPID", DAEMON))],
        "device directory": "0o755",
        "kernel log": True,
        "kernel addresses": True,
        "pci configuration bytes": 256,
        "sysfs": True,
        "units": [PROBE],
        "state": True,
        "/etc": "[Errno 30] Read-only file system: '/etc/probe'",
        "/usr": "[Errno 30] Read-only file system: '/usr/probe'",
        "mount": "[Errno 1] mount",
    }
