"""The node's object in the Kubernetes API: read, and patched in its labels; with a service account, over TLS only.

Sources: kubernetes.io/docs/tasks/run-application/access-api-from-pod (address, token, certificate authority), RFC 7396
(merge patch: null removes a key).
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from nodeagent.errors import DeadlineError, DeniedError, GoneError, HostError
from nodeagent.host.paths import SERVICE_ACCOUNT

MANAGED = "nodeagent.io/labels"  # annotation: the labels that are ours, so that those no longer wanted can go
DEADLINE_SECONDS = 10.0
ANSWER_BYTES = 4 << 20
_KINDS: Mapping[int, tuple[type[HostError], str]] = {
    401: (DeniedError, "the token is not accepted; see the service account"),
    403: (DeniedError, "the service account may not do that; it needs get and patch on nodes"),
    404: (GoneError, "there is no such node; set NODE_NAME to its name in the cluster"),
}


@dataclass(frozen=True)
class Access:
    """Where the API is, and with what to speak to it; the token is read anew each time, because it is renewed."""

    host: str
    port: int
    node: str
    token_file: str = f"{SERVICE_ACCOUNT}/token"
    authority_file: str = f"{SERVICE_ACCOUNT}/ca.crt"


def access_from(environment: Mapping[str, str]) -> Access:
    """As a pod finds it. GoneError where this is no pod, or its node has no name."""
    host, node = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("NODE_NAME", "")
    if not host or not node:
        missing = "NODE_NAME" if host else "KUBERNETES_SERVICE_HOST"
        advice = "run in a pod with a service account, and give it its node's name by the downward API"
        raise GoneError("reach", "kubernetes api", f"{missing} is not set", advice)
    return Access(host, int(environment.get("KUBERNETES_SERVICE_PORT", "443")), node)


@dataclass(frozen=True)
class NodeObject:
    """What matters of a node object."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]

    @property
    def managed(self) -> frozenset[str]:
        return frozenset(filter(None, self.annotations.get(MANAGED, "").split(",")))


class NodeApi:
    """One node through the API. Every method raises HostError kinds."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._path = f"/api/v1/nodes/{quote(access.node, safe='')}"

    def read(self) -> NodeObject:
        """Labels and annotations as they are."""
        return _node(self._ask("GET"))

    def publish(self, labels: Mapping[str, str]) -> bool:
        """Make these our labels of the node; whether anything had to change. Labels of others stay."""
        found = self.read()
        patch = patch_for(found, labels)
        if patch is None:
            return False
        self._ask("PATCH", patch)
        return True

    def _ask(self, method: str, body: Mapping[str, Any] | None = None) -> Any:
        access = self._access
        try:
            status, data = self._exchange(method, json.dumps(body) if body is not None else None)
        except TimeoutError as error:
            reason = f"no answer within {DEADLINE_SECONDS:g} s"
            raise DeadlineError(method.lower(), f"node {access.node}", reason) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise HostError(method.lower(), f"node {access.node}", str(error).lower()) from error
        if status != http.client.OK:
            kind, advice = _KINDS.get(status, (HostError, ""))
            raise kind(method.lower(), f"node {access.node}", f"the api answers {status}", advice)
        return data

    def _exchange(self, method: str, body: str | None) -> tuple[int, Any]:
        access = self._access
        with open(access.token_file, encoding="ascii") as file:
            token = file.read().strip()
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json", "User-Agent": "nodeagent"}
        if body is not None:
            headers["Content-Type"] = "application/merge-patch+json"
        trust = ssl.create_default_context(cafile=access.authority_file)
        connection = http.client.HTTPSConnection(access.host, access.port, timeout=DEADLINE_SECONDS, context=trust)
        try:
            connection.request(method, self._path, body=body, headers=headers)
            answer = connection.getresponse()
            data = answer.read(ANSWER_BYTES)
            return answer.status, json.loads(data) if answer.status == http.client.OK else None
        finally:
            connection.close()


def _node(document: Any) -> NodeObject:
    metadata = document.get("metadata", {}) if isinstance(document, dict) else {}
    return NodeObject(metadata.get("labels") or {}, metadata.get("annotations") or {})


def patch_for(found: NodeObject, labels: Mapping[str, str]) -> Mapping[str, Any] | None:
    """The merge patch that sets our labels and removes those we no longer want, None where nothing differs."""
    changed: dict[str, str | None] = {key: value for key, value in labels.items() if found.labels.get(key) != value}
    changed |= dict.fromkeys(key for key in found.managed - set(labels) if key in found.labels)
    managed = ",".join(sorted(labels))
    if not changed and found.annotations.get(MANAGED, "") == managed:
        return None
    return {"metadata": {"labels": changed, "annotations": {MANAGED: managed}}}
