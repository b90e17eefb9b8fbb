"""Proprietary driver on OFED: auto takes nvidia_peermem; nvidia_fs is too new for this driver."""

from module_world import files, module_file, node
from nodeagent.spec.schema import Modules, NodeSpec, NvidiaModules, PeerMemory, RdmaModules, RdmaStack

SPEC = NodeSpec(
    version=1,
    modules=Modules(
        nvidia=NvidiaModules(modeset=False),
        rdma=RdmaModules(stack=RdmaStack.OFED, user_access=False),
        peermem=PeerMemory.AUTO,
        gds=True,
    ),
)
STATE = node(
    module_files=files(
        module_file("nvidia", license="NVIDIA"),
        module_file("nvidia_fs", version="2.28.4"),
        module_file("mlx_compat"),
        module_file("ib_core", depends=("mlx_compat",)),
        module_file("mlx5_core", depends=("mlx_compat", "mlxfw")),
        module_file("mlx5_ib", depends=("mlx_compat", "mlxfw", "mlx5_core", "ib_core", "ib_uverbs")),
    )
)
