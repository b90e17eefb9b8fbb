"""NVLinks of a GPU through NVML: which are active, and what is at their other ends.

Source: nvml.h, group NvLink; a GPU without NVLink answers NOT_SUPPORTED, the first link past the last INVALID_ARGUMENT.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pynvml

from nodeagent.host import nvml_errors
from nodeagent.host.nvml_read import optional, pci_address
from nodeagent.state.topology import NvLinks

_SWITCH = pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH
_GPU = pynvml.NVML_NVLINK_DEVICE_TYPE_GPU
_MOST_LINKS = 72  # NVML_NVLINK_MAX_LINKS of the newest header; old libraries end earlier


def read_nvlinks(handle: Any) -> NvLinks:
    """All active links of one GPU. Raises pynvml.NVMLError as `nvml_read` does."""
    peers: Counter[str] = Counter()
    to_switch = 0
    for link in _active(handle):
        kind = optional(pynvml.nvmlDeviceGetNvLinkRemoteDeviceType, handle, link)
        remote = optional(pynvml.nvmlDeviceGetNvLinkRemotePciInfo, handle, link) if kind in (None, _GPU) else None
        if kind == _SWITCH:
            to_switch += 1
        elif remote is not None:
            peers[pci_address(remote)] += 1
    mine = pci_address(pynvml.nvmlDeviceGetPciInfo(handle))
    return NvLinks(mine, tuple(sorted(peers.items())), to_switch, tuple(_p2p(handle, mine)))


def _p2p(handle: Any, mine: str) -> Iterator[tuple[str, int]]:
    """Status of access over NVLink by peer; one that is lost is left out, it tells of that itself."""
    for number in range(pynvml.nvmlDeviceGetCount()):
        try:
            peer = pynvml.nvmlDeviceGetHandleByIndex(number)
            address = pci_address(pynvml.nvmlDeviceGetPciInfo(peer))
        except pynvml.NVMLError:
            continue
        if address != mine:
            status = optional(pynvml.nvmlDeviceGetP2PStatus, handle, peer, pynvml.NVML_P2P_CAPS_INDEX_NVLINK)
            if status is not None:
                yield address, int(status)


def _active(handle: Any) -> Iterator[int]:
    for link in range(_MOST_LINKS):
        try:
            state = optional(pynvml.nvmlDeviceGetNvLinkState, handle, link)
        except pynvml.NVMLError as error:
            if error.value == nvml_errors.INVALID_ARGUMENT:
                return
            raise
        if state is None and link == 0:
            return  # no NVLink at all; a later link may be missing between others
        if state:
            yield link
