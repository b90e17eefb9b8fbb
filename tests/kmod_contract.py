"""What loading and unloading must do on every kernel: the same assertions run on the simulated and on a real one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from nodeagent.errors import BusyError, HostError
from nodeagent.host.module_facts import read_modules
from nodeagent.host.ports import Files, Kmod
from nodeagent.state.modules import KernelModule, Liveness

TOP, BELOW = "rdma_ucm", "rdma_cm"


@dataclass(frozen=True)
class Machine:
    """A machine by its ports."""

    kmod: Kmod
    files: Files

    def modules(self) -> dict[str, KernelModule]:
        return dict(read_modules(self.files))

    def load_all(self, name: str, options: str = "") -> list[str]:
        """Load a module and what it needs, each by a call of its own; the names in order."""
        wanted = [file.name for file in self.kmod.lookup(name) if not file.builtin and file.name not in self.modules()]
        for module in wanted:
            self.kmod.load(module, options if module == name else "")
        return wanted


def loads_in_order_and_unloads_in_reverse(machine: Machine) -> None:
    before = set(machine.modules())
    order = machine.load_all(TOP)
    assert order[-1] == TOP
    assert order.index("ib_core") < order.index(BELOW)
    assert set(machine.modules()) == before | set(order)
    for module in reversed(order):
        machine.kmod.unload(module)
    assert set(machine.modules()) == before


def a_loaded_module_is_live_and_names_its_holders(machine: Machine) -> None:
    machine.load_all(TOP)
    found = machine.modules()
    assert found[TOP].liveness is Liveness.LIVE
    assert (found[TOP].refcount, found[TOP].holders) == (0, ())
    assert TOP in found[BELOW].holders
    assert found[BELOW].refcount == len(found[BELOW].holders)


def what_another_module_needs_is_busy_and_stays(machine: Machine) -> None:
    machine.load_all(TOP)
    before = machine.modules()
    with pytest.raises(BusyError, match=BELOW):
        machine.kmod.unload(BELOW)
    assert machine.modules() == before


def loading_twice_is_an_error(machine: Machine) -> None:
    machine.load_all(TOP)
    with pytest.raises(HostError, match=TOP):
        machine.kmod.load(TOP)
    assert machine.modules()[TOP].liveness is Liveness.LIVE


def unloading_what_is_not_loaded_is_an_error(machine: Machine) -> None:
    with pytest.raises(HostError, match=TOP):
        machine.kmod.unload(TOP)


def without_what_it_needs_it_does_not_load(machine: Machine) -> None:
    before = set(machine.modules())
    with pytest.raises(HostError, match=r"(?i)unknown symbol"):
        machine.kmod.load(TOP)
    assert set(machine.modules()) == before


def an_unknown_parameter_is_accepted(machine: Machine) -> None:
    machine.load_all(TOP, "no_such_parameter=1")
    assert machine.modules()[TOP].liveness is Liveness.LIVE


def an_unknown_name_has_no_file(machine: Machine) -> None:
    assert machine.kmod.lookup("no_such_module") == ()
    assert machine.kmod.file("no_such_module") is None


def hyphen_and_underscore_are_the_same_name(machine: Machine) -> None:
    assert machine.kmod.lookup(TOP.replace("_", "-")) == machine.kmod.lookup(TOP)


CONTRACT: tuple[Callable[[Machine], None], ...] = (
    loads_in_order_and_unloads_in_reverse,
    a_loaded_module_is_live_and_names_its_holders,
    what_another_module_needs_is_busy_and_stays,
    loading_twice_is_an_error,
    unloading_what_is_not_loaded_is_an_error,
    without_what_it_needs_it_does_not_load,
    an_unknown_parameter_is_accepted,
    an_unknown_name_has_no_file,
    hyphen_and_underscore_are_the_same_name,
)
