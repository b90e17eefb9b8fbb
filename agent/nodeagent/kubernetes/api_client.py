"""Speaking to the Kubernetes API: with a pod's service account, over TLS only, and never faster than it asks for.

Sources: kubernetes.io/docs/tasks/run-application/access-api-from-pod (address, token, certificate authority),
kubernetes.io/docs/concepts/cluster-administration/flow-control (429 with Retry-After), RFC 9110 10.2.3 (Retry-After).
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from nodeagent.errors import BusyError, DeadlineError, DeniedError, GoneError, HostError
from nodeagent.host.paths import SERVICE_ACCOUNT

DEADLINE_SECONDS = 10.0
ANSWER_BYTES = 4 << 20
LONGEST_REST_SECONDS = 300.0
MERGE_PATCH = "application/merge-patch+json"
_KINDS: Mapping[int, tuple[type[HostError], str]] = {
    401: (DeniedError, "the token is not accepted; see the service account"),
    403: (DeniedError, "the service account may not do that; it needs get, patch and watch on nodes"),
    404: (GoneError, "there is no such node; set NODE_NAME to its name in the cluster"),
    409: (BusyError, "somebody else has changed it meanwhile"),
    410: (GoneError, "what was seen last is too old for the api"),
    429: (BusyError, "it has too much to do"),
    503: (BusyError, "it has too much to do"),
}


@dataclass(frozen=True)
class Access:
    """Where the API is, and with what to speak to it; the token is read anew each time, because it is renewed."""

    host: str
    port: int
    node: str
    token_file: str = f"{SERVICE_ACCOUNT}/token"
    authority_file: str = f"{SERVICE_ACCOUNT}/ca.crt"


def access_from(environment: Mapping[str, str], root: str = "") -> Access:
    """As a pod finds it; `root` is in front of the service account's files. GoneError where this is no pod, or its
    node has no name.
    """
    host, node = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("NODE_NAME", "")
    if not host or not node:
        missing = "NODE_NAME" if host else "KUBERNETES_SERVICE_HOST"
        advice = "run in a pod with a service account, and give it its node's name by the downward API"
        raise GoneError("reach", "kubernetes api", f"{missing} is not set", advice)
    place = root.rstrip("/") + SERVICE_ACCOUNT
    port = int(environment.get("KUBERNETES_SERVICE_PORT", "443"))
    return Access(host, port, node, f"{place}/token", f"{place}/ca.crt")


class ApiClient:
    """Requests about one node. Every method raises HostError kinds; `BusyError` where trying again later will help."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._rest_until = 0.0
        self._socket: socket.socket | None = None

    def rest_seconds(self) -> float:
        """How long the API has asked not to be spoken to."""
        return max(0.0, self._rest_until - time.monotonic())

    def cut(self) -> None:
        """End the request that is open, from another thread."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The document that answers. `body` is a merge patch."""
        with self.opened(method, path, body) as answer:
            return json.loads(answer.read(ANSWER_BYTES))

    @contextmanager
    def opened(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, seconds: float = DEADLINE_SECONDS
    ) -> Iterator[http.client.HTTPResponse]:
        """An answer that is still to be read, each part within `seconds`; what goes wrong meanwhile is a HostError."""
        verb, subject = method.lower(), f"node {self.access.node}"
        connection = None
        try:
            connection = self._connection(seconds)
            self._socket = connection.sock
            connection.request(method, path, json.dumps(body) if body is not None else None, self._headers(body))
            answer = connection.getresponse()
            self._refused(verb, subject, answer)
            yield answer
        except TimeoutError as error:
            raise DeadlineError(verb, subject, f"no answer within {seconds:g} s") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise HostError(verb, subject, str(error).lower() or type(error).__name__) from error
        finally:
            if connection is not None:
                connection.close()

    def _connection(self, seconds: float) -> http.client.HTTPSConnection:
        authority = self.access.authority_file
        try:
            trust = ssl.create_default_context(cafile=authority)
        except FileNotFoundError as error:  # which names no file
            raise FileNotFoundError(f"{authority} is missing: is a service account mounted?") from error
        connection = http.client.HTTPSConnection(self.access.host, self.access.port, timeout=seconds, context=trust)
        connection.connect()
        return connection

    def _headers(self, body: Mapping[str, Any] | None) -> dict[str, str]:
        with open(self.access.token_file, encoding="ascii") as file:
            token = file.read().strip()
        kind = {"Content-Type": MERGE_PATCH} if body is not None else {}
        return {"Authorization": f"Bearer {token}", "Accept": "application/json", "User-Agent": "nodeagent", **kind}

    def _refused(self, verb: str, subject: str, answer: http.client.HTTPResponse) -> None:
        if answer.status == http.client.OK:
            return
        rest = retry_after(answer.headers.get("Retry-After", ""))
        self._rest_until = max(self._rest_until, time.monotonic() + rest)
        kind, advice = _KINDS.get(answer.status, (HostError, ""))
        raise kind(verb, subject, f"the api answers {answer.status}{_message(answer.read(ANSWER_BYTES))}", advice)


def _message(data: bytes) -> str:
    """What a Status object says, in one line."""
    try:
        document = json.loads(data)
    except ValueError:
        return ""
    text = document.get("message", "") if isinstance(document, dict) else ""
    return f" ({' '.join(str(text).split())})" if text else ""


def retry_after(text: str) -> float:
    """Seconds to wait, at most five minutes; 0 where nothing is said or a date, which the API does not use."""
    return min(float(text), LONGEST_REST_SECONDS) if text.strip().isdecimal() else 0.0
