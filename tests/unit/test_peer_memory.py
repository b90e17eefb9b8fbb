"""The decision between DMA-BUF, nvidia_peermem and nv_peer_mem, and why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from module_world import RELEASE, files, module_file, node, wants
from nodeagent.resources.kernel_modules import plan
from nodeagent.resources.peer_memory import choose
from nodeagent.spec.schema import Modules, NvidiaModules, PeerMemory
from nodeagent.state.modules import KernelPolicy

PROPRIETARY = module_file("nvidia", license="NVIDIA")
OLD = KernelPolicy("5.10.0-28-amd64")
INBOX_BUILD = module_file("nvidia_peermem", depends=("nvidia",), imports=())
OFED = (module_file("mlx_compat"), module_file("ib_core", depends=("mlx_compat",)))


def auto(state):
    return choose(Modules(peermem=PeerMemory.AUTO, nvidia=NvidiaModules()), state)


def test_none_is_left_alone():
    assert choose(Modules(), node()).why == ""


def test_dma_buf_with_the_open_driver_on_a_new_kernel():
    found = auto(node())
    assert (found.module, found.problem) == ("", "")
    assert found.why == (
        f"peer memory: dma-buf (the driver is open and kernel {RELEASE} shares DMA-BUF memory with RDMA, "
        "so that no module is needed)"
    )


def test_nvidia_peermem_with_the_proprietary_driver():
    found = auto(node(module_files=files(PROPRIETARY)))
    assert found.module == "nvidia_peermem"
    assert "no dma-buf: the NVIDIA driver is proprietary" in found.why


def test_nvidia_peermem_on_an_old_kernel():
    old = {name: replace(file, vermagic=OLD.release) for name, file in files().items()}
    found = auto(node(kernel=OLD, module_files=old))
    assert found.module == "nvidia_peermem"
    assert "kernel 5.10.0-28-amd64 is older than 5.12" in found.why


def test_nv_peer_mem_only_on_ofed():
    found = auto(node(module_files=files(PROPRIETARY, INBOX_BUILD, *OFED)))
    assert found.module == "nv_peer_mem"
    assert "built without the peer memory API" in found.why


def test_nothing_fits():
    state = node(module_files=files(PROPRIETARY, INBOX_BUILD))
    found = auto(state)
    assert found.module == ""
    assert "nv_peer_mem needs the RDMA stack of OFED" in found.problem
    wish = plan(wants(peermem=PeerMemory.AUTO), state)
    assert [one.unit for one in wish.obstacles] == ["modules/peermem"]


def test_a_loaded_stack_without_the_api_cannot_take_nvidia_peermem():
    loaded = node("mlx5_ib", module_files=files(PROPRIETARY, without=["nv_peer_mem"]))
    assert "the loaded RDMA stack does not export" in auto(loaded).problem
    owner = replace(loaded, kernel=replace(loaded.kernel, peer_memory_owner="ib_uverbs"))
    assert auto(owner).module == "nvidia_peermem"


@pytest.mark.parametrize(
    ("way", "changed", "reason"),
    [
        (PeerMemory.DMA_BUF, (PROPRIETARY,), "dma-buf will not work: the NVIDIA driver is proprietary"),
        (PeerMemory.NVIDIA_PEERMEM, (INBOX_BUILD,), "nvidia_peermem was built without the peer memory API"),
        (PeerMemory.NV_PEER_MEM, (), "nv_peer_mem needs the RDMA stack of OFED"),
    ],
)
def test_an_explicit_way_that_cannot_work_is_refused(way, changed, reason):
    found = choose(Modules(peermem=way), node(module_files=files(*changed)))
    assert reason in found.problem
    assert found.advice == "set modules.peermem to auto"


def test_both_modules_at_once_are_refused_unless_the_other_goes():
    state = node("nv_peer_mem")
    spec = wants(peermem=PeerMemory.NVIDIA_PEERMEM)
    assert "excludes module nv_peer_mem, which is loaded" in plan(spec, state).obstacles[0].problem
    wish = plan(wants(peermem=PeerMemory.NVIDIA_PEERMEM, absent=("nv_peer_mem",)), state)
    assert [str(step) for step in wish.steps] == [
        "unload module nv_peer_mem",
        "load module ib_uverbs",
        "load module nvidia_peermem",
    ]
    assert "nv_peer_mem" in [thing.name for thing in wish.steps[-1].after]


def test_without_a_driver_it_waits():
    state = node(module_files=files(without=["nvidia"]))
    found = plan(wants(nvidia=NvidiaModules(), peermem=PeerMemory.DMA_BUF), state).obstacles
    assert (found[-1].unit, found[-1].waits) == ("modules/peermem", True)
