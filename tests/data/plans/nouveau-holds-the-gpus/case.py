"""The nouveau case: it goes, with a remark on the console and on the missing blacklist, then nvidia loads."""

from dataclasses import replace

from module_world import files, gpu_function, module_file, node
from nodeagent.spec.schema import Modules, NodeSpec, NvidiaModules

SPEC = NodeSpec(version=1, modules=Modules(nvidia=NvidiaModules(modeset=False), absent=("nouveau",)))
_BOUND = node(
    "nouveau",
    pci={"0000:3b:00.0": gpu_function("0000:3b:00.0", "nouveau")},
    module_files=files(module_file("nouveau", aliases=("pci:v000010DEd*",))),
)
STATE = replace(_BOUND, modules={**_BOUND.modules, "nouveau": replace(_BOUND.modules["nouveau"], refcount=1)})
