"""The container against the host, with the very options that the Dockerfile's head comment gives, by Podman and crun.

The image's file system is the one of tests/vm/rig/image.py; environment and entry point are the Dockerfile's.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import nodeagent
from vm.guest import kernel
from vm.rig import image

REPOSITORY = Path(__file__).resolve().parents[3]
RECIPE = image.parse((REPOSITORY / "Dockerfile").read_text())
LOG = Path("/vm/results/container.log")
# What a systemd that runs no more than the tests does not set up for Podman: no bus, no journal.
PODMAN = (
    "podman --cgroup-manager=cgroupfs --events-backend=none --runtime=crun --root=/run/pod/root --runroot=/run/pod/run"
)
DRIVER_LIBRARY = Path("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1")
DAEMON = "nvidia-persistenced.service"
STAND_INS = {"nvidia", "nvidia_uvm", "nvidia_modeset", "gdrdrv"}
NODE = """\
version: 1
modules:
  nvidia: {}
  gdrcopy: true
links:
- {match: ens1, up: true, mtu: 4000}
"""


def command(*words: str) -> list[str]:
    """`podman run` as the Dockerfile says `docker run`, with a file system in place of an image and its entry point."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # the base image's
    environment = [part for text in RECIPE.environment for part in ("--env", text.replace("$PATH", path))]
    options = ["--rm", "--log-driver=none", *environment, *RECIPE.against_the_host]
    return [*PODMAN.split(), "run", *options, "--rootfs", f"{os.environ['IMAGE']}:O", RECIPE.entrypoint, *words]


def said() -> str:
    return LOG.read_text() if LOG.exists() else ""


def until(condition: Callable[[], bool], what: str, agent: subprocess.Popen[bytes], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert agent.poll() is None, f"ended with {agent.returncode} before {what}\n{said()}"
        assert time.monotonic() < end, f"not within {seconds} s: {what}\n{said()}"
        time.sleep(0.5)


def scraped() -> str:
    with suppress(OSError), urllib.request.urlopen("http://127.0.0.1:9400/metrics", timeout=20) as answer:
        return str(answer.read().decode())
    return ""


def once(*words: str) -> subprocess.CompletedProcess[str]:
    """A container that runs one command."""
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(autouse=True)
def as_booted() -> None:
    """In place of the cleaning after each test: a start of the agent takes long here, so the tests share one."""


@pytest.fixture(scope="module")
def host() -> Iterator[None]:
    """What the options mount and a node has: directories, the message bus, an interface."""
    for path in ("/etc/nodeagent", "/var/lib/nodeagent", "/run/nodeagent", "/run/dbus", "/run/pod"):
        os.makedirs(path, exist_ok=True)
    Path("/etc/nodeagent/node.yaml").write_text(NODE)
    subprocess.run(["dbus-daemon", "--system", "--fork", "--nopidfile"], check=True)
    # The simulator's library stands for the driver's: without a machine to show it has no GPUs.
    shutil.copy(Path(nodeagent.__file__).parent / "simulation" / "lib" / DRIVER_LIBRARY.name, DRIVER_LIBRARY)
    subprocess.run(["ip", "link", "add", "ens1", "type", "veth", "peer", "name", "ens2"], check=True)
    yield
    print(said())


@pytest.fixture(scope="module")
def agent(host: None) -> Iterator[subprocess.Popen[bytes]]:
    """The container as a service would run it; it has made the node as the file says."""
    with LOG.open("wb") as log, subprocess.Popen(command("run"), stdout=log, stderr=log) as process:
        until(lambda: "nodeagent_converged 1\n" in scraped(), "metrics say converged", process)
        yield process
        process.terminate()


def test_it_loads_the_gpu_stack_on_the_host_s_kernel_and_serves_metrics(agent: subprocess.Popen[bytes]) -> None:
    assert kernel.loaded() >= STAND_INS
    found = os.stat("/dev/nvidiactl")
    assert (os.major(found.st_rdev), os.minor(found.st_rdev), found.st_mode & 0o777) == (195, 255, 0o666)
    assert Path("/sys/class/net/ens1/mtu").read_text() == "4000\n"
    assert Path("/run/nodeagent/control.sock").is_socket()
    assert "nodeagent_build_info" in scraped()


def test_its_status_is_whole_and_a_second_one_is_refused(agent: subprocess.Popen[bytes]) -> None:
    status = once("status").stdout
    assert ": converged\n" in status, status
    assert "degraded" not in status, status  # kernel events, which need libudev
    assert "was not found" not in status, status  # the driver's library, which the host gives
    second = once("run")
    assert second.returncode == 75, second
    pid = int(Path("/run/nodeagent/lock").read_text())
    assert f"held by process {pid};" in second.stderr, second.stderr
    assert "nodeagent" in Path(f"/proc/{pid}/cmdline").read_text()  # --pid=host: it is the host's PID


def test_it_ends_cleanly_and_leaves_the_node_as_it_is(agent: subprocess.Popen[bytes]) -> None:
    agent.send_signal(signal.SIGTERM)  # Podman passes it on to the container
    assert agent.wait(60) == 0, said()
    assert kernel.loaded() >= STAND_INS
    assert not Path("/run/nodeagent/control.sock").exists()


def test_a_reload_stops_and_starts_a_service_of_the_host(host: None) -> None:
    subprocess.run(["systemctl", "start", DAEMON], check=True)
    before = main_pid()
    done = once("modules", "reload", "nvidia")
    assert done.returncode == 0, done
    assert kernel.loaded() >= STAND_INS
    assert main_pid() not in (0, before), done
    subprocess.run(["systemctl", "stop", DAEMON], check=True)


def main_pid() -> int:
    show = ["systemctl", "show", "--value", "--property=MainPID", DAEMON]
    return int(subprocess.run(show, capture_output=True, text=True, check=True).stdout)


def test_an_unload_is_refused_while_a_process_of_the_host_holds_a_device(host: None) -> None:
    before = kernel.loaded()
    assert before >= STAND_INS
    with subprocess.Popen(["sh", "-c", "exec 9</dev/nvidia0; echo; read wait"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:  # fmt: skip
        assert holder.stdout is not None
        holder.stdout.readline()
        refused = once("modules", "unload", "nvidia")
        assert refused.returncode == 6, refused
        assert f"process {holder.pid} (sh -c exec 9</dev/nvidia0" in refused.stdout + refused.stderr, refused
        assert kernel.loaded() == before
        holder.communicate()
    done = once("modules", "unload", "nvidia")
    assert done.returncode == 0, done
    assert not kernel.loaded() & STAND_INS
