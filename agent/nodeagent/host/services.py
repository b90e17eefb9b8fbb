"""systemd units through systemctl (systemctl(1)): with a deadline, and never waiting for a job that waits for us."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from nodeagent.errors import DeadlineError, DeniedError, GoneError, HostError
from nodeagent.host.paths import PROC, SYS_CGROUP, SYSTEM_BUS, SYSTEMD_RUNNING
from nodeagent.host.ports import Clock, Files
from nodeagent.host.process_facts import parse_cgroup
from nodeagent.host.programs import run_program
from nodeagent.state.processes import Service

PROPERTIES = "Id,LoadState,ActiveState,MainPID,ControlGroup,Job"
POLL_SECONDS = 0.1
# What systemd told the agent about itself is not for its children (sd_notify(3), sd_listen_fds(3)).
PRIVATE = frozenset({"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"})
# ActiveState of a unit whose processes run; "reloading" is a state of running (org.freedesktop.systemd1(5)).
RUNNING = frozenset({"active", "reloading", "activating", "deactivating"})
ADVICE = "see `systemctl status` and `systemctl list-jobs` on the node"


@dataclass(frozen=True)
class _Unit:
    """What `systemctl show` says about one unit."""

    name: str
    is_loaded: bool
    state: str = "unknown"
    main_pid: int = 0
    cgroup: str = ""
    has_job: bool = False


class Systemd:
    """`ports.Services`. In a container it needs the host's bus socket, and the host's cgroup tree to name processes.

    `program` is systemctl; `deadline_seconds` limits one command, and each wait for a unit to start or stop.
    """

    def __init__(
        self, files: Files, clock: Clock, *, program: str = "systemctl", deadline_seconds: float = 60.0
    ) -> None:
        self._files, self._clock = files, clock
        self._program, self._deadline_seconds = program, deadline_seconds

    def show(self, units: Sequence[str]) -> tuple[Service, ...]:
        """As the port says. DeadlineError if systemd does not answer."""
        if not units or not self._is_there():
            return ()
        found = (unit for unit in self._units(units) if unit.is_loaded)
        return tuple(Service(unit.name, unit.state in RUNNING, self._pids(unit)) for unit in found)

    def stop(self, unit: str) -> None:
        """Stop and wait until it is inactive. GoneError, DeniedError, DeadlineError, HostError."""
        self._change("stop", unit, frozenset({"inactive", "failed"}))

    def start(self, unit: str) -> None:
        """Start and wait until it is active. HostError if it fails, else as `stop`.

        A unit that systemd starts only after the one we are part of, as clients after nodeagent-mig.service, is
        queued and not waited for.
        """
        self._change("start", unit, frozenset({"active"}))

    def restart(self, unit: str) -> None:
        """Restart and wait until it is active and no job is left. Errors as of `start`."""
        if not self._is_there():
            raise GoneError("restart", unit, "systemd does not run here")
        self._check("restart", unit, self._run("restart", "--no-block", "--", unit))
        end = self._clock.monotonic() + self._deadline_seconds
        while (now := self._unit(unit)).has_job or now.state not in ("active", "inactive", "failed"):
            if self._clock.monotonic() >= end:
                raise DeadlineError("restart", unit, f"still {now.state} after {self._deadline_seconds:g} s", ADVICE)
            self._clock.sleep(POLL_SECONDS)
        if now.state != "active":
            raise HostError("restart", unit, f"the unit is {now.state}", ADVICE)

    def reload(self, unit: str) -> None:
        """Have the unit read its configuration again and wait until no job is left. Errors as of `start`."""
        if not self._is_there():
            raise GoneError("reload", unit, "systemd does not run here")
        self._check("reload", unit, self._run("reload", "--no-block", "--", unit))
        end = self._clock.monotonic() + self._deadline_seconds
        while (now := self._unit(unit)).has_job:
            if self._clock.monotonic() >= end:
                raise DeadlineError("reload", unit, f"still {now.state} after {self._deadline_seconds:g} s", ADVICE)
            self._clock.sleep(POLL_SECONDS)
        if now.state != "active":
            raise HostError("reload", unit, f"the unit is {now.state}", ADVICE)

    def _change(self, verb: str, unit: str, goal: frozenset[str]) -> None:
        """Queue the job, then watch the unit: a job may be ordered behind the agent's own start, so it never blocks."""
        if not self._is_there():
            raise GoneError(verb, unit, "systemd does not run here")
        self._check(verb, unit, self._run(verb, "--no-block", "--", unit))
        end = self._clock.monotonic() + self._deadline_seconds
        while (now := self._unit(unit)).state not in goal:
            if not now.has_job:
                raise HostError(verb, unit, f"systemd is done and the unit is {now.state}", ADVICE)
            if self._clock.monotonic() >= end:
                raise DeadlineError(verb, unit, f"still {now.state} after {self._deadline_seconds:g} s", ADVICE)
            self._clock.sleep(POLL_SECONDS)
            if verb == "start" and self._waits_for_us(unit):
                return

    def _waits_for_us(self, unit: str) -> bool:
        """Whether the job is held back while our own unit is still starting: it then waits for our end."""
        own = parse_cgroup(self._files.read_optional(f"{PROC}/self/cgroup") or "").unit
        if not own or self._unit(own).state != "activating":
            return False
        return self._run("list-jobs", "--no-legend", "--", unit).stdout.split()[-1:] == ["waiting"]

    def _check(self, verb: str, unit: str, done: subprocess.CompletedProcess[str]) -> None:
        if not done.returncode:
            return
        reason = (done.stderr.strip().splitlines() or [f"systemctl ended with {done.returncode}"])[0]
        lowered = reason.lower()
        kind = HostError
        if done.returncode == 5 or "not found" in lowered or "not loaded" in lowered:
            kind = GoneError
        elif "denied" in lowered or "authentication" in lowered:
            kind = DeniedError
        raise kind(verb, unit, lowered.rstrip("."), ADVICE)

    def _unit(self, unit: str) -> _Unit:
        return next(iter(self._units((unit,))), _Unit(unit, is_loaded=False))

    def _units(self, units: Sequence[str]) -> tuple[_Unit, ...]:
        done = self._run("show", f"--property={PROPERTIES}", "--", *units)
        return tuple(parse_show(done.stdout)) if not done.returncode else ()

    def _is_there(self) -> bool:
        return self._files.exists(SYSTEMD_RUNNING) or self._files.exists(SYSTEM_BUS)

    def _run(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [self._program, verb, *arguments]
        try:
            return run_program(command, self._deadline_seconds, self._environment())
        except subprocess.TimeoutExpired as error:
            reason = f"no answer within {self._deadline_seconds:g} s"
            raise DeadlineError("systemctl", verb, reason) from error
        except (FileNotFoundError, PermissionError):
            return subprocess.CompletedProcess(command, 127, "", "systemctl cannot be run")

    def _environment(self) -> Mapping[str, str]:
        """Ours without what is private; without systemd's own directory only the message bus leads to it.

        In a container with the host's PIDs systemctl takes itself to be in a chroot, where it ignores what it is told
        and reports success, unless it is told not to look (systemd, docs/ENVIRONMENT.md).
        """
        kept = {name: value for name, value in os.environ.items() if name not in PRIVATE}
        force = {} if self._files.exists(SYSTEMD_RUNNING) else {"SYSTEMCTL_FORCE_BUS": "1"}
        return kept | force | {"SYSTEMD_IGNORE_CHROOT": "1", "LC_ALL": "C", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""}

    def _pids(self, unit: _Unit) -> tuple[int, ...]:
        """Every process of the unit by its cgroup, at least the main one."""
        found = {unit.main_pid} if unit.main_pid else set()
        if unit.cgroup:
            for mount in (SYS_CGROUP, f"{SYS_CGROUP}/systemd", f"{SYS_CGROUP}/unified"):
                found.update(self._cgroup_pids(f"{mount}{unit.cgroup}"))
        return tuple(sorted(found))

    def _cgroup_pids(self, directory: str) -> Iterator[int]:
        text = self._files.read_optional(f"{directory}/cgroup.procs")
        if text is None:
            return
        yield from (int(pid) for pid in text.split())
        for name in self._files.names(directory):
            yield from self._cgroup_pids(f"{directory}/{name}")


def parse_show(text: str) -> Iterator[_Unit]:
    """Units from the output of `systemctl show`: blocks of `Name=value`, an empty line between two."""
    for block in text.split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in values:
            yield _Unit(
                name=values["Id"],
                is_loaded=values.get("LoadState") == "loaded",
                state=values.get("ActiveState", "unknown"),
                main_pid=int(values.get("MainPID", "0") or 0),
                cgroup=values.get("ControlGroup", ""),
                has_job=bool(values.get("Job", "").strip("0")),
            )
