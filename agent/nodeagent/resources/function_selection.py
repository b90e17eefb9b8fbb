"""Which physical functions a `match` of the node file means; pure."""

from __future__ import annotations

from nodeagent.resources.link_selection import select_netdevs
from nodeagent.state.node import NodeState


def physical_functions(match: str, state: NodeState) -> tuple[str, ...]:
    """Addresses of the physical functions a match means; those it only finds because of their virtual ones are not."""
    by_netdev = {state.netdevs[name].pci_address for name in select_netdevs(match, state)}
    found = (state.pci[address] for address in by_netdev | {match} if address in state.pci)
    return tuple(sorted(one.address for one in found if not one.is_vf))
