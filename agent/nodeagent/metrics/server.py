"""The HTTP server of /metrics: it sends bytes that are ready, so a scrape costs no hardware access and takes no lock.

/metrics the snapshot, /healthz 200 while the process serves, /readyz 200 while there is a snapshot that is not old,
/ a page for people.
"""

from __future__ import annotations

import errno
import logging
import selectors
import socket
import socketserver
import sys
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from nodeagent.errors import BusyError, DeniedError, HostError
from nodeagent.metrics.exposition import CONTENT_TYPE, OPENMETRICS_TYPE
from nodeagent.metrics.negotiation import accepts_gzip, wants_openmetrics
from nodeagent.metrics.page import empty_page
from nodeagent.metrics.web_config import Gate

if TYPE_CHECKING:
    from collections.abc import Callable

    from nodeagent.metrics.snapshot import Snapshot

_CONNECTIONS_MAX = 256  # each costs a thread; Prometheus keeps one or two open
_TEXT = "text/plain; charset=utf-8"
_HTML = "text/html; charset=utf-8"


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes; the second must not wait for an acknowledgement
    timeout = 30  # seconds a client may take to send a request or accept our bytes, and to stay idle between two

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if not self.server.gate.admits(self.headers.get("Authorization", "")):
            self._send(HTTPStatus.UNAUTHORIZED, b"a user name and its password are needed\n", _TEXT)
        elif path == "/metrics":
            self._metrics()
        elif path == "/healthz":
            self._send(HTTPStatus.OK, b"ok\n", _TEXT)
        elif path == "/readyz":
            self._readiness()
        elif path == "/":
            snapshot = self.server.source()
            self._send(HTTPStatus.OK, (snapshot.page if snapshot else b"") or empty_page(), _HTML)
        else:
            self._send(HTTPStatus.NOT_FOUND, b"not found; there are /metrics, /healthz, /readyz\n", _TEXT)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _readiness(self) -> None:
        """Ready is who has something to show that is not old."""
        snapshot = self.server.source()
        if snapshot is None:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, b"no snapshot yet\n", _TEXT)
            return
        age = time.time() - snapshot.generated_seconds
        if age > snapshot.fresh_seconds:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, f"the snapshot is {age:.0f} s old\n".encode(), _TEXT)
        else:
            self._send(HTTPStatus.OK, b"ready\n", _TEXT)

    def _metrics(self) -> None:
        snapshot = self.server.source()
        if snapshot is None:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, b"no snapshot yet\n", _TEXT)
            return
        zipped = accepts_gzip(self.headers.get("Accept-Encoding", ""))
        if snapshot.openmetrics and wants_openmetrics(self.headers.get("Accept", "")):
            body = snapshot.openmetrics_compressed if zipped else snapshot.openmetrics
            self._send(HTTPStatus.OK, body, OPENMETRICS_TYPE, "gzip" if zipped else "")
        else:
            body = snapshot.compressed if zipped else snapshot.body
            self._send(HTTPStatus.OK, body, CONTENT_TYPE, "gzip" if zipped else "")

    def _send(self, status: HTTPStatus, body: bytes, content_type: str, encoding: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Vary", "Accept, Accept-Encoding")
        if encoding:
            self.send_header("Content-Encoding", encoding)
        if status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", 'Basic realm="nodeagent", charset="UTF-8"')
        for name, value in self.server.gate.config.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        return "nodeagent"

    def log_message(self, *_: object) -> None:
        """Scrapes are not news."""


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    timeout = 1  # seconds in handle_request, for a client that is gone before it is accepted
    request_queue_size = 128  # with fewer, many scrapers at once see refused or 1 s late connections

    def __init__(
        self, family: socket.AddressFamily, address: Any, source: Callable[[], Snapshot | None], gate: Gate
    ) -> None:
        self.address_family = family
        self.source, self.gate = source, gate
        self._open: dict[Any, None] = {}  # in the order in which they came
        super().__init__(address, _Handler)  # may fail, and then there is nothing of ours to close
        self._wake, self._waker = socket.socketpair()

    def get_request(self) -> tuple[Any, Any]:
        """The next connection; a TLS handshake is left to its own thread, where a slow client holds up nobody."""
        request, address = super().get_request()
        tls = self.gate.config.tls
        if tls is not None:
            request.settimeout(_Handler.timeout)
            request = tls.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        return request, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """When there are too many, the oldest has to go: many slow clients must not keep a scraper out."""
        if len(self._open) >= _CONNECTIONS_MAX:
            self._end(next(iter(self._open)))
        self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.pop(request, None)
        super().shutdown_request(request)

    def _end(self, request: Any) -> None:
        """Wake the thread that serves it, which then closes it."""
        self._open.pop(request, None)
        with suppress(OSError):
            socket.socket.shutdown(request, socket.SHUT_RDWR)  # past TLS, whose farewell could block

    def handle_error(self, _request: Any, client_address: Any) -> None:
        """A client that went away is its own affair; anything else is a defect and goes to the log."""
        error = sys.exception()
        if not isinstance(error, OSError):
            logging.getLogger(__name__).error("request of %s", client_address, exc_info=error)

    def serve_until_stopped(self) -> None:
        """As serve_forever, without waking twice a second to see whether to stop."""
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while all(key.fileobj is not self._wake for key, _ in selector.select()):
                self.handle_request()

    def stop(self) -> None:
        self._waker.close()

    def disconnect(self) -> None:
        """Stop listening and end what is connected."""
        self.server_close()
        self._wake.close()
        for connection in tuple(self._open):
            self._end(connection)


class MetricsServer:
    """A running server; `address` is where it listens, `127.0.0.1:9400` or `[::1]:9400`."""

    def __init__(self, server: _Server) -> None:
        host, port = server.server_address[:2]
        self.address = f"[{host!s}]:{port}" if server.address_family == socket.AF_INET6 else f"{host!s}:{port}"
        self._server = server
        self._thread = threading.Thread(target=server.serve_until_stopped, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and end open connections."""
        self._server.stop()
        self._thread.join()
        self._server.disconnect()


def serve(listen: str, source: Callable[[], Snapshot | None], web_config_file: str = "") -> MetricsServer:
    """Serve on `HOST:PORT` or `[IPV6]:PORT`, port 0 for any free one; `source` gives the latest snapshot or None.

    `web_config_file`: TLS and passwords, see web_config. BusyError: something else listens there. DeniedError: a port
    below 1024 without the privilege. HostError otherwise.
    """
    gate = Gate(web_config_file)
    host, port = _split(listen)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return MetricsServer(_Server(family, address, source, gate))
    except PermissionError as error:
        raise DeniedError("listen on", listen, "permission denied", "take a port from 1024 upwards") from error
    except OSError as error:
        raise _refusal(listen, error) from error


def _refusal(listen: str, error: OSError) -> HostError:
    if error.errno == errno.EADDRINUSE:
        return BusyError("listen on", listen, "the port is in use", "set metrics.listen to a free one, or to empty")
    return HostError(
        "listen on", listen, error.strerror or str(error), "metrics.listen must be an address of this node"
    )


def _split(listen: str) -> tuple[str | None, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535 or (":" in host and not host.startswith("[")):
        raise HostError("listen on", listen, "not an address with a port", "write HOST:PORT or [IPV6]:PORT")
    return host.strip("[]") or None, int(port)
