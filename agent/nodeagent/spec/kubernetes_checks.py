"""What no single key of section `kubernetes` shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nodeagent.spec.containers import Component
from nodeagent.spec.findings import Finding
from nodeagent.spec.kubernetes import DeviceList
from nodeagent.spec.labels import SharingStrategy
from nodeagent.spec.schema import NodeSpec

GPUS = ("kubernetes", "gpus")
CDI = (DeviceList.CDI_CRI, DeviceList.CDI_ANNOTATIONS)


def shares_need_a_strategy(spec: NodeSpec) -> Iterator[Finding]:
    """`kubernetes.gpus.sharing` needs both `strategy` and `replicas`."""
    sharing = spec.kubernetes.gpus.sharing if spec.kubernetes else None
    if sharing is not None and bool(sharing.replicas) is (sharing.strategy is SharingStrategy.NONE):
        problem = "shares need a strategy (time-slicing or mps) and replicas such as {gpu: 4}"
        yield Finding((*GPUS, "sharing"), problem, ((*GPUS, "sharing", "strategy"), (*GPUS, "sharing", "replicas")))


def one_kind_of_environment(spec: NodeSpec) -> Iterator[Finding]:
    """`device_list` has `envvar` or `volume-mounts`, not both: they write the same variable."""
    lists = spec.kubernetes.gpus.device_list if spec.kubernetes else ()
    if DeviceList.ENVVAR in lists and DeviceList.VOLUME_MOUNTS in lists:
        problem = "envvar and volume-mounts both set NVIDIA_VISIBLE_DEVICES; expected one of them"
        yield Finding((*GPUS, "device_list"), problem)


def cdi_by_others(spec: NodeSpec) -> Iterator[Finding]:
    """Hint: `device_list` by CDI without section `cdi` needs specifications of another tool."""
    lists = spec.kubernetes.gpus.device_list if spec.kubernetes else ()
    if any(one in lists for one in CDI) and (spec.cdi is None or spec.cdi.gpus is Component.OFF):
        problem = "without section cdi the agent does not look at CDI specifications, and no device is healthy"
        yield Finding((*GPUS, "device_list"), f"{problem}; expected cdi: {{}}", (("cdi",),), is_hint=True)


def labels_say_the_same(spec: NodeSpec) -> Iterator[Finding]:
    """Hint: `labels` describe MIG devices and shares as `kubernetes.gpus` offers them."""
    if spec.kubernetes is None or spec.labels is None or spec.kubernetes.gpus.config_file:
        return
    gpus, labels = spec.kubernetes.gpus, spec.labels
    if gpus.mig_strategy is not labels.mig_strategy:
        problem = f"pods are offered MIG devices as {gpus.mig_strategy}; expected the same"
        yield Finding(("labels", "mig_strategy"), problem, ((*GPUS, "mig_strategy"),), is_hint=True)
    offered = (gpus.sharing.strategy, dict(gpus.sharing.replicas), gpus.sharing.rename)
    if offered != (labels.sharing.strategy, dict(labels.sharing.replicas), labels.sharing.rename):
        problem = "the shares are others than kubernetes.gpus.sharing offers; expected the same"
        yield Finding(("labels", "sharing"), problem, ((*GPUS, "sharing"),), is_hint=True)


def mps_without_mig(spec: NodeSpec) -> Iterator[Finding]:
    """`sharing.strategy: mps` shares whole GPUs only."""
    gpus = spec.kubernetes.gpus if spec.kubernetes else None
    if gpus is None or gpus.sharing.strategy is not SharingStrategy.MPS:
        return
    if any(name != "gpu" for name in gpus.sharing.replicas):
        problem = "mps does not share MIG devices; expected time-slicing, or gpu alone"
        yield Finding((*GPUS, "sharing", "strategy"), problem, ((*GPUS, "sharing", "replicas"),))


RULES: tuple[Callable[[NodeSpec], Iterator[Finding]], ...] = (
    shares_need_a_strategy,
    one_kind_of_environment,
    cdi_by_others,
    labels_say_the_same,
    mps_without_mig,
)
