"""Settings of interfaces: the ethtool netlink family, sysctls and sysfs; read in one dump per group.

pyroute2 covers rings, not channels, coalescing, offloads and private flags by netlink, and costs 24 MB to import; this
is one request per group for all interfaces. An accepted write proves nothing: offloads that are fixed are passed over
in silence and drivers round numbers, so every write is read back.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping

from nodeagent.errors import UnsupportedError
from nodeagent.host import ethtool_codec as codec
from nodeagent.host.netlink import RouteSocket, route_socket
from nodeagent.host.paths import PROC_NET_IPV4_CONF, SYS_CLASS_NET
from nodeagent.host.ports import Files
from nodeagent.state.link_settings import Group, GroupState, Setting, SettingsState, Values, not_taken

# Documentation/networking/ip-sysctl.rst; the largest value that each takes.
IPV4_MOST: Mapping[str, int] = {"arp_ignore": 8, "arp_announce": 2, "arp_filter": 1, "rp_filter": 2, "accept_local": 1}
TX_QUEUE_LENGTH = "tx_queue_length"
NOT_TAKEN = "the driver rounds or fixes it: write what it made of it into the node file; pause may want autoneg: false"
REFUSED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ERANGE)
UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOENT)  # ENOENT: the kernel has no ethtool netlink at all


class KernelLinkSettings:
    """`ports.LinkSettings` in the agent's own network namespace; `files` must be the same machine's tree."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._feature_names: tuple[str, ...] = ()

    def read_all(self, groups: Iterable[Group]) -> Mapping[str, SettingsState]:
        """As the port says; one dump per group. A dump that a change cut into is asked for anew by the next pass."""
        found: dict[str, dict[Group, GroupState]] = {}
        wanted = tuple(groups)
        by_netlink = [group for group in wanted if group in codec.LAYOUTS]
        if by_netlink:
            with route_socket("read settings of", "the interfaces", codec.NETLINK_GENERIC) as opened:
                for group in by_netlink:
                    for name, settings in self._dump(opened, group):
                        found.setdefault(name, {})[group] = settings
        for group in wanted:
            if group not in codec.LAYOUTS:
                for name in self._files.names(SYS_CLASS_NET):
                    found.setdefault(name, {})[group] = self._from_files(name, group)
        return found

    def read(self, netdev: str, group: Group) -> GroupState:
        """As the port says."""
        if group not in codec.LAYOUTS:
            return self._from_files(netdev, group)
        try:
            with route_socket(f"read {group} of", netdev, codec.NETLINK_GENERIC) as opened:
                return self._get(opened, group, netdev)
        except UnsupportedError:
            return ()

    def write(self, netdev: str, group: Group, values: Values) -> None:
        """As the port says."""
        operation = f"set {group} of"
        if group in codec.LAYOUTS:
            with route_socket(operation, netdev, codec.NETLINK_GENERIC) as opened:
                _set(opened, group, netdev, values)
                present = self._get(opened, group, netdev)
        else:
            for name, value in values:
                self._files.write(_path(netdev, name), str(value))
            present = self._from_files(netdev, group)
        _prove(operation, netdev, not_taken(group, present, values))

    def _dump(self, opened: RouteSocket, group: Group) -> list[tuple[str, GroupState]]:
        try:
            family = _family(opened)
            names = self._names(opened, family) if group is Group.FEATURES else ()
            replies = opened.dump(family, codec.encode_get(group))
        except OSError as error:
            if error.errno in UNSUPPORTED:
                return []
            raise
        return [found for found in (codec.decode_get(group, reply.body, names) for reply in replies) if found[1]]

    def _get(self, opened: RouteSocket, group: Group, netdev: str) -> GroupState:
        family = _family(opened)
        names = self._names(opened, family) if group is Group.FEATURES else ()
        (reply,) = opened.talk(family, codec.encode_get(group, netdev))
        return codec.decode_get(group, reply.body, names)[1]

    def _names(self, opened: RouteSocket, family: int) -> tuple[str, ...]:
        """They are built into the kernel, so they are asked for once."""
        if not self._feature_names:
            (reply,) = opened.talk(family, codec.encode_feature_names())
            self._feature_names = codec.decode_feature_names(reply.body)
        return self._feature_names

    def _from_files(self, netdev: str, group: Group) -> GroupState:
        most = IPV4_MOST if group is Group.IPV4 else {TX_QUEUE_LENGTH: None}
        texts = ((name, limit, self._files.read_optional(_path(netdev, name))) for name, limit in most.items())
        return tuple(Setting(name, int(text), limit) for name, limit, text in texts if text is not None)


def _path(netdev: str, name: str) -> str:
    return (
        f"{SYS_CLASS_NET}/{netdev}/tx_queue_len" if name == TX_QUEUE_LENGTH else f"{PROC_NET_IPV4_CONF}/{netdev}/{name}"
    )


def _family(opened: RouteSocket) -> int:
    (reply,) = opened.talk(codec.GENL_ID_CTRL, codec.encode_family())
    return codec.decode_family(reply.body)


def _set(opened: RouteSocket, group: Group, netdev: str, values: Values) -> None:
    """Drivers mostly refuse with one errno for all that was written, so the refusal says what that was."""
    try:
        opened.talk(_family(opened), codec.encode_set(group, netdev, values))
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        told = ", ".join(f"{name} {value}" for name, value in values)
        reason = f"the driver refuses {told}: {(error.strerror or '').lower()}"
        advice = "it may take others, fewer of them, or none here; the kernel log may say why"
        raise UnsupportedError(f"set {group} of", netdev, reason, advice) from error


def _prove(operation: str, netdev: str, wrong: tuple[tuple[str, int, int | None], ...]) -> None:
    if wrong:
        told = (f"{name} is {'not there' if now is None else now} and not {value}" for name, value, now in wrong)
        raise UnsupportedError(operation, netdev, f"taken, but {', '.join(told)}", NOT_TAKEN)
