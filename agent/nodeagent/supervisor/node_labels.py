"""Keeps the node object's labels as the node is, and follows those that an operator puts there; a thread of its own.

The API may be slow or away: nothing on the node waits for it, and what it cannot be told now it is told later.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from nodeagent.errors import HostError
from nodeagent.kubernetes.node_api import NodeApi
from nodeagent.resources.labels import labels_of
from nodeagent.resources.operator_labels import MIG_STATE, Followed, follow, mig_config_state, relevant
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.gpu import Gpu
from nodeagent.supervisor.status import Status

PERIOD_SECONDS = 15.0

log = logging.getLogger("nodeagent")


@dataclass
class NodeLabels:
    """`status` is the supervisor's last, `parted` reads nvidia-mig-parted's file, `reload` has the node file read anew.

    `followed` is the node file as the labels change it, and `taken` in which pass that came into force.
    """

    api: NodeApi
    status: Callable[[], Status]
    reload: Callable[[], None]
    parted: Callable[[str], str | None]
    period_seconds: float = PERIOD_SECONDS
    spec: NodeSpec | None = None
    followed: Followed | None = None
    _told: Mapping[str, str] = field(default_factory=dict)
    _for: tuple[str, ...] = ()
    _taken: int = -1
    _complaint: str = ""

    def __post_init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="node-labels", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(timeout=self.period_seconds)

    def overridden(self, spec: NodeSpec) -> NodeSpec:
        """The node file as the labels of the node change it; called by the supervisor when it reads the file."""
        self.spec = spec
        if spec.labels is None or not spec.labels.follow:
            self.followed = None
            return spec
        gpus = self._gpus()
        self.followed = follow(spec, self._told, gpus, self.parted(spec.labels.mig_config_file))
        self._for = tuple(gpu.uuid for gpu in gpus)
        self._taken = self.status().passes
        return self.followed.spec

    def _gpus(self) -> tuple[Gpu, ...]:
        last = self.status().last
        return tuple(last.outcome.state.gpus.values()) if last else ()

    def _run(self) -> None:
        while not self._ended.is_set():
            self.round()
            self._ended.wait(self.period_seconds)

    def round(self) -> None:
        """Read the node object, take over what changed there, publish what the node is. Complaints are said once."""
        try:
            self._follow()
            self._publish()
        except HostError as error:
            self._complain(str(error))
        except ValueError as error:
            self._complain(f"labels are not published: {error}")
        else:
            self._complaint = ""

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            log.warning("%s", text)
        self._complaint = text

    def _follow(self) -> None:
        if self.spec is None or self.spec.labels is None or not self.spec.labels.follow:
            return
        found = relevant(self.api.read().labels)
        others = self._told.keys() | found.keys() and self._for != tuple(gpu.uuid for gpu in self._gpus())
        if found != self._told or others:  # what a configuration means depends on the GPUs there are
            self._told = found
            log.info("node labels to follow: %s", ", ".join(f"{key}={value}" for key, value in found.items()) or "none")
            self.reload()

    def _publish(self) -> None:
        status = self.status()
        spec = self.followed.spec if self.followed else self.spec
        if status.last is None or spec is None or spec.labels is None or not spec.labels.api:
            return
        labels = labels_of(spec, status.last.outcome.state)
        if self.followed is not None and self.followed.mig_config:
            labels[MIG_STATE] = self._mig_state(self.followed, status)
        self.api.publish(labels)

    def _mig_state(self, followed: Followed, status: Status) -> str:
        outcome = status.last.outcome if status.last else None
        if outcome is None:
            return ""
        plan = outcome.plan
        units = [step.unit for transition in plan.transitions for step in transition.steps]
        units += [entry.step.unit for entry in plan.blocked] + [obstacle.unit for obstacle in plan.obstacles]
        return mig_config_state(
            followed,
            seen=status.passes > self._taken,
            open_units=units,
            failed=[failure.step.unit for failure in outcome.failures],
            gpus=outcome.state.gpus.values(),
        ).value
