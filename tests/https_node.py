"""A real HTTPS server that has one node object and treats it as the Kubernetes API does.

Bearer tokens, rights, GET, merge patch (RFC 7396) with the resourceVersion as a precondition, label syntax, watch with
bookmarks and a history that can be too short, Retry-After, and connections that are cut.
Source: kubernetes.io/docs/reference/using-api/api-concepts, and the messages of a 1.32 API server.
"""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from nodeagent.host.paths import SERVICE_ACCOUNT
from nodeagent.kubernetes.api_client import Access

NAME = "gpu-1"
NODES = "/api/v1/nodes"
PATH = f"{NODES}/{NAME}"
RIGHTS = frozenset({"get", "patch", "watch"})
MERGE_PATCH = "application/merge-patch+json"
VALUE = re.compile(r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$")
REASONS = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired", 422: "Invalid"}
_SERVER_EXTENSIONS = "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n"


class RefusalError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(message)
        self.status, self.message = status, message

    @property
    def document(self) -> dict[str, Any]:
        reason = REASONS.get(self.status, "Unknown")
        return {"kind": "Status", "code": self.status, "message": self.message, "reason": reason}


class NodeServer:
    """`metadata` and `spec` are the node's; `requests` are the methods so far, WATCH being one.

    `refuse` is a status to answer with instead, `throttle` how many requests are told to come again in a second,
    `rights` what the token may, `admit` says why a change is not admitted, `meanwhile` sees each patch first.
    """

    def __init__(self, directory: Path) -> None:
        self.metadata: dict[str, Any] = {"name": NAME, "labels": {"kubernetes.io/hostname": NAME}}
        self.spec: dict[str, Any] = {"podCIDR": "10.1.0.0/24"}
        self.requests: list[str] = []
        self.refuse = self.throttle = 0
        self.rights = RIGHTS
        self.admit: Callable[[Any, Any], str] = lambda _old, _new: ""
        self.meanwhile: Callable[[Any], None] = lambda _patch: None
        self.conflicts = 0
        place = directory / SERVICE_ACCOUNT.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        self.token, self.authority = place / "token", place / "ca.crt"
        self.token.write_text("secret-1\n")
        self.accepted = "secret-1"
        self._chain = _certificates(place)
        self._news = threading.Condition()
        self._version, self._oldest = 100, 0
        self._history: list[tuple[int, dict[str, Any]]] = []
        self._cuts, self._ended = 0, False
        self._last = self._object()

    @property
    def labels(self) -> dict[str, str]:
        return self.metadata["labels"]

    @property
    def taints(self) -> list[dict[str, str]]:
        return self.spec.get("taints", [])

    def access(self, port: int) -> Access:
        return Access("127.0.0.1", port, NAME, str(self.token), str(self.authority))

    # What others do

    def change(self, labels: dict[str, str | None] | None = None, **spec: Any) -> None:
        """As somebody else patches the node: None removes a label."""
        self.metadata = merge_patch(self.metadata, {"labels": labels or {}})
        self.spec = merge_patch(self.spec, spec)
        self.tell()

    def tell(self) -> None:
        """Count and record a change; one that changes nothing is none."""
        with self._news:
            if self._object() != self._last:
                self._version += 1
                self._last = self._object()
                self._history.append((self._version, {"type": "MODIFIED", "object": self.document()}))
                self._news.notify_all()

    def rotate(self, token: str) -> None:
        """The token is renewed, and the old one no longer accepted."""
        self.token.write_text(token)
        self.accepted = token

    def forget_history(self) -> None:
        """As etcd does after five minutes: who asks for older events is told 410."""
        with self._news:
            self._version += 5
            self._oldest = self._version
            self._history.clear()
            self._news.notify_all()

    def bookmark(self) -> None:
        with self._news:
            self._version += 1
            metadata = {"resourceVersion": str(self._version), "creationTimestamp": None}
            event = {"type": "BOOKMARK", "object": {"kind": "Node", "metadata": metadata}}
            self._history.append((self._version, event))
            self._news.notify_all()

    def cut(self) -> None:
        """Every open watch ends in the middle of an answer."""
        with self._news:
            self._cuts += 1
            self._news.notify_all()

    # Answers

    def document(self) -> dict[str, Any]:
        found = deepcopy(self._object())
        found["metadata"]["resourceVersion"] = str(self._version)
        return found

    def _object(self) -> dict[str, Any]:
        metadata = {key: value for key, value in self.metadata.items() if key != "resourceVersion"}
        return deepcopy({"kind": "Node", "apiVersion": "v1", "metadata": metadata, "spec": self.spec})

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> dict[str, Any] | None:
        """The document, None for a watch. RefusalError."""
        place = urlsplit(path)
        asked = parse_qs(place.query)
        verb = "watch" if asked.get("watch") == ["1"] else method.lower()
        self.requests.append(verb.upper())
        self._allow(verb, place.path, headers)
        if verb == "watch":
            if asked.get("fieldSelector") != [f"metadata.name={NAME}"]:
                raise RefusalError(403, "nodes is forbidden: the test gives one node only")
            return None
        if place.path != PATH:
            raise RefusalError(404, f'nodes "{place.path.rpartition("/")[2]}" not found')
        if verb == "patch":
            self._patch(headers, body)
        return self.document()

    def _allow(self, verb: str, path: str, headers: Any) -> None:
        if headers["Authorization"] != f"Bearer {self.accepted}":
            raise RefusalError(401, "Unauthorized")
        if self.refuse:
            raise RefusalError(self.refuse)
        if self.throttle:
            self.throttle -= 1
            raise RefusalError(429, "Too many requests, please try again later.")
        if verb not in self.rights:
            who = "system:serviceaccount:nodeagent:nodeagent"
            raise RefusalError(403, f'nodes "{path}" is forbidden: User "{who}" cannot {verb} resource "nodes"')

    def _patch(self, headers: Any, body: bytes) -> None:
        if headers["Content-Type"] != MERGE_PATCH:
            raise RefusalError(415, "the test takes merge patches only")
        patch = json.loads(body)
        self.meanwhile(patch)
        wanted = patch.get("metadata", {}).pop("resourceVersion", None)
        if wanted is not None and wanted != str(self._version):
            self.conflicts += 1
            message = f'Operation cannot be fulfilled on nodes "{NAME}": the object has been modified; please apply'
            raise RefusalError(409, f"{message} your changes to the latest version and try again")
        new = merge_patch(self._object(), patch)
        wrong = [value for value in new["metadata"]["labels"].values() if not VALUE.match(value)]
        problem = f"a valid label must be an empty string or consist of ...: {wrong}" if wrong else ""
        problem = problem or self.admit(self._object(), new)
        if problem:
            raise RefusalError(422, problem)
        self.metadata, self.spec = new["metadata"], new["spec"]
        self.tell()

    def events(self, since: str) -> Iterator[dict[str, Any] | None]:
        """Events of a watch, without end; None where the connection is to be cut."""
        with self._news:
            cuts = self._cuts
            position = int(since or self._version)
            first: dict[str, Any] | None = None
            if not since:
                first = {"type": "ADDED", "object": self.document()}
            elif position < self._oldest:
                refusal = RefusalError(410, f"too old resource version: {since}")
                first = {"type": "ERROR", "object": refusal.document}
        if first is not None:
            yield first
            if first["type"] == "ERROR":
                return
        while True:
            with self._news:
                while not (self._ended or cuts != self._cuts or self._after(position)):
                    self._news.wait()
                if self._ended:
                    return
                news, is_cut = self._after(position), cuts != self._cuts
            if is_cut:
                yield None
                return
            for version, event in news:
                position = version
                yield event

    def _after(self, position: int) -> list[tuple[int, dict[str, Any]]]:
        return [entry for entry in self._history if entry[0] > position]

    @contextmanager
    def serve(self) -> Iterator[Access]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self._chain)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        self._ended = False
        try:
            yield self.access(server.server_address[1])
        finally:
            with self._news:
                self._ended = True
                self._news.notify_all()
            server.shutdown()
            server.server_close()
            thread.join()


def _handler(node: NodeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with suppress(OSError):  # a client that does not trust us, or has gone
                super().handle()

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                document = node.answer(self.command, self.path, self.headers, body)
            except RefusalError as refusal:
                self._send(refusal.status, refusal.document)
                return
            if document is None:
                self._watch()
            else:
                self._send(200, document)

        do_GET = do_PATCH = _any  # noqa: N815 - the names http.server looks for

        def _send(self, status: int, document: Any) -> None:
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            if status == 429:
                self.send_header("Retry-After", "1")
            self.end_headers()
            self.wfile.write(data)

        def _watch(self) -> None:
            since = parse_qs(urlsplit(self.path).query).get("resourceVersion", [""])[0]
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.close_connection = True
            for event in node.events(since):
                if event is None:
                    self.wfile.write(b"1000\r\n{")  # a chunk that is announced and never comes
                    return
                line = json.dumps(event).encode() + b"\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def _certificates(directory: Path) -> tuple[str, str]:
    """An authority, and a certificate of 127.0.0.1 that it signed: (chain, key)."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test", "-days", "2")
    openssl("req", *curve, "-keyout", "tls.key", "-out", "tls.csr", "-subj", "/CN=127.0.0.1")
    (directory / "extensions").write_text(_SERVER_EXTENSIONS)
    signing = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "extensions")
    openssl("x509", "-req", "-in", "tls.csr", "-out", "tls.crt", *signing)
    return str(directory / "tls.crt"), str(directory / "tls.key")
