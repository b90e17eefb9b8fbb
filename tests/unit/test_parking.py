"""What comes back after a driver was reloaded, decided on hand-made states."""

from __future__ import annotations

import pytest

from nodeagent.plan.graph import build_graph
from nodeagent.plan.parking import parked
from nodeagent.state.modules import KernelModule, Liveness
from nodeagent.state.network import Netdev, PciFunction
from nodeagent.state.node import NodeState
from nodeagent.state.things import module, netdev, pci

PF, VF = "0000:01:00.0", "0000:01:10.0"


@pytest.mark.parametrize(("driver", "of_functions"), [("igb", "igbvf"), ("ice", "iavf"), ("mlx5_core", "mlx5_core")])
def test_interfaces_of_functions_with_a_driver_of_their_own_go_and_come_back_too(
    driver: str, of_functions: str
) -> None:
    state = NodeState(
        modules={name: KernelModule(name, Liveness.LIVE, refcount=0, holders=()) for name in (driver, of_functions)},
        netdevs={
            "ens1": Netdev("ens1", 1500, up=True, pci_address=PF, driver=driver),
            "ens1v0": Netdev("ens1v0", 1500, up=True, pci_address=VF, driver=of_functions),
            "ens2": Netdev("ens2", 1500, up=True),
        },
        pci={
            PF: PciFunction(PF, "8086", "10c9", "020000", driver, total_vfs=7, vf_addresses=(VF,)),
            VF: PciFunction(VF, "8086", "10ca", "020000", of_functions, is_vf=True, physfn=PF),
        },
    )
    lost = {module(driver)}
    found = parked(build_graph(state, ()).standing_on(lost), lost, state)
    assert found == (netdev("ens1v0"), pci(VF), pci(PF), netdev("ens1"))  # the last of them comes back first
