"""Protocol messages from tables: what the kubelet's interfaces need, without generated code.

A field that a table does not name is kept by protobuf and not shown, so tables hold only what is used. grpcio and
protobuf come with the extra `nodeagent[kubernetes]`: they are what kubelet, containerd and every device plugin speak,
and cost 12 MB that a node without a kubelet does not pay. Import this module only where they are needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

if TYPE_CHECKING:
    from collections.abc import Mapping

    Fields = Mapping[str, tuple[int, str]]

_KINDS = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _KINDS.TYPE_STRING,
    "bool": _KINDS.TYPE_BOOL,
    "int32": _KINDS.TYPE_INT32,
    "int64": _KINDS.TYPE_INT64,
    "uint64": _KINDS.TYPE_UINT64,
    "bytes": _KINDS.TYPE_BYTES,
}
_REPEATED, _MAP = "repeated ", "map "


def message_classes(package: str, file: str, tables: Mapping[str, Fields]) -> dict[str, Any]:
    """A message class for each table of a proto3 package, by name.

    A table maps a field's name to its number and type: `string` and other scalars, the name of another table,
    `repeated TYPE`, or `map TYPE` for a map from strings. `file` names the definition and must be unique in a process.
    """
    definition = descriptor_pb2.FileDescriptorProto(name=file, package=package, syntax="proto3")
    for name, fields in tables.items():
        message = definition.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            _add(message, f".{package}", field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(definition)
    found = pool.FindFileByName(file).message_types_by_name
    return {name: message_factory.GetMessageClass(found[name]) for name in tables}


def _add(message: Any, scope: str, name: str, number: int, kind: str) -> None:
    field = message.field.add(name=name, number=number, json_name=name)
    plain = kind.removeprefix(_REPEATED).removeprefix(_MAP)
    field.label = _KINDS.LABEL_OPTIONAL if plain == kind else _KINDS.LABEL_REPEATED
    if kind.startswith(_MAP):
        entry = message.nested_type.add(name=f"{''.join(part.title() for part in name.split('_'))}Entry")
        entry.options.map_entry = True
        for inner, place, inner_kind in (("key", 1, "string"), ("value", 2, plain)):
            _add(entry, scope, inner, place, inner_kind)
        field.type, field.type_name = _KINDS.TYPE_MESSAGE, f"{scope}.{message.name}.{entry.name}"
    elif plain in _SCALARS:
        field.type = _SCALARS[plain]
    else:
        field.type, field.type_name = _KINDS.TYPE_MESSAGE, f"{scope}.{plain}"
