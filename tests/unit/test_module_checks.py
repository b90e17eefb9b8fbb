"""What is refused before anything is touched: files, configuration, policy of the kernel, conflicts."""

from __future__ import annotations

import pytest

from module_world import RELEASE, VERMAGIC, files, loads, module_file, node, only_obstacle, wants
from nodeagent.resources.kernel_modules import plan
from nodeagent.spec.schema import NamedModule
from nodeagent.state.modules import KernelModule, KernelPolicy, Liveness

ONE = {"named": {"bridge": NamedModule()}}


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (node(module_files=files(without=["bridge"])), f"no file for kernel {RELEASE}"),
        (node(module_files=files(without=["stp"])), "needs module stp: no file"),
        (
            node(module_files=files(module_file("bridge", install_command="/bin/false"))),
            "its install command is /bin/false",
        ),
        (
            node(module_files=files(module_file("llc", install_command="/usr/bin/true"))),
            "needs module llc: its install",
        ),
        (node(module_files=files(module_file("bridge", vermagic="5.10.0 SMP"))), "is built for kernel 5.10.0"),
        (
            node(kernel=KernelPolicy(RELEASE, command_line_blacklist=("bridge",))),
            "module_blacklist on the kernel command",
        ),
        (node(kernel=KernelPolicy(RELEASE, modules_disabled=True)), "kernel.modules_disabled is 1"),
        (
            node(
                kernel=KernelPolicy(RELEASE, signature_enforced=True),
                module_files=files(module_file("bridge", signer="")),
            ),
            "is not signed, and the kernel enforces signatures",
        ),
        (
            node(
                kernel=KernelPolicy(RELEASE, lockdown="integrity"), module_files=files(module_file("bridge", signer=""))
            ),
            "is not signed, and kernel lockdown is integrity",
        ),
        (node(modules={"bridge": KernelModule("bridge", Liveness.COMING)}), "is coming in the kernel"),
        (node(modules={"bridge": KernelModule("bridge", Liveness.GOING)}), "is going in the kernel"),
    ],
)
def test_refused_before_anything_is_touched(state, text):
    assert text in only_obstacle(plan(wants(**ONE), state))


def test_a_blacklist_counts_for_an_alias_only():
    changed = module_file("br_netfilter", blacklisted=True, aliases=("net-filter-bridge",))
    state = node(module_files=files(changed))
    assert loads(plan(wants(named={"br_netfilter": NamedModule()}), state))[-1] == "br_netfilter"
    text = only_obstacle(plan(wants(named={"net_filter_bridge": NamedModule()}), state))
    assert "net_filter_bridge is an alias of blacklisted module br_netfilter" in text


def test_builtin_modules_want_no_load():
    state = node(module_files=files(module_file("bridge", builtin=True), module_file("llc", builtin=True)))
    assert plan(wants(**ONE), state).steps == ()
    assert loads(plan(wants(named={"br_netfilter": NamedModule()}), state)) == ["stp", "br_netfilter"]


def test_a_parameter_of_a_builtin_module_belongs_to_the_kernel_command_line():
    builtin = KernelModule("ib_core", Liveness.BUILTIN, parameters=(("netns_mode", "Y"),))
    spec = wants(named={"ib_core": NamedModule({"netns_mode": "0"})})
    text = only_obstacle(plan(spec, node(modules={"ib_core": builtin})))
    assert "is built into the kernel: parameter netns_mode is Y, wanted is 0" in text


def test_gdrdrv_against_the_dummy_object_is_refused():
    changed = (module_file("gdrdrv", depends=("nv_p2p_dummy",)), module_file("nv_p2p_dummy"))
    assert "was built against nv_p2p_dummy" in only_obstacle(
        plan(wants(gdrcopy=True), node(module_files=files(*changed)))
    )


@pytest.mark.parametrize(("version", "refused"), [("2.17.5", True), ("2.28.4", True), ("2.17.3", False)])
def test_nvidia_fs_against_the_proprietary_driver(version, refused):
    changed = (module_file("nvidia", license="NVIDIA"), module_file("nvidia_fs", version=version))
    wish = plan(wants(gds=True), node("nvidia", module_files=files(*changed)))
    assert bool(wish.obstacles) is refused
    assert "GPL-only" in only_obstacle(wish) if refused else loads(wish) == ["nvidia_fs"]


def test_the_loaded_vermagic_of_another_release_does_not_matter_for_what_is_loaded():
    changed = files(module_file("bridge", vermagic=VERMAGIC.replace("6.1", "6.2")))
    assert plan(wants(**ONE), node("bridge", module_files=changed)).obstacles == ()
