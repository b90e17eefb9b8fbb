"""A route netlink socket by the standard library alone, for what is read in every pass and what pyroute2 lacks.

pyroute2 costs 24 MB and a quarter of a second to import and has no DCB; this is one system call to ask and one to hear.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from nodeagent.errors import DeadlineError, HostError
from nodeagent.host.files import ADVICE, ERROR_OF_ERRNO
from nodeagent.host.netlink_codec import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    Message,
    error_of,
    message,
    messages,
)

NETLINK_ROUTE = 0
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 270, 10, 11
NO_SUCH_INTERFACE = "no such interface"  # plainer than the kernel's "no such device"
RECEIVE_BYTES = 1 << 20
DUMP_TRIES = 5  # on a node whose interfaces come and go all the time the last answer has to do
DEADLINE_SECONDS = 30.0  # the kernel answers under one lock; a driver that configures firmware holds it for seconds


class RouteSocket:
    """One socket; every method raises OSError with the kernel's errno and, where it says so, its own words."""

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sequence = 0
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        self._socket.settimeout(DEADLINE_SECONDS)
        self._socket.bind((0, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def set_deadline(self, seconds: float) -> None:
        """How long an answer may take; DEADLINE_SECONDS unless told."""
        self._socket.settimeout(seconds)

    def talk(self, kind: int, body: bytes, flags: int = 0) -> tuple[Message, ...]:
        """Ask and wait for the acknowledgement; the messages that came before it."""
        return self._exchange(kind, body, NLM_F_REQUEST | NLM_F_ACK | flags)

    def dump(self, kind: int, body: bytes) -> tuple[Message, ...]:
        """Every object the kernel has of this kind; asked for anew where a change cut into the answer."""
        for _ in range(DUMP_TRIES):
            found = self._exchange(kind, body, NLM_F_REQUEST | NLM_F_DUMP)
            if not any(one.flags & NLM_F_DUMP_INTR for one in found):
                break
        return found

    def _exchange(self, kind: int, body: bytes, flags: int) -> tuple[Message, ...]:
        self._sequence += 1
        self._socket.send(message(kind, flags, self._sequence, body))
        found: list[Message] = []
        while True:
            for reply in messages(self._socket.recv(RECEIVE_BYTES)):
                if reply.sequence != self._sequence:
                    continue  # the end of an exchange that was given up before
                if reply.kind in (NLMSG_ERROR, NLMSG_DONE):
                    _raise_refusal(reply)
                    return tuple(found)
                found.append(reply)


def _raise_refusal(reply: Message) -> None:
    number, words = error_of(reply) if len(reply.body) >= 4 else (0, "")
    if number:
        raise OSError(number, words or os.strerror(number))


@contextmanager
def route_socket(operation: str, subject: str, protocol: int = NETLINK_ROUTE) -> Iterator[RouteSocket]:
    """A socket for the block; every refusal in it becomes the agent's error for `operation subject`."""
    with netlink_errors(operation, subject), RouteSocket(protocol) as opened:
        yield opened


@contextmanager
def netlink_errors(operation: str, subject: str) -> Iterator[None]:
    """Every refusal in the block becomes the agent's error for `operation subject`."""
    try:
        yield
    except TimeoutError as error:
        raise DeadlineError(operation, subject, "no answer by netlink in time") from error
    except OSError as error:
        raise refusal(operation, subject, error.errno or errno.EIO, error.strerror or "") from error
    except (ValueError, struct.error) as error:
        raise HostError(operation, subject, f"the kernel's answer cannot be read: {error}") from error


def refusal(operation: str, subject: str, number: int, words: str = "") -> HostError:
    """The agent's error for an errno, in the kernel's words where it has some."""
    reason = (words or os.strerror(number)).lower()
    return ERROR_OF_ERRNO.get(number, HostError)(operation, subject, reason, ADVICE.get(number, ""))
