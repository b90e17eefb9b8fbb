"""The tables of the simulated node fit together."""

from __future__ import annotations

import re

import pytest

from nodeagent.errors import UsageError
from nodeagent.simulation.module_table import PEER_SYMBOL, known_modules, symbol_crc
from nodeagent.simulation.profiles import CARDS, Profile, profile, profiles
from nodeagent.simulation.reactions import mac_of
from nodeagent.simulation.tree_network import guid_of
from nodeagent.simulation.tree_pci import device_folder

ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
ALL = tuple(profiles().values())


def dependencies(found: Profile) -> dict[str, set[str]]:
    modules = known_modules(found)
    owners = {symbol: module.name for module in modules.values() for symbol in module.exports}
    return {module.name: {owners[s] for s in module.imports if s in owners} for module in modules.values()}


@pytest.mark.parametrize("found", ALL, ids=lambda found: found.name)
def test_every_function_has_a_place_of_its_own(found):
    addresses = [slot.pci_address for slot in found.slots]
    assert len(addresses) == len(set(addresses))
    assert not set(addresses) & {bridge for slot in found.slots for bridge in slot.bridges}
    for slot in found.slots:
        assert ADDRESS.fullmatch(slot.pci_address)
        assert slot.bridges
        assert slot.card in CARDS
        buses = [int(bridge[5:7], 16) for bridge in (*slot.bridges, slot.pci_address)]
        assert buses == sorted(buses), "a bridge leads to higher buses"
        assert device_folder(slot).endswith(f"{slot.bridges[-1]}/{slot.pci_address}")


@pytest.mark.parametrize("found", ALL, ids=lambda found: found.name)
def test_names_and_addresses_of_nics_are_unique(found):
    for values in (
        [nic.netdev for nic in found.nics],
        [nic.rdma for nic in found.nics if nic.rdma],
        [mac_of(nic) for nic in found.nics],
        [guid_of(nic) for nic in found.nics if nic.rdma],
    ):
        assert len(values) == len(set(values))
    assert len([nic for nic in found.nics if not nic.rdma]) == 1, "one management interface"


@pytest.mark.parametrize(
    ("name", "gpus", "rdma", "nodes"),
    [
        ("dgx-a100", 8, 12, 4),
        ("dgx-h100", 8, 12, 2),
        ("dgx-h200", 8, 12, 2),
        ("dgx-b200", 8, 12, 2),
        ("gpu-server-4x-a100", 4, 2, 2),
    ],
)
def test_machines_have_what_their_guides_say(name, gpus, rdma, nodes):
    found = profile(name)
    assert len(found.gpus) == gpus
    assert len([nic for nic in found.nics if nic.rdma]) == rdma
    assert len({slot.numa_node for slot in found.gpus}) == nodes


def test_unknown_profile_names_the_known_ones():
    with pytest.raises(UsageError, match="dgx-a100, dgx-h100, dgx-h200, dgx-b200, gpu-server-4x-a100"):
        profile("dgx-1")


@pytest.mark.parametrize("found", ALL, ids=lambda found: found.name)
def test_every_imported_symbol_has_one_owner(found):
    modules = known_modules(found)
    exported = [symbol for module in modules.values() for symbol in module.exports]
    assert len(exported) == len(set(exported))
    missing = {symbol for module in modules.values() for symbol in (*module.imports, *module.gets)} - set(exported)
    assert missing == (set() if found.peer_memory_owner else {PEER_SYMBOL})
    for module in modules.values():
        assert re.fullmatch(r"[0-9A-F]{23}", module.srcversion)


def test_dependencies_are_those_of_the_real_modules():
    found = dependencies(profile("gpu-server-4x-a100"))
    assert found["nvidia"] == set()
    assert found["nvidia_uvm"] == {"nvidia"}
    assert found["nvidia_drm"] == {"nvidia", "nvidia_modeset", "drm", "drm_kms_helper"}
    assert found["mlx5_core"] == {"mlxfw", "psample", "tls", "pci_hyperv_intf"}
    assert found["mlx5_ib"] == {"mlx5_core", "ib_core", "ib_uverbs"}
    assert found["rdma_cm"] == {"ib_cm", "iw_cm", "ib_core"}


def test_peer_memory_depends_on_who_offers_it():
    owners = {found.name: dependencies(found)["nvidia_peermem"] - {"nvidia"} for found in ALL}
    assert owners == {
        "dgx-a100": {"ib_core"},
        "dgx-h100": {"ib_uverbs"},
        "dgx-h200": {"ib_uverbs"},
        "dgx-b200": {"ib_uverbs"},
        "gpu-server-4x-a100": set(),
    }


def test_vendor_stack_stands_on_its_own_base():
    assert "mlx_compat" in dependencies(profile("dgx-a100"))["ib_core"]
    assert "mlx_compat" not in known_modules(profile("gpu-server-4x-a100"))


def test_symbol_versions_are_stable_and_never_zero():
    assert symbol_crc(PEER_SYMBOL) == symbol_crc(PEER_SYMBOL)
    assert symbol_crc("") != 0
