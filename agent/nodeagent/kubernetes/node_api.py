"""The node's object in the Kubernetes API: read, and patched in its labels and in one taint.

Sources: RFC 7396 (merge patch: null removes a key, a list is replaced as a whole),
kubernetes.io/docs/reference/using-api/api-concepts (a patch that names a resourceVersion is refused with 409 if the
object has another by then), kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from nodeagent.errors import BusyError
from nodeagent.kubernetes.api_client import Access, ApiClient
from nodeagent.state.repair import QUARANTINE

MANAGED = "nodeagent.io/labels"  # annotation: the labels that are ours, so that those no longer wanted can go
TAINTED = "nodeagent.io/taint"  # annotation: the key of the taint that is ours
TAINT: Mapping[str, str] = {"key": QUARANTINE, "value": "repair", "effect": "NoSchedule"}
TRIES = 3


@dataclass(frozen=True)
class NodeObject:
    """What matters of a node object."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    taints: tuple[Mapping[str, Any], ...] = ()
    version: str = ""

    @property
    def managed(self) -> frozenset[str]:
        return frozenset(filter(None, self.annotations.get(MANAGED, "").split(",")))


class NodeApi:
    """One node through the API. Every method raises HostError kinds."""

    def __init__(self, access: Access) -> None:
        self.client = ApiClient(access)
        self.path = f"/api/v1/nodes/{quote(access.node, safe='')}"

    def read(self) -> NodeObject:
        """Labels, annotations and taints as they are."""
        return node_of(self.client.ask("GET", self.path))

    def publish(self, labels: Mapping[str, str], found: NodeObject | None = None) -> NodeObject | None:
        """Make these our labels of the node, None where nothing had to change. Labels of others stay.

        `found` is the node as it was last seen, read anew if it is left out.
        """
        patch = patch_for(found or self.read(), labels)
        return None if patch is None else self._patched(patch)

    def bring_taint(self, found: NodeObject, *, wanted: bool) -> NodeObject | None:
        """Set or remove the taint of quarantine, None where nothing had to change. Other taints stay.

        The patch holds for the object as it was seen only; somebody else's change meanwhile is taken over, at most
        three times. BusyError then.
        """
        for tries_left in reversed(range(TRIES)):
            patch = taint_patch(found, wanted=wanted)
            if patch is None:
                return None
            try:
                return self._patched(patch)
            except BusyError:
                if not tries_left or self.client.rest_seconds():
                    raise
                found = self.read()
        return None

    def _patched(self, patch: Mapping[str, Any]) -> NodeObject:
        return node_of(self.client.ask("PATCH", self.path, patch))


def node_of(document: Any) -> NodeObject:
    """The node of an answer or an event."""
    metadata = document.get("metadata", {}) if isinstance(document, dict) else {}
    spec = document.get("spec") or {} if isinstance(document, dict) else {}
    return NodeObject(
        metadata.get("labels") or {},
        metadata.get("annotations") or {},
        tuple(spec.get("taints") or ()),
        metadata.get("resourceVersion", ""),
    )


def patch_for(found: NodeObject, labels: Mapping[str, str]) -> Mapping[str, Any] | None:
    """The merge patch that sets our labels and removes those we no longer want, None where nothing differs."""
    changed: dict[str, str | None] = {key: value for key, value in labels.items() if found.labels.get(key) != value}
    changed |= dict.fromkeys(key for key in found.managed - set(labels) if key in found.labels)
    managed = ",".join(sorted(labels))
    if not changed and found.annotations.get(MANAGED, "") == managed:
        return None
    return {"metadata": {"labels": changed, "annotations": {MANAGED: managed or None}}}


def taint_patch(found: NodeObject, *, wanted: bool) -> Mapping[str, Any] | None:
    """The merge patch that sets our taint, or removes it if it is ours; None where nothing is to be done.

    A taint of that key without our annotation is somebody else's. The list goes as a whole, hence the precondition.
    """
    there = any(taint.get("key") == QUARANTINE for taint in found.taints)
    is_ours = found.annotations.get(TAINTED) == QUARANTINE
    if wanted is there or (there and not is_ours):
        return None if wanted or there or not is_ours else _taints(found, found.taints, None)
    others = tuple(taint for taint in found.taints if taint.get("key") != QUARANTINE)
    return _taints(found, (*others, TAINT), QUARANTINE) if wanted else _taints(found, others, None)


def _taints(found: NodeObject, taints: tuple[Mapping[str, Any], ...], mark: str | None) -> Mapping[str, Any]:
    metadata = {"resourceVersion": found.version, "annotations": {TAINTED: mark}}
    return {"metadata": metadata, "spec": {"taints": [dict(taint) for taint in taints]}}
