"""A package upgrade under the live driver, and a module of the new build that does not fit the loaded one."""

from dataclasses import replace

from module_world import DRIVER, files, module_file, node
from nodeagent.spec.schema import Modules, NodeSpec, NvidiaModules

SPEC = NodeSpec(version=1, modules=Modules(nvidia=NvidiaModules()))
STATE = replace(
    node("nvidia_uvm"),
    module_files=files(*(module_file(name, version="580.65.06", srcversion=f"NEW{name}") for name in DRIVER)),
)
