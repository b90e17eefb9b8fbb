"""Other programs' files as node files: which kind a file is, and switches written as KEY=VALUE.

Sources: for the switches openib.conf(5) of MLNX_OFED (/etc/infiniband/openib.conf), and devlink's enable_roce.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from nodeagent.errors import SpecError, SpecProblem
from nodeagent.spec.document import Items, Mark, Node, Pairs, Text, compose, compose_all
from nodeagent.spec.foreign import FALSE, TRUE, ForeignReader, Imported, Importer, NodeFile
from nodeagent.spec.import_kubernetes import nic_configuration_template, shared_device_plugin, sriov_policy
from nodeagent.spec.plugin_config import is_plugin_config, plugin_config
from nodeagent.spec.reader import parse_spec
from nodeagent.spec.render import render
from nodeagent.spec.scalars import did_you_mean

KINDS: Mapping[str, Importer] = MappingProxyType(
    {"NicConfigurationTemplate": nic_configuration_template, "SriovNetworkNodePolicy": sriov_policy}
)
KNOWN = (
    "config.json of the RDMA shared device plugin, NVIDIA's device plugin's configuration, NicConfigurationTemplate, "
    "SriovNetworkNodePolicy, a ConfigMap with "
    "config.json, or lines such as roce_enable=true"
)
_SWITCH = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*[=:]\s*(.*?)\s*")
_IGNORED = "has no counterpart"
# Key in lower case -> what it stands for.
_SWITCHES: Mapping[str, str] = MappingProxyType(
    {
        "rdma_enable": "rdma",
        "enable_rdma": "rdma",
        "onboot": "rdma",
        "roce_enable": "roce",
        "enable_roce": "roce",
        "mlx5_load": "mlx5",
        "mlx4_load": "mlx4",
        "rdma_ucm_load": "user",
        "rdma_cm_load": "user",
        "ucm_load": "user",
        "umad_load": "user",
        "uverbs_load": "user",
        "ipoib_load": "ipoib",
        "peermem_enable": "peermem",
        "gpudirect_rdma_enabled": "peermem",
        "gpu_direct_rdma_enabled": "peermem",
        "gdrcopy_enabled": "gdrcopy",
        "gds_enabled": "gds",
    }
)
_WITHOUT_COUNTERPART = frozenset(
    {"renice_ib_mad", "run_sysctl", "run_affinity_tuner", "srp_load", "srpha_enable", "srp_daemon_enable", "node_desc"}
    | {
        "node_desc_time_before_update",
        "node_desc_update_timeout",
        "sdp_load",
        "set_ipoib_cm",
        "mlx5_relaxed_packet_order_on",
    }
)


def import_text(text: str, file: str) -> Imported:
    """The node file that `text` comes to. SpecError with every mistake in it, or where it is of no known kind."""
    reader = ForeignReader(file)
    if _is_switches(text):
        imported = reader.finished(_from_switches(reader, text))
    else:
        roots = compose_all(text, file)
        if not roots:
            raise SpecError((SpecProblem(file, 1, 1, "", f"the file holds nothing; expected {KNOWN}"),))
        imported = reader.finished(_objects(reader, roots))
    parse_spec(render(imported.document), f"what {file} comes to")  # what comes out is what the agent reads
    return imported


def _objects(reader: ForeignReader, roots: tuple[Node, ...]) -> Mapping[str, Any]:
    """All documents and the items of lists in one node file. Among several, those of other kinds are left out."""
    found = [one for root in roots for one in _unlisted(root)]
    several = any(_name_of(one) in (*KINDS, "ConfigMap") for one in found) and len(found) > 1
    for one in found:
        name = _name_of(one)
        if several and name and name not in (*KINDS, "ConfigMap"):
            reader.remark(one.mark, "kind", f"{name} is left out")
            continue
        _importer(reader, one)(reader, one)
        reader.clashed(one.mark)
    return reader.node_file.document


def _unlisted(root: Node) -> tuple[Node, ...]:
    """What `kubectl get -o yaml` puts into a list."""
    items = _keys(root).get("items")
    return items.items if _name_of(root).endswith("List") and isinstance(items, Items) else (root,)


def _keys(root: Node) -> Mapping[str, Node]:
    return {name.text: value for name, value in root.pairs} if isinstance(root, Pairs) else {}


def _name_of(root: Node) -> str:
    kind = _keys(root).get("kind")
    return kind.text if isinstance(kind, Text) else ""


def _importer(reader: ForeignReader, root: Node) -> Importer:
    keys = _keys(root)
    kind, name = keys.get("kind"), _name_of(root)
    if name in KINDS:
        return KINDS[name]
    if name == "ConfigMap":
        return _config_map
    if "configList" in keys:
        return shared_device_plugin
    if is_plugin_config(keys):
        return plugin_config
    mark = kind.mark if isinstance(kind, Text) else root.mark
    problem = f"kind {name} cannot be imported" if name else "not a file that can be imported"
    raise SpecError(
        (SpecProblem(reader.file, mark.line, mark.column, "kind" if name else "", f"{problem}; expected {KNOWN}"),)
    )


def _config_map(reader: ForeignReader, root: Node) -> Mapping[str, Any]:
    """The device plugin's file where it is kept in a cluster. Lines are counted inside of it."""
    data = reader.table(root, "", ("apiVersion", "kind", "metadata", "data", "binaryData", "immutable"))
    text = data.table("data", ("config.json",)).text("config.json")
    inner = compose(text, f"{reader.file} data.config.json") if text else None
    if inner is None:
        data.wrong("data", "expected key config.json with the device plugin's file")
        return {"version": 1}
    place, reader.file = reader.file, f"{reader.file} data.config.json"
    try:
        return shared_device_plugin(reader, inner)
    finally:
        reader.file = place


def _is_switches(text: str) -> bool:
    lines = [line for _, line in _lines(text)]
    return bool(lines) and all(re.match(r"\s*[A-Za-z_][A-Za-z0-9_]*\s*=", line) for line in lines)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with a setting, by number."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line


def _from_switches(reader: ForeignReader, text: str) -> Mapping[str, Any]:
    given: dict[str, bool] = {}
    seen: dict[str, int] = {}
    for number, line in _lines(text):
        match = _SWITCH.fullmatch(line)
        name, value = (match[1], match[2].strip("\"'").lower()) if match else ("", "")
        mark, key = Mark(number, 1), name.lower()
        if key in seen:
            reader.wrong(mark, name, f"key {name} is there twice, first in line {seen[key]}")
        elif key in _WITHOUT_COUNTERPART:
            reader.remark(mark, name, _IGNORED)
        elif key not in _SWITCHES:
            advice = did_you_mean(key, _SWITCHES) or f"; expected one of {', '.join(_SWITCHES)}"
            reader.wrong(mark, name, f"unknown key {name}{advice}")
        elif value not in TRUE | FALSE:
            reader.wrong(mark, name, f"expected true or false, found {value or 'nothing'}")
        else:
            meaning = _SWITCHES[key]
            given[meaning] = given.get(meaning, False) or value in TRUE
        seen.setdefault(key, number)
    return _switched(given)


def _switched(given: Mapping[str, bool]) -> Mapping[str, Any]:
    """What is on, and what is off where the node file can say so; anything else is left alone, as it is the default."""
    file = NodeFile()
    drivers = [driver for name in ("mlx5", "mlx4") if given.get(name) for driver in (f"{name}_core", f"{name}_ib")]
    if given.get("rdma") or drivers or given.get("roce") or given.get("ipoib"):
        file.rdma(*drivers)
        rdma = file.document["modules"]["rdma"]
        rdma |= {key: given[name] for name, key in (("user", "user_access"), ("ipoib", "ipoib")) if name in given}
    modules: dict[str, str | bool] = {"peermem": "auto"} if given.get("peermem") else {}
    modules |= {name: True for name in ("gdrcopy", "gds") if given.get(name)}
    if modules:  # all of them stand on the NVIDIA driver
        file.document.setdefault("modules", {}).update({"nvidia": {}} | modules)
    if "roce" in given:
        file.entry("devlink", "driver:mlx5_core", parameters={"enable_roce": given["roce"]})
    return file.document
