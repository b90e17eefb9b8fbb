"""Which interfaces and RDMA devices a `match` of the node file means; pure.

Source of product names: pci.ids, vendor 15b3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from types import MappingProxyType

from nodeagent.resources.topology import closest_nics
from nodeagent.spec.links import RAIL
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.network import PciFunction
from nodeagent.state.node import NodeState
from nodeagent.state.rails import gpus_of, nics_of, rails_of

LOOPBACK = "lo"
PRODUCTS: Mapping[str, str] = MappingProxyType(
    {
        "1013": "ConnectX-4",
        "1015": "ConnectX-4-Lx",
        "1017": "ConnectX-5",
        "1019": "ConnectX-5-Ex",
        "101b": "ConnectX-6",
        "101d": "ConnectX-6-Dx",
        "101f": "ConnectX-6-Lx",
        "1021": "ConnectX-7",
        "1023": "ConnectX-8",
        "1025": "ConnectX-9",
        "a2d6": "BlueField-2",
        "a2dc": "BlueField-3",
    }
)


class By(StrEnum):
    """What a match goes by: its prefix in the node file, or none for names and PCI addresses."""

    NAME = "netdev"
    PCI = "pci"
    DRIVER = "driver"
    RDMA = "rdma"
    ID = "id"
    PRODUCT = "product"
    RAIL = "rail"
    GPU = "closest-to-gpu"


@dataclass(frozen=True)
class Candidate:
    """One interface or RDMA device as a match sees it; `function` is None for software devices."""

    name: str
    netdevs: tuple[str, ...]
    rdma: tuple[str, ...]
    address: str
    driver: str
    function: PciFunction | None


def parse_match(match: str) -> tuple[By, str]:
    """`rail:0` -> (RAIL, "0"); a text without a known prefix is a PCI address or the name of an interface."""
    prefix, _, value = match.partition(":")
    if value and prefix in (By.DRIVER, By.RDMA, By.ID, By.PRODUCT, By.RAIL, By.GPU):
        return By(prefix), value
    return (By.PCI, match.lower()) if ":" in match else (By.NAME, match)


def select_netdevs(match: str, state: NodeState) -> tuple[str, ...]:
    """Names of the interfaces a match means, sorted; the loopback interface only if it is named outright."""
    fits = _test(match, state)
    found = (candidate for candidate in _netdevs(state) if candidate.name != LOOPBACK or match == LOOPBACK)
    return tuple(sorted(candidate.name for candidate in found if fits(candidate)))


def select_rdma(match: str, state: NodeState) -> tuple[str, ...]:
    """Names of the RDMA devices a match means, sorted."""
    fits = _test(match, state)
    return tuple(sorted(candidate.name for candidate in _rdma(state) if fits(candidate)))


def _netdevs(state: NodeState) -> list[Candidate]:
    on_netdev: dict[str, list[str]] = {}
    for device in state.rdma.values():
        for place in {device.pci_address, *(port.netdev for port in device.ports)} - {""}:
            on_netdev.setdefault(place, []).append(device.name)
    return [
        Candidate(
            name=found.name,
            netdevs=(found.name,),
            rdma=tuple({*on_netdev.get(found.name, ()), *on_netdev.get(found.pci_address, ())}),
            address=found.pci_address,
            driver=found.driver,
            function=state.pci.get(found.pci_address),
        )
        for found in state.netdevs.values()
    ]


def _rdma(state: NodeState) -> list[Candidate]:
    found: list[Candidate] = []
    for device in state.rdma.values():
        function = state.pci.get(device.pci_address)
        netdevs = tuple(port.netdev for port in device.ports if port.netdev)
        driver = function.driver if function is not None else ""
        found.append(Candidate(device.name, netdevs, (device.name,), device.pci_address, driver, function))
    return found


def _test(match: str, state: NodeState) -> Callable[[Candidate], bool]:
    """The predicate of a match; sets of addresses are computed once and not for each candidate."""
    by, value = parse_match(match)
    if by in (By.RAIL, By.GPU):
        addresses = rail_addresses(value, state) if by is By.RAIL else addresses_near_gpu(value, state)
        return lambda candidate: candidate.address in addresses
    return lambda candidate: _TESTS[by](candidate, value)


_TESTS: Mapping[By, Callable[[Candidate, str], bool]] = MappingProxyType(
    {
        By.NAME: lambda found, value: any(name == value or fnmatchcase(name, value) for name in found.netdevs),
        By.PCI: lambda found, value: found.address == value,
        By.DRIVER: lambda found, value: found.driver == value,
        By.RDMA: lambda found, value: any(fnmatchcase(name, value) for name in found.rdma),
        By.ID: lambda found, value: _id_of(found.function) == value.lower(),
        By.PRODUCT: lambda found, value: fnmatchcase(product_of(found.function).lower(), value.lower()),
    }
)


def _id_of(found: PciFunction | None) -> str:
    return f"{found.vendor}:{found.device}" if found is not None else ""


def product_of(found: PciFunction | None) -> str:
    """The product's name by pci.ids with `-` for blanks, empty where it is not known."""
    return PRODUCTS.get(found.device, "") if found is not None and found.vendor == "15b3" else ""


def goes_by_rails(spec: NodeSpec) -> bool:
    """Whether numbers of rails enter into what the node file wants."""
    text = str((spec.links, spec.roce, spec.sriov, spec.devlink, spec.guard))
    return f"{By.RAIL}:" in text or RAIL in text


def rail_addresses(value: str, state: NodeState) -> frozenset[str]:
    """PCI addresses of the rails `N`, `N-M`, or `*` for every one."""
    rails = rails_of(state)
    if value == "*":
        return frozenset(rail.address for rail in rails)
    first, _, last = value.partition("-")
    return frozenset(rail.address for rail in rails if int(first) <= rail.number <= int(last or first))


def addresses_near_gpu(value: str, state: NodeState) -> frozenset[str]:
    """PCI addresses of the NICs nearest to a GPU, given by index in the order of PCI addresses, address or UUID."""
    gpus = gpus_of(state)
    address = state.gpus[value].pci_address if value in state.gpus else value
    found = [gpu for index, gpu in enumerate(gpus) if value == str(index) or gpu.address == address]
    return frozenset(nic.address for gpu in found for nic in closest_nics(gpu, nics_of(state)))


def what_there_is(match: str, state: NodeState) -> str:
    """For a match that means nothing: what it could have meant here."""
    by, _ = parse_match(match)
    if by is By.RAIL:
        numbers = [rail.number for rail in rails_of(state)]
        gone = sorted(f"{number} ({address})" for address, number in state.rails.items() if number not in numbers)
        absent = f"; not here any more: {', '.join(gone)}" if numbers and gone else ""
        span = f"rails here: {numbers[0]} to {numbers[-1]}" if numbers else ""
        return f"{span}{absent}" if span else "there are no rails: no RDMA NIC is near a GPU"
    if by is By.GPU:
        count = len(gpus_of(state))
        return f"gpus here: 0 to {count - 1}" if count else "there are no gpus"
    if by is By.RDMA:
        return f"rdma devices here: {_listed(state.rdma)}"
    if by in (By.ID, By.PRODUCT):
        found = {f"{product_of(nic) or 'unknown product'} (id:{_id_of(nic)})" for nic in nics_of(state)}
        return f"nics here: {_listed(found)}"
    return f"interfaces here: {_listed(name for name in state.netdevs if name != LOOPBACK)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
