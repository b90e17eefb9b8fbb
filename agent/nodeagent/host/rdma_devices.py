"""RDMA devices by RDMA netlink: another name, and the programs that have objects on them."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from nodeagent.errors import GoneError, UnsupportedError
from nodeagent.host import rdma_codec as codec
from nodeagent.host.netlink import RouteSocket, netlink_errors
from nodeagent.host.paths import SYS_PCI_DEVICES, UDEV_QUEUE
from nodeagent.host.ports import Clock, Files
from nodeagent.state.network import RdmaHolder, RdmaObject

APPEARANCE_SECONDS, LOOK_SECONDS = 60.0, 0.05
NO_SUCH_DUMP = frozenset({errno.EINVAL, errno.EOPNOTSUPP})  # contexts are listed since Linux 5.17


class NetlinkRdmaDevices:
    """`ports.RdmaDevices` in the agent's own network namespace; `files` must be the same machine's tree."""

    def __init__(self, files: Files, clock: Clock) -> None:
        self._files, self._clock = files, clock

    def await_device(self, pci_address: str) -> str:
        """As the port says. RDMA netlink tells of no renames, so that udev's own queue is what shows it to be done."""
        place = f"{SYS_PCI_DEVICES}/{pci_address}/infiniband"
        deadline = self._clock.monotonic() + APPEARANCE_SECONDS
        while not (names := self._files.names(place)) or self._files.exists(UDEV_QUEUE):
            if self._clock.monotonic() >= deadline:
                break
            self._clock.sleep(LOOK_SECONDS)
        if not names:
            reason = f"not there {APPEARANCE_SECONDS:g} s after its driver"
            advice = "the kernel log says why; is the driver's RDMA module (mlx5_ib) loaded"
            raise GoneError("wait for the rdma device of", pci_address, reason, advice)
        return names[0]

    def rename(self, device: str, name: str) -> None:
        operation = f"rename to {name}"
        with _socket(operation, device) as opened:
            found = next((one for one in codec.decode_devices(opened.dump(codec.GET, b"")) if one.name == device), None)
            if found is None:
                raise GoneError(operation, device, "no such rdma device")
            opened.talk(codec.SET, codec.encode_rename(found.index, name))
            after = codec.decode_devices(opened.dump(codec.GET, b""))
        shown = next((one.name for one in after if one.index == found.index), "gone")
        if shown != name:
            raise UnsupportedError(operation, device, f"read back as {shown}")

    def holders(self) -> Mapping[str, tuple[RdmaHolder, ...]]:
        try:
            with RouteSocket(codec.NETLINK_RDMA):
                pass
        except OSError as error:
            if error.errno == errno.EPROTONOSUPPORT:  # no RDMA stack is no failure
                return {}
        with _socket("read holders of", "rdma devices") as opened:
            devices = codec.decode_devices(opened.dump(codec.GET, b""))
            return {one.name: _holders(opened, one.index) for one in devices}


def _holders(opened: RouteSocket, index: int) -> tuple[RdmaHolder, ...]:
    return codec.holders({kind: _pids(opened, index, kind) for kind in RdmaObject})


def _pids(opened: RouteSocket, index: int, kind: RdmaObject) -> tuple[int, ...]:
    try:
        return codec.decode_pids(kind, opened.dump(codec.OBJECTS[kind][0], codec.encode_device(index)))
    except OSError as error:
        if error.errno in NO_SUCH_DUMP:
            return ()
        raise


@contextmanager
def _socket(operation: str, subject: str) -> Iterator[RouteSocket]:
    with netlink_errors(operation, subject), RouteSocket(codec.NETLINK_RDMA) as opened:
        yield opened
