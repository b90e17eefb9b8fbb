"""What every container with a GPU gets besides it: GDRCopy, GPUDirect Storage, RDMA devices, IMEX channels; pure.

Sources: NVIDIA/k8s-device-plugin internal/plugin/server.go (variables, order of CDI devices, mounts), internal/cdi/
cdi.go (a kind without devices is not named), internal/imex/imex.go (channels that are not there).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from nodeagent.host.paths import DEV_NVIDIA_CAPS_IMEX
from nodeagent.resources.cdi_features import IMEX_KIND, Feature, feature_nodes, imex_problem
from nodeagent.resources.cdi_specs import ALL
from nodeagent.spec.kubernetes import DeviceList, PluginGpus
from nodeagent.state.node import NodeState

CDI_LISTS = (DeviceList.CDI_CRI, DeviceList.CDI_ANNOTATIONS)
CHANNELS_VARIABLE = "NVIDIA_IMEX_CHANNELS"


@dataclass(frozen=True)
class Beside:
    """`channels` are IMEX channels that can be given. `problem`: why no container can be given a GPU without them."""

    envs: Mapping[str, str] = field(default_factory=dict)
    cdi: tuple[str, ...] = ()
    channels: tuple[int, ...] = ()
    problem: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def nodes(self) -> tuple[str, ...]:
        """The device nodes that a container is given with `pass_device_specs`."""
        return tuple(f"{DEV_NVIDIA_CAPS_IMEX}/channel{number}" for number in self.channels)


def beside_of(section: PluginGpus, lists: tuple[DeviceList, ...], state: NodeState) -> Beside:
    """What the section asks for and the node has. A feature that is missing is left out with a remark, and so is an
    IMEX channel unless it is required: then no GPU is given until it is there.
    """
    by_cdi = any(one in lists for one in CDI_LISTS)
    known = _known(state) if by_cdi else frozenset()
    wanted = tuple(feature for feature in Feature if _is_wanted(section, feature))
    channels = {number: _channel_problem(number, by_cdi, known, state) for number in section.imex.channels}
    problems = tuple(problem for problem in channels.values() if problem)
    given = tuple(number for number, problem in channels.items() if not problem)
    names = [f"{IMEX_KIND}={number}" for number in given] + [f"{feature.kind}={ALL}" for feature in wanted]
    required = section.imex.required
    return Beside(
        envs={f"NVIDIA_{feature.name}": "enabled" for feature in wanted},
        cdi=tuple(name for name in names if name in known),
        channels=given,
        problem="; ".join(problems) if required else "",
        remarks=(*_remarks(wanted, by_cdi, known, state), *(() if required else map(_without, problems))),
    )


def _is_wanted(section: PluginGpus, feature: Feature) -> bool:
    return {Feature.GDRCOPY: section.gdrcopy, Feature.GDS: section.gds, Feature.MOFED: section.mofed}[feature]


def _known(state: NodeState) -> frozenset[str]:
    """Every qualified name that a specification of the node gives."""
    files = (file for file in state.containers.cdi_files if not file.problem)
    return frozenset(f"{file.kind}={name}" for file in files for name in file.devices)


def _channel_problem(number: int, by_cdi: bool, known: frozenset[str], state: NodeState) -> str:
    name = f"{IMEX_KIND}={number}"
    unnamed = f"no CDI specification names {name}" if by_cdi and name not in known else ""
    problem = imex_problem(number, state) or unnamed
    return problem and f"IMEX channel {number}: {problem}"


def _remarks(wanted: tuple[Feature, ...], by_cdi: bool, known: frozenset[str], state: NodeState) -> Iterator[str]:
    for feature in wanted:
        if not feature_nodes(feature, state, state.device_nodes):
            yield _without(f"{feature}: {feature.missing}")
        elif by_cdi and f"{feature.kind}={ALL}" not in known:
            yield _without(f"{feature}: no CDI specification names {feature.kind}={ALL}")


def _without(problem: str) -> str:
    return f"{problem}; containers get GPUs without it"
