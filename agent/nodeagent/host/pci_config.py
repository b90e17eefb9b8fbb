"""Codec of a PCI function's configuration space: the PCI Express and ACS capabilities; pure.

Sources: PCI Express Base Specification 5.0, 7.5.3 (PCI Express capability) and 7.7.11 (ACS extended capability), and
include/uapi/linux/pci_regs.h for the same offsets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nodeagent.state.topology import ACS_REDIRECT_BITS, PcieConfig, PcieSetting, PortKind

CONFIG_BYTES = 4096
STATUS, CAPABILITY_LIST = 0x06, 0x10  # status register and its bit "has capabilities"
FIRST_CAPABILITY, FIRST_EXTENDED = 0x34, 0x100
PCI_EXPRESS, ACS = 0x10, 0x0D  # capability ids
RELAXED_ORDERING, READ_REQUEST = 0x10, 0x7000  # bits of Device Control (7.5.3.4)
MOST_CAPABILITIES = 96  # more than fit: a list that leads in a circle ends here

KINDS: Mapping[int, PortKind] = {
    0x0: PortKind.ENDPOINT,
    0x1: PortKind.ENDPOINT,  # legacy endpoint
    0x4: PortKind.ROOT_PORT,
    0x5: PortKind.UPSTREAM,
    0x6: PortKind.DOWNSTREAM,
    0x9: PortKind.ENDPOINT,  # integrated into the root complex
}


def is_silent(data: bytes) -> bool:
    """Whether this is what a function that fell off the bus reads as: all ones, which no function's vendor id is."""
    return data[:4] == b"\xff" * 4


def parse_config(data: bytes) -> PcieConfig | None:
    """The facts of a configuration space; None for a function without PCI Express, or when it was cut off.

    The kernel gives readers without CAP_SYS_ADMIN the first 64 bytes only, which hold no capability.
    """
    express = _find_capability(data)
    if express is None:
        return None
    flags, capable, control = _word(data, express + 2), _long(data, express + 4), _word(data, express + 8)
    acs = _find_extended(data)
    return PcieConfig(
        kind=KINDS.get(flags >> 4 & 0xF, PortKind.OTHER),
        max_payload_bytes=128 << (control >> 5 & 7),
        max_payload_capable_bytes=128 << (capable & 7),
        max_read_request_bytes=128 << (control >> 12 & 7),
        relaxed_ordering=bool(control & RELAXED_ORDERING),
        acs=None if acs is None else _word(data, acs + 6),
        acs_capable=None if acs is None else _word(data, acs + 4),
        ids=f"{_word(data, 0):04x}:{_word(data, 2):04x}",
    )


@dataclass(frozen=True)
class Field:
    """Where a setting stands: a 16-bit register, the bits in it, and what one unit of the value is."""

    offset: int
    mask: int
    encode: Callable[[int], int]


def locate(data: bytes, setting: PcieSetting) -> Field | None:
    """The field of a setting; None where the function lacks the capability, or the space was cut off."""
    if setting is PcieSetting.ACS_REDIRECT:
        acs = _find_extended(data)
        return None if acs is None else Field(acs + 6, ACS_REDIRECT_BITS, lambda bits: bits & ACS_REDIRECT_BITS)
    express = _find_capability(data)
    if express is None:
        return None
    if setting is PcieSetting.RELAXED_ORDERING:
        return Field(express + 8, RELAXED_ORDERING, lambda on: RELAXED_ORDERING if on else 0)
    return Field(express + 8, READ_REQUEST, lambda size: (size // 128).bit_length() - 1 << 12 & READ_REQUEST)


def _find_capability(data: bytes) -> int | None:
    """Offset of the PCI Express capability if all of what is read from it is there."""
    if len(data) <= FIRST_CAPABILITY or not _word(data, STATUS) & CAPABILITY_LIST:
        return None
    at = data[FIRST_CAPABILITY] & 0xFC
    for _ in range(MOST_CAPABILITIES):
        if at < 0x40 or at + 10 > len(data):
            return None
        if data[at] == PCI_EXPRESS:
            return at
        at = data[at + 1] & 0xFC
    return None


def _find_extended(data: bytes) -> int | None:
    """Offset of the ACS capability: header of id (16 bits), version (4), offset of the next (12)."""
    at = FIRST_EXTENDED
    for _ in range(MOST_CAPABILITIES):
        if at < FIRST_EXTENDED or at + 8 > len(data):
            return None
        header = _long(data, at)
        if header & 0xFFFF == ACS:
            return at
        at = header >> 20 & 0xFFC
    return None


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "little")


def _long(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")
