"""The control socket: HTTP and JSON over a unix socket, answered from a snapshot; changes are only asked for."""

from __future__ import annotations

import json
import os
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

from nodeagent.errors import HostError

READ_SECONDS = 10.0
Document = Mapping[str, Any]


@dataclass(frozen=True)
class Answers:
    """What the socket can say and ask for: documents by path for GET, requests by path for POST."""

    documents: Mapping[str, Callable[[], Document]]
    requests: Mapping[str, Callable[[], Document]]


class ControlServer:
    """Serves on a socket that only root and the socket's group may open; POST only for root and our own user."""

    def __init__(self, path: str, answers: Answers) -> None:
        _refuse_live(path)
        self.path = path
        previous = os.umask(0o177)
        try:
            self._server = _Server(path, answers)
        finally:
            os.umask(previous)
        os.chmod(path, 0o660)
        self._thread = threading.Thread(target=self._server.serve_forever, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        os.unlink(self.path)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: str, answers: Answers) -> None:
        self.answers = answers
        super().__init__(path, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = READ_SECONDS

    def address_string(self) -> str:
        return "control socket"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class named it
        """Requests are not logged; changes show in the status."""

    def do_GET(self) -> None:
        self._answer(self.server.answers.documents)

    def do_POST(self) -> None:
        if _peer_uid(self.connection) not in (0, os.geteuid()):
            self._send(403, {"error": "only root and the agent's own user may ask for changes"})
        else:
            self._answer(self.server.answers.requests)

    def _answer(self, table: Mapping[str, Callable[[], Document]]) -> None:
        path = self.path.split("?")[0].rstrip("/")
        found = table.get(path)
        if found is None:
            self._send(404, {"error": f"no {self.command} {path}", "known": sorted(table)})
        else:
            self._send(200, found())

    def _send(self, code: int, document: Document) -> None:
        body = json.dumps(document).encode() + b"\n"
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _peer_uid(connection: socket.socket) -> int:
    """User id of the peer (unix(7), SO_PEERCRED: struct ucred of three ints)."""
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


def _refuse_live(path: str) -> None:
    """Remove a socket left by a crash, but never one that somebody answers on."""
    if len(os.fsencode(path)) > 107:
        raise HostError(
            "serve", path, "the path is longer than the 107 bytes a unix socket may have", "use a shorter one"
        )
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except FileNotFoundError:
            return
        except OSError:
            os.unlink(path)
        else:
            raise HostError("serve", path, "another agent answers on this socket")
