"""Turns wishes into transitions: what stands on a step's claims is quiesced before and restored after, or blocks it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nodeagent.plan.graph import CLIENTS_OF_EVERY_GPU, PASS_THROUGH, Graph, build_graph
from nodeagent.plan.model import Blocked, Blocker, Plan, Transition
from nodeagent.plan.parking import parked
from nodeagent.plan.quiet import counterparts, quiesce_step
from nodeagent.resources.base import Disturbs, Step, Wish
from nodeagent.resources.guarded import guarded_by, touched
from nodeagent.spec.guard import Guard, GuardMode
from nodeagent.spec.schema import Disruption, Policy
from nodeagent.state.node import NodeState
from nodeagent.state.things import Hold, Kind, Thing

OWNED = (Kind.MODULE, Kind.SERVICE, Kind.NVML, Kind.OFFER)


@dataclass(frozen=True)
class Terms:
    """The terms under which to plan: what may be disturbed, which services are ours to stop, what is owed or must wait.

    `owed` are steps that bring back what an interrupted transition took away. `postponed` maps a unit to the reason why
    it is not tried now. `own_pids` are NVML workers of a running agent, which would let go as the observer's own does.
    `pod_socket` is where the kubelet says which pod has which GPU, "" for nowhere.
    """

    disruption: Disruption = field(default_factory=Disruption)
    services: tuple[str, ...] = ()
    owed: tuple[Step, ...] = ()
    postponed: Mapping[str, str] = field(default_factory=dict)
    own_pids: tuple[int, ...] = ()
    guard: Guard = field(default_factory=Guard)
    pod_socket: str = ""

    @property
    def minds_pods(self) -> bool:
        """Whether a pod that has a GPU and computes nothing yet is to be asked for; `allow` lets it be disturbed."""
        return bool(self.pod_socket) and self.disruption.gpu is not Policy.ALLOW


@dataclass(frozen=True)
class _Task:
    """A step that may be taken, with the holds that must be quiet around it."""

    step: Step
    holds: tuple[Hold, ...]
    disturbed: tuple[Blocker, ...]
    guarded: tuple[str, ...] = ()

    @property
    def owned(self) -> tuple[Thing, ...]:
        return tuple(dict.fromkeys(hold.holder for hold in self.holds if hold.holder.kind in OWNED))


def sequence(wishes: Iterable[Wish], state: NodeState, terms: Terms) -> Plan:
    """The plan that fulfils the wishes on this state under these terms; pure."""
    wishes = tuple(wishes)
    graph = build_graph(state, terms.services, terms.own_pids)
    steps = tuple(step for wish in wishes for step in wish.steps)
    tasks, blocked = _refuse_guarded(*_sort_out(steps, graph, terms), guarded_by(terms.guard, state), terms.guard)
    groups = _clients_last(_group(tasks))
    transitions = tuple(_transition(group, state) for group in groups)
    due = _owed(terms.owed, wishes, state)
    waiting = tuple(Blocked(step, terms.postponed[step.unit]) for step in due if step.unit in terms.postponed)
    owed = tuple(step for step in due if step.unit not in terms.postponed)
    return Plan(
        transitions=transitions + ((Transition(acts=owed, is_owed=True),) if owed else ()),
        blocked=blocked + waiting,
        obstacles=tuple(obstacle for wish in wishes for obstacle in wish.obstacles),
        remarks=tuple(remark for wish in wishes for remark in wish.remarks),
        owed=due,
    )


def _sort_out(steps: Sequence[Step], graph: Graph, terms: Terms) -> tuple[tuple[_Task, ...], tuple[Blocked, ...]]:
    """Split into steps that can be taken and steps that cannot; a blocked step blocks those behind it."""
    tasks: list[_Task] = []
    blocked: list[Blocked] = []
    stuck: dict[Thing, Step] = {}
    for step in steps:
        found = _obstruction(step, graph, terms, stuck)
        if isinstance(found, Blocked):
            blocked.append(found)
            stuck.setdefault(step.subject, step)
        else:
            tasks.append(found)
            stuck |= _led_away(step, graph)
    free, blocked_ = _drop_half_units(tasks, blocked)
    return _without_outdated(free), blocked_


def _without_outdated(tasks: tuple[_Task, ...]) -> tuple[_Task, ...]:
    """Without units that rest on what another step changes: the next look tells what they come to, if to anything."""
    moving = {task.step.subject for task in tasks if task.step.disturbs is Disturbs.GPU}
    outdated = {task.step.unit for task in tasks if moving.intersection(task.step.rests_on)}
    return tuple(task for task in tasks if task.step.unit not in outdated)


def _refuse_guarded(
    tasks: tuple[_Task, ...], blocked: tuple[Blocked, ...], guarded: Mapping[str, str], guard: Guard
) -> tuple[tuple[_Task, ...], tuple[Blocked, ...]]:
    """Note which tasks touch an interface that must not be lost, or hold them back."""
    if guarded:
        tasks = tuple(
            replace(task, guarded=touched(task.step, (hold.holder for hold in task.holds), guarded)) for task in tasks
        )
    if guard.changes is not GuardMode.REFUSE:
        return tasks, blocked
    held = [
        Blocked(task.step, f"guard.changes is refuse, and {task.guarded[0]} is guarded ({guarded[task.guarded[0]]})")
        for task in tasks
        if task.guarded
    ]
    return _drop_half_units([task for task in tasks if not task.guarded], [*blocked, *held])


def _led_away(step: Step, graph: Graph) -> Mapping[Thing, Step]:
    """Devices whose driver this step takes away: what is planned for them rests on what will no longer be true."""
    holds = (hold for thing in step.gone for hold in graph.holders.get(thing, ()))
    return {hold.holder: step for hold in holds if hold.holder.kind in PASS_THROUGH}


def _drop_half_units(tasks: list[_Task], blocked: list[Blocked]) -> tuple[tuple[_Task, ...], tuple[Blocked, ...]]:
    """A unit is done as a whole or not at all: one step blocked holds back the free ones, and those behind them."""
    while True:
        units = {entry.step.unit for entry in blocked}
        stuck = {entry.step.subject for entry in blocked}
        half = [task for task in tasks if task.step.unit in units or stuck.intersection(task.step.after)]
        if not half:
            return tuple(tasks), tuple(blocked)
        blocked += [Blocked(task.step, "goes together with a step that is blocked") for task in half]
        tasks = [task for task in tasks if task not in half]


def _obstruction(step: Step, graph: Graph, terms: Terms, stuck: Mapping[Thing, Step]) -> _Task | Blocked:
    if step.unit in terms.postponed:
        return Blocked(step, terms.postponed[step.unit])
    before = next((stuck[thing] for thing in (step.subject, *step.after) if thing in stuck), None)
    if before is not None:
        return Blocked(step, f"waits for: {before}")
    policy = _policy(step.disturbs, terms.disruption)
    if policy is Policy.NEVER:
        return Blocked(step, f"disruption.{step.disturbs} is never")
    holds = tuple(dict.fromkeys((*_offers(step, graph), *graph.standing_on(step.claims))))
    foreign = _foreign(holds, graph)
    hard = tuple(blocker for blocker in foreign if blocker.refuses or policy is Policy.WHEN_IDLE)
    if hard:
        return Blocked(step, "held", hard)
    return _Task(step, holds, foreign)


def _offers(step: Step, graph: Graph) -> tuple[Hold, ...]:
    """What a step changes is not offered to pods meanwhile, also where nobody need let go of it."""
    return tuple(hold for hold in graph.holders.get(step.subject, ()) if hold.holder.kind is Kind.OFFER)


def _policy(kind: Disturbs, disruption: Disruption) -> Policy:
    by_kind = {Disturbs.GPU: disruption.gpu, Disturbs.NIC: disruption.nic, Disturbs.NODE: disruption.node}
    return by_kind.get(kind, Policy.ALLOW)


def _foreign(holds: Iterable[Hold], graph: Graph) -> tuple[Blocker, ...]:
    """Everyone in the way who is not ours to stop, each named once with all the ways it holds on."""
    found: dict[Thing, list[Hold]] = {}
    for hold in holds:
        if hold.holder.kind not in OWNED and hold.holder.kind not in PASS_THROUGH:
            found.setdefault(hold.holder, []).append(hold)
    return tuple(
        Blocker(
            thing,
            graph.name(thing),
            " and ".join(dict.fromkeys(edge.via for edge in edges)),
            refuses=any(edge.refuses for edge in edges),
        )
        for thing, edges in found.items()
    )


def _group(tasks: Sequence[_Task]) -> tuple[tuple[_Task, ...], ...]:
    """Tasks that share a quiet thing, a subject, a unit or an order belong to one transition (union-find)."""
    leader: dict[object, int] = {}
    parent = list(range(len(tasks)))

    def find(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for index, task in enumerate(tasks):
        for mark in (task.step.subject, task.step.unit, *task.step.after, *task.owned):
            parent[find(index)] = find(leader.setdefault(mark, index))
    groups: dict[int, list[_Task]] = {}
    for index, task in enumerate(tasks):
        groups.setdefault(find(index), []).append(task)
    return tuple(tuple(group) for group in groups.values())


def _clients_last(groups: Iterable[tuple[_Task, ...]]) -> tuple[tuple[_Task, ...], ...]:
    """What brings back a client of every GPU comes after what needs a GPU quiet, as after an interrupted run."""

    def brings_clients(group: Sequence[_Task]) -> bool:
        back = {thing.name for task in group for thing in task.step.back if thing.kind is Kind.MODULE}
        needs_quiet = any(thing.kind is Kind.GPU for task in group for thing in task.step.claims)
        return not needs_quiet and not back.isdisjoint(CLIENTS_OF_EVERY_GPU)

    return tuple(sorted(groups, key=brings_clients))


def _transition(group: Sequence[_Task], state: NodeState) -> Transition:
    acts, quiet = _quiet_things(group)
    quiet = _with_parked(quiet, acts, group, state)
    quiesce = tuple(quiesce_step(thing, state) for thing in quiet)
    brought_back = {thing for step in acts for thing in step.back}
    taken = {thing for task in group for thing in task.step.gone} - brought_back
    holds = tuple(hold for task in group for hold in task.holds)
    back = [step for step in reversed(quiesce) if step.subject not in brought_back | taken]
    candidates = [restored for step in back for restored in counterparts(step, holds, state)]
    restore, left_down = _restorable(candidates, taken)
    disturbed = tuple(dict.fromkeys(blocker for task in group for blocker in task.disturbed))
    guarded = tuple(dict.fromkeys(name for task in group for name in task.guarded))
    return Transition(quiesce, acts, restore, disturbed, left_down, guarded)


def _quiet_things(group: Sequence[_Task]) -> tuple[tuple[Step, ...], tuple[Thing, ...]]:
    """The acts that remain, and the owned holders to quiesce, leaves first.

    A holder that an earlier act takes away anyway needs no quiescing. One that a later act takes away is quiesced
    instead of that act.
    """
    gone_at: dict[Thing, int] = {}
    for index, task in enumerate(group):
        for thing in task.step.gone:
            gone_at.setdefault(thing, index)
    quiet: dict[Thing, None] = {}
    replaced: set[int] = set()
    for index, task in enumerate(group):
        for thing in task.owned:
            at = gone_at.get(thing)
            if at is None:
                quiet[thing] = None
            elif at > index:
                quiet[thing] = None
                replaced.add(at)
    acts = tuple(task.step for index, task in enumerate(group) if index not in replaced)
    return acts, _leaves_first(quiet, group)


def _with_parked(
    quiet: tuple[Thing, ...], acts: Sequence[Step], group: Sequence[_Task], state: NodeState
) -> tuple[Thing, ...]:
    """With the interfaces and functions that go and come back, before the modules that they stand on."""
    back = {thing for step in acts for thing in step.back}
    gone = {thing for task in group for thing in task.step.gone}
    modules = {thing for thing in quiet if thing.kind is Kind.MODULE and thing not in gone - back}
    reset = {thing for step in acts for thing in step.resets}
    lost = modules | (gone & back) | reset
    things = parked((hold for task in group for hold in task.holds), lost, state, reset)
    first = next((index for index, thing in enumerate(quiet) if thing.kind is Kind.MODULE), len(quiet))
    return (*quiet[:first], *things, *quiet[first:])


def _leaves_first(quiet: Mapping[Thing, None], group: Sequence[_Task]) -> tuple[Thing, ...]:
    """Order by the holds among the quiet things themselves, also where they come from different steps."""
    holds = [hold for task in group for hold in task.holds if hold.holder in quiet and hold.held in quiet]
    order: dict[Thing, None] = {}

    def visit(thing: Thing) -> None:
        if thing in order:
            return
        for hold in holds:
            if hold.held == thing and hold.holder != thing:
                visit(hold.holder)
        order[thing] = None

    for thing in quiet:
        visit(thing)
    return tuple(order)


def _restorable(candidates: Iterable[Step], taken: set[Thing]) -> tuple[tuple[Step, ...], tuple[Thing, ...]]:
    """Drop what would stand on something that stays away; such a thing is away itself from then on."""
    away = set(taken)
    restore: list[Step] = []
    left_down: list[Thing] = []
    for step in candidates:
        if away.intersection(step.after):
            away.add(step.subject)
            left_down.append(step.subject)
        else:
            restore.append(step)
    return tuple(restore), tuple(left_down)


def _owed(owed: Iterable[Step], wishes: Sequence[Wish], state: NodeState) -> tuple[Step, ...]:
    """What an interrupted transition still owes, unless it is there already or the wishes decide about it anyway."""
    decided = {step.subject for wish in wishes for step in wish.steps}.union(*(wish.decided for wish in wishes))
    due = (step for step in owed if step.subject not in decided or step.irreplaceable)
    return tuple(step for step in due if not step.satisfied(state))
