"""GPUs and NICs of one container near each other, although the kubelet asks for each resource by itself.

For a container with both, the kubelet asks for the one and then, within moments, for the other, in either order
(kubernetes/kubernetes pkg/kubelet/cm/devicemanager: a preference and an allocation for each resource in turn). So what
was given a moment ago, and has no counterpart yet, is what the next answer should be near to. A guess that is wrong
(two containers at once) costs nearness and nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from nodeagent.resources.network_offers import FunctionAllocator
from nodeagent.state.offers import Allocator, Grant, Offer

MOMENT_SECONDS = 5.0
FAR = 1 << 10
SHARE = "::"

Distances = Mapping[str, Mapping[str, int]]


@dataclass
class Pairing:
    """What was given a moment ago and waits for its counterpart: GPUs and ports by PCI address. For any thread."""

    clock: Callable[[], float] = time.monotonic
    _gpus: list[tuple[float, str]] = field(default_factory=list)
    _ports: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def gpus(self) -> tuple[str, ...]:
        with self._lock:
            return self._fresh(self._gpus)

    def ports(self) -> tuple[str, ...]:
        with self._lock:
            return self._fresh(self._ports)

    def gave_gpus(self, addresses: Iterable[str]) -> None:
        with self._lock:
            self._settle(self._ports, self._gpus, tuple(addresses))

    def gave_ports(self, addresses: Iterable[str]) -> None:
        with self._lock:
            self._settle(self._gpus, self._ports, tuple(addresses))

    def _settle(self, waiting: list[tuple[float, str]], own: list[tuple[float, str]], given: tuple[str, ...]) -> None:
        """What was given has its counterparts in those that wait; only where none waits does it wait itself."""
        if self._fresh(waiting):
            waiting.clear()
        else:
            own[:] = [(self.clock(), address) for address in given]

    def _fresh(self, given: list[tuple[float, str]]) -> tuple[str, ...]:
        now = self.clock()
        return tuple(address for when, address in given if now - when <= MOMENT_SECONDS)


@dataclass(frozen=True)
class NearGpus:
    """Functions near the GPUs that a container was given a moment ago."""

    inner: FunctionAllocator
    pairing: Pairing

    def grant(self, ids: tuple[str, ...]) -> Grant:
        granted = self.inner.grant(ids)
        ports = {unit.address: unit.port for unit in self.inner.units}
        self.pairing.gave_ports(ports[number] for number in ids)
        return granted

    def prefer(self, available: tuple[str, ...], must: tuple[str, ...], size: int) -> tuple[str, ...]:
        return self.inner.prefer_near(available, must, size, self.pairing.gpus())


@dataclass(frozen=True)
class NearPorts:
    """GPUs near the ports that a container was given a moment ago; `addresses` by UUID of GPU or MIG device."""

    inner: Allocator
    pairing: Pairing
    addresses: Mapping[str, str]
    near: Distances

    def grant(self, ids: tuple[str, ...]) -> Grant:
        granted = self.inner.grant(ids)
        self.pairing.gave_gpus(dict.fromkeys(self._address(number) for number in ids))
        return granted

    def prefer(self, available: tuple[str, ...], must: tuple[str, ...], size: int) -> tuple[str, ...]:
        chosen = list(must)
        for port in self.pairing.ports():
            rest = [one for one in available if one not in chosen]
            if len(chosen) < size and rest:
                chosen.append(min(rest, key=lambda one: self.near.get(port, {}).get(self._address(one), FAR)))
        return self.inner.prefer(available, tuple(chosen), size)

    def _address(self, number: str) -> str:
        return self.addresses.get(number.partition(SHARE)[0], "")


def near_gpus(offers: Iterable[Offer], pairing: Pairing) -> tuple[Offer, ...]:
    """Offers of network functions that follow the GPUs; others as they are."""
    return tuple(
        replace(offer, allocator=NearGpus(offer.allocator, pairing))
        if isinstance(offer.allocator, FunctionAllocator)
        else offer
        for offer in offers
    )


def near_ports(
    offers: Iterable[Offer], pairing: Pairing, addresses: Mapping[str, str], near: Distances
) -> tuple[Offer, ...]:
    """Offers of GPUs that follow the ports; without ports on offer they stay as they are."""
    if not near:
        return tuple(offers)
    return tuple(replace(offer, allocator=NearPorts(offer.allocator, pairing, addresses, near)) for offer in offers)
