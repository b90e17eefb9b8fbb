"""What the agent says of itself: the condition, the line for systemd, and a document with stable keys."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from nodeagent.errors import BusyError
from nodeagent.plan.convergence import Outcome
from nodeagent.plan.executor import Failure, Result
from nodeagent.plan.journal import Phase
from nodeagent.plan.model import Blocked, Blocker, Plan, Transition
from nodeagent.resources.base import Obstacle
from nodeagent.resources.module_steps import LoadModule
from nodeagent.state.gpu import Gpu
from nodeagent.state.node import NodeState, Unknown
from nodeagent.state.things import module, process
from nodeagent.supervisor.status import Condition, Identity, Pass, Status, status_document

IDENTITY = Identity(42, "gpu17", "", "/etc/nodeagent/node.yaml", 1000.0, "127.0.0.1:9400")
STEP = LoadModule(subject=module("nvidia"), unit="modules/nvidia")
BLOCKER = Blocker(process(7), "process 7 (train.py)", "has GPU 0 open")
FAILED = Failure(Phase.ACT, STEP, BusyError("load", "nvidia", "busy"))

TODO = Plan(transitions=(Transition(acts=(STEP,)),))
HELD = Plan(blocked=(Blocked(STEP, "held", (BLOCKER,)),))
BY_POLICY = Plan(blocked=(Blocked(STEP, "disruption.gpu is never"),))
MISSING = Plan(obstacles=(Obstacle("mig", module("nvidia"), "MIG has to wait for the driver", waits=True),))


def status(plan: Plan | None = None, *failures: Failure, **fields: object) -> Status:
    last = None
    if plan is not None:
        gpu = Gpu("GPU-1", 0, 0, "0000:07:00.0", "A100", 1 << 30)
        state = NodeState(gpus={"GPU-1": gpu}, unknown=(Unknown("GPU GPU-2", "no answer within 10 s"),))
        results = (Result((), failures),) if failures else ()
        last = Pass(Outcome(state, plan, results, 1), ("start",), 1234.5, 0.25)
    return replace(Status(IDENTITY, last), **fields)


@pytest.mark.parametrize(
    ("found", "condition"),
    [
        (status(), Condition.STARTING),
        (status(trouble="read journal: damaged"), Condition.FAILING),
        (status(Plan()), Condition.CONVERGED),
        (status(Plan(remarks=("peer memory: dma-buf",))), Condition.CONVERGED),
        (status(Plan(), spec_error="node.yaml:1:1: wrong"), Condition.CONVERGED),
        (status(TODO), Condition.WAITING),
        (status(TODO, step="load module nvidia"), Condition.CONVERGING),
        (status(HELD), Condition.BLOCKED),
        (status(BY_POLICY), Condition.WAITING),
        (status(MISSING), Condition.WAITING),
        (status(TODO, FAILED), Condition.FAILING),
        (status(Plan(), FAILED), Condition.FAILING),
        (status(HELD, postponed={"mig": "failed once"}), Condition.FAILING),
        (status(Plan(), trouble="observe: denied"), Condition.FAILING),
    ],
)
def test_condition(found: Status, condition: Condition) -> None:
    assert found.condition is condition
    assert found.line.startswith(condition)
    assert "\n" not in found.line


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (status(), "starting"),
        (status(Plan()), "converged: 1 GPUs, 0 RDMA devices"),
        (status(HELD), "blocked: 1 GPUs, 0 RDMA devices, 1 in the way"),
        (status(trouble="read journal: damaged"), "failing: read journal: damaged"),
        (status(TODO, step="load module nvidia"), "converging: load module nvidia"),
        (status(Plan(), spec_error="x"), "converged: 1 GPUs, 0 RDMA devices, the node file is wrong and not in force"),
    ],
)
def test_line(found: Status, line: str) -> None:
    assert found.line == line


def test_the_document_has_every_key_from_the_start() -> None:
    keys = set(status_document(status()))
    document = status_document(status(HELD, FAILED, postponed={"mig": "failed once"}), nvml_pid=77)
    assert keys == set(document)
    assert document["nvmlPid"] == 77
    assert document["condition"] == "failing"
    assert status_document(status())["lastPass"] is None
    last = json.loads(json.dumps(document))["lastPass"]
    assert last["failures"][0]["message"] == "load nvidia: busy"
    assert last["plan"]["blocked"][0]["blockers"][0]["text"] == "process 7 (train.py)"
    assert last["gpuIndices"] == {"GPU-1": 0}
    assert last["unknown"] == ["GPU GPU-2: no answer within 10 s"]
    assert last["reasons"] == ["start"]
