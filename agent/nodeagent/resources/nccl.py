"""Settings of NCCL that follow from how the node is wired and addressed, each with its reason; pure.

Source: NCCL user guide, "Environment Variables"; NCCL src/transport/net_ib (NCCL_IB_GID_INDEX -1 from 2.21 on).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from nodeagent.resources.gid_selection import GidChoice
from nodeagent.resources.topology import rail_of_gpu
from nodeagent.state.gids import Family
from nodeagent.state.network import DEFAULT_ROUTE, RdmaPort
from nodeagent.state.node import NodeState
from nodeagent.state.rails import gpus_of, rails_of
from nodeagent.state.topology import Relation

ACTIVE, ETHERNET = "ACTIVE", "Ethernet"
FAMILIES: Mapping[Family, str] = {Family.IPV4: "AF_INET", Family.IPV6: "AF_INET6"}
LEVELS: Mapping[Relation, str] = {
    Relation.PIX: "PIX",
    Relation.PXB: "PXB",
    Relation.PHB: "PHB",
    Relation.NODE: "SYS",  # NCCL knows no level between a host bridge and the link between NUMA nodes
    Relation.SYS: "SYS",
}


@dataclass(frozen=True)
class Port:
    """A port that NCCL shall use, with the GID it shall use there (none on InfiniBand)."""

    device: str
    port: RdmaPort
    choice: GidChoice | None = None


@dataclass(frozen=True)
class Setting:
    """One environment variable and why it has this value."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True)
class NcclSettings:
    """`settings` to export; `remarks` are what was left out, and why."""

    settings: tuple[Setting, ...] = ()
    remarks: tuple[str, ...] = ()


def nccl_settings(ports: Sequence[Port], state: NodeState) -> NcclSettings:
    """The settings for these ports; those that cannot be used are left out with a remark."""
    usable, remarks = _usable(ports)
    if not usable:
        return NcclSettings(remarks=(*remarks, "no port can be used, so that NCCL would fall back to TCP"))
    settings = [_hca(usable)]
    for part, notes in (_gid(usable), _traffic_class(usable), _gpu_direct(state), _bootstrap(state)):
        settings += part
        remarks += notes
    return NcclSettings(tuple(settings), tuple(remarks))


def _usable(ports: Sequence[Port]) -> tuple[list[Port], list[str]]:
    """Active ports of one link layer, the first one's: NCCL cannot mix InfiniBand and RoCE in one ring."""
    remarks: list[str] = []
    usable: list[Port] = []
    for found in ports:
        name = f"{found.device}:{found.port.port}"
        if found.port.state != ACTIVE:
            remarks.append(f"{name} is left out: its port is {found.port.state}")
        elif usable and found.port.link_layer != usable[0].port.link_layer:
            remarks.append(f"{name} is left out: it is {found.port.link_layer}, {usable[0].device} is not")
        elif found.choice is not None and found.choice.gid is None:
            remarks.append(f"{name} is left out: {found.choice.reason}")
        else:
            usable.append(found)
    return usable, remarks


def _hca(ports: Sequence[Port]) -> Setting:
    names = ",".join(f"{found.device}:{found.port.port}" for found in ports)
    return Setting("NCCL_IB_HCA", f"={names}", "exactly these ports, in the order of the rails")


def _gid(ports: Sequence[Port]) -> tuple[list[Setting], list[str]]:
    gids = [found.choice.gid for found in ports if found.choice is not None and found.choice.gid is not None]
    if not gids:
        return [], []
    families = {gid.family for gid in gids}
    settings = []
    if len(families) == 1:
        reason = "NCCL from 2.21 on finds the entry by itself with these two; containers have indexes of their own"
        settings.append(Setting("NCCL_IB_ROCE_VERSION_NUM", "2", reason))
        settings.append(Setting("NCCL_IB_ADDR_FAMILY", FAMILIES[next(iter(families))], "as the entries chosen here"))
    indexes = {gid.index for gid in gids}
    if len(indexes) == 1:
        reason = "the RoCE v2 entry has this index on every port now; for NCCL before 2.21, outside of containers"
        return [*settings, Setting("NCCL_IB_GID_INDEX", str(indexes.pop()), reason)], []
    where = ", ".join(
        f"{found.device}: {found.choice.gid.index}" for found in ports if found.choice and found.choice.gid
    )
    return settings, [f"NCCL_IB_GID_INDEX is left out: it is one number for all ports, and they differ ({where})"]


def _traffic_class(ports: Sequence[Port]) -> tuple[list[Setting], list[str]]:
    ethernet = [found for found in ports if found.port.link_layer == ETHERNET]
    classes = {found.port.traffic_class or found.port.roce_tos or 0 for found in ethernet}
    if len(classes) > 1:
        return [], ["NCCL_IB_TC is left out: the ports are marked differently"]
    if not classes or classes == {0}:
        return [], [
            "NCCL_IB_TC is left out: no type of service is set; see section roce of the node file"
        ] if classes else []
    value = classes.pop()
    reason = f"as the ports are marked: DSCP {value >> 2}{' with ECN' if value & 3 else ''}"
    return [Setting("NCCL_IB_TC", str(value), reason)], []


def _gpu_direct(state: NodeState) -> tuple[list[Setting], list[str]]:
    """How far GPUDirect RDMA may reach: as far as the worst of the pairs of GPU and rail."""
    gpus, rails = gpus_of(state), rails_of(state)
    found = [rail_of_gpu(gpu, gpus, rails) for gpu in gpus]
    relations = [rail.relation for rail in found if rail is not None]
    if not gpus or not relations:
        return [], ["NCCL_NET_GDR_LEVEL is left out: no pair of GPU and NIC is known"]
    worst = max(relations, key=lambda item: item.distance)
    if worst not in LEVELS:
        return [], ["NCCL_NET_GDR_LEVEL is left out: the distance between GPUs and NICs is not known"]
    reason = f"each GPU's rail is {worst.value} or nearer"
    if worst.distance < Relation.PXB.distance:
        worst = Relation.PXB  # NCCL's default; less would only forbid the NICs behind the next switch
    elif worst.distance > Relation.PXB.distance:
        reason += "; the way leads through the CPU, so measure with and without"
    return [Setting("NCCL_NET_GDR_LEVEL", LEVELS[worst], reason)], []


def _bootstrap(state: NodeState) -> tuple[list[Setting], list[str]]:
    names = sorted(name for name, found in state.netdevs.items() if DEFAULT_ROUTE in found.uses)
    if not names:
        return [], ["NCCL_SOCKET_IFNAME is left out: no interface has the default route"]
    return [Setting("NCCL_SOCKET_IFNAME", f"={names[0]}", "the default route; only for finding each other")], []


def shell_lines(found: NcclSettings) -> Iterator[str]:
    """Lines to be sourced by a shell: reasons and remarks are comments."""
    for setting in found.settings:
        yield f"# {setting.reason}"
        yield f"export {setting.name}={_quoted(setting.value)}"
    yield from (f"# {remark}" for remark in found.remarks)


def _quoted(value: str) -> str:
    """Always in quotes: zsh reads a value that begins with `=` as the path of a program."""
    return "'" + value.replace("'", "'\\''") + "'"


def conf_lines(found: NcclSettings) -> Iterator[str]:
    """Lines of nccl.conf, which knows neither quotes nor export."""
    yield from (f"{setting.name}={setting.value}" for setting in found.settings)
