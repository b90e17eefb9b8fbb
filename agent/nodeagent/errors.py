"""Every error the agent raises, on one page: the class says what to do, the attributes say where it came from.

NodeAgentError
├─ UsageError            the command line is wrong                             exit 2
├─ SpecError             the operator edits the node file                      exit 2
├─ HostError             the host refused or failed                            exit 1
│  ├─ UnsupportedError   hardware, driver or kernel cannot: wait for the host to change
│  ├─ DeniedError        capability, lockdown, read-only: wait for the operator   exit 8
│  ├─ BusyError          held by a process, a driver, an instance             retryable
│  ├─ GoneError          device, file or instance vanished: observe again     retryable
│  └─ DeadlineError      no answer in time: the driver may hang               exit 7
├─ NotConvergedError     applied, yet the plan is not empty                    exit 3, retryable
├─ BlockedError          something stands in the way; nothing was changed     exit 6
├─ JournalError          the journal cannot be read: look before acting       exit 65
└─ AlreadyRunningError   another agent holds the lock                          exit 75
"""

from __future__ import annotations

from typing import NamedTuple


class NodeAgentError(Exception):
    """Base of all errors of the agent; `retryable` says whether trying again unchanged can help."""

    retryable = False
    exit_code = 1


class UsageError(NodeAgentError):
    """The command line asks for something that does not exist or does not fit together."""

    exit_code = 2


class SpecProblem(NamedTuple):  # a dataclass would cost every command 10 ms of start-up
    """One mistake in a node file: `path` is the place in the document, such as `mig.gpus[0].profiles`."""

    file: str
    line: int
    column: int
    path: str
    problem: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{where}: {self.path}: {self.problem}" if self.path else f"{where}: {self.problem}"


class SpecError(NodeAgentError):
    """The node file is wrong; `problems` holds every mistake found, not only the first."""

    exit_code = 2

    def __init__(self, problems: tuple[SpecProblem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class HostError(NodeAgentError):
    """The host refused or failed: `operation` on `subject`, because of `reason`; `advice` says what would help."""

    def __init__(self, operation: str, subject: str, reason: str, advice: str = "") -> None:
        text = f"{operation} {subject}: {reason}"
        super().__init__(f"{text}; {advice}" if advice else text)
        self.operation, self.subject, self.reason, self.advice = operation, subject, reason, advice


class UnsupportedError(HostError):
    """Hardware, driver or kernel cannot do this."""


class DeniedError(HostError):
    """A capability is missing, the kernel is locked down, or the file system is read-only."""

    exit_code = 8


class BusyError(HostError):
    """Held by a process, a driver or an instance."""

    retryable = True


class GoneError(HostError):
    """The device, file or instance is not there (any more)."""

    retryable = True


class DeadlineError(HostError):
    """The call did not return in time; it may still be hanging in the kernel."""

    exit_code = 7


class NotConvergedError(NodeAgentError):
    """Everything was applied, yet the newly observed node still differs; `remaining` are the steps left over."""

    retryable = True
    exit_code = 3

    def __init__(self, remaining: tuple[str, ...]) -> None:
        super().__init__("not converged, still to do: " + "; ".join(remaining))
        self.remaining = remaining


class BlockedError(NodeAgentError):
    """Something stands in the way and nothing was changed; `blockers` name it."""

    exit_code = 6

    def __init__(self, what: str, blockers: tuple[str, ...]) -> None:
        super().__init__(f"{what}: blocked by " + "; ".join(blockers))
        self.blockers = blockers


class JournalError(NodeAgentError):
    """The journal of an earlier run cannot be read, so what is owed to the node is not known."""

    exit_code = 65  # EX_DATAERR of sysexits(3)


class AlreadyRunningError(NodeAgentError):
    """Another agent holds the lock of this node."""

    exit_code = 75
