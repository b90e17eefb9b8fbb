"""Codec of a PCI function's configuration space: the PCI Express and ACS capabilities; pure.

Sources: PCI Express Base Specification 5.0, 7.5.3 (PCI Express capability) and 7.7.11 (ACS extended capability), and
include/uapi/linux/pci_regs.h for the same offsets.
"""

from __future__ import annotations

from collections.abc import Mapping

from nodeagent.state.topology import PcieConfig, PortKind

CONFIG_BYTES = 4096
STATUS, CAPABILITY_LIST = 0x06, 0x10  # status register and its bit "has capabilities"
FIRST_CAPABILITY, FIRST_EXTENDED = 0x34, 0x100
PCI_EXPRESS, ACS = 0x10, 0x0D  # capability ids
MOST_CAPABILITIES = 96  # more than fit: a list that leads in a circle ends here

KINDS: Mapping[int, PortKind] = {
    0x0: PortKind.ENDPOINT,
    0x1: PortKind.ENDPOINT,  # legacy endpoint
    0x4: PortKind.ROOT_PORT,
    0x5: PortKind.UPSTREAM,
    0x6: PortKind.DOWNSTREAM,
    0x9: PortKind.ENDPOINT,  # integrated into the root complex
}


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
        relaxed_ordering=bool(control & 0x10),
        acs=None if acs is None else _word(data, acs + 6),
        acs_capable=None if acs is None else _word(data, acs + 4),
    )


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
