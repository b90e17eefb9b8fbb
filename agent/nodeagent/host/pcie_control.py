"""Writes settings into a function's configuration space: the register read, its bits replaced, and proved by a reading.

A write to configuration space never fails: bits that the function does not implement vanish (PCI Express Base
Specification 5.0, 7.4), so that nothing but reading back tells. Virtual functions have none of these bits.
"""

from __future__ import annotations

from nodeagent.errors import DeniedError, GoneError, UnsupportedError
from nodeagent.host.paths import SYS_PCI_DEVICES
from nodeagent.host.pci_config import CONFIG_BYTES, is_silent, locate, parse_config
from nodeagent.host.ports import Files
from nodeagent.state.topology import PcieSetting


def write_setting(files: Files, address: str, setting: PcieSetting, value: int) -> None:
    """Make a setting this value (see `PcieConfig.value`).

    UnsupportedError where it does not come into force, DeniedError without the right or under kernel lockdown,
    GoneError where the function does not answer.
    """
    operation, path = f"set {setting} of", f"{SYS_PCI_DEVICES}/{address}/config"
    data = files.read_bytes(path, CONFIG_BYTES)
    if is_silent(data):
        raise _silence(operation, address)
    field = locate(data, setting)
    if field is None:
        advice = "run as root: others see the first 64 bytes only"
        raise UnsupportedError(operation, address, "its configuration space does not show that register", advice)
    word = int.from_bytes(data[field.offset : field.offset + 2], "little")
    changed = (word & ~field.mask) | field.encode(value)
    try:
        files.write_bytes(path, changed.to_bytes(2, "little"), field.offset)
    except DeniedError as error:
        advice = (
            "run as root; kernel lockdown forbids it to root as well, then only firmware set-up or boot options help"
        )
        raise DeniedError(operation, address, error.reason, advice) from error
    read_back = files.read_bytes(path, CONFIG_BYTES)
    if is_silent(read_back):
        raise _silence(operation, address)
    after = parse_config(read_back)
    found = after.value(setting) if after is not None else None
    if found != value:
        advice = "the function does not implement it; remove it from the node file for this machine"
        raise UnsupportedError(operation, address, f"reads back as {found} after {value} was written", advice)


def _silence(operation: str, address: str) -> GoneError:
    advice = "it fell off the bus; look for its PCIe errors in the kernel log"
    return GoneError(operation, address, "it does not answer: its configuration space reads as all ones", advice)
