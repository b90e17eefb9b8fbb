"""Virtual functions through sysfs: how many there are, and which driver has them.

Sources: Documentation/ABI/testing/sysfs-bus-pci, Documentation/PCI/pci-iov-howto.rst, drivers/pci/pci-sysfs.c.
"""

from __future__ import annotations

from nodeagent.errors import BusyError, DeadlineError, GoneError, HostError, UnsupportedError
from nodeagent.host.congestion import write_congestion
from nodeagent.host.paths import SYS_IOMMU_GROUPS, SYS_PCI_DEVICES, SYS_PCI_DRIVERS_PROBE
from nodeagent.host.pcie_control import write_setting
from nodeagent.host.ports import Clock, Files
from nodeagent.state.topology import PcieSetting

CREATION_SECONDS = 120.0  # some platforms show the functions long after the write has returned
POLL_SECONDS = 0.02  # sysfs tells nobody that a link has come
BRIDGE = "0x0604"
VFIO_PCI = "vfio-pci"
VFIO_DRIVERS = frozenset({VFIO_PCI, "nvgrace_gpu_vfio_pci", "mlx5_vfio_pci"})


class SysfsFunctions:
    """`ports.Functions` over a file tree whose writes a kernel takes, real or simulated."""

    def __init__(self, files: Files, clock: Clock) -> None:
        self._files, self._clock = files, clock

    def set_vf_count(self, address: str, count: int, *, bind: bool = True) -> None:
        """As the port says; nothing is written where the number is right already."""
        directory = f"{SYS_PCI_DEVICES}/{address}"
        if self._files.read(f"{directory}/sriov_numvfs") == str(count):
            return
        probe = f"{directory}/sriov_drivers_autoprobe"
        before = self._files.read_optional(probe)
        if not bind and before == "1":
            self._files.write(probe, "0")
        try:
            self._write_count(address, count)
        finally:
            if not bind and before == "1":
                self._files.write(probe, "1")
        self._wait(address, count)

    def _write_count(self, address: str, count: int) -> None:
        path = f"{SYS_PCI_DEVICES}/{address}/sriov_numvfs"
        try:
            self._files.write(path, str(count))
        except BusyError as error:
            present = self._files.read_optional(path)
            advice = "the kernel log says what the driver waits for; virtual functions in use by a guest keep it busy"
            operation = f"make {count} virtual functions on"
            raise BusyError(operation, address, f"{error.reason} ({present} are there)", advice) from error
        except UnsupportedError as error:
            total = self._files.read_optional(f"{SYS_PCI_DEVICES}/{address}/sriov_totalvfs") or "0"
            operation = f"make {count} virtual functions on"
            raise UnsupportedError(operation, address, error.reason, f"it can have {total}") from error

    def _wait(self, address: str, count: int) -> None:
        directory = f"{SYS_PCI_DEVICES}/{address}"
        deadline = self._clock.monotonic() + CREATION_SECONDS
        while (found := sum(name.startswith("virtfn") for name in self._files.names(directory))) != count:
            if not self._files.exists(directory):
                raise GoneError("wait for the virtual functions of", address, "the physical function is gone")
            if self._clock.monotonic() > deadline:
                reason = f"{found} of {count} are there after {CREATION_SECONDS:g} s"
                raise DeadlineError("wait for the virtual functions of", address, reason)
            self._clock.sleep(POLL_SECONDS)

    def set_driver(self, address: str, driver: str) -> None:
        """As the port says. Any failure leaves the function to the kernel's choice again."""
        if driver in VFIO_DRIVERS:
            self._check_group(address)
        self._unbind(address)
        self._files.write(f"{SYS_PCI_DEVICES}/{address}/driver_override", driver or "\n")
        try:
            self._files.write(SYS_PCI_DRIVERS_PROBE, address)
            self._verify(address, driver)
        except HostError:
            if driver:
                self._files.write(f"{SYS_PCI_DEVICES}/{address}/driver_override", "\n")
                self._files.write(SYS_PCI_DRIVERS_PROBE, address)
            raise

    def release(self, address: str, driver: str) -> None:
        """As the port says; the mark comes first, so that it is known whom a free function is for."""
        self._files.write(f"{SYS_PCI_DEVICES}/{address}/driver_override", driver)
        self._unbind(address)

    def set_congestion(self, address: str, setting: str, value: int) -> None:
        write_congestion(self._files, address, setting, value)

    def set_pcie(self, address: str, setting: PcieSetting, value: int) -> None:
        write_setting(self._files, address, setting, value)

    def _unbind(self, address: str) -> None:
        if self._driver(address):
            self._files.write(f"{SYS_PCI_DEVICES}/{address}/driver/unbind", address)

    def _verify(self, address: str, driver: str) -> None:
        found = self._driver(address)
        if driver and found != driver:
            advice = f"load module {driver.replace('-', '_')}; the kernel log says why a driver refuses"
            raise HostError(f"bind {driver} to", address, f"it has driver {found}" if found else "no driver", advice)

    def _driver(self, address: str) -> str:
        return self._files.target(f"{SYS_PCI_DEVICES}/{address}/driver") or ""

    def _check_group(self, address: str) -> None:
        """A group goes to one user as a whole: whoever else is in it must be free, with VFIO, or a bridge."""
        group = self._files.target(f"{SYS_PCI_DEVICES}/{address}/iommu_group")
        if group is None:
            advice = "boot with intel_iommu=on (Intel) or with the IOMMU enabled in the firmware set-up"
            raise UnsupportedError(f"bind {VFIO_PCI} to", address, "it is in no IOMMU group", advice)
        for other in self._files.names(f"{SYS_IOMMU_GROUPS}/{group}/devices"):
            class_code = self._files.read_optional(f"{SYS_PCI_DEVICES}/{other}/class") or ""
            driver = self._driver(other)
            if other != address and driver and driver not in VFIO_DRIVERS and not class_code.startswith(BRIDGE):
                reason = f"function {other} of the same IOMMU group {group} is driven by {driver}"
                raise BusyError(f"bind {VFIO_PCI} to", address, reason, "all functions of a group go together")
