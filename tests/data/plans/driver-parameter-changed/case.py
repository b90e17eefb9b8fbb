"""A driver parameter in force differs, and nvidia_drm is new: it needs nvidia_modeset back before the restore."""

from module_world import node
from nodeagent.spec.schema import Modules, NodeSpec, NvidiaModules

SPEC = NodeSpec(version=1, modules=Modules(nvidia=NvidiaModules(drm=True, parameters={"EnableStreamMemOPs": "1"})))
STATE = node("nvidia_uvm", "nvidia_modeset", "gdrdrv")
