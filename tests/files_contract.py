"""What the file tree must do on every machine: the same assertions run on the simulated and on a real one.

To extend it: a function, and its name in FILES (regular files), KERNEL (sysfs and procfs, whoever asks) or BUS (needs
root and a PCI function of one's own).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from nodeagent.errors import BusyError, DeniedError, GoneError, HostError
from nodeagent.host.ports import Files

READ_ONLY = "/sys/class/net/lo/address"


@dataclass(frozen=True)
class Machine:
    """A tree with an empty directory for regular files, `scratch`, and its place on this machine.

    `bound` and `driver` are a PCI function and who drives it; `other` is a driver that is not made for it.
    """

    files: Files
    scratch: str
    place: str
    bound: str = ""
    driver: str = ""
    other: str = ""

    def at(self, name: str) -> str:
        return f"{self.scratch}/{name}"

    def put(self, name: str, content: bytes) -> str:
        """A file that somebody else wrote."""
        with open(f"{self.place}/{name}", "wb") as file:
            file.write(content)
        return self.at(name)

    def of_driver(self, driver: str, name: str) -> str:
        return f"/sys/bus/pci/drivers/{driver}/{name}"


Clause = Callable[[Machine], None]


def refused(kind: type[HostError], reason: str, call: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(HostError) as caught:
        call(*arguments)
    assert type(caught.value) is kind, repr(caught.value)
    assert caught.value.reason == reason
    assert caught.value.subject == arguments[0]


# Regular files.


def text_is_read_without_its_last_newline(machine: Machine) -> None:
    assert machine.files.read(machine.put("one", b"a\nb\n")) == "a\nb"
    assert machine.files.read(machine.put("two", b"a\n\n")) == "a\n"
    assert machine.files.read(machine.put("empty", b"")) == ""
    assert machine.files.read(machine.put("odd", b"\xffx")) == "\ufffdx"
    assert machine.files.read_bytes(machine.put("bytes", bytes(range(9))), 4, 6) == bytes((6, 7, 8))
    assert machine.files.read_bytes(machine.at("bytes"), 4, 99) == b""


def what_is_absent_is_gone_or_nothing(machine: Machine) -> None:
    files = machine.files
    machine.put("file", b"x")
    for path, reason in ((machine.at("none"), "no such file or directory"), (machine.at("file/x"), "not a directory")):
        refused(GoneError, reason, files.read, path)
        refused(GoneError, reason, files.read_bytes, path, 1)
        refused(GoneError, reason, files.write, path, "x")
        assert files.read_optional(path) is None
        assert files.names(path) == ()
        assert files.target(path) is files.link(path) is files.device_node(path) is None
        assert not files.exists(path)
        files.remove(path)
    files.remove_directory(machine.at("none"))
    assert files.names(machine.scratch) == ("file",)


def a_directory_is_no_file(machine: Machine) -> None:
    files, path = machine.files, machine.at("folder")
    files.make_directory(path)
    files.make_directory(path)
    for call, arguments in ((files.read, ()), (files.write, ("x",)), (files.remove, ()), (files.replace, ("x",))):
        refused(HostError, "is a directory", call, path, *arguments)
    refused(GoneError, "no such file or directory", files.make_directory, f"{path}/deep/er")
    files.replace(f"{path}/inside", "x")
    refused(HostError, "directory not empty", files.remove_directory, path)
    files.remove(f"{path}/inside")
    files.remove_directory(path)
    assert files.names(machine.scratch) == ()


def a_write_takes_the_place_of_the_text_in_the_same_file(machine: Machine) -> None:
    path = machine.put("one", b"long text")
    with open(f"{machine.place}/one", encoding="utf-8") as reader:
        machine.files.write(path, "new")
        assert reader.read() == "new"


def a_replacement_is_another_file_and_never_half_of_one(machine: Machine) -> None:
    path = machine.put("one", b"old text")
    with open(f"{machine.place}/one", encoding="utf-8") as reader:
        machine.files.replace(path, "new", 0o640)
        assert reader.read() == "old text"
    assert machine.files.read(path) == "new"
    machine.files.replace(machine.at("deep/er/two"), "x")
    assert machine.files.names(machine.scratch) == ("deep", "one")
    assert machine.files.names(machine.at("deep/er")) == ("two",)


def names_that_cannot_be_are_refused(machine: Machine) -> None:
    long = machine.at("x" * 300)
    refused(HostError, "file name too long", machine.files.read, long)
    refused(HostError, "file name too long", machine.files.write, long, "x")
    assert not machine.files.exists(long)


# Files of the kernel.


def an_attribute_is_a_line(machine: Machine) -> None:
    assert machine.files.read("/sys/class/net/lo/mtu") == "65536"
    assert machine.files.read(READ_ONLY) == "00:00:00:00:00:00"
    assert machine.files.exists("/sys/class/net/lo")
    assert machine.files.link("/sys/class/net/lo") == "../../devices/virtual/net/lo"
    assert "lo" in machine.files.names("/sys/class/net")


def what_is_read_only_is_denied_to_root_as_well(machine: Machine) -> None:
    for path in (READ_ONLY, "/proc/sys/kernel/osrelease"):
        before = machine.files.read(path)
        refused(DeniedError, "permission denied", machine.files.write, path, "x")
        assert machine.files.read(path) == before


def nobody_makes_or_removes_what_the_kernel_shows(machine: Machine) -> None:
    files = machine.files
    folder = "/sys/class/net/lo"
    before = files.names(folder)
    for call, arguments in (
        (files.write, (f"{folder}/invented", "1")),
        (files.replace, (f"{folder}/invented", "1")),
        (files.replace, (f"{folder}/mtu", "1")),
        (files.make_directory, (f"{folder}/invented",)),
        (files.remove, (f"{folder}/mtu",)),
        (files.remove_directory, ("/sys/class/net",)),
    ):
        with pytest.raises((DeniedError, GoneError)):
            call(*arguments)
    files.make_directory(folder)
    files.remove(f"{folder}/invented")
    files.remove_directory(f"{folder}/invented")
    assert files.names(folder) == before
    assert files.read(f"{folder}/mtu") == "65536"


def a_folder_of_the_kernel_is_no_file(machine: Machine) -> None:
    refused(HostError, "is a directory", machine.files.read, "/sys/class/net/lo")
    with pytest.raises(HostError):
        machine.files.write("/sys/class/net/lo", "1")


# What a bus takes and refuses.


def a_bound_function_is_not_bound_twice(machine: Machine) -> None:
    bind = machine.of_driver(machine.driver, "bind")
    refused(BusyError, "device or resource busy", machine.files.write, bind, machine.bound)
    refused(GoneError, "no such device", machine.files.write, machine.of_driver(machine.other, "bind"), machine.bound)
    refused(GoneError, "no such device", machine.files.write, bind, "ffff:00:00.0")
    assert machine.files.target(f"/sys/bus/pci/devices/{machine.bound}/driver") == machine.driver


def unbinding_and_binding_by_the_driver(machine: Machine) -> None:
    refused(GoneError, "no such device", machine.files.write, machine.of_driver(machine.other, "unbind"), machine.bound)
    machine.files.write(machine.of_driver(machine.driver, "unbind"), machine.bound)
    driver = f"/sys/bus/pci/devices/{machine.bound}/driver"
    assert machine.files.target(driver) is None
    unbind = machine.of_driver(machine.driver, "unbind")
    refused(GoneError, "no such device", machine.files.write, unbind, machine.bound)
    refused(GoneError, "no such file or directory", machine.files.write, f"{driver}/unbind", machine.bound)
    machine.files.write(machine.of_driver(machine.driver, "bind"), machine.bound)
    assert machine.files.target(driver) == machine.driver


def an_override_decides_who_may_have_it(machine: Machine) -> None:
    device = f"/sys/bus/pci/devices/{machine.bound}"
    assert machine.files.read(f"{device}/driver_override") == "(null)"
    machine.files.write(f"{device}/driver_override", machine.other)
    assert machine.files.read(f"{device}/driver_override") == machine.other
    machine.files.write(f"{device}/driver/unbind", machine.bound)
    bind = machine.of_driver(machine.driver, "bind")
    refused(GoneError, "no such device", machine.files.write, bind, machine.bound)
    machine.files.write(f"{device}/driver_override", "\n")
    assert machine.files.read(f"{device}/driver_override") == "(null)"
    machine.files.write("/sys/bus/pci/drivers_probe", machine.bound)
    assert machine.files.target(f"{device}/driver") == machine.driver


def probing_what_is_not_there(machine: Machine) -> None:
    refused(GoneError, "no such device", machine.files.write, "/sys/bus/pci/drivers_probe", "ffff:00:00.0")
    refused(DeniedError, "permission denied", machine.files.read, "/sys/bus/pci/drivers_probe")


FILES: tuple[Clause, ...] = (
    text_is_read_without_its_last_newline,
    what_is_absent_is_gone_or_nothing,
    a_directory_is_no_file,
    a_write_takes_the_place_of_the_text_in_the_same_file,
    a_replacement_is_another_file_and_never_half_of_one,
    names_that_cannot_be_are_refused,
)
KERNEL: tuple[Clause, ...] = (
    an_attribute_is_a_line,
    what_is_read_only_is_denied_to_root_as_well,
    nobody_makes_or_removes_what_the_kernel_shows,
    a_folder_of_the_kernel_is_no_file,
)
BUS: tuple[Clause, ...] = (
    a_bound_function_is_not_bound_twice,
    unbinding_and_binding_by_the_driver,
    an_override_decides_who_may_have_it,
    probing_what_is_not_there,
)
