"""Addresses and routes of the simulated interfaces, as they are kept and brought back; pure."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import replace

from nodeagent.simulation.kernel_state import Interface, KernelState, edited

DEFAULT_ROUTE = "default route"


def setup_of(interface: Interface) -> tuple[tuple[str, str], ...]:
    """(text, data) for each address and route; here the data is the text again."""
    texts = [f"address {address}" for address in interface.addresses]
    texts += [f"route {route}" for route in interface.routes]
    return tuple((text, text) for text in (*texts, *((DEFAULT_ROUTE,) if interface.default_route else ())))


def with_setup(state: KernelState, name: str, entries: Iterable[tuple[str, str]]) -> KernelState:
    """With everything that is missing. OSError ENODEV; ENETDOWN for a route while the interface is down."""
    found = state.interfaces.get(name)
    if found is None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    for _, data in entries:
        found = _with_entry(found, data)
    return replace(state, interfaces=edited(state.interfaces, **{name: found}))


def _with_entry(found: Interface, data: str) -> Interface:
    kind, _, value = data.partition(" ")
    if kind == "address":
        return replace(found, addresses=(*(one for one in found.addresses if one != value), value))
    if not found.up:
        raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN))
    if data == DEFAULT_ROUTE:
        return replace(found, default_route=True)
    return replace(found, routes=(*(one for one in found.routes if one != value), value))
