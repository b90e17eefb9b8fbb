"""The one form in which the node file's names are compared, and the patterns they must match.

Sources: module names kernel/module (MODULE_NAME_LEN, `-` equals `_` as in modprobe(8)); interface names linux/if.h
(IFNAMSIZ 16 with its final NUL); units systemd.unit(5); GPU UUIDs nvmlDeviceGetUUID; profiles as the driver names them.
"""

from __future__ import annotations

import re

MODULE = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,54}$"
PARAMETER = r"^[A-Za-z_][A-Za-z0-9_.-]*$"
UNIT = r"^[A-Za-z0-9:_.@\\-]{1,255}$"
MIG_PROFILE = r"^([1-9]c\.)?[1-9]g(\.([0-9]+gb|double))?([+-](me|gfx)(\.all)?)*$"
MIG_WIDTH = r"^[1-9]c$"
MIG_LAYOUT = r"^all-[a-z0-9.+-]+$"
GPU_SELECTOR = (
    r"^([0-9]{1,4}|GPU-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    r"|[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]|(?!(?:GPU|MIG)-)(?=.*[A-Za-z])[A-Za-z0-9][A-Za-z0-9 ._/+-]*)$"
)
LINK_MATCH = (
    r"^(driver:[A-Za-z0-9][A-Za-z0-9_.-]*|rdma:[A-Za-z0-9_.*?\[\]-]{1,63}|id:[0-9a-f]{4}:[0-9a-f]{4}"
    r"|product:[A-Za-z0-9*?][A-Za-z0-9*?._-]*|rail:([0-9]{1,3}(-[0-9]{1,3})?|\*)"
    r"|closest-to-gpu:([0-9]{1,4}|GPU-[0-9a-f-]{36}|[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7])"
    r"|[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]"
    r"|[^\s/:]{1,15}|(?=.*[*?\[])[^\s/:]{1,64})$"
)
LINK_MATCH_EXPECTED = (
    "a netdev name of at most 15 characters, a pattern such as ens*, a PCI address, driver:NAME, rdma:NAME, "
    "product:NAME, id:VENDOR:DEVICE, rail:N, rail:* or closest-to-gpu:N"
)

_PCI = re.compile(r"(?:([0-9a-f]{1,8}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])", re.IGNORECASE)
_UNIT_TYPE = re.compile(r"\.(service|socket|device|mount|automount|swap|target|path|timer|slice|scope)$")


def module_name(text: str) -> str:
    """A kernel module's name with underscores."""
    return text.replace("-", "_")


def nvidia_parameter(text: str) -> str:
    """A parameter of module nvidia as /proc/driver/nvidia/params spells it: without NVreg_."""
    return text.removeprefix("NVreg_")


def pci_address(text: str) -> str | None:
    """`3B:00.0` or NVML's `00000000:3B:00.0` as sysfs writes it (0000:3b:00.0), None if it is not a PCI address."""
    found = _PCI.fullmatch(text)
    if not found:
        return None
    domain, bus, device, function = found.groups()
    return f"{int(domain or '0', 16):04x}:{bus}:{device}.{function}".lower()


def gpu_selector(text: str) -> str:
    """An index without leading zeros, a UUID or PCI address in lower case, or a product name as it is."""
    if text.isdecimal():
        return str(int(text))
    if text.upper().startswith("GPU-"):
        return "GPU-" + text[4:].lower()
    return pci_address(text) or text


def link_match(text: str) -> str:
    """PCI addresses, ids and GPUs in one form, anything else as it is: `-` and `_` differ in names of drivers."""
    prefix, _, value = text.partition(":")
    if prefix == "closest-to-gpu":
        return f"{prefix}:{gpu_selector(value)}"
    if prefix == "id":
        return text.lower()
    return pci_address(text) or text


def unit_name(text: str) -> str:
    """A systemd unit with its type; a bare name is a service, as for systemctl."""
    return text if _UNIT_TYPE.search(text) else text + ".service"
