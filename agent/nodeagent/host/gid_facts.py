"""The GID table of an RDMA port by sysfs.

Source: Documentation/ABI/stable/sysfs-class-infiniband (gids, gid_attrs). An empty slot is all zeros, and reading its
attributes gives EINVAL, so that the table has holes in the middle.
"""

from __future__ import annotations

from ipaddress import IPv6Address

from nodeagent.host.paths import SYS_CLASS_INFINIBAND
from nodeagent.host.ports import Files
from nodeagent.state.gids import Gid

EMPTY = "0000:0000:0000:0000:0000:0000:0000:0000"


def read_gids(files: Files, device: str, port: int) -> tuple[Gid, ...]:
    """The used slots in the order of their indexes. Three reads for each, one for an empty slot."""
    directory = f"{SYS_CLASS_INFINIBAND}/{device}/ports/{port}"
    indexes = sorted(int(name) for name in files.names(f"{directory}/gids") if name.isdecimal())
    found = (_read_gid(files, directory, index) for index in indexes)
    return tuple(gid for gid in found if gid is not None)


def _read_gid(files: Files, directory: str, index: int) -> Gid | None:
    text = (files.read_optional(f"{directory}/gids/{index}") or EMPTY).strip()
    if text == EMPTY:
        return None
    return Gid(
        index=index,
        address=IPv6Address(text),
        kind=(files.read_optional(f"{directory}/gid_attrs/types/{index}") or "").strip(),
        netdev=(files.read_optional(f"{directory}/gid_attrs/ndevs/{index}") or "").strip(),
    )
