"""Settings of address families by interface (sysctl) that somebody made: kept where they differ from a new interface's.

Source: Documentation/networking/ip-sysctl.rst; net/ipv4/devinet.c and net/ipv6/addrconf.c copy conf/default to each
new interface, so that whatever differs from it was set on the interface and goes with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nodeagent.host.paths import PROC_NET_IPV4_CONF, PROC_NET_IPV6_CONF
from nodeagent.host.ports import Files

SYSCTL = "sysctl "
FAMILIES = {"ipv4": PROC_NET_IPV4_CONF, "ipv6": PROC_NET_IPV6_CONF}
KEPT = {
    "ipv4": (
        "accept_local",
        "arp_announce",
        "arp_filter",
        "arp_ignore",
        "arp_notify",
        "forwarding",
        "promote_secondaries",
        "proxy_arp",
        "rp_filter",
        "src_valid_mark",
    ),
    "ipv6": ("accept_ra", "addr_gen_mode", "autoconf", "disable_ipv6", "forwarding", "proxy_ndp"),
}


def sysctls_of(files: Files, netdev: str) -> Mapping[str, str]:
    """The values that can be kept, by family/name; none for an interface that is gone. `default`: of new ones."""
    keys = (f"{family}/{name}" for family, names in KEPT.items() for name in names)
    found = ((key, files.read_optional(_path(key, netdev))) for key in keys)
    return {key: value for key, value in found if value is not None}


def changed_sysctls(files: Files, netdev: str, usual: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(text, what `restore_sysctl` takes) of each that differs from what is usual."""
    for key, value in sysctls_of(files, netdev).items():
        if value != usual.get(key):
            yield f"{key.replace('/', ' ')} {value}", f"{SYSCTL}{key}={value} {netdev}"


def restore_sysctl(files: Files, data: str) -> None:
    """Write one where it differs. HostError where the kernel refuses, GoneError without the interface."""
    setting, netdev = data.removeprefix(SYSCTL).split(" ")
    key, value = setting.split("=")
    path = _path(key, netdev)
    if files.read(path) != value:
        files.write(path, value)


def _path(key: str, netdev: str) -> str:
    family, name = key.split("/")
    return f"{FAMILIES[family]}/{netdev}/{name}"
