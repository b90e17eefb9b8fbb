"""Random node files on random nodes: what is planned can be done as planned, and then there is nothing left to plan."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from module_world import ALLOW, DEPENDS, LEAVES, PARAMETERS, apply, apply_wish, files, module_file, node, wants
from nodeagent.plan.sequencer import sequence
from nodeagent.resources.kernel_modules import plan, plan_load, plan_reload, plan_unload
from nodeagent.resources.module_parameters import format_options, parse_options, value_of
from nodeagent.resources.module_steps import LoadModule, UnloadModule
from nodeagent.spec.schema import NamedModule, NvidiaModules, PeerMemory, RdmaModules

EXCLUSIVE = {"nv_peer_mem", "nouveau"}
NAMES = sorted({*DEPENDS, *LEAVES} - EXCLUSIVE)
VALUES = st.sampled_from(["0", "1", "Y", "n", "0x1", "7", "0660"])


def parameters(name):
    known = [one.removeprefix("NVreg_") for one in PARAMETERS.get(name, ()) if one != "uvm_enable_builtin_tests"]
    return st.dictionaries(st.sampled_from(known), VALUES, max_size=2) if known else st.just({})


@st.composite
def sections(draw):
    nvidia = st.builds(
        NvidiaModules, uvm=st.booleans(), modeset=st.booleans(), drm=st.booleans(), parameters=parameters("nvidia")
    )
    rdma = st.builds(RdmaModules, user_access=st.booleans(), ipoib=st.booleans())
    named = draw(st.lists(st.sampled_from(sorted(set(NAMES) - {"nvidia"})), max_size=3, unique=True))
    return wants(
        nvidia=draw(st.none() | nvidia),
        rdma=draw(st.none() | rdma),
        peermem=draw(st.sampled_from([PeerMemory.NONE, PeerMemory.AUTO, PeerMemory.NVIDIA_PEERMEM])),
        gdrcopy=draw(st.booleans()),
        gds=draw(st.booleans()),
        named={name: NamedModule(draw(parameters(name))) for name in named},
    )


@st.composite
def nodes(draw):
    """Random modules loaded, and soft dependencies that may even form cycles."""
    softs = draw(st.dictionaries(st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), max_size=2), max_size=4))
    before = draw(st.booleans())
    changed = [
        module_file(name, **{"softdeps_pre" if before else "softdeps_post": tuple(others)})
        for name, others in softs.items()
    ]
    loaded = draw(st.lists(st.sampled_from(NAMES), max_size=5, unique=True))
    return node(*loaded, module_files=files(*changed))


@settings(max_examples=150, deadline=None)
@given(sections(), nodes())
def test_the_second_plan_is_empty(spec, state):
    first = plan(spec, state)
    after = apply_wish(first, state)
    assert set(state.modules) <= set(after.modules)
    second = plan(spec, after)
    assert second.steps == ()
    assert [(one.unit, one.subject) for one in second.obstacles] == [(one.unit, one.subject) for one in first.obstacles]


@settings(max_examples=100, deadline=None)
@given(sections(), sections(), nodes())
def test_any_node_file_can_follow_any_other(first, second, state):
    state = apply_wish(plan(first, state), state)
    assert plan(second, apply_wish(plan(second, state), state)).steps == ()


@settings(max_examples=100, deadline=None)
@given(nodes(), st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
def test_absent_is_absent_and_takes_nothing_else(state, names):
    wish = plan(wants(absent=tuple(names)), state)
    after = apply_wish(wish, state)
    assert not set(names) & set(after.modules)
    assert plan(wants(absent=tuple(names)), after).steps == ()
    for name in set(state.modules) - set(after.modules):
        assert name in names or any(needed in names for needed in state.module_files[name].depends)


@settings(max_examples=100, deadline=None)
@given(nodes(), st.lists(st.sampled_from([*NAMES, "nvidia", "rdma", "gds"]), min_size=1, max_size=2, unique=True))
def test_the_verbs_do_what_they_say(state, names):
    after = apply_wish(plan_load(names, wants(), state), state)
    assert plan_load(names, wants(), after).steps == ()
    assert set(apply_wish(plan_reload(names, after), after).modules) == set(after.modules)
    gone = apply_wish(plan_unload(names, after), after)
    assert plan_unload(names, gone).steps == ()
    assert set(gone.modules) <= set(after.modules)


@settings(max_examples=100, deadline=None)
@given(sections(), nodes())
def test_undoing_in_reverse_puts_everything_back(spec, state):
    done, undone = [], state
    for transition in sequence((plan(spec, state),), state, ALLOW).transitions:
        for step in transition.steps:
            undone = apply(step, undone)
            done.append(step)
    for step in reversed(done):
        undone = apply(step.undo(), undone)
    assert set(undone.modules) == set(state.modules)
    assert all(isinstance(step, LoadModule | UnloadModule) for step in done)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["a", "b_c", "NVreg_X"]), st.sampled_from(["1", "a b", "x=y;z", ""]), max_size=3)
)
def test_options_survive_formatting(wanted):
    assert parse_options(format_options("a=0", wanted.items())) == {"a": "0", **wanted}


@given(st.integers(-(2**31), 2**32 - 1))
def test_numbers_are_equal_in_every_notation(number):
    assert value_of(str(number)) == value_of(str(number % 2**32)) == value_of(hex(number))
