"""devlink of PCI functions by netlink: read, written, read back.

A driverinit value shows as if it were in force from the moment it is written, although only a reload applies it. So a
record below /run says which functions are owed a reload; it goes with the reboot that applies the values as well.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from nodeagent.errors import HostError, UnsupportedError
from nodeagent.host import devlink_codec as codec
from nodeagent.host.genetlink import NETLINK_GENERIC, FamilySocket
from nodeagent.host.netlink import RouteSocket, netlink_errors
from nodeagent.host.netlink_codec import attribute, text
from nodeagent.host.paths import DEVLINK_RELOADS
from nodeagent.host.ports import Files
from nodeagent.state.devlink import Cmode, DevlinkDevice, DevlinkParameter, EswitchMode

NOT_OFFERED = frozenset({errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL})
ADVICE = "`devlink dev param show` lists what the driver offers; the kernel log may say more"
RELOAD_SECONDS = 300.0  # a driver that initialises its firmware again takes its time


class NetlinkDevlink:
    """`ports.Devlink` by generic netlink; `files` keeps the record of reloads that are owed."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def read_all(self, addresses: Iterable[str]) -> dict[str, DevlinkDevice]:
        """As the port says: two dumps for all functions, and one request for the switch of each."""
        wanted, owed = frozenset(addresses), owed_reloads(self._files)
        with netlink_errors("read", "devlink"):
            try:
                with RouteSocket(NETLINK_GENERIC) as opened:
                    return _read(FamilySocket(opened, codec.FAMILY), wanted, owed)
            except OSError as error:
                if error.errno == errno.ENOENT:  # a kernel without devlink, or none of its drivers is loaded
                    return {}
                raise

    def set_eswitch_mode(self, address: str, mode: EswitchMode) -> None:
        operation = f"set eswitch mode {mode} on"
        with _family(operation, address) as family:
            family.talk(codec.CMD_ESWITCH_SET, codec.encode_eswitch(address, mode))
            found = _eswitch(family, address)
        if found is not mode:
            raise UnsupportedError(operation, address, f"read back as {found}")

    def set_parameter(self, address: str, name: str, cmode: Cmode, value: str) -> None:
        found = self._parameter(address, name)
        operation = f"set devlink parameter {name} to {value} on"
        with _family(operation, address) as family:
            try:
                body = codec.encode_parameter(address, found, cmode, value)
            except ValueError as error:
                raise UnsupportedError(operation, address, str(error), f"it is of type {found.kind}") from error
            family.talk(codec.CMD_PARAM_SET, body)
        shown = self._parameter(address, name).value(cmode)
        if shown != value:
            raise UnsupportedError(operation, address, f"read back as {shown}", ADVICE)

    def reinitialize(self, address: str, values: tuple[tuple[str, str], ...]) -> None:
        record_reload(self._files, address, owed=True)
        written: list[tuple[str, str]] = []
        try:
            for name, value in values:
                before = self._parameter(address, name).value(Cmode.DRIVERINIT)
                self.set_parameter(address, name, Cmode.DRIVERINIT, value)
                written.append((name, before or ""))
            self._reload(address)
        except HostError:
            for name, value in reversed(written):  # nothing is in force yet, so that this takes nothing away
                self.set_parameter(address, name, Cmode.DRIVERINIT, value)
            record_reload(self._files, address, owed=False)
            raise
        record_reload(self._files, address, owed=False)

    def _reload(self, address: str) -> None:
        with netlink_errors("reload", address), RouteSocket(NETLINK_GENERIC) as opened:
            opened.set_deadline(RELOAD_SECONDS)
            FamilySocket(opened, codec.FAMILY).talk(codec.CMD_RELOAD, codec.encode_reload(address))

    def _parameter(self, address: str, name: str) -> DevlinkParameter:
        operation = f"read devlink parameter {name} of"
        with _family(operation, address) as family:
            body = codec.handle(address) + attribute(codec.PARAM_NAME, text(name))
            found = next(iter(family.talk(codec.CMD_PARAM_GET, body)), b"")
            parameter = codec.decode_parameter(found)
        if parameter is None:
            raise UnsupportedError(operation, address, "its type is not known", ADVICE)
        return parameter


def _read(family: FamilySocket, wanted: frozenset[str], owed: frozenset[str]) -> dict[str, DevlinkDevice]:
    found = {codec.decode_address(body) for body in family.dump(codec.CMD_GET)} & wanted
    parameters: dict[str, list[DevlinkParameter]] = {}
    for body in family.dump(codec.CMD_PARAM_GET) if found else ():
        parameter = codec.decode_parameter(body)
        if parameter is not None:
            parameters.setdefault(codec.decode_address(body), []).append(parameter)
    return {
        address: DevlinkDevice(
            address, _eswitch(family, address), tuple(parameters.get(address, ())), reload_owed=address in owed
        )
        for address in sorted(found)
    }


def _eswitch(family: FamilySocket, address: str) -> EswitchMode | None:
    try:
        replies = family.talk(codec.CMD_ESWITCH_GET, codec.handle(address))
    except OSError as error:
        if error.errno in NOT_OFFERED:
            return None
        raise
    return codec.decode_eswitch(replies[0]) if replies else None


@contextmanager
def _family(operation: str, subject: str) -> Iterator[FamilySocket]:
    with netlink_errors(operation, subject), RouteSocket(NETLINK_GENERIC) as opened:
        yield FamilySocket(opened, codec.FAMILY)


def owed_reloads(files: Files) -> frozenset[str]:
    """Functions whose driverinit values were written without the reload that applies them."""
    return frozenset((files.read_optional(DEVLINK_RELOADS) or "").split())


def record_reload(files: Files, address: str, *, owed: bool) -> None:
    """Note it before the first value is written, and strike it out after the reload."""
    known = owed_reloads(files)
    changed = known | {address} if owed else known - {address}
    if changed:
        files.replace(DEVLINK_RELOADS, "".join(f"{one}\n" for one in sorted(changed)))
    elif known:
        files.remove(DEVLINK_RELOADS)
