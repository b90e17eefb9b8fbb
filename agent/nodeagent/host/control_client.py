"""Asks a running agent over its control socket."""

from __future__ import annotations

import json
import socket
from typing import Any

from nodeagent.errors import DeadlineError, DeniedError, GoneError, HostError
from nodeagent.host.paths import CONTROL_SOCKET

SECONDS = 10.0
PROBE_SECONDS = 1.0


def ask(root: str, method: str, path: str, seconds: float = SECONDS) -> dict[str, Any]:
    """The answer's document. GoneError when no agent listens; DeniedError when it may not be asked.

    DeadlineError when it does not answer within `seconds`, HostError when it answers with an error.
    """
    address = root.rstrip("/") + CONTROL_SOCKET
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        try:
            connection.connect(address)
            connection.sendall(f"{method} {path} HTTP/1.0\r\nHost: node\r\nContent-Length: 0\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        except TimeoutError as error:
            raise DeadlineError("ask", address, f"no answer within {seconds:g} s", "is the agent stopped") from error
        except PermissionError as error:
            raise DeniedError("ask", address, "permission denied", "run as root or in the socket's group") from error
        except OSError as error:
            raise GoneError("ask", address, "no agent is listening") from error
    return _document(answer, address)


def _document(answer: bytes, address: str) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if not answer:
        raise GoneError("ask", address, "the agent went away before it answered")
    try:
        document: dict[str, Any] = json.loads(body)
    except ValueError as error:
        raise HostError("ask", address, f"its answer is not JSON ({error})") from error
    if status == [b"403"]:
        raise DeniedError("ask", address, document["error"])
    if status != [b"200"]:
        raise HostError("ask", address, document["error"])
    return document


def agent_listens(root: str) -> bool:
    """Whether somebody listens on the control socket; one that a killed agent left behind does not count."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(root.rstrip("/") + CONTROL_SOCKET)
        except (PermissionError, TimeoutError):
            return True  # there is one, whether or not it answers us
        except OSError:
            return False
    return True
