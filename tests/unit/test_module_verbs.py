"""What `nodeagent modules load|unload|reload` come to."""

from __future__ import annotations

from dataclasses import replace

from module_world import ALLOW, apply_wish, files, module_file, node, texts, wants
from nodeagent.plan.sequencer import sequence
from nodeagent.resources.kernel_modules import plan_load, plan_reload, plan_unload
from nodeagent.resources.module_steps import UnloadModule
from nodeagent.spec.schema import NvidiaModules, PeerMemory
from nodeagent.state.modules import KernelModule, KernelPolicy, Liveness

FULL = (
    "nvidia_drm",
    "nvidia_uvm",
    "gdrdrv",
    "nvidia_peermem",
    "nvidia_fs",
    "mlx5_ib",
    "rdma_ucm",
    "ib_umad",
    "ib_ipoib",
)


def test_load_a_set_takes_the_node_file_or_its_defaults():
    assert texts(plan_load(["nvidia"], wants(), node())) == [
        "load module i2c_core",
        "load module nvidia",
        "load module nvidia_uvm",
        "load module video",
        "load module nvidia_modeset",
    ]
    spec = wants(nvidia=NvidiaModules(uvm=False, modeset=False, parameters={"EnableStreamMemOPs": "1"}))
    assert texts(plan_load(["nvidia"], spec, node()))[-1] == "load module nvidia with NVreg_EnableStreamMemOPs=1"
    assert texts(plan_load(["nvidia_uvm"], spec, node()))[-1] == "load module nvidia_uvm"


def test_load_rdma_has_ofed_as_another_name():
    assert plan_load(["ofed"], wants(), node()).steps == plan_load(["rdma"], wants(), node()).steps
    assert texts(plan_load(["rdma"], wants(), node()))[-1] in ("load module rdma_ucm", "load module ib_umad")


def test_load_peermem_decides_as_auto_does():
    proprietary = node(
        "mlx5_ib", module_files=files(module_file("nvidia", license="NVIDIA"), module_file("nvidia_peermem"))
    )
    assert "the loaded RDMA stack does not export" in plan_load(["peermem"], wants(), proprietary).obstacles[0].problem
    offered = replace(proprietary, kernel=replace(proprietary.kernel, peer_memory_owner="ib_uverbs"))
    wish = plan_load(["peermem"], wants(), offered)
    assert texts(wish)[-1] == "load module nvidia_peermem"
    assert "the NVIDIA driver is proprietary" in wish.remarks[0]


def test_load_leaves_what_is_loaded():
    wish = plan_load(["nvidia", "gdrdrv"], wants(), node("nvidia", "nvidia_uvm", "nvidia_modeset", "gdrdrv"))
    assert wish.steps == ()
    assert "module gdrdrv is loaded already" in wish.remarks


def test_load_of_something_unknown_and_of_something_unwanted():
    (found,) = plan_load(["zzz"], wants(), node()).obstacles
    assert (found.unit, found.problem) == ("modules/zzz", "no file for kernel 6.1.0-18-amd64")
    (found,) = plan_load(["nouveau"], wants(absent=("nouveau",)), node()).obstacles
    assert found.problem == "modules.absent does not allow it"


def test_unload_nvidia_takes_the_whole_stack_in_the_safe_order():
    state = node(*FULL)
    wish = plan_unload(["nvidia"], state)
    assert texts(wish) == [
        "unload module nvidia_fs",
        "unload module gdrdrv",
        "unload module nvidia_peermem",
        "unload module nvidia_drm",
        "unload module nvidia_modeset",
        "unload module nvidia_uvm",
        "unload module nvidia",
    ]
    assert {step.unit for step in wish.steps} == {"modules/nvidia"}
    after = apply_wish(wish, state)
    assert "nvidia" not in after.modules
    assert plan_unload(["nvidia"], after).remarks == ("nothing of nvidia is loaded",)


def test_unload_rdma_takes_users_first_and_ib_core_late():
    state = node(*FULL)
    order = texts(plan_unload(["rdma"], state))
    assert order[0] == "unload module ib_ipoib"
    assert order.index("unload module nvidia_peermem") < order.index("unload module ib_uverbs")
    assert order.index("unload module mlx5_ib") < order.index("unload module mlx5_core")
    assert order[-2:] == ["unload module ib_core", "unload module mlxfw"]
    assert "nvidia" in apply_wish(plan_unload(["rdma"], state), state).modules


def test_unload_one_module_says_what_stands_on_it():
    wish = plan_unload(["bridge"], node("br_netfilter"))
    assert [(str(step), step.reason) for step in wish.steps] == [
        ("unload module br_netfilter", "stands on bridge"),
        ("unload module bridge", "asked for on the command line"),
    ]


def test_unload_refuses_as_a_whole():
    state = replace(node("br_netfilter"), kernel=KernelPolicy(modules_disabled=True))
    wish = plan_unload(["bridge"], state)
    assert (wish.steps, len(wish.obstacles)) == ((), 1)
    builtin = node(modules={"bridge": KernelModule("bridge", Liveness.BUILTIN)})
    assert plan_unload(["bridge"], builtin).obstacles[0].problem == "is built into the kernel and cannot be removed"
    assert plan_unload(["zzz"], node()).remarks == ("module zzz is not loaded",)


def test_reload_nvidia_puts_back_exactly_what_was_there():
    state = node("nvidia_uvm", "gdrdrv", "nvidia_peermem", "mlx5_ib")
    wish = plan_reload(["nvidia"], state)
    half = len(wish.steps) // 2
    assert all(isinstance(step, UnloadModule) for step in wish.steps[:half])
    assert texts(wish)[half:] == [
        "load module nvidia",
        "load module nvidia_uvm",
        "load module nvidia_peermem",
        "load module gdrdrv",
    ]
    transitions = sequence((wish,), state, ALLOW).transitions
    assert [(len(one.quiesce), len(one.acts)) for one in transitions] == [(0, 8)]
    assert set(apply_wish(wish, state).modules) == set(state.modules)


def test_reload_uses_the_parameters_of_the_node_file_else_the_last_options():
    state = replace(node("nvidia", "gdrdrv"), loaded_options={"gdrdrv": "info_enabled=1"})
    spec = wants(nvidia=NvidiaModules(parameters={"EnableStreamMemOPs": "1"}), peermem=PeerMemory.NONE)
    assert texts(plan_reload(["nvidia"], state, spec))[2:] == [
        "load module nvidia with NVreg_EnableStreamMemOPs=1",
        "load module gdrdrv with info_enabled=1",
    ]


def test_reload_touches_nothing_when_one_file_is_gone():
    state = replace(node("nvidia", "gdrdrv"), module_files=files(without=["gdrdrv"]))
    wish = plan_reload(["nvidia"], state)
    assert wish.steps == ()
    assert any(found.subject.name == "gdrdrv" for found in wish.obstacles)
