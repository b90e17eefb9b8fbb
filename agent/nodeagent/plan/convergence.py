"""The one cycle: observe, plan, execute, observe again, until the plan is empty or nothing more can be done now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from nodeagent.host.numbering import record_numbers
from nodeagent.host.paths import GPUS, KUBELET_POD_RESOURCES, RAILS
from nodeagent.plan.executor import Context, Failure, Result
from nodeagent.plan.model import Plan
from nodeagent.plan.observing import NO_MORE, LinkInterest, Observer
from nodeagent.plan.probation import Trial
from nodeagent.plan.quiet import KNOWN_SERVICES
from nodeagent.plan.sequencer import Terms, sequence
from nodeagent.resources.base import Disturbs, Step, Wish
from nodeagent.resources.congestion import congestion_of
from nodeagent.resources.container_query import container_query
from nodeagent.resources.kernel_modules import names_of_interest
from nodeagent.resources.link_addressing import wants_addressing
from nodeagent.resources.link_selection import goes_by_rails
from nodeagent.resources.link_settings import ORDER, groups_of
from nodeagent.resources.mig_selection import goes_by_index, lost_indices
from nodeagent.resources.ownership import owned
from nodeagent.resources.registry import RESOURCES
from nodeagent.resources.sandbox import effective
from nodeagent.spec.schema import Metrics, NodeSpec
from nodeagent.state.containers import ContainerQuery
from nodeagent.state.node import NodeState
from nodeagent.state.rails import rails_of
from nodeagent.state.things import Kind

MAX_ROUNDS = 8
ROLLED_BACK = "rolled back in this run"


@dataclass(frozen=True)
class Goal:
    """What is wanted: wishes as a pure function of the state, the modules to look up, and the terms."""

    wishes: Callable[[NodeState], tuple[Wish, ...]]
    interest: tuple[str, ...]
    terms: Terms
    with_rails: bool = False
    with_indices: bool = False
    with_roce: bool = False
    with_pcie: bool = False
    with_devlink: bool = False
    with_groups: bool = False
    containers: ContainerQuery | None = None
    links: LinkInterest = NO_MORE


@dataclass(frozen=True)
class Outcome:
    """Where a convergence ended: the last state and its plan, and what was done on the way."""

    state: NodeState
    plan: Plan
    results: tuple[Result, ...] = ()
    rounds: int = 0

    @property
    def failures(self) -> tuple[Failure, ...]:
        return tuple(failure for result in self.results for failure in result.failures)

    @property
    def steps_taken(self) -> int:
        return sum(len(result.acted) for result in self.results)


def goal_of(spec: NodeSpec, only: Iterable[str] = ()) -> Goal:
    """The node file as a goal; `only` limits it to some resources by name (see registry.RESOURCES)."""
    chosen = tuple(only) or tuple(RESOURCES)
    spec = effective(owned(spec))

    def wishes(state: NodeState) -> tuple[Wish, ...]:
        return tuple(RESOURCES[name](spec, state) for name in chosen)

    services = (*KNOWN_SERVICES, *spec.services)
    terms = Terms(spec.disruption, services, guard=spec.guard, pod_socket=pod_socket(spec.metrics))
    wanted = {
        "with_rails": goes_by_rails(spec),
        "with_indices": goes_by_index(spec.mig),
        "with_roce": spec.roce is not None,
        "with_pcie": spec.pcie is not None,
        "with_devlink": bool(spec.devlink) or any(entry.eswitch_mode is not None for entry in spec.sriov),
        "with_groups": spec.sandbox is not None,
    }
    addressing = any(wants_addressing(entry) for entry in spec.links)
    links = LinkInterest(groups_of(spec), addressing=addressing, congestion=congestion_of(spec))
    names = names_of_interest(spec)
    return Goal(wishes, names, terms, **wanted, containers=container_query(spec), links=links)


def survey(observer: Observer, goal: Goal) -> tuple[NodeState, Plan]:
    """Observe and plan. Who holds what is observed only if some step must have things quiet, or something is owed."""
    state = observer.observe(
        goal.interest, with_roce=goal.with_roce, with_pcie=goal.with_pcie, with_devlink=goal.with_devlink
    )
    if goal.with_groups:
        state = observer.add_groups(state)
    if goal.containers is not None:
        state = observer.add_containers(state, goal.containers)
    state = observer.add_links(state, goal.links)
    wishes = goal.wishes(state)
    if goal.terms.minds_pods and any(_touches_gpus(step) for wish in wishes for step in wish.steps):
        state = observer.add_pods(state, goal.terms.pod_socket)
        wishes = goal.wishes(state)
    if goal.terms.owed or any(step.claims for wish in wishes for step in wish.steps):
        state = observer.add_holders(state, goal.terms.services)
        wishes = goal.wishes(state)
    return state, sequence(wishes, state, goal.terms)


def pod_socket(section: Metrics) -> str:
    """Where to ask for pods, "" for nowhere."""
    wanted = section.pod_resources_socket
    return "" if wanted == "none" else wanted or KUBELET_POD_RESOURCES


def _touches_gpus(step: Step) -> bool:
    return step.disturbs is Disturbs.GPU or any(one.kind in (Kind.GPU, Kind.MODULE) for one in step.claims)


def converge(goal: Goal, context: Context) -> Outcome:
    """Carry out plans until one is empty or nothing more can be done; blocked steps stay untouched.

    A unit that failed is not tried again here, but the rest goes on: the next round may have to mend what the restoring
    of this one changed, such as the numbers of a device node.
    """
    trial = Trial(goal.terms.guard, context, lambda: _whole(goal, context.observer))
    results: list[Result] = [*trial.resume()]
    given_up: dict[str, str] = dict.fromkeys((unit for one in results for unit in one.failed_units), ROLLED_BACK)
    for round_ in range(MAX_ROUNDS + 1):
        state, plan, goal = _survey_settled(goal, context)
        left = _plan_without(given_up, state, goal) if given_up else plan
        if not left.transitions or round_ == MAX_ROUNDS or context.stop():
            break
        for transition in left.transitions:
            if not context.stop():
                results.append(trial.execute(transition, goal.terms.owed))
                given_up |= dict.fromkeys(results[-1].failed_units, "failed in this run")
    _record(goal, state, context)
    return Outcome(state, plan, tuple(results), round_)


def _record(goal: Goal, state: NodeState, context: Context) -> None:
    files = context.observer.host.files
    if goal.with_rails:
        rails = rails_of(state)
        numbers = {rail.address: rail.number for rail in rails}
        record_numbers(files, RAILS, numbers, switched=any(rail.is_switched for rail in rails))
    if goal.with_indices and not lost_indices(state.gpus.values(), state.gpus_on_record):
        record_numbers(files, GPUS, {one.uuid: one.index for one in state.gpus.values()})


def _whole(goal: Goal, observer: Observer) -> NodeState:
    """All that the way back of any step may be compared with."""
    state = observer.add_links(observer.observe(goal.interest), LinkInterest(ORDER, addressing=True))
    return observer.add_holders(state, goal.terms.services)


def _plan_without(given_up: Mapping[str, str], state: NodeState, goal: Goal) -> Plan:
    terms = replace(goal.terms, postponed={**goal.terms.postponed, **given_up})
    return sequence(goal.wishes(state), state, terms)


def once(
    goal: Goal, proof: Callable[[Plan], Goal], context: Context, before: Callable[[Plan], None] = lambda _plan: None
) -> Outcome:
    """Carry out one plan, then survey the goal that proves it: a reload, say, cannot be seen in the node's state.

    `before` is told the plan before its first step.
    """
    trial = Trial(goal.terms.guard, context, lambda: _whole(goal, context.observer))
    resumed = trial.resume()
    _, plan, goal = _survey_settled(goal, context)
    before(plan)
    results = (*resumed, *(trial.execute(transition, goal.terms.owed) for transition in plan.transitions))
    state, left, _ = _survey_settled(proof(plan), context)
    return Outcome(state, left, results, 1)


def survey_owed(goal: Goal, owed: tuple[Step, ...], observer: Observer) -> tuple[NodeState, Plan, Goal]:
    """Survey with what an interrupted run owes; the goal comes back with what the node shows to be still missing."""
    modules = (step.subject.name for step in owed if step.subject.kind is Kind.MODULE)
    interest = tuple(dict.fromkeys((*goal.interest, *modules)))
    state, plan = survey(observer, replace(goal, interest=interest, terms=replace(goal.terms, owed=owed)))
    decided = {thing for wish in (goal.wishes(state) if owed else ()) for thing in wish.decided}
    due = (step for step in owed if step.subject not in decided or step.irreplaceable)
    still = tuple(step for step in due if not step.satisfied(state))
    return state, plan, replace(goal, terms=replace(goal.terms, owed=still))


def _survey_settled(goal: Goal, context: Context) -> tuple[NodeState, Plan, Goal]:
    """As `survey_owed`, and what is no longer owed is struck off the journal."""
    owed = context.journal.read()
    state, plan, goal = survey_owed(goal, owed, context.observer)
    context.journal.settle(goal.terms.owed)
    return state, plan, goal
