"""Planning of the MIG section: selectors, modes, instances, and who is in the way."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mig_world import A100_LAYOUTS, OFF, UUID, apply, apply_wish, board, instance, multiset, node, wants
from nodeagent.resources.base import Disturbs
from nodeagent.resources.mig import CreateGpuInstance, DestroyGpuInstance, SetMigMode, plan
from nodeagent.resources.mig_placement import Slot
from nodeagent.spec.schema import MigEntry, Modules, NvidiaModules
from nodeagent.state.gpu import MigMode, Placement
from nodeagent.state.modules import KernelModule, Liveness
from nodeagent.state.node import Unknown
from nodeagent.state.processes import Process
from nodeagent.state.things import gpu

SEVEN = MigEntry(MigMode.ENABLED, devices={"1g.5gb": 7})
DISABLED = MigEntry(MigMode.DISABLED)
LOW, HIGH = Slot(Placement(0, 4), "3g.20gb"), Slot(Placement(4, 4), "3g.20gb")


def lines(wish):
    return [str(step).replace(UUID.format(0), "GPU0").replace(UUID.format(1), "GPU1") for step in wish.steps]


def problem(wish):
    assert wish.steps == ()
    (found,) = wish.obstacles
    return f"{found.problem}; {found.advice}"


def test_no_section_no_plan():
    assert plan(wants(), node(board())).steps == ()


def test_mode_and_instances_in_one_plan_where_the_profiles_are_known():
    wish = plan(wants(MigEntry(MigMode.ENABLED, devices={"1g.5gb": 1, "3g.20gb": 1})), node(board(**OFF)))
    assert lines(wish) == ["enable MIG on GPU0", "create 3g.20gb at 0 on GPU0", "create 1g.5gb at 4 on GPU0"]
    assert {step.unit for step in wish.steps} == {f"mig/{UUID.format(0)}"}
    assert wish.steps[0].claims == (gpu(UUID.format(0)),)
    assert [step.disturbs for step in wish.steps] == [Disturbs.GPU, Disturbs.NOTHING, Disturbs.NOTHING]
    assert wish.steps[0].reason == "mode is disabled, wanted is enabled"


def test_instances_follow_in_the_next_round_where_the_profiles_are_not_known():
    state = node(board(**OFF, profiles=()))
    wish = plan(wants(SEVEN), state)
    assert lines(wish) == ["enable MIG on GPU0"]
    assert "instances follow then" in wish.remarks[0]
    after = apply_wish(wish, state)
    assert len(plan(wants(SEVEN), after).steps) == 7
    assert "lists no MIG profiles" in problem(plan(wants(SEVEN), node(board(profiles=()))))


def test_a_resetless_board_need_not_be_quiet_but_its_processes_are_in_the_way():
    wish = plan(wants(MigEntry(MigMode.ENABLED)), node(board(**OFF, resetless_mig=True)))
    assert wish.steps[0].claims == ()
    busy = board(**OFF, resetless_mig=True, pids=(42,))
    assert "cannot change under process 42" in problem(plan(wants(MigEntry(MigMode.ENABLED)), node(busy)))


def test_a_pending_mode_is_drift():
    state = node(board(pending_mig_mode=MigMode.DISABLED))
    (step,) = plan(wants(MigEntry(MigMode.ENABLED)), state).steps
    assert step.reason == "mode is enabled, pending disabled, wanted is enabled"
    assert step.claims == ()
    assert not step.satisfied(state)
    (step,) = plan(wants(DISABLED), state).steps
    assert step.claims == (step.subject,)


def test_devices_left_out_leave_instances_alone_and_an_empty_mapping_clears_them():
    state = node(board(0, instance(LOW)))
    assert plan(wants(MigEntry(MigMode.ENABLED)), state).steps == ()
    assert lines(plan(wants(MigEntry(MigMode.ENABLED, devices={})), state)) == ["destroy 3g.20gb at 0 on GPU0"]


def test_what_matches_is_kept():
    state = node(board(0, instance(HIGH, 77), instance(LOW)))
    assert plan(wants(MigEntry(MigMode.ENABLED, devices={"3g.20gb": 2})), state).steps == ()
    wish = plan(wants(MigEntry(MigMode.ENABLED, devices={"3g.20gb": 1, "1g.5gb": 2})), state)
    assert lines(wish) == [
        "destroy 3g.20gb at 0 on GPU0",
        "create 1g.5gb at 0 on GPU0",
        "create 1g.5gb at 1 on GPU0",
    ]
    assert wish.steps[0].disturbs is Disturbs.GPU
    assert wish.steps[0].claims == ()


def test_an_instance_in_use_is_never_destroyed():
    state = node(board(0, instance(HIGH, 77)), processes={77: Process(77, "python", "python train.py")})
    text = problem(plan(wants(SEVEN), state))
    assert "3g.20gb at 4 by process 77 (python train.py)" in text
    assert "MIG cannot go, in use: 3g.20gb at 4 by process 77" in problem(plan(wants(DISABLED), state))


def test_an_instance_in_use_at_a_bad_place_is_in_the_way():
    state = node(board(0, instance(Slot(Placement(3, 1), "1g.5gb"), 5)))
    entry = MigEntry(MigMode.ENABLED, devices={"1g.5gb": 1, "4g.20gb": 1})
    assert "1 x 1g.5gb + 1 x 4g.20gb do not fit beside what is in use: 1g.5gb at 3" in problem(
        plan(wants(entry), state)
    )


def test_an_instance_without_compute_instance_gets_one_where_it_fits_and_goes_where_it_does_not():
    state = node(board(0, instance(LOW, has_compute=False)))
    wish = plan(wants(MigEntry(MigMode.ENABLED, devices={"3g.20gb": 1})), state)
    assert lines(wish) == ["create the whole compute instance at 0 in 3g.20gb at 0 on GPU0"]
    assert wish.steps[0].reason == "the GPU instance has no compute instance"
    assert not wish.steps[0].satisfied(state)
    assert wish.steps[0].satisfied(apply_wish(wish, state))
    wish = plan(wants(SEVEN), state)
    assert lines(wish)[0] == "destroy 3g.20gb at 0 on GPU0"
    assert wish.steps[0].reason == "wanted are 7 x 1g.5gb, and it has no compute instance"


def test_disabling_destroys_idle_instances_first():
    state = node(board(0, instance(LOW), instance(HIGH)))
    wish = plan(wants(DISABLED), state)
    assert lines(wish) == ["destroy 3g.20gb at 0 on GPU0", "destroy 3g.20gb at 4 on GPU0", "disable MIG on GPU0"]
    assert plan(wants(DISABLED), apply_wish(wish, state)).steps == ()


def test_what_cannot_fit_changes_nothing_not_even_the_mode():
    entry = MigEntry(MigMode.ENABLED, devices={"3g.20gb": 2, "2g.10gb": 1})
    assert "they need 8 compute slices, the board has 7" in problem(plan(wants(entry), node(board(**OFF))))
    entry = MigEntry(MigMode.ENABLED, devices={"3g.40gb": 1})
    text = problem(plan(wants(entry), node(board(**OFF))))
    assert "NVIDIA A100-SXM4-40GB: there is no profile 3g.40gb; did you mean 3g.20gb; it offers" in text


def test_disabled_with_devices_is_a_contradiction():
    assert "exclude each other" in problem(plan(wants(replace(SEVEN, mode=MigMode.DISABLED)), node(board())))


@pytest.mark.parametrize(
    "selector", ["1", UUID.format(1), UUID.format(1).upper(), "0000:01:00.0", "A100-SXM4-40GB", "nvidia a100-sxm4-40gb"]
)
def test_selectors(selector):
    state = node(board(0, product="NVIDIA A30"), board(1))
    wish = plan(wants(replace(DISABLED, gpus=(selector,))), state)
    assert lines(wish) == ["disable MIG on GPU1"]


def test_a_selector_may_mean_a_gpu_that_does_not_answer_now_so_it_waits():
    state = replace(node(board(0)), unknown=(Unknown("GPU GPU-dead", "no answer within 10 s"),))
    wish = plan(wants(replace(DISABLED, gpus=("3", "0"))), state)
    assert lines(wish) == ["disable MIG on GPU0"]
    assert [(found.waits, found.problem) for found in wish.obstacles] == [
        (True, "mig[0].gpus: no GPU that answers is 3; not read: GPU GPU-dead")
    ]


def test_an_unknown_selector_names_what_is_valid_and_the_others_go_on():
    wish = plan(wants(replace(DISABLED, gpus=("9", "0"))), node(board(0), board(1)))
    assert lines(wish) == ["disable MIG on GPU0"]
    (found,) = wish.obstacles
    assert found.problem == "mig[0].gpus: no GPU is 9"
    assert found.advice == "valid are indices 0 to 1, UUIDs, PCI addresses, and NVIDIA A100-SXM4-40GB"


def test_a_gpu_named_twice_is_left_alone():
    wish = plan(wants(DISABLED, replace(SEVEN, gpus=("0",))), node(board(0)))
    assert "mig[0] and mig[1] both name it" in problem(wish)


def test_boards_without_mig():
    plain = board(1, product="Tesla T4", mig_mode=MigMode.UNSUPPORTED, pending_mig_mode=MigMode.UNSUPPORTED)
    wish = plan(wants(DISABLED), node(board(0), plain))
    assert (lines(wish), wish.remarks) == (["disable MIG on GPU0"], ("GPU 1 (Tesla T4) has no MIG and is left alone",))
    assert "Tesla T4 cannot do MIG" in problem(plan(wants(replace(DISABLED, gpus=("1",))), node(board(0), plain)))
    assert "no GPU can do MIG" in problem(plan(wants(DISABLED), node(plain)))


def test_without_gpus():
    (found,) = plan(wants(DISABLED), node()).obstacles
    assert (found.waits, found.advice) == (False, "add modules.nvidia to the node file")
    (found,) = plan(wants(DISABLED, modules=Modules(nvidia=NvidiaModules())), node()).obstacles
    assert found.waits
    loaded = {"nvidia": KernelModule("nvidia", Liveness.LIVE)}
    (found,) = plan(wants(DISABLED), node(modules=loaded, unknown=(Unknown("GPUs", "no answer"),))).obstacles
    assert found.problem == "the driver shows no GPUs (GPUs: no answer)"


@pytest.mark.parametrize("kind", [SetMigMode, CreateGpuInstance, DestroyGpuInstance])
def test_undo_puts_back(kind):
    extra = {"enabled": True} if kind is SetMigMode else {"profile": "3g.20gb", "placement": LOW.placement}
    state = (
        node(board(**OFF)) if kind is SetMigMode else node(board(0, *[instance(LOW)] * (kind is DestroyGpuInstance)))
    )
    step = kind(subject=gpu(UUID.format(0)), unit="mig/x", **extra)
    assert not step.satisfied(state)
    after = apply(step, state)
    assert step.satisfied(after)
    assert apply(step.undo(), after).gpus == state.gpus


LAYOUTS = st.sampled_from(A100_LAYOUTS)


@pytest.mark.parametrize("number", range(128))
def test_every_multiset_from_random_layouts_ends_in_an_empty_plan(number):
    wanted = sorted({multiset(layout) for layout in A100_LAYOUTS}, key=sorted)[number]
    spec = wants(MigEntry(MigMode.ENABLED, devices=dict(wanted)))
    for start in [None, *random.Random(number).sample(A100_LAYOUTS, 6)]:
        state = node(board(**OFF) if start is None else board(0, *map(instance, sorted(start))))
        after = apply_wish(plan(spec, state), state)
        there = after.gpus[UUID.format(0)].instances
        assert multiset(Slot(one.placement, one.profile) for one in there) == wanted
        assert plan(spec, after).steps == ()


@settings(max_examples=200, deadline=None)
@given(LAYOUTS, LAYOUTS, st.data())
def test_a_plan_either_reaches_its_goal_or_changes_nothing(start, goal, data):
    users = {slot: data.draw(st.sampled_from([(), (), (7,)])) for slot in sorted(start)}
    entry = MigEntry(data.draw(st.sampled_from([MigMode.ENABLED, MigMode.DISABLED])))
    if entry.mode is MigMode.ENABLED:
        entry = replace(entry, devices=dict(multiset(goal)))
    state = node(board(0, *(instance(slot, *pids) for slot, pids in users.items())))
    wish = plan(wants(entry), state)
    after = apply_wish(wish, state)
    second = plan(wants(entry), after)
    assert second.steps == ()
    assert bool(wish.obstacles) == bool(second.obstacles)
    assert not (wish.obstacles and wish.steps)
