"""Asks a running agent over its control socket."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from nodeagent.errors import DeadlineError, DeniedError, GoneError, HostError
from nodeagent.host.paths import CONTROL_SOCKET

SECONDS = 10.0


def ask(root: str, method: str, path: str) -> dict[str, Any]:
    """The answer's document. GoneError when no agent listens; DeniedError when it may not be asked."""
    address = root.rstrip("/") + CONTROL_SOCKET
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(SECONDS)
        try:
            connection.connect(address)
            connection.sendall(f"{method} {path} HTTP/1.0\r\nHost: node\r\nContent-Length: 0\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        except TimeoutError as error:
            raise DeadlineError("ask", address, f"no answer within {SECONDS:.0f} s") from error
        except PermissionError as error:
            raise DeniedError("ask", address, "permission denied", "run as root or in the socket's group") from error
        except OSError as error:
            raise GoneError("ask", address, "no agent is listening") from error
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    document: dict[str, Any] = json.loads(body)
    if status == [b"403"]:
        raise DeniedError("ask", address, document["error"])
    if status != [b"200"]:
        raise HostError("ask", address, document["error"])
    return document


def agent_listens(root: str) -> bool:
    """Whether there is a control socket at all; somebody may still not answer on it."""
    return os.path.exists(root.rstrip("/") + CONTROL_SOCKET)
