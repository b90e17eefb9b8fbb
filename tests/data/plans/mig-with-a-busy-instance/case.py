"""Four GPUs: one right already, one off, one with a job in the way, one without MIG."""

from mig_world import OFF, board, instance, node
from nodeagent.resources.mig_placement import Slot
from nodeagent.spec.schema import MigEntry, NodeSpec
from nodeagent.state.gpu import MigMode, Placement
from nodeagent.state.processes import Process

_LOW, _HIGH = (Slot(Placement(start, 4), "3g.20gb") for start in (0, 4))
_PLAIN = {"mig_mode": MigMode.UNSUPPORTED, "pending_mig_mode": MigMode.UNSUPPORTED}

SPEC = NodeSpec(version=1, mig=(MigEntry(MigMode.ENABLED, devices={"3g.20gb": 1, "1g.5gb": 3}),))
STATE = node(
    board(0, instance(_HIGH, 4242), *(instance(Slot(Placement(start, 1), "1g.5gb")) for start in range(3))),
    board(1, **OFF),
    board(2, instance(_LOW, 4243), instance(_HIGH, 4244)),
    board(3, product="Tesla T4", **_PLAIN),
    processes={
        4243: Process(4243, "python", "python train.py", container="0123456789abcdef"),
        4244: Process(4244, "python", "python serve.py", unit="serve.service"),
    },
)
