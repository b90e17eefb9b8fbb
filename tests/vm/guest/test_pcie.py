"""PCI Express settings on a real kernel: written through sysfs, proved by reading back, refused where they vanish."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodeagent.errors import UnsupportedError
from nodeagent.host.files import LocalFiles
from nodeagent.host.pci_config import CONFIG_BYTES, parse_config
from nodeagent.host.pci_facts import read_pci
from nodeagent.host.pcie_control import write_setting
from nodeagent.host.topology_facts import read_topology
from nodeagent.state.topology import ACS_REDIRECT_BITS, PcieConfig, PcieSetting, PortKind

CARD = "0x10d3"  # 82574L, which QEMU's e1000e is


def _address() -> str:
    devices = Path("/sys/bus/pci/devices")
    (found,) = [path.name for path in devices.iterdir() if (path / "device").read_text().strip() == CARD]
    return found


def _config(address: str) -> PcieConfig:
    data = Path(f"/sys/bus/pci/devices/{address}/config").read_bytes()
    assert len(data) == CONFIG_BYTES
    found = parse_config(data)
    assert found is not None
    return found


def test_the_path_of_a_card_is_read_with_its_port() -> None:
    files = LocalFiles()
    card = read_pci(files)[_address()]
    nodes = read_topology(files, (card,)).nodes
    port, end = (nodes[address].config for address in card.path[1:])
    assert port is not None
    assert end is not None
    assert (port.kind, end.kind, end.ids) == (PortKind.ROOT_PORT, PortKind.ENDPOINT, "8086:10d3")
    assert port.acs is not None
    assert end.acs is None
    assert end.max_read_request_bytes == 128


def test_acs_of_a_port_is_changed_and_put_back() -> None:
    files = LocalFiles()
    port = read_pci(files)[_address()].path[-2]
    before = _config(port)
    assert before.acs_capable is not None
    write_setting(files, port, PcieSetting.ACS_REDIRECT, ACS_REDIRECT_BITS)
    assert _config(port).value(PcieSetting.ACS_REDIRECT) == ACS_REDIRECT_BITS
    write_setting(files, port, PcieSetting.ACS_REDIRECT, 0)
    assert _config(port).value(PcieSetting.ACS_REDIRECT) == 0
    write_setting(files, port, PcieSetting.ACS_REDIRECT, before.value(PcieSetting.ACS_REDIRECT) or 0)
    assert _config(port) == before


def test_a_write_that_vanishes_is_an_error_and_not_success() -> None:
    address = _address()
    before = _config(address)
    with pytest.raises(UnsupportedError, match="reads back as 128 after 4096 was written; the function does not"):
        write_setting(LocalFiles(), address, PcieSetting.MAX_READ_REQUEST, 4096)
    with pytest.raises(UnsupportedError, match="does not show that register"):
        write_setting(LocalFiles(), address, PcieSetting.ACS_REDIRECT, 0)
    assert _config(address) == before
