"""Keeps the node object's labels and taint as the node is, and follows the labels that an operator puts there.

A thread of its own, woken by what the node is and by the watch of its object. The API may be slow or away: nothing on
the node waits for it, and what it cannot be told now it is told later.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from nodeagent.errors import HostError
from nodeagent.host.rounds import Complaint, Rest, Rounds
from nodeagent.kubernetes.node_api import NodeApi, NodeObject
from nodeagent.kubernetes.node_watch import NodeWatch
from nodeagent.resources.labels import is_kept_from_work, labels_of
from nodeagent.resources.operator_labels import MIG_STATE, Followed, follow, mig_config_state, relevant
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.gpu import Gpu
from nodeagent.supervisor.status import Status

PERIOD_SECONDS = 15.0  # between two readings of an object that nobody watches
WATCHED_SECONDS = 300.0  # of one that is watched, should an event be lost
LEAST_SECONDS = 1.0  # between two rounds, however often something changes

log = logging.getLogger("nodeagent")


@dataclass
class NodeLabels:
    """`status` is the supervisor's last, `parted` reads nvidia-mig-parted's file, `reload` has the node file read anew.

    `followed` is the node file as the labels change it, and `taken` in which pass that came into force. Without `watch`
    the object is read every `period_seconds`.
    """

    api: NodeApi
    status: Callable[[], Status]
    reload: Callable[[], None]
    parted: Callable[[str], str | None]
    period_seconds: float = PERIOD_SECONDS
    watch: NodeWatch | None = None
    spec: NodeSpec | None = None
    followed: Followed | None = None
    _told: Mapping[str, str] = field(default_factory=dict)
    _for: tuple[str, ...] = ()
    _taken: int = -1
    _complaint: Complaint = field(default_factory=Complaint)

    def __post_init__(self) -> None:
        self._read_at = -WATCHED_SECONDS
        self._rounds = Rounds("node-labels", self._turn, self._rest)

    def start(self) -> None:
        if self.watch is not None:
            self.watch.start()
        self._rounds.start()

    def stop(self) -> None:
        self._rounds.end()
        if self.watch is not None:
            self.watch.stop()
        self._rounds.stop(self.period_seconds)

    def ask(self) -> None:
        """Something has changed, here or there; returns at once."""
        self._rounds.wake()

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

    def _turn(self) -> None:
        """What the watch has told, or the object read anew."""
        spread = random.SystemRandom().uniform(0.8, 1.0)  # spreads the load of many nodes
        due = time.monotonic() - self._read_at >= WATCHED_SECONDS * spread
        if due or self._told_by_watch() is None:
            self._read_at = time.monotonic()
            self.round(None)
        else:
            self.round(self._told_by_watch())

    def _rest(self) -> Rest:
        return Rest(self.period_seconds, max(LEAST_SECONDS, self.api.client.rest_seconds()))

    def _told_by_watch(self) -> NodeObject | None:
        return self.watch.latest if self.watch is not None else None

    def round(self, found: NodeObject | None = None) -> None:
        """Take over what changed in the node object, publish what the node is. Complaints are said once.

        `found` is the object as the watch told it, read anew if it is left out.
        """
        try:
            if self.spec is not None:
                found = found or self.api.read()
                self._follow(found)
                self._publish(found)
        except HostError as error:
            self._complaint.say(str(error))
        except ValueError as error:
            self._complaint.say(f"labels are not published: {error}")
        else:
            self._complaint.over()

    def _follow(self, node: NodeObject) -> None:
        if self.spec is None or self.spec.labels is None or not self.spec.labels.follow:
            return
        found = relevant(node.labels)
        others = self._told.keys() | found.keys() and self._for != tuple(gpu.uuid for gpu in self._gpus())
        if found != self._told or others:  # what a configuration means depends on the GPUs there are
            self._told = found
            log.info("node labels to follow: %s", ", ".join(f"{key}={value}" for key, value in found.items()) or "none")
            self.reload()

    def _publish(self, found: NodeObject) -> None:
        """Labels first: whoever may not set taints may still set them. What `api: false` ends is taken back."""
        status = self.status()
        spec = self.followed.spec if self.followed else self.spec
        if status.last is None or spec is None:
            return
        wants = spec.labels is not None and spec.labels.api
        written = self.api.publish(self._labels(spec, status) if wants else {}, found)
        state = status.last.outcome.state
        taints = wants and spec.labels is not None and spec.labels.taint and is_kept_from_work(state)
        written = self.api.bring_taint(written or found, wanted=taints) or written
        if written is not None and self._told_by_watch() is found:
            self._note(written)

    def _labels(self, spec: NodeSpec, status: Status) -> dict[str, str]:
        if status.last is None:
            return {}
        labels = labels_of(spec, status.last.outcome.state)
        if self.followed is not None and self.followed.mig_config:
            labels[MIG_STATE] = self._mig_state(self.followed, status)
        return labels

    def _note(self, written: NodeObject) -> None:
        """Until the watch tells of it, so that nothing is written twice."""
        if self.watch is not None:
            self.watch.latest = written

    def _mig_state(self, followed: Followed, status: Status) -> str:
        outcome = status.last.outcome if status.last else None
        if outcome is None:
            return ""
        plan = outcome.plan
        units = [step.unit for transition in plan.transitions for step in transition.steps]
        units += [entry.step.unit for entry in plan.blocked]
        return mig_config_state(
            followed,
            seen=status.passes > self._taken,
            open_units=units,
            failed=[failure.step.unit for failure in outcome.failures] + [one.unit for one in plan.obstacles],
            gpus=outcome.state.gpus.values(),
        ).value
