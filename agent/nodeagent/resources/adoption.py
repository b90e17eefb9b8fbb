"""A node that somebody else set up, as a node file: what is there now becomes what is wanted; pure.

A plan made from it is empty on that node, so that the agent can be put on a machine in use without touching anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nodeagent.resources.link_selection import select_netdevs, select_rdma
from nodeagent.resources.mig_export import node_document
from nodeagent.resources.module_sets import (
    GDRDRV,
    NOUVEAU,
    NV_PEER_MEM,
    NVIDIA,
    NVIDIA_DRM,
    NVIDIA_FS,
    NVIDIA_MODESET,
    NVIDIA_PEERMEM,
    NVIDIA_UVM,
    THIRD_PARTY_RDMA,
    canonical,
)
from nodeagent.resources.qos import qos_steps
from nodeagent.resources.roce import ETHERNET, MODES
from nodeagent.spec.qos import Qos, QosSetup, expanded
from nodeagent.state.gpu import MigMode
from nodeagent.state.qos import PRIORITIES, Algorithm, DcbState, Ets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nodeagent.state.network import Netdev, RdmaDevice
    from nodeagent.state.node import NodeState

ANY = "rdma:*"
USER_ACCESS = ("ib_uverbs", "rdma_ucm", "ib_umad")
UNSHARED = Ets(bandwidth=(0,) * PRIORITIES, algorithms=(0,) * PRIORITIES, class_of=(0,) * PRIORITIES)


def adopted(state: NodeState) -> dict[str, Any]:
    """The document of a node file that says the node as it is; sections with nothing to say are left out.

    The state has to be observed with the settings of section `roce`.
    """
    sections = {
        "modules": _modules(state),
        "mig": _mig(state),
        "links": _links(state),
        "roce": _roce(state),
        "sriov": _virtual_functions(state),
    }
    return {"version": 1, **{name: section for name, section in sections.items() if section}}


def notes_on(document: Mapping[str, Any], state: NodeState) -> dict[str, str]:
    """Which interface each entry of `links` means, for the file's comments."""
    names = {found.pci_address: found.name for found in state.netdevs.values() if found.pci_address}
    entries = (
        (f"{section}[{index}].match", entry["match"])
        for section in ("links", "sriov")
        for index, entry in enumerate(document.get(section, ()))
    )
    return {path: names[match] for path, match in entries if match in names}


def _modules(state: NodeState) -> dict[str, Any]:
    loaded = {
        "nvidia": _nvidia(state) if state.is_loaded(NVIDIA) else None,
        "rdma": _rdma(state),
        "peermem": next((name for name in (NVIDIA_PEERMEM, NV_PEER_MEM) if state.is_loaded(name)), None),
        "gdrcopy": state.is_loaded(GDRDRV) or None,
        "gds": state.is_loaded(NVIDIA_FS) or None,
        "absent": [NOUVEAU] if state.is_loaded(NVIDIA) and not state.is_loaded(NOUVEAU) else None,
    }
    return {name: value for name, value in loaded.items() if value is not None}


def _nvidia(state: NodeState) -> dict[str, Any]:
    parts = {"uvm": NVIDIA_UVM, "modeset": NVIDIA_MODESET, "drm": NVIDIA_DRM}
    flavor = {None: "auto", True: "open", False: "proprietary"}[state.driver.is_open if state.driver else None]
    return {"flavor": flavor, **{name: state.is_loaded(module) for name, module in parts.items()}}


def _rdma(state: NodeState) -> dict[str, Any] | None:
    devices = (state.pci.get(one.pci_address) for one in state.rdma.values())
    drivers = {canonical(function.driver) for function in devices if function and not function.is_vf}
    drivers |= {name for name in (*THIRD_PARTY_RDMA, "mlx5_ib") if state.modules.get(name)}
    if not drivers:
        return None
    user_access = all(state.is_loaded(name) for name in USER_ACCESS)
    return {"drivers": sorted(drivers), "user_access": user_access, "ipoib": state.is_loaded("ib_ipoib")}


def _mig(state: NodeState) -> list[dict[str, Any]]:
    """Nothing where no GPU is divided, or will be after a reset: then nobody has decided anything about MIG here."""
    if not any(MigMode.ENABLED in (one.mig_mode, one.pending_mig_mode) for one in state.gpus.values()):
        return []
    entries: list[dict[str, Any]] = node_document(state.gpus.values(), exact=True)["mig"]
    return entries


def _rdma_netdevs(state: NodeState) -> list[Netdev]:
    """Interfaces of RDMA ports, without those of virtual functions: who gets such a function sets it up."""
    names = {port.netdev for device in state.rdma.values() for port in device.ports}
    found = (state.netdevs[name] for name in sorted(names) if name in state.netdevs)
    return [one for one in found if not _is_virtual(one.pci_address, state)]


def _is_virtual(address: str, state: NodeState) -> bool:
    function = state.pci.get(address)
    return function is not None and function.is_vf


def _match(name: str, address: str, state: NodeState) -> str:
    """The PCI address where it means this interface alone: it does not change with udev's rules."""
    return address if address and select_netdevs(address, state) == (name,) else name


def _links(state: NodeState) -> list[dict[str, Any]]:
    """One entry for a driver whose interfaces are all alike, else one for each."""
    entries = {found.name: _link(found) for found in _rdma_netdevs(state)}
    for driver in {state.netdevs[name].driver for name in entries} - {""}:
        match = f"driver:{driver}"
        if set(select_netdevs(match, state)) == set(entries) and _all_alike(entries.values()):
            return [{"match": match, **next(iter(entries.values()))}]
    return [{"match": _match(name, state.netdevs[name].pci_address, state), **entry} for name, entry in entries.items()]


def _all_alike(entries: Iterable[dict[str, Any]]) -> bool:
    first, *others = entries
    return all(other == first for other in others)


def _link(found: Netdev) -> dict[str, Any]:
    qos = _qos(found)
    return {"up": found.up, "mtu": found.mtu, **({"qos": qos} if qos else {})}


def _qos(found: Netdev) -> dict[str, Any]:
    """A set-up by its name where it is one; nothing where nobody has set anything up."""
    dcb = found.dcb or DcbState()
    if not dcb.dscp and not (dcb.pfc and dcb.pfc.enabled):
        return {}
    if dcb.pfc is not None and dcb.ets is not None:
        for setup in QosSetup:
            if not tuple(qos_steps(found, expanded(Qos(setup=setup)))):
                return {"setup": setup.value}
    return _qos_keys(dcb)


def _qos_keys(dcb: DcbState) -> dict[str, Any]:
    keys: dict[str, Any] = {"trust": dcb.trust.value}
    if dcb.dscp:
        keys["dscp"] = {str(dscp): priority for dscp, priority in dcb.dscp}
    if dcb.pfc is not None:
        keys["pfc"] = list(dcb.pfc.enabled)
    shares = _shares(dcb.ets or UNSHARED)
    return {**keys, **({"ets": shares} if shares else {})}


def _shares(ets: Ets) -> dict[str, Any]:
    """Nothing where it is not in the node file's words: every class strict, or by a driver's own algorithm."""
    strict = [number for number, algorithm in enumerate(ets.algorithms) if algorithm == Algorithm.STRICT]
    known = all(algorithm in (Algorithm.STRICT, Algorithm.ETS) for algorithm in ets.algorithms)
    if not known or len(strict) == len(ets.algorithms) or any(ets.bandwidth[number] for number in strict):
        return {}
    return {"bandwidth": list(ets.bandwidth), "strict": strict, "classes": list(ets.class_of)}


def _roce(state: NodeState) -> dict[str, Any]:
    names = [one.name for one in state.rdma.values() if not _is_virtual(one.pci_address, state)]
    found = {name: entry for name in sorted(names) if (entry := _roce_entry(state.rdma[name]))}
    if not found:
        return {}
    netns = {None: {}, True: {"netns": "shared"}, False: {"netns": "exclusive"}}[state.rdma_netns_shared]
    if set(select_rdma(ANY, state)) == set(found) and _all_alike(found.values()):
        return {"devices": [{"match": ANY, **next(iter(found.values()))}], **netns}
    return {"devices": [{"match": f"rdma:{name}", **entry} for name, entry in found.items()], **netns}


def _roce_entry(device: RdmaDevice) -> dict[str, Any]:
    """What rdma_cm uses by default on a device whose ports agree about it."""
    words = {kernel: mode.value for mode, kernel in MODES.items()}
    ports = {(one.roce_mode, one.roce_tos, one.traffic_class) for one in device.ports if one.link_layer == ETHERNET}
    if len(ports) != 1:
        return {}
    mode, tos, traffic_class = ports.pop()
    found = {"mode": words.get(mode), "tos": tos, "traffic_class": traffic_class}
    return {name: value for name, value in found.items() if value is not None}


def _virtual_functions(state: NodeState) -> list[dict[str, Any]]:
    return [{"match": one.address, "vfs": len(one.vf_addresses)} for one in state.pci.values() if one.vf_addresses]
