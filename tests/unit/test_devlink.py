"""devlink: the codec on what iproute2 and Linux exchanged, on garbled bytes, and plans of the section `devlink`."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlink_capture import captured, exchange
from nodeagent.host import devlink_codec as codec
from nodeagent.host.genetlink import HEADER_BYTES, body_of, command, parse_family
from nodeagent.host.netlink_codec import NLMSG_ERROR, Message, attribute, attributes, error_of
from nodeagent.plan.journal import Entry, Phase, decode, encode
from nodeagent.resources.base import Step
from nodeagent.resources.devlink import plan
from nodeagent.resources.devlink_steps import ReloadDevice, SetDevlinkParameter, SetEswitchMode
from nodeagent.spec.devlink import DevlinkEntry
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.devlink import Cmode, DevlinkDevice, DevlinkParameter, EswitchMode, ParameterKind
from nodeagent.state.network import PciFunction
from nodeagent.state.node import NodeState
from nodeagent.state.things import pci

FILE, PF = "devlink.txt", "0000:01:00.0"
ROCE = DevlinkParameter("enable_roce", ParameterKind.BOOL, ((Cmode.DRIVERINIT, "true"),))
MACS = DevlinkParameter("max_macs", ParameterKind.U32, ((Cmode.DRIVERINIT, "128"),))
STEERING = DevlinkParameter("flow_steering_mode", ParameterKind.STRING, ((Cmode.RUNTIME, "dmfs"),))
FIRMWARE = DevlinkParameter("firmware_vfs", ParameterKind.U32, ((Cmode.PERMANENT, "0"),))


def _said(sent: Message) -> tuple[int, bytes]:
    """Command and attributes; iproute2 gives another version of the family, which the kernel does not look at."""
    return sent.body[0], body_of(sent)


def _parts(body: bytes) -> dict[int, bytes]:
    return dict(attributes(body[HEADER_BYTES:]))


@pytest.mark.parametrize(
    ("words", "found", "cmode", "value"),
    [
        (f"pci/{PF} name flow_steering_mode value smfs cmode runtime", STEERING, Cmode.RUNTIME, "smfs"),
        (f"pci/{PF} name enable_roce value false cmode driverinit", ROCE, Cmode.DRIVERINIT, "false"),
        (f"pci/{PF} name enable_roce value true cmode driverinit", ROCE, Cmode.DRIVERINIT, "true"),
        (f"pci/{PF} name max_macs value 64 cmode driverinit", MACS, Cmode.DRIVERINIT, "64"),
        (f"pci/{PF} name firmware_vfs value 8 cmode permanent", FIRMWARE, Cmode.PERMANENT, "8"),
    ],
)
def test_a_parameter_is_sent_as_iproute2_sends_it(
    words: str, found: DevlinkParameter, cmode: Cmode, value: str
) -> None:
    sent, _ = exchange(FILE, f"devlink dev param set {words}")
    ours = command(codec.CMD_PARAM_SET, codec.encode_parameter(PF, found, cmode, value))
    assert ours[0] == sent[-1].body[0]
    assert _parts(ours) == _parts(sent[-1].body)


def test_the_switch_and_a_reload_are_sent_as_iproute2_sends_them() -> None:
    (sent,), _ = exchange(FILE, f"devlink dev eswitch set pci/{PF} mode switchdev")
    assert _said(sent) == (codec.CMD_ESWITCH_SET, codec.encode_eswitch(PF, EswitchMode.SWITCHDEV))
    (sent,), _ = exchange(FILE, f"devlink dev reload pci/{PF} action driver_reinit")
    assert _said(sent) == (codec.CMD_RELOAD, codec.encode_reload(PF))
    (sent,), (shown, _) = exchange(FILE, f"devlink dev eswitch show pci/{PF}")
    assert _said(sent) == (codec.CMD_ESWITCH_GET, codec.handle(PF))
    assert codec.decode_eswitch(body_of(shown)) is EswitchMode.LEGACY


def test_what_linux_answers_is_read() -> None:
    _, received = exchange(FILE, "devlink dev param show")
    found = [codec.decode_parameter(body_of(one)) for one in received if one.kind > NLMSG_ERROR + 1]
    assert found == [ROCE, MACS, STEERING, FIRMWARE]
    _, received = exchange(FILE, "devlink dev")
    assert [codec.decode_address(body_of(one)) for one in received if one.kind > NLMSG_ERROR + 1] == [PF]
    _, received = exchange(FILE, f"devlink dev param set pci/{PF} name flow_steering_mode value hmfs cmode runtime")
    assert error_of(received[-1]) == (22, 'stub_nic: Bad parameter: supported values are ["dmfs", "smfs"]')


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (ParameterKind.BOOL, "1"),
        (ParameterKind.U8, "256"),
        (ParameterKind.U16, "-1"),
        (ParameterKind.U32, "4294967296"),
        (ParameterKind.U32, "many"),
    ],
)
def test_a_value_that_is_not_of_the_type_is_not_sent(kind: ParameterKind, value: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        codec.encode_value(kind, value)


RECEIVED = [one.data for one in captured(FILE) if not one.sent]


@given(st.sampled_from(RECEIVED), st.data())
def test_no_bytes_break_the_readers_in_another_way(datagram: bytes, data: st.DataObject) -> None:
    """Cut off, with bytes changed: a reader gives a value or ValueError."""
    garbled = bytearray(datagram[16 : data.draw(st.integers(16, len(datagram)))])
    for index in data.draw(st.lists(st.integers(0, max(0, len(garbled) - 1)), max_size=4)) if garbled else ():
        garbled[index] = data.draw(st.integers(0, 255))
    message = Message(21, 0, 0, bytes(garbled))
    with suppress(ValueError):
        parse_family((message,))
    for read in (codec.decode_address, codec.decode_eswitch, codec.decode_parameter):
        with suppress(ValueError):
            read(body_of(message))


def test_a_type_or_mode_of_a_later_kernel_is_passed_over() -> None:
    later = attribute(codec.PARAM_NAME, b"new\0") + attribute(codec.PARAM_TYPE, b"\x0b")
    assert codec.decode_parameter(attribute(codec.PARAM, later)) is None
    value = attribute(codec.VALUE_CMODE, b"\x07") + attribute(codec.VALUE_DATA, b"\x01")
    known = attribute(codec.PARAM_NAME, b"new\0") + attribute(codec.PARAM_TYPE, b"\x01")
    listed = attribute(codec.VALUES_LIST, attribute(codec.VALUE, value))
    assert codec.decode_parameter(attribute(codec.PARAM, known + listed)) == DevlinkParameter("new", ParameterKind.U8)
    assert codec.decode_eswitch(attribute(codec.ESWITCH_MODE, b"\x09\x00")) is None


def _state(*parameters: DevlinkParameter, owed: bool = False) -> NodeState:
    device = DevlinkDevice(PF, EswitchMode.LEGACY, parameters, reload_owed=owed)
    return NodeState(pci={PF: PciFunction(PF, "15b3", "1021", "020000")}, devlink={PF: device})


def _steps(state: NodeState, **wanted: str) -> tuple[Step, ...]:
    wish = plan(NodeSpec(version=1, devlink=(DevlinkEntry(PF, wanted),)), state)
    assert wish.obstacles == ()
    return wish.steps


def test_driverinit_values_go_together_with_one_reload() -> None:
    state = _state(ROCE, MACS, STEERING)
    (step,) = _steps(state, enable_roce="no", max_macs="64")
    assert isinstance(step, ReloadDevice)
    assert step.wanted == (("enable_roce", "false"), ("max_macs", "64"))
    assert step.before == (("enable_roce", "true"), ("max_macs", "128"))
    assert step.resets == step.claims == (pci(PF),)
    assert not step.satisfied(state)
    assert step.undo().satisfied(state)
    assert _steps(state, enable_roce="yes", max_macs="0128", flow_steering_mode="dmfs") == ()
    assert len(_steps(_state(ROCE, owed=True), enable_roce="true")) == 1
    assert _steps(_state(STEERING, owed=True), flow_steering_mode="dmfs") == ()


def test_the_first_mode_that_a_parameter_has_is_meant_unless_one_is_named() -> None:
    both = DevlinkParameter("size", ParameterKind.U8, ((Cmode.PERMANENT, "1"), (Cmode.RUNTIME, "2")))
    wish = plan(NodeSpec(version=1, devlink=(DevlinkEntry(PF, {"size": "3", "size@permanent": "4"}),)), _state(both))
    at_once, later = wish.steps
    assert isinstance(at_once, SetDevlinkParameter)
    assert isinstance(later, SetDevlinkParameter)
    assert (at_once.cmode, at_once.before, at_once.wanted) == (Cmode.RUNTIME, "2", "3")
    assert (later.cmode, later.before, later.wanted) == (Cmode.PERMANENT, "1", "4")
    assert wish.remarks == (f"devlink parameter size of {PF} needs a reset of the card or a reboot",)


@pytest.mark.parametrize(
    "step",
    [
        ReloadDevice(subject=pci(PF), unit="u", wanted=(("a", "true"),), before=(("a", "false"),)),
        SetDevlinkParameter(subject=pci(PF), unit="u", name="a", cmode=Cmode.RUNTIME, wanted="1", before="2"),
        SetEswitchMode(
            subject=pci(PF), unit="u", mode=EswitchMode.SWITCHDEV, before=EswitchMode.LEGACY, interface="ens1"
        ),
    ],
)
def test_steps_survive_the_journal(step: Step) -> None:
    entry = Entry(Phase.ACT, step)
    assert decode(encode((entry,), "boot")) == (entry,)
