"""What must be looked at for the sections about containers."""

from __future__ import annotations

from dataclasses import replace

from nodeagent.host.paths import GFD_FEATURES_FILE
from nodeagent.resources.cdi import directories_of
from nodeagent.resources.labels import features_path
from nodeagent.spec.containers import Cdi, Component
from nodeagent.spec.labels import Labels
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.containers import ContainerQuery


def query_for(section: Cdi, *, runtimes: bool = False) -> ContainerQuery:
    """What section `cdi` needs to know."""
    return ContainerQuery(section.driver_root, section.host_root, directories_of(section), runtimes)


def container_query(spec: NodeSpec) -> ContainerQuery | None:
    """None where no section is about containers, so that nothing is read."""
    if spec.cdi is None and spec.runtimes is None and spec.labels is None and not offers_network(spec):
        return None
    query = query_for(spec.cdi or Cdi(), runtimes=spec.runtimes is not None)
    return query if spec.labels is None else replace(query, files=label_files(spec.labels))


def offers_network(spec: NodeSpec) -> bool:
    """Whether pods are to get RDMA devices or network functions, for which their device nodes must be known."""
    network = spec.kubernetes.network if spec.kubernetes is not None else None
    wanted = network is not None and bool(network.rdma_config_file or network.sriov_config_file)
    return wanted and network is not None and network.offer is not Component.OFF


def label_files(section: Labels) -> tuple[str, ...]:
    """The file of labels, and the one that gpu-feature-discovery would write."""
    return (features_path(section), GFD_FEATURES_FILE)
