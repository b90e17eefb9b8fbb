"""PCI configuration spaces of the simulated functions and bridges, byte for byte; pure.

Source: PCI Express Base Specification 5.0, 7.5.1 (header), 7.5.3 (PCI Express capability), 7.7.11 (ACS).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nodeagent.host.pci_config import locate
from nodeagent.simulation.refused import refused
from nodeagent.state.topology import PcieSetting

if TYPE_CHECKING:
    from nodeagent.simulation.kernel_state import KernelState

_SIZE = 4096
_EXPRESS_AT, _ACS_AT = 0x40, 0x100
_MAX_PAYLOAD_512 = 2  # encoding of 512 bytes: 128 << 2

ENDPOINT, ROOT_PORT, UPSTREAM, DOWNSTREAM = 0x0, 0x4, 0x5, 0x6


@dataclass(frozen=True)
class Space:
    """What differs between functions; sizes in bytes, `acs` is the control register, None without the capability."""

    vendor: str
    device: str
    class_code: str
    port_type: int
    max_read_request: int = 4096
    max_payload: int = 512
    acs: int | None = None


def config_space(space: Space) -> bytes:
    """The 4096 bytes of /sys/bus/pci/devices/ADDRESS/config."""
    data = bytearray(_SIZE)
    bridge = space.port_type in {ROOT_PORT, UPSTREAM, DOWNSTREAM}
    struct.pack_into("<HHHH", data, 0, int(space.vendor, 16), int(space.device, 16), 0x0406, 0x0010)
    data[0x09:0x0C] = bytes.fromhex(space.class_code)[::-1]
    data[0x0E] = 1 if bridge else 0
    data[0x34] = _EXPRESS_AT
    control = 0x0810 | _encoded(space.max_payload) << 5 | _encoded(space.max_read_request) << 12
    flags = 0x2 | space.port_type << 4
    struct.pack_into("<BBHIH", data, _EXPRESS_AT, 0x10, 0, flags, _MAX_PAYLOAD_512, control)
    if space.acs is not None:
        struct.pack_into("<IHH", data, _ACS_AT, 0x0001_000D, 0x5F, space.acs)
    return bytes(data)


def with_words(space: bytes, words: Mapping[str, int]) -> bytes:
    """The space with registers as somebody wrote them, by offset."""
    data = bytearray(space)
    for offset, word in words.items():
        struct.pack_into("<H", data, int(offset), word)
    return bytes(data)


def written(state: KernelState, address: str, write: tuple[bytes, bytes, int]) -> KernelState:
    """After a write of (space as it is, data, offset): bits that the function does not implement stay as they are.

    OSError EPERM under kernel lockdown (pci_write_config: LOCKDOWN_PCI_ACCESS).
    """
    space, data, offset = write
    if state.policy.lockdown != "none":
        raise refused(errno.EPERM)
    fields = (locate(space, setting) for setting in PcieSetting)
    mask = sum({field.mask for field in fields if field is not None and field.offset == offset})
    if len(data) != 2 or not mask:
        return state
    word = int.from_bytes(space[offset : offset + 2], "little") & ~mask | int.from_bytes(data, "little") & mask
    words = {**state.pci_words.get(address, {}), str(offset): word}
    return replace(state, pci_words={**state.pci_words, address: words})


def _encoded(size: int) -> int:
    return (size // 128).bit_length() - 1
