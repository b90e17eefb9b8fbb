"""The control socket: HTTP and JSON over a unix socket, answered from a snapshot; changes are only asked for."""

from __future__ import annotations

import json
import logging
import os
import selectors
import socket
import socketserver
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from nodeagent.errors import DeniedError, HostError

READ_SECONDS = 10.0
PROBE_SECONDS = 1.0
SOCKET_PATH_BYTES = 107  # unix(7): sun_path with its terminating zero has 108
Document = Mapping[str, Any]


@dataclass(frozen=True)
class Answers:
    """What the socket can say and ask for: documents by path for GET, requests by path for POST.

    `orders` are requests that need to know what they are about (`?id=...`) and who asks (user id).
    """

    documents: Mapping[str, Callable[[], Document]]
    requests: Mapping[str, Callable[[], Document]]
    orders: Mapping[str, Callable[[str, int], Document]] = field(default_factory=dict)


class ControlServer:
    """Serves on a socket that only root and the socket's group may open; POST only for root and our own user.

    HostError: another agent answers there, or the path is too long. DeniedError: the socket cannot be made.
    """

    def __init__(self, path: str, answers: Answers) -> None:
        self.path = path
        try:
            _refuse_live(path)
            self._server = _listen(path, answers)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise DeniedError("serve", path, reason, "run as root, or with --simulate") from error
        self._thread = threading.Thread(target=self._server.serve_until_stopped, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.stop()
        self._thread.join()
        self._server.server_close()
        with suppress(FileNotFoundError):
            os.unlink(self.path)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64
    timeout = 1  # seconds in handle_request, for a client that is gone before it is accepted

    def __init__(self, path: str, answers: Answers) -> None:
        self.answers = answers
        super().__init__(path, _Handler)
        self._wake, self._waker = socket.socketpair()

    def serve_until_stopped(self) -> None:
        """As serve_forever, without waking twice a second to see whether to stop."""
        with self._wake, selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while all(key.fileobj is not self._wake for key, _ in selector.select()):
                self.handle_request()

    def stop(self) -> None:
        self._waker.close()

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """A client that went away is its own affair; anything else is a defect and goes to the log."""
        error = sys.exception()
        if not isinstance(error, OSError):
            logging.getLogger(__name__).error("request on the control socket", exc_info=error)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = READ_SECONDS

    def address_string(self) -> str:
        return "control socket"

    def log_message(self, *_: object) -> None:
        """Requests are not logged; changes show in the status."""

    def do_GET(self) -> None:
        self._answer(self.server.answers.documents)

    def do_POST(self) -> None:
        self.close_connection = True  # a body, which nobody asked for, would be taken for the next request
        uid, answers = _peer_uid(self.connection), self.server.answers
        if uid not in (0, os.geteuid()):
            self._send(HTTPStatus.FORBIDDEN, {"error": "only root and the agent's own user may ask for changes"})
            return
        about = parse_qs(urlsplit(self.path).query).get("id", [""])[0]
        orders = {path: partial(order, about, uid) for path, order in answers.orders.items()}
        self._answer({**answers.requests, **orders})

    def _answer(self, table: Mapping[str, Callable[[], Document]]) -> None:
        path = self.path.split("?")[0].rstrip("/")
        found = table.get(path)
        if found is None:
            known = {"error": f"no {self.command} {path}; there are {', '.join(sorted(table))}", "known": sorted(table)}
            self._send(HTTPStatus.NOT_FOUND, known)
            return
        try:
            self._send(HTTPStatus.OK, found())
        except HostError as error:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error)})

    def _send(self, code: HTTPStatus, document: Document) -> None:
        body = json.dumps(document).encode() + b"\n"
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _listen(path: str, answers: Answers) -> _Server:
    previous = os.umask(0o177)  # nobody may connect before the mode is set
    try:
        server = _Server(path, answers)
    finally:
        os.umask(previous)
    os.chmod(path, 0o660)
    return server


def _peer_uid(connection: socket.socket) -> int:
    """User id of the peer (unix(7), SO_PEERCRED: struct ucred of three ints)."""
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


def _refuse_live(path: str) -> None:
    """Remove a socket left by a crash, but never one that somebody answers on."""
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        reason = f"the path is longer than the {SOCKET_PATH_BYTES} bytes a unix socket may have"
        raise HostError("serve", path, reason, "use a shorter one")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(path)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except TimeoutError:
            pass  # somebody listens, and is slow
    raise HostError("serve", path, "another agent answers on this socket", "stop it first")
