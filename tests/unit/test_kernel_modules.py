"""Planning of the modules section: order, options, reloads, conflicts, and refusals before anything is touched."""

from __future__ import annotations

from dataclasses import replace

import pytest

from module_world import apply_wish, files, gpu_function, insert, loads, module_file, node, only_obstacle, texts, wants
from nodeagent.resources.base import Disturbs
from nodeagent.resources.kernel_modules import names_of_interest, plan
from nodeagent.resources.module_steps import UnloadModule
from nodeagent.spec.schema import Flavor, NamedModule, NvidiaModules, PeerMemory, RdmaModules, RdmaStack
from nodeagent.state.gpu import NvidiaDriver
from nodeagent.state.modules import KernelModule, Liveness


def unloads(wish):
    return [step.subject.name for step in wish.steps if isinstance(step, UnloadModule)]


def test_the_whole_stack_loads_in_the_order_of_the_node():
    spec = wants(
        nvidia=NvidiaModules(drm=True),
        rdma=RdmaModules(ipoib=True),
        peermem=PeerMemory.NVIDIA_PEERMEM,
        gdrcopy=True,
        gds=True,
    )
    wish = plan(spec, node())
    order = loads(wish)
    assert wish.obstacles == ()
    assert order.index("mlx5_ib") < order.index("nvidia") < order.index("nvidia_peermem")
    assert order.index("rdma_ucm") < order.index("i2c_core") < order.index("nvidia")
    assert order.index("nvidia_drm") < order.index("gdrdrv")
    assert len(order) == len(set(order))
    state = apply_wish(wish, node())
    assert plan(spec, state).steps == ()


def test_every_dependency_is_a_step_with_its_reason():
    wish = plan(wants(named={"br-netfilter": NamedModule()}), node())
    assert [(str(step), step.unit, step.reason) for step in wish.steps] == [
        ("load module llc", "modules/named/br_netfilter", "needed by br_netfilter"),
        ("load module stp", "modules/named/br_netfilter", "needed by br_netfilter"),
        ("load module bridge", "modules/named/br_netfilter", "needed by br_netfilter"),
        ("load module br_netfilter", "modules/named/br_netfilter", "modules.named.br-netfilter wants it"),
    ]
    assert [thing.name for thing in wish.steps[-1].after] == ["llc", "stp", "bridge"]


def test_options_are_those_of_modprobe_and_then_those_of_the_node_file():
    changed = module_file("nvidia", options="NVreg_DeviceFileMode=0660 NVreg_EnableStreamMemOPs=0")
    spec = wants(nvidia=NvidiaModules(uvm=False, modeset=False, parameters={"EnableStreamMemOPs": "1"}))
    wish = plan(spec, node(module_files=files(changed)))
    assert texts(wish)[-1] == (
        "load module nvidia with NVreg_DeviceFileMode=0660 NVreg_EnableStreamMemOPs=0 NVreg_EnableStreamMemOPs=1"
    )


def test_other_parameters_in_force_reload_the_module_only():
    state = node("nvidia_uvm", "gdrdrv")
    spec = wants(nvidia=NvidiaModules(modeset=False, parameters={"EnableStreamMemOPs": "1"}))
    wish = plan(spec, state)
    assert texts(wish) == ["unload module nvidia", "load module nvidia with NVreg_EnableStreamMemOPs=1"]
    assert wish.steps[0].reason == "parameter NVreg_EnableStreamMemOPs is 0, wanted is 1"
    assert wish.steps[0].disturbs is Disturbs.GPU
    after = apply_wish(wish, state)
    assert {"nvidia_uvm", "gdrdrv"} <= set(after.modules)
    assert plan(spec, after).steps == ()


def test_a_reload_brings_back_early_what_a_new_module_needs():
    spec = wants(nvidia=NvidiaModules(drm=True, parameters={"EnableStreamMemOPs": "1"}))
    state = node("nvidia_uvm", "nvidia_modeset")
    wish = plan(spec, state)
    assert unloads(wish) == ["nvidia_modeset", "nvidia"]
    assert loads(wish)[:2] == ["nvidia", "nvidia_modeset"]
    assert plan(spec, apply_wish(wish, state)).steps == ()


@pytest.mark.parametrize("wanted", ["0x1", "1", "Y", "true", "on", "01"])
def test_equal_values_in_other_spelling_are_no_drift(wanted):
    state = insert(node("i2c_core"), "nvidia", "NVreg_EnableStreamMemOPs=1")
    spec = wants(nvidia=NvidiaModules(uvm=False, modeset=False, parameters={"EnableStreamMemOPs": wanted}))
    assert plan(spec, state).steps == ()


def test_profiling_restriction_is_shown_under_another_name():
    state = insert(node("i2c_core"), "nvidia", "")
    shown = (("RmProfilingAdminOnly", "0"),)
    modules = {**state.modules, "nvidia": replace(state.modules["nvidia"], parameters=shown)}
    spec = wants(nvidia=NvidiaModules(uvm=False, modeset=False, parameters={"RestrictProfilingToAdminUsers": "0"}))
    assert plan(spec, replace(state, modules=modules)).steps == ()


def test_our_own_record_stands_in_for_parameters_that_cannot_be_read():
    spec = wants(named={"gdrdrv": NamedModule({"dbg_enabled": "1"})})
    state = insert(node("nvidia"), "gdrdrv", "dbg_enabled=1")
    assert plan(spec, state).steps == ()
    assert texts(plan(spec, insert(node("nvidia"), "gdrdrv", "")))[0] == "unload module gdrdrv"


def test_without_a_record_a_hidden_parameter_is_an_obstacle_and_no_reload():
    state = replace(node("gdrdrv"), loaded_options={})
    text = only_obstacle(plan(wants(named={"gdrdrv": NamedModule({"dbg_enabled": "1"})}), state))
    assert "parameter dbg_enabled cannot be read back" in text
    assert "nodeagent modules reload gdrdrv" in text


def test_an_unknown_parameter_is_refused_with_near_names():
    spec = wants(nvidia=NvidiaModules(parameters={"EnableStreamMemOps": "1"}))
    found = plan(spec, node()).obstacles
    assert found[0].problem == "has no parameter NVreg_EnableStreamMemOps, but NVreg_EnableStreamMemOPs"
    assert [str(one.subject) for one in found] == ["module nvidia", "module nvidia_uvm", "module nvidia_modeset"]
    assert found[1].problem == "needs module nvidia, which cannot be loaded now"


def test_a_parameter_that_opens_test_calls_is_refused():
    spec = wants(named={"nvidia_uvm": NamedModule({"uvm_enable_builtin_tests": "1"})})
    assert "opens the driver's test calls" in only_obstacle(plan(spec, node()))


def test_two_places_that_want_a_parameter_differently():
    named = {"nvidia": NamedModule({"NVreg_EnableStreamMemOPs": "0"})}
    spec = wants(nvidia=NvidiaModules(uvm=False, modeset=False, parameters={"EnableStreamMemOPs": "1"}), named=named)
    assert "two places want parameter NVreg_EnableStreamMemOPs differently" in only_obstacle(plan(spec, node()))


def test_flavor_on_disk_is_checked_by_license():
    spec = wants(nvidia=NvidiaModules(flavor=Flavor.PROPRIETARY, uvm=False, modeset=False))
    text = only_obstacle(plan(spec, node()))
    assert "is the open build (license Dual MIT/GPL), wanted is proprietary" in text


def test_another_flavor_than_loaded_is_a_reload():
    proprietary = module_file("nvidia", license="NVIDIA")
    spec = wants(nvidia=NvidiaModules(flavor=Flavor.PROPRIETARY, uvm=False, modeset=False))
    wish = plan(spec, replace(node("nvidia"), module_files=files(proprietary)))
    assert texts(wish) == ["unload module nvidia", "load module nvidia"]
    assert wish.steps[0].reason == "the open driver is loaded, modules.nvidia.flavor is proprietary"


def test_an_update_on_disk_is_said_and_only_on_demand_done():
    newer = [module_file(name, version="580.65.06", srcversion=f"NEW{name}") for name in ("nvidia", "nvidia_uvm")]
    state = replace(node("nvidia_uvm"), module_files=files(*newer))
    section = NvidiaModules(modeset=False)
    wish = plan(wants(nvidia=section), state)
    assert wish.steps == ()
    (remark,) = wish.remarks
    assert remark.startswith("nvidia, nvidia_uvm: version 570.124.06 is loaded, 580.65.06 on disk; reload pending")
    wish = plan(wants(nvidia=replace(section, reload_on_update=True)), state)
    assert (unloads(wish), loads(wish)) == (["nvidia_uvm", "nvidia"], ["nvidia", "nvidia_uvm"])
    assert plan(wants(nvidia=section), apply_wish(wish, state)).remarks == ()


def test_a_module_of_another_build_than_the_loaded_driver_is_not_loaded():
    newer = module_file("nvidia_uvm", version="580.65.06")
    text = only_obstacle(plan(wants(nvidia=NvidiaModules(modeset=False)), node("nvidia", module_files=files(newer))))
    assert "version 580.65.06 on disk does not fit nvidia 570.124.06 that is loaded" in text


def test_no_reload_without_a_way_back():
    state = replace(node("nvidia", "gdrdrv"), module_files=files(without=["gdrdrv"]))
    spec = wants(nvidia=NvidiaModules(uvm=False, modeset=False, parameters={"EnableStreamMemOPs": "1"}))
    assert "module gdrdrv stands on it and could not be loaded again: no file" in only_obstacle(plan(spec, state))


def test_nouveau_in_the_way_and_nouveau_told_to_go():
    bound = {"0000:3b:00.0": gpu_function("0000:3b:00.0", "nouveau")}
    state = node("nouveau", pci=bound)
    section = NvidiaModules(uvm=False, modeset=False)
    assert "nouveau drives 0000:3b:00.0; put nouveau into modules.absent" in only_obstacle(
        plan(wants(nvidia=section), state)
    )
    wish = plan(wants(nvidia=section, absent=("nouveau",)), state)
    assert texts(wish) == ["unload module nouveau", "load module nvidia"]
    assert [thing.name for thing in wish.steps[1].after] == ["i2c_core", "nouveau"]
    assert wish.steps[0].disturbs is Disturbs.GPU


def test_nouveau_with_a_console_on_it_is_remarked():
    state = node("nouveau")
    modules = {**state.modules, "nouveau": replace(state.modules["nouveau"], refcount=1)}
    wish = plan(wants(absent=("nouveau",)), replace(state, modules=modules))
    assert "often the framebuffer console" in wish.remarks[0]


def test_vfio_on_every_gpu_is_an_obstacle_on_one_of_them_a_remark():
    both = {a: gpu_function(a, "vfio-pci") for a in ("0000:3b:00.0", "0000:86:00.0")}
    spec = wants(nvidia=NvidiaModules(uvm=False, modeset=False))
    assert "vfio-pci holds every GPU" in only_obstacle(plan(spec, node(pci=both)))
    one = {**both, "0000:86:00.0": gpu_function("0000:86:00.0", "")}
    assert plan(spec, node(pci=one)).remarks == ("0000:3b:00.0 is driven by vfio_pci and stays with it",)


def test_absent_takes_along_what_stands_on_it_but_nothing_that_is_wanted():
    wish = plan(wants(absent=("bridge",)), node("br_netfilter"))
    assert [(str(step), step.reason) for step in wish.steps] == [
        ("unload module br_netfilter", "stands on bridge, which modules.absent names"),
        ("unload module bridge", "modules.absent names it"),
    ]
    clash = wants(absent=("bridge",), named={"br_netfilter": NamedModule()})
    assert "modules.absent names it, yet br_netfilter is wanted" in only_obstacle(plan(clash, node("br_netfilter")))
    assert "needs module bridge: modules.absent does not allow it" in only_obstacle(plan(clash, node()))


@pytest.mark.parametrize("liveness", [Liveness.BUILTIN, Liveness.COMING, Liveness.GOING])
def test_absent_cannot_be_had_for_what_is_not_live(liveness):
    state = node(modules={"bridge": KernelModule("bridge", liveness)})
    found = plan(wants(absent=("bridge",)), state).obstacles
    assert [one.waits for one in found] == [liveness is not Liveness.BUILTIN]


def test_absent_without_blacklist_is_remarked():
    state = node(module_files=files(module_file("nouveau", aliases=("pci:v000010DE*",))))
    assert "add `blacklist nouveau`" in plan(wants(absent=("nouveau",)), state).remarks[0]


def test_soft_dependencies_come_around_the_module_and_never_block_it():
    changed = module_file("bridge", softdeps_pre=("psample", "gone"), softdeps_post=("tls", "video"))
    broken = module_file("video", install_command="/bin/false")
    wish = plan(wants(named={"bridge": NamedModule()}), node(module_files=files(changed, broken)))
    assert loads(wish) == ["llc", "stp", "psample", "bridge", "tls"]
    assert [step.unit for step in wish.steps if step.subject.name in ("psample", "tls")] == [
        "modules/soft/psample",
        "modules/soft/tls",
    ]
    assert "psample" not in [thing.name for thing in wish.steps[3].after]


def test_a_soft_dependency_that_needs_the_module_itself_comes_after_it():
    changed = module_file("bridge", softdeps_pre=("br_netfilter",))
    assert loads(plan(wants(named={"bridge": NamedModule()}), node(module_files=files(changed)))) == [
        "llc",
        "stp",
        "bridge",
        "br_netfilter",
    ]


OFED = (
    module_file("mlx_compat"),
    module_file("ib_core", depends=("mlx_compat",), srcversion="OFED"),
    module_file("mlx5_core", depends=("mlx_compat", "mlxfw"), srcversion="OFED"),
    module_file("mlx5_ib", depends=("mlx_compat", "mlxfw", "mlx5_core", "ib_core", "ib_uverbs"), srcversion="OFED"),
)


@pytest.mark.parametrize(("stack", "changed"), [(RdmaStack.OFED, ()), (RdmaStack.INBOX, OFED)])
def test_the_stack_that_modprobe_would_take_must_be_the_one_meant(stack, changed):
    spec = wants(rdma=RdmaModules(stack=stack, user_access=False))
    assert f"modules.rdma.stack is {stack}" in plan(spec, node(module_files=files(*changed))).obstacles[0].problem


def test_the_other_stack_is_exchanged_as_a_whole():
    spec = wants(rdma=RdmaModules(stack=RdmaStack.OFED))
    before = node("mlx5_ib", "rdma_ucm", "ib_umad")
    state = replace(before, module_files=files(*OFED))
    wish = plan(spec, state)
    assert {step.disturbs for step in wish.steps if isinstance(step, UnloadModule)} == {Disturbs.NIC}
    after = apply_wish(wish, state)
    assert after.modules["ib_core"].srcversion == "OFED"
    assert plan(spec, after).steps == ()


def test_names_of_interest_cover_the_stack_and_both_peer_modules():
    names = names_of_interest(wants(nvidia=NvidiaModules(), peermem=PeerMemory.AUTO, absent=("nouveau",)))
    assert {"nvidia", "nvidia_uvm", "gdrdrv", "nvidia_peermem", "nv_peer_mem", "ib_core", "nouveau"} <= set(names)
    assert names_of_interest(wants(), ("nvidia", "br-netfilter"))[-1] == "br_netfilter"
    assert names_of_interest(wants(), ["bridge"], node("br_netfilter")) == ("bridge", "br_netfilter")
    assert "gdrdrv" in names_of_interest(wants(named={"nvidia": NamedModule()}))


def test_no_section_no_plan():
    assert plan(replace(wants(), modules=None), node("nvidia")).steps == ()


def test_driver_parameters_of_proc_count_too():
    state = node("nvidia")
    bare = {**state.modules, "nvidia": replace(state.modules["nvidia"], parameters=())}
    driver = NvidiaDriver("570.124.06", is_open=True, parameters=(("EnableStreamMemOPs", "1"),))
    spec = wants(nvidia=NvidiaModules(uvm=False, modeset=False, parameters={"EnableStreamMemOPs": "0x1"}))
    assert plan(spec, replace(state, modules=bare, driver=driver)).steps == ()


def test_what_lies_between_two_reloaded_modules_is_reloaded_with_them():
    named = {"nvidia_drm": NamedModule({"modeset": "1"})}
    section = NvidiaModules(uvm=False, modeset=False, parameters={"EnableStreamMemOPs": "1"})
    state = node("nvidia_drm")
    wish = plan(wants(nvidia=section, named=named), state)
    assert unloads(wish) == ["nvidia_drm", "nvidia_modeset", "nvidia"]
    assert loads(wish) == ["nvidia", "nvidia_modeset", "nvidia_drm"]
    wish = plan(wants(nvidia=section, absent=("nvidia_drm",)), state)
    assert unloads(wish) == ["nvidia_drm", "nvidia_modeset", "nvidia"]
    assert "nvidia_drm" not in apply_wish(wish, state).modules


def test_a_soft_dependency_is_passed_over_when_what_it_needs_is_taken_out_meanwhile():
    state = node("ib_cm", module_files=files(module_file("video", softdeps_post=("ib_ipoib",))))
    wish = plan(wants(named={"ib_core": NamedModule({"netns_mode": "1"}), "video": NamedModule()}), state)
    assert loads(wish) == ["ib_core", "video"]
    assert "ib_cm" in apply_wish(wish, state).modules


def test_a_peer_module_that_would_refuse_is_not_loaded_by_name_either():
    deaf = module_file("nvidia_peermem", depends=("i2c_core", "nvidia"), imports=())
    wish = plan(wants(named={"nvidia_peermem": NamedModule()}), node(module_files=files(deaf)))
    assert "was built without the peer memory API" in only_obstacle(wish)
