"""What no single key of sections `health`, `remediation`, `sandbox` and `labels` shows. Each docstring is its rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nodeagent.spec.findings import Finding
from nodeagent.spec.remediation import RemediationMode
from nodeagent.spec.sandbox import GPUS, Workload
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.gpu import MigMode

DAMPING = ("health", "damping")
LIMITS = ("health", "limits")
VERIFY = ("remediation", "limits", "verify_seconds")


def reachable_verdicts(spec: NodeSpec) -> Iterator[Finding]:
    """`health.damping.bad_cycles` is at most `of_cycles`: otherwise no verdict could ever become worse."""
    damping = spec.health.damping
    if damping.bad_cycles > damping.of_cycles:
        problem = f"of {damping.of_cycles} looks {damping.bad_cycles} can never be bad; expected of_cycles or less"
        yield Finding((*DAMPING, "bad_cycles"), problem, ((*DAMPING, "of_cycles"),))


def warning_before_failure(spec: NodeSpec) -> Iterator[Finding]:
    """`health.limits.throttle_warning_ratio` is at most `throttle_failed_ratio`."""
    limits = spec.health.limits
    if limits.throttle_warning_ratio > limits.throttle_failed_ratio:
        problem = f"a failure begins at {limits.throttle_failed_ratio:g}; expected a warning at that or before"
        yield Finding((*LIMITS, "throttle_warning_ratio"), problem, ((*LIMITS, "throttle_failed_ratio"),))


def findings_can_go(spec: NodeSpec) -> Iterator[Finding]:
    """`remediation.limits.verify_seconds` is longer than `health.damping.hold_seconds`: no verdict goes before that."""
    hold = spec.health.damping.hold_seconds
    acts = spec.remediation.mode is not RemediationMode.OFF
    if acts and spec.remediation.limits.verify_seconds <= hold:
        problem = f"no verdict becomes better in less than health.damping.hold_seconds; expected more than {hold:g}"
        yield Finding(VERIFY, problem, ((*DAMPING, "hold_seconds"),))


def machines_or_slices(spec: NodeSpec) -> Iterator[Finding]:
    """`sandbox.workload: vm-passthrough` of every GPU leaves none for `mig`."""
    sandbox = spec.sandbox
    if sandbox is None or sandbox.workload is not Workload.VM_PASSTHROUGH or sandbox.devices != GPUS:
        return
    for index, entry in enumerate(spec.mig):
        if entry.mode is not MigMode.DISABLED:
            problem = "sandbox gives every GPU to virtual machines; expected no MIG, or sandbox.devices with fewer GPUs"
            yield Finding(("mig", index), problem, (("sandbox", "workload"), ("sandbox", "devices")))


def taint_through_the_api(spec: NodeSpec) -> Iterator[Finding]:
    """`labels.taint` needs `labels.api`: taints are on the node object."""
    if spec.labels and spec.labels.taint and not spec.labels.api:
        problem = "taints are set through the Kubernetes API; expected api: true, or taint: false"
        yield Finding(("labels", "taint"), problem, (("labels", "api"),))


def labels_to_follow(spec: NodeSpec) -> Iterator[Finding]:
    """`labels.follow` needs `labels.api`: the operator's labels are on the node object."""
    if spec.labels and spec.labels.follow and not spec.labels.api:
        problem = "the operator's labels are read through the Kubernetes API; expected api: true, or follow: false"
        yield Finding(("labels", "follow"), problem, (("labels", "api"),))


RULES: tuple[Callable[[NodeSpec], Iterator[Finding]], ...] = (
    reachable_verdicts,
    warning_before_failure,
    findings_can_go,
    machines_or_slices,
    labels_to_follow,
    taint_through_the_api,
)
