"""Names of the node's pods by their UID, from the kubelet's log directories.

Each pod has /var/log/pods/NAMESPACE_NAME_UID while it exists (kubernetes/kubernetes pkg/kubelet/kuberuntime,
BuildPodLogsDirectory); no part can hold an underscore. Neither cgroups nor the pod-resources API lead from UID to name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType

from nodeagent.errors import HostError
from nodeagent.host.paths import LOG_PODS
from nodeagent.host.ports import Files

_PARTS = 3


class PodNames:
    """`namespace/name` by UID; read at most once, and only when asked for one."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def __getitem__(self, uid: str) -> str:
        """The name, "" for no UID and for one that is not known."""
        return self._names.get(uid, "") if uid else ""

    @cached_property
    def _names(self) -> Mapping[str, str]:
        try:
            entries = self._files.names(LOG_PODS)
        except HostError:
            return MappingProxyType({})
        rows = (entry.split("_") for entry in entries)
        return MappingProxyType({row[2]: f"{row[0]}/{row[1]}" for row in rows if len(row) == _PARTS})
