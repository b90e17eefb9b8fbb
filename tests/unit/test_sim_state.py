"""The simulated kernel's state: what it counts, and its file."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.errors import HostError
from nodeagent.simulation.holders import OpenDevice, format_node, parse_node, read_node, references, write_node
from nodeagent.simulation.installation import claim, first_state
from nodeagent.simulation.kernel_state import (
    FakeProcess,
    Fault,
    KernelState,
    LoadedModule,
    Policy,
    Region,
    StateFile,
    decode,
    encode,
)
from nodeagent.simulation.profiles import profile
from nodeagent.simulation.refusals import split_options
from nodeagent.state.modules import Liveness
from nodeagent.state.processes import DeviceNode, DeviceNumber

NVIDIA = Region("nvidia", "nvidia", 195, 0, 248)
JOB = FakeProcess(4_200_001, "train", "train.py", opens=((195, 0), (195, 1)), gpu_uuid="GPU-1", memory_regions=3)


def state(**changes) -> KernelState:
    modules = {
        "nvidia": LoadedModule("nvidia", 1, exports=("a",)),
        "nvidia_uvm": LoadedModule("nvidia_uvm", 2, uses=("nvidia",), liveness=Liveness.GOING),
        "nvidia_peermem": LoadedModule("nvidia_peermem", 3, uses=("nvidia",)),
    }
    plain = KernelState("dgx-a100", "boot", 1.5, modules=modules, regions=(NVIDIA,), processes={"4200001": JOB})
    return replace(plain, **changes)


def test_state_survives_its_text():
    found = state(faults=(Fault("insert", "nvidia", 5, lines=("x",)),), vfs={"0000:0c:00.0": 2})
    found = found.with_log(((3, "first"), (6, "second")), 17)
    assert decode(encode(found)) == found
    booted = first_state(profile("dgx-h100"))
    assert decode(encode(booted)) == booted


def test_references_are_holders_open_files_regions_and_pins():
    found = state()
    assert found.references("nvidia", {}) == 2 + 2
    assert found.references("nvidia", {"nvidia": 5}) == 2 + 2 + 5
    assert found.references("nvidia_peermem", {}) == 3
    pinned = replace(found.modules["nvidia_uvm"], pinned=4)
    assert replace(found, modules={**found.modules, "nvidia_uvm": pinned}).references("nvidia_uvm", {}) == 4


def test_open_files_count_by_the_module_that_owns_the_number():
    opened = (
        OpenDevice(7, DeviceNumber(195, 3)),
        OpenDevice(8, DeviceNumber(195, 3)),
        OpenDevice(8, DeviceNumber(9, 9)),
    )
    assert references(state(), opened) == {"nvidia": 2}
    assert references(state(regions=()), opened) == {}, "a stale node leads nowhere"


def test_log_numbers_go_on_and_old_lines_fall_out():
    found = state()
    for step in range(1200):
        found = found.with_log(((6, str(step)),), step)
    assert len(found.log) == 1000
    assert [line.sequence for line in found.log[-2:]] == [1198, 1199]


@pytest.mark.parametrize(
    ("command_line", "names"),
    [
        ("ro quiet", ()),
        ("module_blacklist=nouveau,nvidia-drm ro", ("nouveau", "nvidia_drm")),
        ("modprobe.blacklist=nouveau", ()),
    ],
)
def test_blacklist_of_the_command_line(command_line, names):
    assert Policy(command_line).blacklist == names


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("", []),
        ("a=1 b-c=2", [("a", "1"), ("b_c", "2")]),
        ('dwords="x=1; y=2" flag', [("dwords", "x=1; y=2"), ("flag", None)]),
        ('open="x y', [("open", '"x'), ("y", None)]),
    ],
)
def test_options_split_as_the_kernel_does(text, pairs):
    assert list(split_options(text)) == pairs


@given(
    st.builds(
        DeviceNode,
        st.just("/dev/x"),
        st.integers(1, 511),
        st.integers(0, 2**20 - 1),
        st.sampled_from([0o666, 0o660, 0o600]),
        st.integers(0, 70000),
        st.integers(0, 70000),
    )
)
def test_placeholder_gives_back_its_node(tmp_path_factory, node):
    folder = tmp_path_factory.mktemp("dev")
    write_node(f"{folder}/x", node, f"{folder}/scratch")
    assert read_node(f"{folder}/x", "/dev/x") == node
    assert parse_node("/dev/x", format_node(node)) == node


@pytest.mark.parametrize("text", ["", "c 1", "b 1 2 0666 0 0", "c one 2 0666 0 0", "c 1 2 999 0 0"])
def test_other_text_is_no_node(text):
    assert parse_node("/dev/x", text) is None


def test_other_format_and_rubbish_are_refused(tmp_path):
    file = StateFile(str(tmp_path))
    file.write(state(format=99))
    with pytest.raises(HostError, match="made by format 99"):
        file.read()
    for rubbish in ("", "[]", '{"format": 1}', '{"format": 1, "modules": 3}'):
        (tmp_path / "kernel.json").write_text(rubbish)
        with pytest.raises(HostError, match="remove the directory"):
            StateFile(str(tmp_path)).read()


def test_directory_of_something_else_is_never_taken(tmp_path):
    (tmp_path / "letters.txt").write_text("mine")
    with pytest.raises(HostError, match="not empty"):
        claim(profile("dgx-a100"), str(tmp_path))
    place = str(tmp_path / "new")
    claim(profile("dgx-a100"), place)
    claim(profile("dgx-a100"), place)
    with pytest.raises(HostError, match="wanted is"):
        claim(profile("dgx-h100"), place)
