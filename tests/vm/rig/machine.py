"""Boots the stock kernel in QEMU under software emulation, over the host's own file tree, and waits for its results."""

from __future__ import annotations

import compileall
import re
import shlex
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import nodeagent
from vm.rig.packages import RigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vm.rig.packages import Kernel

# no_timer_check: on a loaded machine the emulated timer can be late, and the kernel's test of it ends in a panic.
KERNEL_ARGUMENTS = (
    "console=ttyS0 loglevel=1 panic=-1 mitigations=off nokaslr random.trust_cpu=on audit=0 no_timer_check"
)
POLL_SECONDS = 0.25
PROGRESS = re.compile(r"guest: .*|\w+\.py::.* (PASSED|FAILED|ERROR|SKIPPED)")
CONSOLE_TAIL_LINES = 60
# Software emulation always: nested virtualisation is missing or hangs on the machines that run these tests.
# One processor: the tests are one thread, and emulating a second one cost twice the time (measured on two cores).
OPTIONS = "-M q35 -accel tcg,thread=multi -cpu max -smp 1 -m 2G -nographic -nodefaults -no-reboot -serial stdio"


@dataclass(frozen=True)
class Boot:
    """One run of the machine: extra kernel arguments, and what pytest runs in the guest, relative to tests/vm/guest.

    `manager`: what runs as PID 1, "systemd" or nothing but the tests. `devices`: more of QEMU's `-device` arguments,
    `wires`: of its `-netdev` ones. `model`: the device that a QEMU must have, `emulator`: the command of such a one.
    `monitor`: QEMU's monitor is at a serial port of the guest. `image`: where the container's file system lies.
    """

    name: str
    tests: tuple[str, ...]
    arguments: str = ""
    manager: str = ""
    devices: tuple[str, ...] = ()
    wires: tuple[str, ...] = ()
    model: str = ""
    emulator: tuple[str, ...] = ("qemu-system-x86_64",)
    monitor: bool = False
    deadline_seconds: float = 1200
    image: str = ""


@dataclass(frozen=True)
class Outcome:
    """What is left of a boot: the directory of results, how long the machine ran, and why it failed if it did."""

    results: Path
    wall_seconds: float
    problem: str = ""

    def console(self) -> str:
        """The last lines of the serial console."""
        path = self.results / "console.log"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else ["(no console output)"]
        return "\n".join(lines[-CONSOLE_TAIL_LINES:])


@dataclass(frozen=True)
class Parts:
    """What every boot of one run of the tests shares; once `given_up` is set, machines that still run are ended."""

    kernel: Kernel
    initramfs: Path
    say: Callable[[str], None]
    given_up: Event = field(default_factory=Event)


def boot(parts: Parts, plan: Boot, results: Path) -> Outcome:
    """Run the machine until it powers off or its deadline is over."""
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    repository = Path(__file__).resolve().parents[3]
    _write_guest(parts.kernel, plan, repository, results)
    started = time.monotonic()
    # Both ends are QEMU's: a serial port of the guest is wired to the monitor.
    with (results / "console.log").open("wb") as console, _ends() as line:
        machine = subprocess.Popen(
            [*_command(parts, plan, results), *(_monitor(line) if plan.monitor else ())],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            pass_fds=line,
        )
        try:
            in_time = _follow(machine, results / "console.log", started + plan.deadline_seconds, parts)
        finally:
            machine.kill()
            machine.wait()
    seconds = time.monotonic() - started
    parts.say(f"vm {plan.name}: {seconds:.1f} s")
    return Outcome(results, seconds, _problem(results, plan, in_time))


@contextmanager
def _ends() -> Iterator[tuple[int, int]]:
    """Two connected sockets."""
    one, other = socket.socketpair()
    with one, other:
        yield one.fileno(), other.fileno()


def _monitor(line: tuple[int, int]) -> list[str]:
    sockets = [word for fd in line for word in ("-chardev", f"socket,id=line{fd},fd={fd}")]
    port = ("virtio-serial-pci,addr=1d.0,multifunction=on", f"virtserialport,chardev=line{line[1]},name=monitor")
    return [*sockets, "-mon", f"chardev=line{line[0]},mode=control", *(w for one in port for w in ("-device", one))]


def _write_guest(kernel: Kernel, plan: Boot, repository: Path, results: Path) -> None:
    for script in ("guest.sh", "tests.sh"):
        shutil.copy(Path(__file__).with_name(script), results / script)
    # Made here once: the guest would compile the sources again in each boot, and 17 times slower.
    compileall.compile_dir(str(Path(nodeagent.__file__).parent), quiet=2)
    tests = " ".join(str(repository / "tests" / "vm" / "guest" / name) for name in plan.tests)
    if " " in str(repository):
        raise RigError(f"boot vm: the path {repository} has a blank in it; check the repository out elsewhere")
    values = {
        "RELEASE": kernel.release,
        "MODULES": str(kernel.modules),
        "REPOSITORY": str(repository),
        "PYTHON": sys.executable,
        "PYTHON_PREFIX": sys.base_prefix,
        "PYTHON_NAME": Path(sys.executable).resolve().name,
        "PACKAGES": sysconfig.get_path("platlib"),
        "SOURCES": str(Path(nodeagent.__file__).parents[1]),
        "TESTS": tests,
        "MANAGER": plan.manager,
        "IMAGE": plan.image,
    }
    (results / "guest.env").write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()))


def _command(parts: Parts, plan: Boot, results: Path) -> list[str]:
    return [
        *plan.emulator,
        *OPTIONS.split(),
        *("-kernel", str(parts.kernel.image), "-initrd", str(parts.initramfs)),
        *("-append", f"{KERNEL_ARGUMENTS} {plan.arguments}"),
        *("-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=host,mount_tag=host"),
        *("-fsdev", f"local,id=results,path={results},security_model=none"),
        *("-device", "virtio-9p-pci,fsdev=results,mount_tag=results"),
        *(word for wire in plan.wires for word in ("-netdev", wire)),
        *(word for device in plan.devices for word in ("-device", device)),
    ]


def _follow(machine: subprocess.Popen[bytes], log: Path, deadline: float, parts: Parts) -> bool:
    """Pass on the guest's progress until it ends; False if the deadline came first."""
    unfinished = ""
    with log.open(errors="replace") as console:
        while True:
            ended = machine.poll() is not None
            *lines, unfinished = (unfinished + console.read()).split("\n")
            for progress in filter(None, map(PROGRESS.search, lines)):
                parts.say(progress[0])
            if ended:
                return True
            if time.monotonic() > deadline or parts.given_up.is_set():
                return False
            time.sleep(POLL_SECONDS)


def _problem(results: Path, plan: Boot, in_time: bool) -> str:
    if not in_time:
        return f"vm {plan.name}: not done after {plan.deadline_seconds:.0f} s, ended"
    if not (results / "junit.xml").exists():
        return f"vm {plan.name}: ended without test results"
    return ""
