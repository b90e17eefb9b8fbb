"""What must be looked at for the sections about containers."""

from __future__ import annotations

from nodeagent.resources.cdi import directories_of
from nodeagent.spec.containers import Cdi
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.containers import ContainerQuery


def query_for(section: Cdi, *, runtimes: bool = False) -> ContainerQuery:
    """What section `cdi` needs to know."""
    return ContainerQuery(section.driver_root, directories_of(section), runtimes)


def container_query(spec: NodeSpec) -> ContainerQuery | None:
    """None where no section is about containers, so that nothing is read."""
    if spec.cdi is None and spec.runtimes is None:
        return None
    return query_for(spec.cdi or Cdi(), runtimes=spec.runtimes is not None)
