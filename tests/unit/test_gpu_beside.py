"""What containers get besides their GPUs: by every way of telling, and with parts of it missing on the node."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from types import MappingProxyType

import pytest

from gpu_world import UVM, gpu, node
from nodeagent.errors import SpecError
from nodeagent.resources.gpu_offers import gpu_offers
from nodeagent.resources.gpu_units import Around
from nodeagent.spec.plugin_config import applied, read_plugin_config
from nodeagent.spec.reader import parse_spec
from nodeagent.state.containers import CdiFile, Containers
from nodeagent.state.modules import KernelModule, Liveness
from nodeagent.state.processes import DeviceNode

CHANNEL = "/dev/nvidia-caps-imex-channels/channel0"
NODES = {"gdrcopy": "/dev/gdrdrv", "gds": "/dev/nvidia-fs0", "mofed": "/dev/infiniband/uverbs0", "imex": CHANNEL}
KINDS = {name: f"nvidia.com/{name}" for name in ("gdrcopy", "gds", "mofed")} | {"imex": "nvidia.com/imex-channel"}
ASKED = "gdrcopy: true, gds: true, mofed: true, imex: {channels: [0]}"
EVERY = tuple(NODES)
MAJOR = 506


def world(have=EVERY, named=EVERY, major=MAJOR):
    """A node with one GPU, with the device nodes of `have`, and CDI specifications for `named`."""
    base = node(gpu(0), cdi=("GPU-0",))
    nodes = {NODES[name]: DeviceNode(NODES[name], major, 0, 0o666) for name in have}
    files = tuple(CdiFile(f"/run/{name}.json", "", KINDS[name], ("0", "all")) for name in named)
    loaded = {"gdrcopy": "gdrdrv", "gds": "nvidia_fs"}
    modules = {loaded[name]: KernelModule(loaded[name], Liveness.LIVE) for name in have if name in loaded}
    return replace(
        base,
        device_nodes=MappingProxyType({UVM.path: UVM, **nodes}),
        containers=Containers(cdi_files=(*base.containers.cdi_files, *files)),
        majors=MappingProxyType({"nvidia-caps-imex-channels": MAJOR}),
        modules=MappingProxyType(modules),
    )


def offers(keys: str, state, cdi: str = ""):
    spec = parse_spec(f"version: 1\nkubernetes: {{gpus: {{{keys}}}}}\n{cdi}", "f")
    return gpu_offers(spec, state, Around())


def granted(keys: str, state):
    return offers(keys, state).offers[0].allocator.grant(("GPU-0",))


def test_by_cdi_they_are_named_after_the_gpus_in_the_order_of_nvidias_plugin():
    found = granted(f"device_list: [cdi-cri, cdi-annotations], {ASKED}", world())
    names = (
        "nvidia.com/gpu=GPU-0",
        "nvidia.com/imex-channel=0",
        "nvidia.com/gdrcopy=all",
        "nvidia.com/gds=all",
        "nvidia.com/mofed=all",
    )
    assert found.cdi_devices == names
    assert list(found.annotations.values()) == [",".join(names)]
    assert found.envs == {"NVIDIA_GDRCOPY": "enabled", "NVIDIA_GDS": "enabled", "NVIDIA_MOFED": "enabled"}
    assert found.nodes == ()
    plain = granted("device_list: [cdi-annotations]", world())
    assert plain.annotations.keys() != found.annotations.keys(), "another list, another key"


def test_by_the_environment_the_runtime_is_told_what_to_add():
    found = granted(f"device_list: [envvar], {ASKED}", world(named=()))
    assert found.envs == {
        "NVIDIA_VISIBLE_DEVICES": "GPU-0",
        "NVIDIA_IMEX_CHANNELS": "0",
        "NVIDIA_GDRCOPY": "enabled",
        "NVIDIA_GDS": "enabled",
        "NVIDIA_MOFED": "enabled",
    }
    assert (found.cdi_devices, found.mounts, found.annotations) == ((), (), {})


def test_by_mounts_channels_have_names_of_their_own():
    found = granted(f"device_list: [volume-mounts], {ASKED}", world(named=()))
    root = "/var/run/nvidia-container-devices"
    assert [one.container_path for one in found.mounts] == [f"{root}/GPU-0", f"{root}/imex/0"]
    assert found.envs["NVIDIA_VISIBLE_DEVICES"] == root
    assert "NVIDIA_IMEX_CHANNELS" not in found.envs


def test_device_nodes_to_the_kubelet_are_those_of_gpus_and_channels():
    found = granted(f"pass_device_specs: true, {ASKED}", world(named=()))
    assert [one.host_path for one in found.nodes] == ["/dev/nvidia-uvm", "/dev/nvidia0", CHANNEL]
    assert granted(ASKED, world(named=())).nodes == ()


def test_without_the_switches_nothing_is_added_whatever_the_node_has():
    found = granted("device_list: [cdi-cri, envvar], pass_device_specs: true", world())
    assert found.cdi_devices == ("nvidia.com/gpu=GPU-0",)
    assert found.envs == {"NVIDIA_VISIBLE_DEVICES": "GPU-0"}
    assert CHANNEL not in {one.host_path for one in found.nodes}
    assert offers("", world(have=())).remarks == ()


@pytest.mark.parametrize("missing", EVERY)
def test_what_is_missing_is_left_out_with_a_remark_and_the_gpu_is_given(missing):
    rest = tuple(name for name in EVERY if name != missing)
    for state, words in (
        (world(have=rest, named=rest), "there"),
        (world(named=rest), f"no CDI specification names {KINDS[missing]}="),
    ):
        found = offers(f"device_list: [cdi-cri], {ASKED}", state)
        assert found.offers[0].devices[0].healthy
        (remark,) = found.remarks
        assert words in remark
        assert remark.endswith("; containers get GPUs without it")
        names = found.offers[0].allocator.grant(("GPU-0",)).cdi_devices
        assert {name.partition("=")[0] for name in names} == {"nvidia.com/gpu", *(KINDS[name] for name in rest)}


def test_a_module_that_is_gone_counts_as_missing_although_its_node_is_there():
    state = replace(world(named=()), modules=MappingProxyType({}))
    found = offers(f"device_list: [envvar], {ASKED}", state).remarks
    assert [text.split(":")[0] for text in found] == ["gdrcopy", "gds"]


def test_a_required_channel_holds_back_the_gpu_until_it_is_there():
    keys = "device_list: [cdi-cri], imex: {channels: [0], required: true}"
    reasons = (
        (world(have=()), f"IMEX channel 0: {CHANNEL} is not there; see NVreg_CreateImexChannel0 and nvidia-modprobe"),
        (world(major=MAJOR + 1), f"IMEX channel 0: {CHANNEL} has major {MAJOR + 1}, the driver's is {MAJOR}"),
        (world(named=()), "IMEX channel 0: no CDI specification names nvidia.com/imex-channel=0"),
        (world(), ""),
    )
    for state, reason in reasons:
        found = offers(keys, state)
        assert [(one.healthy, one.reason) for one in found.offers[0].devices] == [(not reason, reason)]
        assert found.remarks == ()


def test_every_share_of_a_gpu_gets_them():
    keys = f"device_list: [cdi-cri], {ASKED}, sharing: {{strategy: time-slicing, replicas: {{gpu: 2}}}}"
    found = offers(keys, world()).offers[0].allocator.grant(("GPU-0::1",))
    assert len(found.cdi_devices) == 5


FLAGS = ("gdrcopyEnabled", "gdsEnabled", "mofedEnabled")


@pytest.mark.parametrize(("gdrcopy", "gds", "mofed"), [*product(("true", "false"), repeat=3)])
def test_the_switches_of_nvidias_file_do_what_they_say(gdrcopy, gds, mofed):
    values = dict(zip(FLAGS, (gdrcopy, gds, mofed), strict=True))
    rows = "".join(f"  {name}: {value}\n" for name, value in values.items())
    read = read_plugin_config(f"version: v1\nflags:\n{rows}imex: {{channelIDs: [0], required: true}}\n", "c")
    assert read.remarks == ()
    section = applied(parse_spec("version: 1\nkubernetes: {}", "f").kubernetes.gpus, read)
    assert [section.gdrcopy, section.gds, section.mofed] == [value == "true" for value in values.values()]
    assert (section.imex.channels, section.imex.required) == ((0,), True)


@pytest.mark.parametrize("imex", ["{}", "", "null", "{channelIDs: null}", "{channelIDs: []}", "{required: false}"])
def test_no_channels_in_all_its_spellings(imex):
    section = applied(
        parse_spec("version: 1\nkubernetes: {}", "f").kubernetes.gpus,
        read_plugin_config(f"version: v1\nimex: {imex}\n", "c"),
    )
    assert section.imex.channels == ()


@pytest.mark.parametrize("given", ["[1]", "[0, 1]", "[0, 0]", "[x]"])
def test_other_channels_are_a_mistake_as_at_nvidias_plugin(given):
    with pytest.raises(SpecError, match=r"c:2:8: imex\.channelIDs: expected \[\] or \[0\], found"):
        read_plugin_config(f"version: v1\nimex: {{channelIDs: {given}}}\n", "c")
