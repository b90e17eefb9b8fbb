"""Names of the node's pods by their UID, from the kubelet's log directories.

Each pod has /var/log/pods/NAMESPACE_NAME_UID while it exists (kubernetes/kubernetes pkg/kubelet/kuberuntime,
BuildPodLogsDirectory); no part can hold an underscore. Neither cgroups nor the pod-resources API lead from UID to name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from types import MappingProxyType

from nodeagent.errors import HostError
from nodeagent.host.paths import LOG_PODS, SYS_CGROUP
from nodeagent.host.ports import Files
from nodeagent.host.process_facts import pod_of
from nodeagent.state.pods import PodUser

_PARTS = 3
_DEPTH = 4
_ON_THE_WAY = ("kube", "burstable", "besteffort", "systemd")  # the last is a hierarchy of version 1


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


def without_ended(files: Files, users: Mapping[str, tuple[PodUser, ...]]) -> Mapping[str, tuple[PodUser, ...]]:
    """Devices with their pods, without pods that are over: older kubelets list those until they are deleted.

    A pod is over when it has logs and no cgroup. Where no pod's cgroup can be seen, all stay.
    """
    alive = frozenset(_pods_below(files, SYS_CGROUP, _DEPTH)) if users else frozenset()
    if not alive:
        return users
    rows = (entry.split("_") for entry in files.names(LOG_PODS))
    logged = [(f"{row[0]}/{row[1]}", row[2]) for row in rows if len(row) == _PARTS]
    ended = {name for name, _ in logged} - {name for name, uid in logged if uid in alive}
    return {
        id_: tuple(one for one in given if f"{one.namespace}/{one.pod}" not in ended) for id_, given in users.items()
    }


def _pods_below(files: Files, directory: str, depth: int) -> Iterator[str]:
    """UIDs of pods with a cgroup (kubernetes pkg/kubelet/cm, both drivers and both versions)."""
    for name in files.names(directory):
        if uid := pod_of(name):
            yield uid
        elif depth and any(part in name for part in _ON_THE_WAY):
            yield from _pods_below(files, f"{directory}/{name}", depth - 1)
