"""Everything is there already: the plan is empty."""

from module_world import node
from nodeagent.spec.schema import Modules, NodeSpec, NvidiaModules, RdmaModules

SPEC = NodeSpec(version=1, modules=Modules(nvidia=NvidiaModules(), rdma=RdmaModules(), gdrcopy=True))
STATE = node("nvidia_uvm", "nvidia_modeset", "gdrdrv", "mlx5_ib", "rdma_ucm", "ib_umad")
