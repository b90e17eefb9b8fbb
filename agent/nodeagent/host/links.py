"""Network interfaces through rtnetlink(7): changed by pyroute2 (`host/rtnl.py`), read by the agent's own sockets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodeagent.errors import BusyError, HostError, UnsupportedError
from nodeagent.host import vf_codec
from nodeagent.host.addressing import RtnlAddressing
from nodeagent.host.clock import RealClock
from nodeagent.host.dcb import NetlinkDcb
from nodeagent.host.devlink import NetlinkDevlink
from nodeagent.host.link_facts import read_uses
from nodeagent.host.link_ports import LinkAddressing, LinkSettings
from nodeagent.host.link_settings import KernelLinkSettings
from nodeagent.host.link_setup import Entries, await_carrier, await_link, read_setups, restore_entries
from nodeagent.host.link_setup_codec import renamed
from nodeagent.host.netlink import route_socket
from nodeagent.host.ports import Dcb, Devlink, Files, Functions, RdmaDevices
from nodeagent.host.rdma_devices import NetlinkRdmaDevices
from nodeagent.host.rdma_netlink import set_netns_shared
from nodeagent.host.roce_defaults import MODE, TOS, write_default, write_traffic_class
from nodeagent.host.rtnl import rtnl_on
from nodeagent.host.sriov import SysfsFunctions
from nodeagent.state.network import VfSetting, VirtualFunction

VF_ADVICE: Mapping[VfSetting, str] = {
    VfSetting.RATE: "drivers take it while the link is up, and up to its speed; some have no minimum or no limit at all"
}


class RtnlLinks:
    """`ports.Links` in the agent's own network namespace; `files` must be the same machine's tree."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.dcb: Dcb = NetlinkDcb()
        self.functions: Functions = SysfsFunctions(files, RealClock())
        self.devlink: Devlink = NetlinkDevlink(files)
        self.settings: LinkSettings = KernelLinkSettings(files)
        self.addressing: LinkAddressing = RtnlAddressing(files, RealClock())
        self.rdma: RdmaDevices = NetlinkRdmaDevices(files, RealClock())

    def uses(self) -> dict[str, tuple[str, ...]]:
        return read_uses(self._files)

    def vfs(self, netdev: str) -> tuple[VirtualFunction, ...]:
        with route_socket("read virtual functions of", netdev) as opened:
            replies = opened.talk(vf_codec.RTM_GETLINK, vf_codec.encode_get(netdev))
            return vf_codec.decode_get(replies[0].body) if replies else ()

    def set_vf(self, netdev: str, index: int, setting: VfSetting, value: tuple[int | str, ...]) -> None:
        """As the port says. A refused rate is tried once more when the carrier is there.

        igb takes one only while its link is up (igb_main.c, igb_ndo_set_vf_bw), and making functions restarts the link.
        """
        try:
            _write_vf(netdev, index, setting, value)
        except UnsupportedError as error:
            if setting is not VfSetting.RATE or not await_carrier(self._files, RealClock(), netdev):
                advice = VF_ADVICE.get(setting, "leave it out where the driver of the card does not offer it")
                raise UnsupportedError(*_vf(netdev, index, setting), error.reason, advice) from error
            _write_vf(netdev, index, setting, value)

    def setups(self) -> Mapping[str, tuple[tuple[str, str], ...]]:
        return read_setups(self._files)

    def restore(self, netdev: str, entries: tuple[tuple[str, str], ...]) -> None:
        restore_entries(self._files, netdev, entries)

    def await_link(self, netdev: str, pci_address: str) -> None:
        await_link(self._files, RealClock(), netdev, pci_address)

    def set_up(self, netdev: str, up: bool) -> None:
        """Set or clear IFF_UP. GoneError if there is no such interface, DeniedError without CAP_NET_ADMIN."""
        state = "up" if up else "down"
        _set_link(f"set {state}", netdev, state=state)

    def set_mtu(self, netdev: str, mtu: int) -> None:
        """Set the MTU in bytes. UnsupportedError in the kernel's own words where the device cannot have it."""
        _set_link(f"set mtu {mtu} on", netdev, mtu=mtu)

    def rename(self, netdev: str, name: str) -> None:
        """As the port says. Newer kernels rename an interface that is up (6.12 does, 6.1 says EBUSY)."""
        operation = f"rename to {name}"
        try:
            _set_link(operation, netdev, ifname=name)
        except BusyError:
            before = read_setups(self._files).get(netdev, ())
            self.set_up(netdev, False)
            try:
                _set_link(operation, netdev, ifname=name)
            except HostError:
                self._back_up(netdev, before)
                raise
            self._back_up(name, tuple((text, renamed(data, netdev, name)) for text, data in before))

    def _back_up(self, netdev: str, entries: Entries) -> None:
        """Routes and IPv6 addresses went with the state."""
        self.set_up(netdev, True)
        restore_entries(self._files, netdev, entries)

    def set_roce_mode(self, device: str, port: int, mode: str) -> None:
        write_default(self._files, device, port, MODE, mode)

    def set_roce_tos(self, device: str, port: int, tos: int) -> None:
        write_default(self._files, device, port, TOS, str(tos))

    def set_traffic_class(self, device: str, port: int, traffic_class: int) -> None:
        write_traffic_class(self._files, device, port, traffic_class)

    def set_rdma_netns_shared(self, shared: bool) -> None:
        set_netns_shared(shared)


def _vf(netdev: str, index: int, setting: VfSetting) -> tuple[str, str]:
    return f"set {setting} of virtual function {index} on", netdev


def _write_vf(netdev: str, index: int, setting: VfSetting, value: tuple[int | str, ...]) -> None:
    with route_socket(*_vf(netdev, index, setting)) as opened:
        opened.talk(vf_codec.RTM_SETLINK, vf_codec.encode_set(netdev, index, setting, value))


def _set_link(operation: str, netdev: str, **attributes: Any) -> None:
    with rtnl_on(operation, netdev) as (route, index):
        route.link("set", index=index, **attributes)
