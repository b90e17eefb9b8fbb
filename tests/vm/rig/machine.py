"""Boots the stock kernel in QEMU under software emulation, over the host's own file tree, and waits for its results."""

from __future__ import annotations

import compileall
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import nodeagent
from vm.rig.packages import RigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vm.rig.packages import Kernel

KERNEL_ARGUMENTS = "console=ttyS0 loglevel=1 panic=-1 mitigations=off nokaslr random.trust_cpu=on audit=0"
POLL_SECONDS = 0.25
PROGRESS = re.compile(r"guest: .*|\w+\.py::.* (PASSED|FAILED|ERROR|SKIPPED)")
CONSOLE_TAIL_LINES = 60
# Software emulation always: nested virtualisation is missing or hangs on the machines that run these tests.
# One processor: the tests are one thread, and emulating a second one cost twice the time (measured on two cores).
QEMU = (
    "qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max -smp 1 -m 2G"
    " -nographic -nodefaults -no-reboot -serial stdio"
)


@dataclass(frozen=True)
class Boot:
    """One run of the machine: extra kernel arguments, and what pytest runs in the guest, relative to tests/vm/guest."""

    name: str
    tests: tuple[str, ...]
    arguments: str = ""
    deadline_seconds: float = 600


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


def boot(kernel: Kernel, initramfs: Path, plan: Boot, results: Path, say: Callable[[str], None]) -> Outcome:
    """Run the machine until it powers off or its deadline is over; `say` gets each line of progress."""
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    repository = Path(__file__).resolve().parents[3]
    _write_guest(kernel, plan, repository, results)
    started = time.monotonic()
    with (results / "console.log").open("wb") as console:
        machine = subprocess.Popen(
            _command(kernel, initramfs, plan, results),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
        )
        try:
            in_time = _follow(machine, results / "console.log", started + plan.deadline_seconds, say)
        finally:
            machine.kill()
            machine.wait()
    seconds = time.monotonic() - started
    say(f"vm {plan.name}: {seconds:.1f} s")
    return Outcome(results, seconds, _problem(results, plan, in_time))


def _write_guest(kernel: Kernel, plan: Boot, repository: Path, results: Path) -> None:
    shutil.copy(Path(__file__).with_name("guest.sh"), results / "guest.sh")
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
        "SOURCES": str(Path(nodeagent.__file__).parents[1]),
        "TESTS": tests,
    }
    (results / "guest.env").write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()))


def _command(kernel: Kernel, initramfs: Path, plan: Boot, results: Path) -> list[str]:
    return [
        *QEMU.split(),
        *("-kernel", str(kernel.image), "-initrd", str(initramfs), "-append", f"{KERNEL_ARGUMENTS} {plan.arguments}"),
        *("-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=host,mount_tag=host"),
        *("-fsdev", f"local,id=results,path={results},security_model=none"),
        *("-device", "virtio-9p-pci,fsdev=results,mount_tag=results"),
    ]


def _follow(machine: subprocess.Popen[bytes], log: Path, deadline: float, say: Callable[[str], None]) -> bool:
    """Pass on the guest's progress until it ends; False if the deadline came first."""
    unfinished = ""
    with log.open(errors="replace") as console:
        while True:
            ended = machine.poll() is not None
            *lines, unfinished = (unfinished + console.read()).split("\n")
            for progress in filter(None, map(PROGRESS.search, lines)):
                say(progress[0])
            if ended:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)


def _problem(results: Path, plan: Boot, in_time: bool) -> str:
    if not in_time:
        return f"vm {plan.name}: not done after {plan.deadline_seconds:.0f} s, ended"
    if not (results / "junit.xml").exists():
        return f"vm {plan.name}: ended without test results"
    return ""
