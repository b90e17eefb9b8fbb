"""A DGX after boot: nothing loaded, the whole node file to do, MIG has to wait for the driver."""

from module_world import files, module_file, node
from nodeagent.spec.schema import MigEntry, Modules, NodeSpec, NvidiaModules, PeerMemory, RdmaModules
from nodeagent.state.gpu import MigMode

SPEC = NodeSpec(
    version=1,
    modules=Modules(
        nvidia=NvidiaModules(parameters={"EnableStreamMemOPs": "1"}),
        rdma=RdmaModules(),
        peermem=PeerMemory.NVIDIA_PEERMEM,
        gdrcopy=True,
        absent=("nouveau",),
    ),
    mig=(MigEntry(MigMode.ENABLED, devices={"3g.20gb": 1, "1g.5gb": 4}),),
)
STATE = node(module_files=files(module_file("nouveau", aliases=("pci:v000010DEd*",), blacklisted=True)))
