"""Section `cdi`: CDI specifications follow modules, MIG layout, devices and driver; none outlives what it describes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nodeagent.host.paths import CDI_DYNAMIC, CDI_DYNAMIC_TOO, CDI_STATIC
from nodeagent.resources.base import Obstacle, Step, Wish
from nodeagent.resources.cdi_features import Feature, feature_content, imex_content
from nodeagent.resources.cdi_specs import (
    Content,
    Nodes,
    gpu_content,
    management_content,
    rdma_content,
    render,
)
from nodeagent.resources.device_nodes import (
    MakeDeviceNode,
    access,
    capability_nodes,
    capability_owners,
    wanted_nodes,
)
from nodeagent.resources.file_steps import RemoveCdiSpec, WriteCdiSpec, file_thing, text_in
from nodeagent.spec.containers import Cdi, Component
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.containers import CdiFile
from nodeagent.state.node import NodeState
from nodeagent.state.processes import DeviceNode
from nodeagent.state.things import device_node

WHAT = "cdi specification"
REFRESH_UNITS = "nvidia-cdi-refresh.service and nvidia-cdi-refresh.path"


@dataclass(frozen=True)
class Part:
    """One specification: who wants it, where it goes, what it says, and why it cannot be said now."""

    name: str
    component: Component
    path: str
    content: Content
    problem: str = ""

    @property
    def unit(self) -> str:
        return f"cdi/{self.name}"


def directory_of(section: Cdi) -> str:
    """The directory by the name that runtimes have it by."""
    return CDI_DYNAMIC if section.directory in ("", CDI_DYNAMIC_TOO) else section.directory


def directories_of(section: Cdi) -> tuple[str, ...]:
    """Where runtimes look, the ones that win last."""
    return tuple(dict.fromkeys((CDI_STATIC, CDI_DYNAMIC, directory_of(section))))


def plan(spec: NodeSpec, state: NodeState) -> Wish:
    """Specifications for what is there now; nothing without section `cdi`."""
    if spec.cdi is None:
        return Wish()
    making = _capability_nodes(spec, state)
    nodes = nodes_of(state, (step.node() for step in making))
    wishes = [_part_wish(part, spec.cdi, state, nodes, making) for part in parts(spec.cdi, state, nodes)]
    return Wish(
        tuple(step for wish in wishes for step in wish.steps),
        tuple(obstacle for wish in wishes for obstacle in wish.obstacles),
        tuple(remark for wish in wishes for remark in wish.remarks),
    )


def nodes_of(state: NodeState, made: Iterable[DeviceNode] = ()) -> Nodes:
    """The nodes a specification may name: those that are there, and those that steps make before it."""
    found = {path: (node.mode, node.gid) for path, node in state.device_nodes.items()}
    graphics = {path: (0o660, 0) for nodes in state.containers.graphics.values() for path in nodes}
    return Nodes({**found, **graphics, **{node.path: (node.mode, node.gid) for node in made}})


def parts(section: Cdi, state: NodeState, nodes: Nodes) -> tuple[Part, ...]:
    """Every specification the agent may write, wanted or not."""
    folder = directory_of(section)
    driver = _driver_problem(state)
    return (
        Part("gpu", section.gpus, f"{folder}/nodeagent-gpu.json", gpu_content(section, state, nodes), driver),
        Part(
            "management",
            section.management,
            f"{folder}/nodeagent-management.json",
            management_content(state, nodes),
            driver,
        ),
        Part("rdma", section.rdma, f"{folder}/nodeagent-rdma.json", rdma_content(state, nodes)),
        *(_feature(feature, section, state, nodes) for feature in Feature),
        Part("imex", section.imex, f"{folder}/nodeagent-imex.json", imex_content(state, nodes)),
    )


def _feature(feature: Feature, section: Cdi, state: NodeState, nodes: Nodes) -> Part:
    wanted = {Feature.GDRCOPY: section.gdrcopy, Feature.GDS: section.gds, Feature.MOFED: section.mofed}[feature]
    path = f"{directory_of(section)}/nodeagent-{feature}.json"
    return Part(feature.value, wanted, path, feature_content(feature, state, nodes))


def _driver_problem(state: NodeState) -> str:
    """Why the loaded driver cannot be described; "" also where none is loaded, and nothing is to be described."""
    found = state.containers.installation
    if state.driver is None:
        return ""
    unread = next((item.reason for item in state.unknown if item.what == "GPUs"), "")
    if unread:
        return f"the GPUs cannot be read: {unread}"
    if not any("/libcuda.so." in library.path for library in found.libraries):
        there = f"there is {', '.join(found.others)}" if found.others else "there is no libcuda"
        return f"no libraries of the loaded driver {state.driver.version} below {found.root or '/'}; {there}"
    return ""


def _part_wish(part: Part, section: Cdi, state: NodeState, nodes: Nodes, making: tuple[MakeDeviceNode, ...]) -> Wish:
    ours = text_in(state, part.path)
    rivals = rivals_of(part.content.kind, part.path, state.containers.cdi_files)
    if part.component is Component.OFF:
        return Wish(_removal(part, ours, "the node file does not want it"))
    if part.component is Component.AUTO and rivals:
        return Wish(_removal(part, ours, f"{rivals[0].path} gives the same devices"), remarks=_left_to(part, rivals[0]))
    if part.problem:
        return Wish(obstacles=(_obstacle(part, part.problem, "install its user space, or reload the driver"),))
    if not part.content.devices:
        return Wish(_removal(part, ours, "its devices are not there"), remarks=part.content.left_out)
    clash = next((rival for rival in rivals if rival.directory == part.path.rpartition("/")[0]), None)
    if clash is not None:
        return Wish(_removal(part, ours, "two files would break each other"), (_clash(part, clash),))
    text = render(part.content, section, nodes)
    wanted = tuple(node for device in part.content.devices for node in device.nodes)
    made = tuple(step for step in making if step.subject.name in wanted and part.name == "gpu")
    write = () if ours == text else (_write(part, text, ours),)
    return Wish((*made, *write), remarks=part.content.left_out)


def rivals_of(kind: str, path: str, files: Iterable[CdiFile]) -> tuple[CdiFile, ...]:
    """Other tools' files of this kind."""
    return tuple(file for file in files if file.kind == kind and file.path != path)


def _left_to(part: Part, rival: CdiFile) -> tuple[str, ...]:
    lacking = sorted(set(part.content.names) - set(rival.devices))
    stale = f"; it lacks {', '.join(lacking[:4])}, so that it is stale" if lacking else ""
    return (f"cdi: {part.content.kind} is left to {rival.path}{stale}",)


def _clash(part: Part, rival: CdiFile) -> Obstacle:
    problem = f"{rival.path} defines {part.content.kind} too, and a runtime then refuses the devices of both"
    advice = f"mask {REFRESH_UNITS} if they write it and remove it, or set cdi.{_key(part)} to auto to leave it the job"
    return _obstacle(part, problem, advice)


def _key(part: Part) -> str:
    return "gpus" if part.name == "gpu" else part.name


def _removal(part: Part, ours: str | None, why: str) -> tuple[Step, ...]:
    if ours is None:
        return ()
    return (RemoveCdiSpec(subject=file_thing(part.path), unit=part.unit, reason=why, what=WHAT, before=ours),)


def _write(part: Part, text: str, ours: str | None) -> Step:
    return WriteCdiSpec(
        subject=file_thing(part.path),
        unit=part.unit,
        reason=f"{len(part.content.names)} devices of {part.content.kind}",
        what=WHAT,
        text=text,
        before=ours,
    )


def _obstacle(part: Part, problem: str, advice: str) -> Obstacle:
    return Obstacle(part.unit, file_thing(part.path), problem, advice, waits=part.problem == problem)


def _capability_nodes(spec: NodeSpec, state: NodeState) -> tuple[MakeDeviceNode, ...]:
    """Steps for nodes that MIG devices need and nobody has made yet, and for those of the driver and its GPUs.

    nvidia-modprobe would make them when a program first uses the GPU, which may be after the container was refused.
    """
    if spec.cdi is None or state.driver is None or spec.cdi.gpus is Component.OFF:
        return ()
    parameters = dict(state.driver.parameters)
    if parameters.get("ModifyDeviceFiles") == "0":
        return ()
    others = () if spec.modules and spec.modules.nvidia else wanted_nodes(state, access(parameters))
    wanted = {**capability_nodes(state), **{node.path: node for node in others}}  # with modules.nvidia they are its own
    missing = (node for path, node in wanted.items() if path not in state.device_nodes)
    owners = capability_owners(state)
    return tuple(_make(node, owners.get(node.path, "")) for node in missing)


def _make(node: DeviceNode, of: str) -> MakeDeviceNode:
    return MakeDeviceNode(
        subject=device_node(node.path), unit="cdi/gpu", reason="containers need it",
        major=node.major, minor=node.minor, mode=node.mode, uid=node.uid, gid=node.gid, of=of,
    )  # fmt: skip
