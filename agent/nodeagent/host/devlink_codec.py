"""devlink messages as bytes; pure.

Source: include/uapi/linux/devlink.h, net/core/devlink.c (devlink_nl_param_fill, devlink_nl_cmd_reload) of Linux 6.1.
The type of a parameter is that of the netlink attribute which carries it (include/net/netlink.h).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from nodeagent.host.netlink_codec import attribute, attributes, text, text_of
from nodeagent.state.devlink import Cmode, DevlinkParameter, EswitchMode, ParameterKind

FAMILY = "devlink"
CMD_GET, CMD_ESWITCH_GET, CMD_ESWITCH_SET, CMD_RELOAD, CMD_PARAM_GET, CMD_PARAM_SET = 1, 29, 30, 37, 38, 39
BUS_NAME, DEV_NAME, ESWITCH_MODE = 1, 2, 25
PARAM, PARAM_NAME, PARAM_TYPE, VALUES_LIST, VALUE, VALUE_DATA, VALUE_CMODE = 80, 81, 83, 84, 85, 86, 87
RELOAD_ACTION = 153
ACTION_DRIVER_REINIT = 1
PCI = "pci"

_KINDS: Mapping[int, ParameterKind] = {
    1: ParameterKind.U8,
    2: ParameterKind.U16,
    3: ParameterKind.U32,
    5: ParameterKind.STRING,
    6: ParameterKind.BOOL,
}
_NUMBERS = {kind: number for number, kind in _KINDS.items()}
_CMODES = (Cmode.RUNTIME, Cmode.DRIVERINIT, Cmode.PERMANENT)
_MODES = (EswitchMode.LEGACY, EswitchMode.SWITCHDEV)
_FORMATS: Mapping[ParameterKind, str] = {ParameterKind.U8: "=B", ParameterKind.U16: "=H", ParameterKind.U32: "=I"}


def handle(address: str) -> bytes:
    """The attributes that name a PCI function."""
    return attribute(BUS_NAME, text(PCI)) + attribute(DEV_NAME, text(address))


def encode_eswitch(address: str, mode: EswitchMode) -> bytes:
    return handle(address) + attribute(ESWITCH_MODE, struct.pack("=H", _MODES.index(mode)))


def encode_reload(address: str) -> bytes:
    return handle(address) + attribute(RELOAD_ACTION, bytes([ACTION_DRIVER_REINIT]))


def encode_parameter(address: str, found: DevlinkParameter, cmode: Cmode, value: str) -> bytes:
    """Body of PARAM_SET. ValueError for a value that is not of the parameter's type."""
    return (
        handle(address)
        + attribute(PARAM_NAME, text(found.name))
        + attribute(PARAM_TYPE, bytes([_NUMBERS[found.kind]]))
        + attribute(VALUE_CMODE, bytes([_CMODES.index(cmode)]))
        + encode_value(found.kind, value)
    )


def encode_value(kind: ParameterKind, value: str) -> bytes:
    """The value's attribute: a switch that is off has none. ValueError for a value that is not of the type."""
    if kind is ParameterKind.BOOL:
        if value not in ("true", "false"):
            raise ValueError("expected true or false")
        return attribute(VALUE_DATA, b"") if value == "true" else b""
    if kind is ParameterKind.STRING:
        return attribute(VALUE_DATA, text(value))
    return attribute(VALUE_DATA, _packed(_FORMATS[kind], value))


def _packed(form: str, value: str) -> bytes:
    most = (1 << 8 * struct.calcsize(form)) - 1
    if not value.isdecimal() or int(value) > most:
        raise ValueError(f"expected a number from 0 to {most}")
    return struct.pack(form, int(value))


def decode_address(body: bytes) -> str:
    """PCI address in a message, "" for a device on another bus. ValueError where it is cut off."""
    found = dict(attributes(body))
    return text_of(found.get(DEV_NAME, b"")) if text_of(found.get(BUS_NAME, b"")) == PCI else ""


def decode_eswitch(body: bytes) -> EswitchMode | None:
    """ValueError where the answer is cut off; None for a mode that is not known here."""
    payload = dict(attributes(body)).get(ESWITCH_MODE, b"")
    number = _unpacked("=H", payload) if payload else len(_MODES)
    return _MODES[number] if number < len(_MODES) else None


def decode_parameter(body: bytes) -> DevlinkParameter | None:
    """The parameter in an answer to PARAM_GET, None for one of a type not known here. ValueError if it is cut off."""
    found = dict(attributes(dict(attributes(body)).get(PARAM, b"")))
    kind = _KINDS.get(_unpacked("=B", found.get(PARAM_TYPE, b"\0")))
    if kind is None or PARAM_NAME not in found:
        return None
    lists = (dict(attributes(item)) for number, item in attributes(found.get(VALUES_LIST, b"")) if number == VALUE)
    values = tuple(value for item in lists if (value := _value(kind, item)) is not None)
    return DevlinkParameter(text_of(found[PARAM_NAME]), kind, values)


def _value(kind: ParameterKind, item: Mapping[int, bytes]) -> tuple[Cmode, str] | None:
    number = _unpacked("=B", item[VALUE_CMODE]) if VALUE_CMODE in item else len(_CMODES)
    return (_CMODES[number], _READERS[kind](item)) if number < len(_CMODES) else None


def _number(form: str) -> Callable[[Mapping[int, bytes]], str]:
    return lambda item: str(_unpacked(form, item.get(VALUE_DATA, b"")))


_READERS: Mapping[ParameterKind, Callable[[Mapping[int, bytes]], str]] = {
    ParameterKind.BOOL: lambda item: "true" if VALUE_DATA in item else "false",
    ParameterKind.STRING: lambda item: text_of(item.get(VALUE_DATA, b"")),
    **{kind: _number(form) for kind, form in _FORMATS.items()},
}


def _unpacked(form: str, payload: bytes) -> int:
    if len(payload) < struct.calcsize(form):
        raise ValueError(f"{len(payload)} bytes where {struct.calcsize(form)} are needed")
    return int(struct.unpack_from(form, payload)[0])
