"""Congestion control of RoCE through mlx5's debugfs (upstream) and OFED's sysfs files; read and written one by one.

Sources: drivers/infiniband/hw/mlx5/cong.c (debugfs mlx5/ADDRESS/cc_params: each read and write is a firmware command,
and the folder is there only where the firmware allows both), MLNX_OFED's /sys/class/net/NETDEV/ecn.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from nodeagent.errors import UnsupportedError
from nodeagent.host.paths import SYS_CLASS_NET, SYS_DEBUG_MLX5, SYS_PCI_DEVICES
from nodeagent.host.ports import Files
from nodeagent.state.congestion import PARAMETERS, PRIORITIES, ecn_setting

# OFED's name of a file below ecn/ for a parameter of debugfs.
OFED_FILES: Mapping[str, str] = {
    "np_cnp_dscp": "roce_np/cnp_dscp",
    "np_cnp_prio": "roce_np/cnp_802p_prio",
    "np_min_time_between_cnps": "roce_np/min_time_between_cnps",
}


def read_congestion(
    files: Files, addresses: Iterable[str], only: Collection[str] = ()
) -> Mapping[str, Mapping[str, int]]:
    """Settings by PCI address, all or those named; functions that offer none are left out."""
    found = {address: dict(_settings(files, address, only)) for address in addresses}
    return {address: settings for address, settings in found.items() if settings}


def _settings(files: Files, address: str, only: Collection[str] = ()) -> Iterator[tuple[str, int]]:
    """Every debugfs file is a command to the firmware when it is read, so those that nobody asks for are not."""
    for setting, paths in _files(files, address).items():
        if only and setting not in only:
            continue
        values = [files.read_optional(path) for path in paths]
        numbers = [int(value) for value in values if value is not None and value.strip().isdecimal()]
        if len(numbers) == len(paths):
            yield setting, min(numbers)  # both ends have to be on


def _files(files: Files, address: str) -> dict[str, tuple[str, ...]]:
    """Where each setting stands: debugfs first, OFED's files for what it does not have."""
    folder = f"{SYS_DEBUG_MLX5}/{address}/cc_params"
    there = set(files.names(folder))
    found: dict[str, tuple[str, ...]] = {name: (f"{folder}/{name}",) for name in PARAMETERS if name in there}
    for netdev in files.names(f"{SYS_PCI_DEVICES}/{address}/net")[:1]:
        ecn = f"{SYS_CLASS_NET}/{netdev}/ecn"
        if not files.exists(ecn):
            continue
        for priority in range(PRIORITIES):
            ends = tuple(f"{ecn}/{end}/enable/{priority}" for end in ("roce_rp", "roce_np"))
            found[ecn_setting(priority)] = ends
        found |= {name: (f"{ecn}/{file}",) for name, file in OFED_FILES.items() if name not in found}
    return found


def write_congestion(files: Files, address: str, setting: str, value: int) -> None:
    """Write one setting and read it back. UnsupportedError where it is not offered, refused or does not come to be."""
    operation = f"set {setting} of"
    paths = _files(files, address).get(setting, ())
    if not paths:
        advice = "mount debugfs and run as root; kernel lockdown hides it, and firmware may too"
        raise UnsupportedError(operation, address, "its driver does not offer it", advice)
    for path in paths:
        files.write(path, str(value))
    found = dict(_settings(files, address, (setting,))).get(setting)
    if found != value:
        raise UnsupportedError(operation, address, f"reads back as {found} after {value} was written")
