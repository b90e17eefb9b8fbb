"""GPUs that the node had and that do not answer any more: what is shown keeps their number, name and place."""

from __future__ import annotations

from dataclasses import replace

from nodeagent.state.gpu import Gpu, MigMode
from nodeagent.state.node import NodeState


class SilentGpus:
    """Remembers who the GPUs are. A lost one is no part of an observation, yet it is what people look for.

    Without it the others' numbers would stand and the rails behind it would be counted anew.
    """

    def __init__(self) -> None:
        self._known: dict[str, Gpu] = {}

    def __call__(self, state: NodeState) -> NodeState:
        """The state with the GPUs that could not be read, if they were ever seen, without what may have changed."""
        self._known |= state.gpus
        untold = (item.what.removeprefix("GPU ") for item in state.unknown if item.what.startswith("GPU "))
        silent = {uuid: _bare(self._known[uuid]) for uuid in untold if uuid in self._known and uuid not in state.gpus}
        return replace(state, gpus={**state.gpus, **silent}) if silent else state


def _bare(gpu: Gpu) -> Gpu:
    return replace(
        gpu, mig_mode=MigMode.UNSUPPORTED, pending_mig_mode=MigMode.UNSUPPORTED, profiles=(), instances=(), pids=()
    )
