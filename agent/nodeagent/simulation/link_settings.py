"""`ports.LinkSettings` on the simulated kernel: what mlx5's and the kernel's own interfaces offer and refuse.

Sources: drivers/net/ethernet/mellanox/mlx5/core/en_ethtool.c (limits; ring sizes are rounded up to a power of two),
net/ethtool/{rings,channels,features}.c (what is refused, and what is passed over in silence).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from nodeagent.errors import UnsupportedError
from nodeagent.host.files import host_errors
from nodeagent.host.link_settings import NOT_TAKEN
from nodeagent.simulation.kernel_state import edited
from nodeagent.simulation.refused import refused
from nodeagent.state.link_settings import Group, GroupState, Setting, SettingsState, Values, find, not_taken

if TYPE_CHECKING:
    from nodeagent.simulation.kernel import SimKernel
    from nodeagent.simulation.kernel_state import Interface, KernelState

_SWITCH = 1
_ANY: Mapping[Group, GroupState] = MappingProxyType(
    {
        Group.FEATURES: (
            Setting("tx-scatter-gather", 1, _SWITCH),
            Setting("tx-generic-segmentation", 1, _SWITCH),
            Setting("rx-gro", 1, _SWITCH),
            Setting("rx-lro", 0, _SWITCH, fixed=True),
        ),
        Group.IPV4: (
            Setting("arp_ignore", 0, 8),
            Setting("arp_announce", 0, 2),
            Setting("arp_filter", 0, 1),
            Setting("rp_filter", 0, 2),
            Setting("accept_local", 0, 1),
        ),
        Group.DEVICE: (Setting("tx_queue_length", 1000),),
    }
)
_MLX5: Mapping[Group, GroupState] = MappingProxyType(
    {
        **_ANY,
        Group.RINGS: (Setting("rx", 1024, 8192), Setting("tx", 1024, 8192)),
        Group.CHANNELS: (Setting("combined", 24, 63),),
        Group.COALESCING: (
            Setting("rx_usecs", 8),
            Setting("rx_frames", 128),
            Setting("tx_usecs", 16),
            Setting("tx_frames", 32),
            Setting("adaptive_rx", 1, _SWITCH),
            Setting("adaptive_tx", 1, _SWITCH),
        ),
        Group.PAUSE: (Setting("autoneg", 0, _SWITCH, fixed=True), Setting("rx", 1, _SWITCH), Setting("tx", 1, _SWITCH)),
        Group.FEATURES: (
            *(one for one in _ANY[Group.FEATURES] if one.name != "rx-lro"),
            Setting("rx-checksum", 1, _SWITCH),
            Setting("tx-tcp-segmentation", 1, _SWITCH),
            Setting("tx-tcp6-segmentation", 1, _SWITCH),
            Setting("rx-lro", 0, _SWITCH),
            Setting("rx-hashing", 1, _SWITCH),
            Setting("rx-ntuple-filter", 0, _SWITCH),
            Setting("hw-tc-offload", 0, _SWITCH),
            Setting("highdma", 1, _SWITCH, fixed=True),
        ),
        Group.PRIVATE_FLAGS: (
            Setting("rx_cqe_moder", 1, _SWITCH),
            Setting("tx_cqe_moder", 0, _SWITCH),
            Setting("rx_cqe_compress", 0, _SWITCH),
            Setting("rx_striding_rq", 1, _SWITCH),
        ),
    }
)


class SimulatedLinkSettings:
    """Settings of the simulated interfaces; what was set goes with the driver."""

    def __init__(self, kernel: SimKernel) -> None:
        self._kernel = kernel

    def read_all(self, groups: Iterable[Group]) -> Mapping[str, SettingsState]:
        wanted = tuple(groups)
        for group in wanted:
            with host_errors("read settings of", "the interfaces"):
                self._kernel.strike("read settings", group)
        return {name: shown(one, wanted) for name, one in self._kernel.state.interfaces.items()}

    def read(self, netdev: str, group: Group) -> GroupState:
        operation = f"read {group} of"
        with host_errors(operation, netdev):
            if netdev not in self._kernel.state.interfaces:
                raise refused(errno.ENODEV)
            self._kernel.strike("read settings", netdev)
        return shown(self._kernel.state.interfaces[netdev], (group,)).get(group, ())

    def write(self, netdev: str, group: Group, values: Values) -> None:
        operation = f"set {group} of"
        with host_errors(operation, netdev):
            self._kernel.strike("settings", netdev)
            self._kernel.change(lambda state: _with(state, netdev, group, values))
        present = shown(self._kernel.state.interfaces[netdev], (group,)).get(group, ())
        wrong = not_taken(group, present, values)
        if wrong:
            told = ", ".join(f"{name} is {now} and not {value}" for name, value, now in wrong)
            raise UnsupportedError(operation, netdev, f"taken, but {told}", NOT_TAKEN)


def shown(interface: Interface, groups: tuple[Group, ...]) -> SettingsState:
    table = _MLX5 if interface.driver == "mlx5_core" else _ANY
    return {group: tuple(_now(interface, group, one) for one in table[group]) for group in groups if group in table}


def _now(interface: Interface, group: Group, one: Setting) -> Setting:
    return replace(one, value=interface.settings.get(f"{group}.{one.name}", one.value))


def _with(state: KernelState, netdev: str, group: Group, values: Values) -> KernelState:
    """OSError ENODEV, EOPNOTSUPP for a group the driver lacks, EINVAL for what it does not have or above its limits."""
    interface = state.interfaces.get(netdev)
    if interface is None:
        raise refused(errno.ENODEV)
    present = shown(interface, (group,)).get(group)
    if present is None:
        raise refused(errno.EOPNOTSUPP)
    changes: dict[str, int] = {}
    for name, value in values:
        one = find(present, name)
        if one is None or (one.most is not None and value > one.most):
            raise refused(errno.EINVAL)
        if not one.fixed:  # else it is passed over in silence, as the kernel does with offloads
            changes[f"{group}.{name}"] = _rounded(value) if group is Group.RINGS else value
    changed = replace(interface, settings={**interface.settings, **changes})
    return replace(state, interfaces=edited(state.interfaces, **{netdev: changed}))


def _rounded(value: int) -> int:
    return 1 << max(value - 1, 0).bit_length()
