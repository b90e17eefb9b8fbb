"""A real HTTPS server that has one node object, as the Kubernetes API has it: bearer token, GET and merge patch."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from nodeagent.kubernetes.node_api import Access

PATH = "/api/v1/nodes/gpu-1"
_SERVER_EXTENSIONS = "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n"


class NodeServer:
    """`metadata` is the node's; `requests` are the methods so far; `refuse` is a status to answer with instead."""

    def __init__(self, directory: Path) -> None:
        self.metadata: dict[str, Any] = {"name": "gpu-1", "labels": {"kubernetes.io/hostname": "gpu-1"}}
        self.requests: list[str] = []
        self.refuse = 0
        self.token = directory / "token"
        self.token.write_text("secret-1\n")
        self.accepted = "secret-1"
        self.authority = directory / "ca.crt"
        self._chain = _certificates(directory)

    @property
    def labels(self) -> dict[str, str]:
        return self.metadata["labels"]

    def access(self, port: int) -> Access:
        return Access("127.0.0.1", port, "gpu-1", str(self.token), str(self.authority))

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, Any]:
        self.requests.append(method)
        if self.refuse:
            return self.refuse, {"kind": "Status"}
        if headers["Authorization"] != f"Bearer {self.accepted}":
            return 401, {"kind": "Status"}
        if path != PATH:
            return 404, {"kind": "Status"}
        if method == "PATCH":
            assert headers["Content-Type"] == "application/merge-patch+json"
            patch = json.loads(body)
            assert set(patch) == {"metadata"}, "nothing else of the node is ours to change"
            self.metadata = merge_patch(self.metadata, patch["metadata"])
        return 200, {"kind": "Node", "metadata": self.metadata}

    @contextmanager
    def serve(self) -> Iterator[Access]:
        answer = self.answer

        class Handler(BaseHTTPRequestHandler):
            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, document = answer(self.command, self.path, self.headers, body)
                data = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PATCH = _any  # noqa: N815 - the names http.server looks for

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self._chain)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield self.access(server.server_address[1])
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


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
