"""An MPS control daemon: started, limited, asked whether it lives, stopped; through NVIDIA's own programs.

The daemon goes into the background by itself and outlives the agent: pods compute through it, and an agent that starts
again finds it by asking. Sources: nvidia-cuda-mps-control(1) (commands on standard input, CUDA_MPS_PIPE_DIRECTORY and
CUDA_MPS_LOG_DIRECTORY; limits hold for servers that start later, are whole numbers with G or M, and name a device by
its place in CUDA_VISIBLE_DEVICES of the daemon); NVIDIA/k8s-device-plugin cmd/mps-control-daemon/mps (daemon.go,
device.go: order of start-up, limits).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from nodeagent.errors import DeadlineError, GoneError, HostError
from nodeagent.host.paths import SYSTEMD_RUNNING
from nodeagent.host.programs import run_program

CONTROL, SMI = "nvidia-cuda-mps-control", "nvidia-smi"
DEADLINE_SECONDS = 20.0
STARTED = ".started"  # NVIDIA's plugin waits for this file; others may look at it too


@dataclass(frozen=True)
class MpsWish:
    """One daemon: its directory, its GPUs as (UUID, memory in MiB), and how many clients share each of them."""

    directory: str
    gpus: tuple[tuple[str, int], ...]
    shares: int

    @property
    def limits(self) -> tuple[str, ...]:
        """What the daemon is told: memory for each client by GPU, and its part of the multiprocessors in percent."""
        memory = (
            f"set_default_device_pinned_mem_limit {index} {total // self.shares}M"
            for index, (_, total) in enumerate(self.gpus)
        )
        return (*memory, f"set_default_active_thread_percentage {100 // self.shares}")


def scope_of_its_own() -> tuple[str, ...]:
    """What starts a program outside of our unit, which systemd would end together with us; () without systemd."""
    return ("systemd-run", "--scope", "--quiet", "--collect") if os.path.exists(SYSTEMD_RUNNING) else ()


class MpsDaemon:
    """`path` is where the programs are looked for, by default as the shell does. Every method may take some seconds.

    `launcher` comes before the command that starts the daemon.
    """

    def __init__(self, wish: MpsWish, path: str | None = None, launcher: tuple[str, ...] = ()) -> None:
        self.wish, self._launcher = wish, launcher
        self._environment = {**os.environ, **({"PATH": path} if path is not None else {})}

    @property
    def _control_environment(self) -> Mapping[str, str]:
        return {
            **self._environment,
            "CUDA_VISIBLE_DEVICES": ",".join(uuid for uuid, _ in self.wish.gpus),
            "CUDA_MPS_PIPE_DIRECTORY": f"{self.wish.directory}/pipe",
            "CUDA_MPS_LOG_DIRECTORY": f"{self.wish.directory}/log",
        }

    def start(self) -> None:
        """Start it with its limits. GoneError without MPS, DeadlineError, HostError; then nothing is left running."""
        for name in ("pipe", "log"):
            os.makedirs(f"{self.wish.directory}/{name}", exist_ok=True)
        self._set_compute_mode("EXCLUSIVE_PROCESS")
        try:
            self._run([*self._launcher, CONTROL, "-d"], self._control_environment)
            for limit in self.wish.limits:
                self._tell(limit)
        except HostError:
            self.stop()
            raise
        with open(f"{self.wish.directory}/{STARTED}", "w", encoding="utf-8") as file:
            json.dump({"gpus": self.wish.gpus, "shares": self.wish.shares}, file)

    def is_alive(self) -> bool:
        """Whether it answers."""
        try:
            return bool(self._tell("get_default_active_thread_percentage").strip())
        except HostError:
            return False

    def started_for(self) -> MpsWish | None:
        """What the daemon of this directory was started for, if an agent did it; NVIDIA's plugin does not say."""
        try:
            with open(f"{self.wish.directory}/{STARTED}", encoding="utf-8") as file:
                found = json.load(file)
            gpus = tuple((str(uuid), int(memory)) for uuid, memory in found["gpus"])
            return MpsWish(self.wish.directory, gpus, int(found["shares"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def stop(self) -> None:
        """End it and its servers, and give the GPUs back to everybody; what fails here is gone already."""
        with suppress(HostError):
            self._tell("quit")
        with suppress(HostError):
            self._set_compute_mode("DEFAULT")
        with suppress(FileNotFoundError):
            os.unlink(f"{self.wish.directory}/{STARTED}")

    def _set_compute_mode(self, mode: str) -> None:
        for uuid, _ in self.wish.gpus:
            self._run([SMI, "-i", uuid, "-c", mode], self._environment)

    def _tell(self, command: str) -> str:
        return self._run([CONTROL], self._control_environment, f"{command}\n")

    def _run(self, command: Sequence[str], environment: Mapping[str, str], text: str = "") -> str:
        about = ("run", " ".join((*command, *text.split())))
        try:
            done = run_program(command, DEADLINE_SECONDS, environment, text)
        except FileNotFoundError as error:
            raise GoneError(*about, "there is no such program", "it comes with the driver") from error
        except subprocess.TimeoutExpired as error:
            raise DeadlineError(*about, f"no answer within {DEADLINE_SECONDS:g} s") from error
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise HostError(*about, said[-1] if said else f"exit code {done.returncode}")
        return done.stdout
