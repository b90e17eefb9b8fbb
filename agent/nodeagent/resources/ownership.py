"""Whose job the driver is; pure."""

from __future__ import annotations

from dataclasses import replace

from nodeagent.spec.containers import Component
from nodeagent.spec.schema import Modules, NodeSpec, PeerMemory


def without_driver(modules: Modules) -> Modules:
    """What is left when NVIDIA's modules, and those that stand on them, are not wanted or another's job."""
    return replace(modules, nvidia=None, peermem=PeerMemory.NONE, gdrcopy=False, gds=False)


def owned(spec: NodeSpec) -> NodeSpec:
    """The node file without what it leaves to somebody else."""
    if spec.modules is None or spec.modules.nvidia is None or spec.modules.nvidia.manage is not Component.OFF:
        return spec
    return replace(spec, modules=without_driver(spec.modules))
