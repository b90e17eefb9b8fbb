"""The configuration file (v1) of NVIDIA's device plugin as section `kubernetes.gpus` of a node file.

Source: NVIDIA/k8s-device-plugin api/config/v1 (config.go, flags.go, sharing.go, replicas.go, resources.go) at v0.20.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from nodeagent.spec.document import Items, Node, compose
from nodeagent.spec.foreign import ForeignReader, Imported, Table
from nodeagent.spec.kubernetes import DeviceList, PluginGpus
from nodeagent.spec.reader import parse_spec
from nodeagent.spec.render import render

TOP = ("version", "flags", "resources", "sharing", "imex")
_FLAGS = (
    "migStrategy", "failOnInitError", "nvidiaDriverRoot", "nvidiaDevRoot", "mpsRoot", "gdrcopyEnabled", "gdsEnabled",
    "mofedEnabled", "useNodeFeatureAPI", "deviceDiscoveryStrategy", "plugin", "gfd", "cdiFeatureFlags",
)  # fmt: skip
_PLUGIN = (
    "passDeviceSpecs", "deviceListStrategy", "deviceIDStrategy", "cdiAnnotationPrefix", "nvidiaCTKPath",
    "nvidiaCDIHookPath", "containerDriverRoot", "sharedDevicesAllocationPolicy",
)  # fmt: skip
_GFD = ("oneshot", "noTimestamp", "sleepInterval", "outputFile", "machineTypeFile")
_SHARING = ("renameByDefault", "failRequestsGreaterThanOne", "resources")
_SHARED = ("name", "replicas", "rename", "devices")
_IMEX = ("channelIDs", "required")
_RESOURCE = re.compile(r"(?:nvidia\.com/)?(gpu|mig-[0-9a-z.]+)")
_MOST_REPLICAS = 1024
# Flags without a counterpart: why nothing is lost, or what is.
_NOT_TAKEN: Mapping[str, str] = {
    "failOnInitError": "not needed: the agent waits for the driver",
    "nvidiaDriverRoot": "set cdi.driver_root",
    "nvidiaDevRoot": "device nodes are those of the host",
    "useNodeFeatureAPI": "not needed: labels have a section of their own",
    "deviceDiscoveryStrategy": "GPUs are found by NVML",
    "gfd": "labels have a section of their own",
    "cdiFeatureFlags": "set section cdi",
}
_NOT_TAKEN_OF_PLUGIN: Mapping[str, str] = {
    "cdiAnnotationPrefix": "annotations begin with cdi.k8s.io/",
    "nvidiaCTKPath": "set section cdi",
    "nvidiaCDIHookPath": "set section cdi",
    "containerDriverRoot": "the agent sees the host's files",
}


def plugin_config(reader: ForeignReader, root: Node) -> Mapping[str, Any]:
    """The node file that it comes to."""
    top = reader.table(root, "", TOP)
    if top.text("version") != "v1":
        top.wrong("version", "expected version: v1")
    flags = top.table("flags", _FLAGS)
    plugin = flags.table("plugin", _PLUGIN)
    flags.table("gfd", _GFD)
    top.remark("resources", "NVIDIA's plugin ignores names of resources, and so does the agent")
    for table, reasons in ((flags, _NOT_TAKEN), (plugin, _NOT_TAKEN_OF_PLUGIN)):
        for name, reason in reasons.items():
            table.remark(name, reason)
    gpus = {
        "mig_strategy": flags.text("migStrategy", ("none", "single", "mixed")),
        "mps_directory": flags.text("mpsRoot"),
        "pass_device_specs": plugin.flag("passDeviceSpecs"),
        "device_list": _device_list(plugin),
        "gdrcopy": flags.flag("gdrcopyEnabled"),
        "gds": flags.flag("gdsEnabled"),
        "mofed": flags.flag("mofedEnabled"),
        "imex": None if top.is_null("imex") else _imex(top.table("imex", _IMEX)),
        "device_id": plugin.text("deviceIDStrategy", ("uuid", "index")),
        "shared_allocation": plugin.text("sharedDevicesAllocationPolicy", ("distributed", "packed")),
        "sharing": _sharing(top.table("sharing", ("timeSlicing", "mps"))),
    }
    section = {"gpus": {name: value for name, value in gpus.items() if value is not None}}
    reader.node_file.document["kubernetes"] = section
    return {"version": 1, "kubernetes": section}


def _device_list(plugin: Table) -> list[str] | None:
    """One strategy, a list of them, or a text with commas."""
    if "deviceListStrategy" not in plugin:
        return None
    node = plugin.values["deviceListStrategy"][1]
    given = plugin.texts("deviceListStrategy") if isinstance(node, Items) else _split(plugin.text("deviceListStrategy"))
    known = [one.value for one in DeviceList]
    for name in given:
        if name not in known:
            plugin.wrong("deviceListStrategy", f"expected {' or '.join(known)}, found {name}")
    return list(dict.fromkeys(given))


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",")]


def _imex(table: Table) -> Mapping[str, Any] | None:
    """No channel, or channel 0: NVIDIA's plugin takes no other (api/config/v1/imex.go)."""
    given = table.texts("channelIDs") if not table.is_null("channelIDs") else []
    if given not in ([], ["0"]):
        table.wrong("channelIDs", f"expected [] or [0], found {', '.join(given)}")
    values = {"channels": [0] if given == ["0"] else None, "required": table.flag("required")}
    return {name: value for name, value in values.items() if value is not None} or None


def _sharing(table: Table) -> Mapping[str, Any] | None:
    """MPS where both are there, as at NVIDIA's plugin."""
    slicing, mps = table.table("timeSlicing", _SHARING), table.table("mps", _SHARING)
    both = {"time-slicing": _shared(slicing), "mps": _shared(mps)}
    if both["mps"] and both["time-slicing"]:
        table.remark("timeSlicing", "does not count beside mps")
    strategy = next((name for name in ("mps", "time-slicing") if both[name]), None)
    if strategy is None:
        return None
    chosen = mps if strategy == "mps" else slicing
    values = {
        "strategy": strategy,
        "replicas": both[strategy],
        "rename": chosen.flag("renameByDefault"),
        "fail_above_one": chosen.flag("failRequestsGreaterThanOne"),
    }
    return {name: value for name, value in values.items() if value is not None}


def _shared(table: Table) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for resource in table.tables("resources", _SHARED):
        for name in ("rename", "devices"):
            resource.remark(name, "NVIDIA's plugin ignores it, and so does the agent")
        for name in ("name", "replicas"):
            if name not in resource:
                resource.wrong(name, f"key {name} is missing")
        text, replicas = resource.text("name"), resource.number("replicas", 2, _MOST_REPLICAS)
        match = _RESOURCE.fullmatch(text or "")
        if text is not None and match is None:
            resource.wrong("name", f"expected nvidia.com/gpu or nvidia.com/mig-PROFILE, found {text}")
        elif match is not None and match[1] in found:
            resource.wrong("name", f"{text} is there twice")
        elif match is not None and replicas is not None:
            found[match[1]] = replicas
    return found


def read_plugin_config(text: str, file: str) -> Imported:
    """The node file that such a file comes to. SpecError with every mistake in it, with line and key."""
    reader = ForeignReader(file)
    root = compose(text, file)
    if root is None:
        return Imported({"version": 1, "kubernetes": {}})
    return reader.finished(plugin_config(reader, root))


def applied(section: PluginGpus, imported: Imported) -> PluginGpus:
    """The section with what the file says; whether to offer anything stays with the node file."""
    found = parse_spec(render(imported.document), "the device plugin's file").kubernetes
    gpus = found.gpus if found is not None else PluginGpus()
    return replace(gpus, offer=section.offer, config_file=section.config_file)


def is_plugin_config(keys: Iterable[str]) -> bool:
    """Whether a file with these keys at its top is one."""
    return bool({"flags", "sharing"} & set(keys))
