"""devlink on a simulated node: parameters, reloads, the eswitch, what stands on the card, faults and crashes."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.errors import BusyError, HostError, UnsupportedError
from nodeagent.host.devlink import owed_reloads, record_reload
from nodeagent.state.devlink import Cmode, EswitchMode
from nodeagent.state.network import VfSetting
from sim_node import SimNode, Told, sim_node, text_of

PF, NIC, OTHER = "0000:61:00.0", "enp97s0np0", "0000:e1:00.0"
MODULES = "modules: {rdma: {stack: inbox}}\n"
ALLOW = "disruption: {nic: allow}\n"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SimNode]:
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as opened:
        opened.converge(MODULES)
        yield opened


def _file(parameters: str, more: str = "", match: str = PF) -> str:
    return f'{MODULES}{more}devlink: [{{match: "{match}", parameters: {{{parameters}}}}}]\n'


def _value(node: SimNode, name: str, address: str = PF) -> str:
    parameter = node.host.links.devlink.read_all([address])[address].parameter(name)
    return parameter.values[0][1] if parameter is not None else ""


def test_a_runtime_parameter_is_written_and_disturbs_nobody(node: SimNode) -> None:
    node.node.use_interface(NIC, "10.1.0.1/24")
    told = Told()
    assert node.converge(_file("flow_steering_mode: dmfs"), told).plan.converged
    assert told.lines == [f"act set devlink parameter flow_steering_mode of {PF} to dmfs (is smfs)"]
    assert node.converge(_file("flow_steering_mode: dmfs")).steps_taken == 0


def test_a_reload_takes_all_values_at_once_and_everything_on_the_card_comes_back(node: SimNode) -> None:
    links = node.host.links
    links.functions.set_vf_count(PF, 2)
    links.set_vf(NIC, 1, VfSetting.VLAN, (9, 3))
    links.set_mtu(NIC, 4200)
    links.set_up(NIC, True)
    node.node.use_interface(NIC, "10.1.0.1/24")
    wanted = _file("enable_roce: off, max_macs: 64", ALLOW)
    assert "address 10.1.0.1/24 on enp97s0np0" in text_of(node.plan(wanted.replace(ALLOW, "")))
    before = node.kernel.interfaces[NIC]
    told = Told()
    outcome = node.converge(wanted, told)
    assert outcome.plan.converged, text_of(outcome.plan)
    assert [line for line in told.lines if line.startswith("act")] == [
        f"act reload {PF} with enable_roce false, max_macs 64"
    ]
    assert (_value(node, "enable_roce"), _value(node, "max_macs"), _value(node, "enable_roce", OTHER)) == (
        "false",
        "64",
        "true",
    )
    assert node.kernel.interfaces[NIC] == before
    assert [(one.vlan, one.vlan_priority) for one in links.vfs(NIC)] == [(0, 0), (9, 3)]
    assert sum(one.is_vf for one in node.kernel.interfaces.values()) == 2
    assert node.converge(wanted).steps_taken == 0


def test_what_the_driver_does_not_offer_is_told_before_anything_is_touched(node: SimNode) -> None:
    before = node.everything()
    for parameters, problem in (
        ("enable_rocket: true", "its driver has no devlink parameter enable_rocket"),
        ("enable_roce@runtime: true", "devlink parameter enable_roce cannot be set runtime"),
        ("enable_roce: maybe", "devlink parameter enable_roce cannot be maybe"),
        ("max_macs: 4294967296", "devlink parameter max_macs cannot be 4294967296"),
    ):
        outcome = node.converge(_file(parameters))
        (obstacle,) = outcome.plan.obstacles
        assert (obstacle.problem, outcome.steps_taken) == (problem, 0)
    (obstacle,) = node.converge(_file("enable_roce: true", match="ens99")).plan.obstacles
    assert obstacle.problem == "no physical function matches"
    (obstacle,) = node.converge(_file("enable_roce: true", match="eno1")).plan.obstacles
    assert obstacle.problem == "devlink does not know it"
    both = f'{MODULES}devlink:\n- {{match: "{PF}", parameters: {{max_macs: 64}}}}\n'
    both += f"- {{match: {NIC}, parameters: {{max_macs: 32}}}}\n"
    (obstacle,) = node.converge(both).plan.obstacles
    assert obstacle.problem == f"`{PF}` wants devlink parameter max_macs to be 64, `{NIC}` 32"
    assert node.everything() == before


def test_a_refusal_is_told_in_the_drivers_words_and_the_other_card_is_done(node: SimNode) -> None:
    node.node.kernel.fail("devlink", PF, errno.EOPNOTSUPP, 9, ("reload is unsupported while bonded",))
    outcome = node.converge(_file("enable_roce: false", match="driver:mlx5_core"))
    assert {str(failure.error) for failure in outcome.failures} == {f"reload {PF}: reload is unsupported while bonded"}
    assert (_value(node, "enable_roce"), _value(node, "enable_roce", OTHER)) == ("true", "false")
    assert not owed_reloads(node.host.files)


def test_a_reload_that_a_crash_left_out_is_made_up_for(node: SimNode) -> None:
    """The kernel shows a driverinit value as if it were in force from the moment it is written."""
    node.host.links.devlink.set_parameter(PF, "enable_roce", Cmode.DRIVERINIT, "false")
    assert node.plan(_file("enable_roce: false")).converged
    record_reload(node.host.files, PF, owed=True)
    plan = node.plan(_file("enable_roce: false"))
    assert "values were written and not applied" in text_of(plan)
    assert node.converge(_file("enable_roce: false")).plan.converged
    assert node.plan(_file("enable_roce: false")).converged


def test_the_switch_changes_between_removing_and_making_functions(node: SimNode) -> None:
    text = f'{MODULES}{ALLOW}sriov: [{{match: "{PF}", vfs: 2, eswitch_mode: switchdev}}]\n'
    node.converge(text.replace("switchdev", "legacy"))
    node.node.use_interface(NIC, "10.1.0.1/24")
    told = Told()
    assert node.converge(text, told).plan.converged
    assert [line for line in told.lines if line.startswith("act")] == [
        f"act remove 2 virtual function(s) of {PF}",
        f"act set eswitch mode of {PF} to switchdev (is legacy)",
        f"act make 2 virtual function(s) on {PF}",
    ]
    assert node.kernel.interfaces[NIC].addresses == ("10.1.0.1/24",)
    assert node.converge(text).steps_taken == 0
    (obstacle,) = node.converge(text.replace(PF, "0000:04:00.0").replace("vfs: 2", "vfs: 0")).plan.obstacles
    assert obstacle.problem == "devlink shows no eswitch mode of it"


def test_a_refused_switch_brings_the_functions_back(node: SimNode) -> None:
    text = f'{MODULES}sriov: [{{match: "{PF}", vfs: 2, eswitch_mode: switchdev}}]\n'
    node.converge(text.replace("switchdev", "legacy"))
    node.node.kernel.fail("devlink", PF, errno.EINVAL, 9, ("bad resource state",))
    outcome = node.converge(text)
    assert {str(failure.error) for failure in outcome.failures} == {
        f"set eswitch mode switchdev on {PF}: bad resource state"
    }
    assert sum(one.is_vf for one in node.kernel.interfaces.values()) == 2


def test_the_port_refuses_as_the_kernel_does(node: SimNode) -> None:
    devlink = node.host.links.devlink
    with pytest.raises(UnsupportedError, match="supported values are"):
        devlink.set_parameter(PF, "flow_steering_mode", Cmode.RUNTIME, "hmfs")
    with pytest.raises(UnsupportedError, match="no such mode"):
        devlink.set_parameter(PF, "flow_steering_mode", Cmode.PERMANENT, "dmfs")
    with pytest.raises(HostError, match="no such devlink instance"):
        devlink.set_eswitch_mode("0000:04:00.0", EswitchMode.SWITCHDEV)
    node.host.links.functions.set_vf_count(PF, 1)
    with pytest.raises(BusyError, match="while virtual functions are there"):
        devlink.set_eswitch_mode(PF, EswitchMode.SWITCHDEV)
