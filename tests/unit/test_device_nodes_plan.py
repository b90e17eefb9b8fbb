"""Plans of device nodes: what is made, corrected, removed and left alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest

from nodeagent.resources.base import Disturbs
from nodeagent.resources.device_nodes import Access, MakeDeviceNode, RemoveDeviceNode, access, plan
from nodeagent.spec.schema import Modules, NodeSpec, NvidiaModules
from nodeagent.state.gpu import NvidiaDriver
from nodeagent.state.modules import KernelModule, Liveness
from nodeagent.state.node import NodeState
from nodeagent.state.processes import DeviceNode

SPEC = NodeSpec(version=1, modules=Modules(nvidia=NvidiaModules()))
ALL = ("nvidia", "nvidia_modeset", "nvidia_uvm", "gdrdrv")
GPUS = (("0000:3b:00.0", (("Device Minor", "1"),)), ("0000:86:00.0", (("Device Minor", "0"),)))
DRIVER = NvidiaDriver("550.54.15", False, (("DeviceFileMode", "438"), ("ModifyDeviceFiles", "1")), GPUS)
STATE = NodeState(
    modules={name: KernelModule(name, Liveness.LIVE) for name in ALL},
    majors={"nvidia": 195, "nvidia-uvm": 508, "gdrdrv": 510, "nvidia-caps": 511},
    driver=DRIVER,
)
NODES = {
    "/dev/nvidiactl": (195, 255), "/dev/nvidia0": (195, 0), "/dev/nvidia1": (195, 1), "/dev/nvidia-modeset": (195, 254),
    "/dev/nvidia-uvm": (508, 0), "/dev/nvidia-uvm-tools": (508, 1), "/dev/gdrdrv": (510, 0),
}  # fmt: skip


def _nodes(numbers: Mapping[str, tuple[int, int]]) -> dict[str, DeviceNode]:
    return {path: DeviceNode(path, *number) for path, number in numbers.items()}


def _state(nodes: Mapping[str, DeviceNode], **changes: object) -> NodeState:
    return dataclasses.replace(STATE, device_nodes=nodes, **changes)


def _texts(state: NodeState) -> list[str]:
    return [f"{step}: {step.reason}" for step in plan(SPEC, state).steps]


def test_every_loaded_module_gets_its_nodes() -> None:
    steps = plan(SPEC, STATE).steps
    assert {step.subject.name for step in steps} == set(NODES)
    assert all(
        isinstance(step, MakeDeviceNode) and NODES[step.subject.name] == (step.major, step.minor) for step in steps
    )
    assert {(step.unit, step.disturbs, step.claims) for step in steps} == {("device-nodes", Disturbs.NOTHING, ())}


def test_what_is_right_stays_and_what_is_foreign_too() -> None:
    foreign = {"/dev/nvidia-nvswitch0": (240, 0), "/dev/infiniband/uverbs0": (231, 192), "/dev/nvidia-fs0": (500, 0)}
    capability = {"/dev/nvidia-caps/nvidia-cap1": (511, 1)}
    assert plan(SPEC, _state(_nodes(NODES | foreign | capability))).steps == ()


def test_nothing_is_done_without_the_section() -> None:
    for spec in (NodeSpec(version=1), NodeSpec(version=1, modules=Modules())):
        assert plan(spec, STATE) == plan(spec, NodeState())


def test_the_driver_can_forbid_it() -> None:
    driver = dataclasses.replace(DRIVER, parameters=(("ModifyDeviceFiles", "0"),))
    wish = plan(SPEC, dataclasses.replace(STATE, driver=driver))
    assert wish.steps == ()
    assert wish.remarks == ("device nodes are left alone: the driver's ModifyDeviceFiles is 0",)


def test_a_major_that_changed_over_a_reload_is_corrected() -> None:
    old = _nodes(NODES | {"/dev/nvidia-uvm": (507, 0), "/dev/nvidia-caps/nvidia-cap2": (507, 2)})
    assert _texts(_state(old)) == [
        "correct device node /dev/nvidia-uvm (508:0, mode 0666): it has 507:0",
        "remove device node /dev/nvidia-caps/nvidia-cap2: the driver's major is now 511, the node has 507",
    ]


def test_mode_and_owner_follow_the_driver() -> None:
    parameters = (("DeviceFileGID", "44"), ("DeviceFileMode", "432"), ("DeviceFileUID", "0"))
    driver = dataclasses.replace(DRIVER, parameters=parameters, gpu_information=())
    steps = plan(SPEC, _state(_nodes(NODES), driver=driver)).steps
    (control,) = [step for step in steps if step.subject.name == "/dev/nvidiactl"]
    assert isinstance(control, MakeDeviceNode)
    assert (control.mode, control.uid, control.gid, control.is_new) == (0o660, 0, 44, False)
    assert control.reason == "it has mode 0666 and owner 0:0, not 0:44"
    assert "/dev/gdrdrv" not in {step.subject.name for step in steps}


def test_nodes_of_a_module_that_has_gone_are_removed() -> None:
    without = {name: found for name, found in STATE.modules.items() if name != "nvidia_uvm"}
    majors = {"nvidia": 195, "gdrdrv": 510}
    assert _texts(_state(_nodes(NODES), modules=without, majors=majors)) == [
        "remove device node /dev/nvidia-uvm: module nvidia_uvm is not loaded",
        "remove device node /dev/nvidia-uvm-tools: module nvidia_uvm is not loaded",
    ]
    nothing = _state(_nodes(NODES | {"/dev/nvidia-caps/nvidia-cap1": (511, 1)}), modules={}, majors={}, driver=None)
    assert len(plan(SPEC, nothing).steps) == len(NODES) + 1


def test_a_module_on_its_way_keeps_its_nodes() -> None:
    coming = {name: KernelModule(name, Liveness.GOING) for name in ALL}
    assert plan(SPEC, _state(_nodes(NODES), modules=coming)).steps == ()


def test_nothing_is_made_while_the_driver_cannot_be_read_or_majors_are_not_known() -> None:
    assert plan(SPEC, _state({}, driver=None)).steps == ()
    made = {step.subject.name for step in plan(SPEC, _state({}, majors={})).steps}
    assert made == {"/dev/nvidiactl", "/dev/nvidia0", "/dev/nvidia1", "/dev/nvidia-modeset"}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, Access()),
        ({"DeviceFileMode": "384", "DeviceFileUID": "7"}, Access(0o600, 7)),
        ({"DeviceFileMode": "x"}, Access()),
    ],
)
def test_access(parameters: dict[str, str], expected: Access) -> None:
    assert access(parameters) == expected


def test_undo_removes_what_is_new_and_nothing_else() -> None:
    new = plan(SPEC, STATE).steps[0]
    undo = new.undo()
    assert isinstance(undo, RemoveDeviceNode)
    assert undo.undo() is None
    corrected = plan(SPEC, _state(_nodes(NODES | {"/dev/nvidia0": (1, 3)}))).steps[0]
    assert corrected.undo() is None


def test_satisfied() -> None:
    made, gone = plan(SPEC, STATE).steps[0], RemoveDeviceNode(subject=plan(SPEC, STATE).steps[0].subject, unit="u")
    assert (made.satisfied(STATE), gone.satisfied(STATE)) == (False, True)
    assert (made.satisfied(_state(_nodes(NODES))), gone.satisfied(_state(_nodes(NODES)))) == (True, False)
