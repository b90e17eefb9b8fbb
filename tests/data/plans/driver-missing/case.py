"""A new kernel without the driver's modules: everything that stands on it says so, and nothing is touched."""

from module_world import DRIVER, files, node
from nodeagent.spec.schema import Modules, NodeSpec, NvidiaModules, PeerMemory

SPEC = NodeSpec(version=1, modules=Modules(nvidia=NvidiaModules(), peermem=PeerMemory.AUTO, gdrcopy=True))
STATE = node(module_files=files(without=DRIVER))
