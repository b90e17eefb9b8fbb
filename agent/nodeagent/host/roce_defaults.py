"""What rdma_cm uses by default for new connections, through configfs; and the forced traffic class of OFED's drivers.

Sources: drivers/infiniband/core/cma_configfs.c (the directory takes the RDMA device's name; values belong to the device
and outlast the directory), MLNX_OFED's sysfs file tc/PORT/traffic_class.

A directory holds a reference on module rdma_cm, so that it is never left behind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from nodeagent.errors import DeniedError, GoneError, HostError
from nodeagent.host.paths import SYS_CLASS_INFINIBAND, SYS_CONFIG_RDMA_CM
from nodeagent.host.ports import Files

MODE, TOS = "default_roce_mode", "default_roce_tos"
NUMBER = re.compile(r"(?:Global tclass=)?(-?\d+)\s*")


def read_defaults(files: Files, device: str, port: int) -> tuple[str, int | None]:
    """(mode, ToS) of a port; ("", None) without rdma_cm, without configfs, or without the right to look."""
    try:
        with _directory(files, device) as directory:
            mode = files.read_optional(f"{directory}/ports/{port}/{MODE}") or ""
            tos = files.read_optional(f"{directory}/ports/{port}/{TOS}") or ""
    except (GoneError, DeniedError):
        return "", None
    return mode.strip(), int(tos) if tos.strip().isdecimal() else None


def write_default(files: Files, device: str, port: int, name: str, value: str) -> None:
    """Set MODE or TOS. GoneError without rdma_cm or device, UnsupportedError where the device lacks the mode."""
    try:
        with _directory(files, device) as directory:
            files.write(f"{directory}/ports/{port}/{name}", value)
    except GoneError as error:
        advice = f"load rdma_cm and mount configfs; there must be an RDMA device {device}"
        raise GoneError(f"set {name} of", device, error.reason, advice) from error


@contextmanager
def _directory(files: Files, device: str) -> Iterator[str]:
    """The device's directory for the block; one that is there already stays, because it is somebody else's."""
    path = f"{SYS_CONFIG_RDMA_CM}/{device}"
    was_there = files.exists(path)
    if not was_there:
        files.make_directory(path)
    try:
        yield path
    finally:
        if not was_there:
            with suppress(HostError):
                files.remove_directory(path)


def read_traffic_class(files: Files, device: str, port: int) -> int | None:
    """The forced traffic class, 0 for none, None where the driver does not offer it."""
    text = files.read_optional(traffic_class_file(device, port))
    return None if text is None else parse_traffic_class(text)


def parse_traffic_class(text: str) -> int:
    """`Global tclass=106` -> 106; 0 for an empty file or -1."""
    found = NUMBER.match(text)
    return max(0, int(found[1])) if found else 0


def write_traffic_class(files: Files, device: str, port: int, value: int) -> None:
    """Force a traffic class on all queue pairs of a port; 0 ends that. GoneError where the driver does not offer it."""
    files.write(traffic_class_file(device, port), str(value))


def traffic_class_file(device: str, port: int) -> str:
    return f"{SYS_CLASS_INFINIBAND}/{device}/tc/{port}/traffic_class"
