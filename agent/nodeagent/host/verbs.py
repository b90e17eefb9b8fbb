"""RDMA traffic through libibverbs by pyverbs: two queue pairs of one port, connected to each other.

pyverbs comes with rdma-core and belongs to the distribution's libibverbs, so that it is found at run time and is no
dependency of the package. Sources: ibv_modify_qp(3), ibv_post_send(3), rdma-core pyverbs/qp.pyx and its examples.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.machinery import PathFinder
from typing import Any

from nodeagent.errors import DeadlineError, GoneError, HostError, UnsupportedError
from nodeagent.host.files import ADVICE, ERROR_OF_ERRNO, host_errors
from nodeagent.state.verbs import Effort, Endpoint, VerbsResult

DISTRIBUTION = ("/usr/lib/python3/dist-packages", "/usr/lib64/python3/site-packages")
MESSAGE_BYTES = 8
DEPTH = 16  # writes in flight
SLOTS = DEPTH + 1
HOP_LIMIT = 64
OPERATION = "send rdma traffic through"
# The kernel has no data where the GID's slot is empty: its address went between the choice and the use.
ERRORS: Mapping[int, type[HostError]] = {**ERROR_OF_ERRNO, errno.ENODATA: GoneError}
ADVICES: Mapping[int, str] = {
    **ADVICE,
    errno.ENOMEM: "raise the limit of locked memory (ulimit -l)",
    errno.ENODATA: "the GID's slot is empty now; run it again",
}


class Verbs:
    """`pyverbs` as it is found; UnsupportedError where it is missing or does not fit this Python."""

    def __init__(self) -> None:
        _import_pyverbs()
        from pyverbs import addr, cq, device, enums, mr, pd, qp, wr  # noqa: PLC0415 - found just now
        from pyverbs.pyverbs_error import PyverbsError  # noqa: PLC0415

        self.addr, self.cq, self.device, self.enums = addr, cq, device, enums
        self.mr, self.pd, self.qp, self.wr = mr, pd, qp, wr
        self.error: type[Exception] = PyverbsError

    def ping_pong(self, endpoint: Endpoint, effort: Effort) -> VerbsResult:
        """Latency and bandwidth of reliable connected traffic from the port to itself.

        DeadlineError when a completion stays out, HostError in the words of libibverbs, GoneError without the device.
        """
        subject = f"{endpoint.device} port {endpoint.port}"
        try:
            with host_errors(OPERATION, subject), _pair(self, endpoint) as pair:
                times = _round_trips(pair, effort)
                bandwidth = _bandwidth(pair, effort)
                attributes = pair.attributes
        except self.error as error:
            raise refusal(subject, error) from error
        halves = [seconds * 1e6 / 2 for seconds in times]
        return VerbsResult(
            gid=pair.gid,
            active_mtu_bytes=mtu_bytes(attributes.active_mtu),
            max_mtu_bytes=mtu_bytes(attributes.max_mtu),
            round_trips=len(times),
            latency_median_us=statistics.median(halves),
            latency_worst_us=max(halves),
            bandwidth_bps=bandwidth,
        )


def _import_pyverbs() -> None:
    """Make `pyverbs` importable: as any module, else from the distribution's directories and nothing else of them."""
    if "pyverbs" in sys.modules or importlib.util.find_spec("pyverbs") is not None:
        return
    found = PathFinder.find_spec("pyverbs", DISTRIBUTION)
    if found is None or found.loader is None:
        advice = "install python3-pyverbs of the distribution, for the same Python version as the agent's"
        raise UnsupportedError(OPERATION, "the rdma nics", "the python module pyverbs is missing", advice)
    module = importlib.util.module_from_spec(found)
    sys.modules["pyverbs"] = module
    try:
        found.loader.exec_module(module)
        importlib.import_module("pyverbs.device")
    except ImportError as error:
        del sys.modules["pyverbs"]
        advice = "the agent must run with the distribution's version of Python, and libibverbs must be installed"
        raise UnsupportedError(OPERATION, "the rdma nics", f"pyverbs cannot be loaded ({error})", advice) from error


def mtu_bytes(code: int) -> int:
    """Bytes of an enum ibv_mtu: 1 is 256 bytes, 5 is 4096."""
    return 128 << code


def mtu_code(size: int) -> int:
    """The enum ibv_mtu of a size in bytes."""
    return (size // 128).bit_length() - 1


def refusal(subject: str, error: Exception) -> HostError:
    """The agent's error for one of pyverbs."""
    number = max(0, getattr(error, "error_code", 0) or 0)
    reason = str(error).partition(". Errno:")[0].strip().rstrip(".").lower()
    if number:
        reason = f"{reason}: {os.strerror(number).lower()}"
    return ERRORS.get(number, HostError)(OPERATION, subject, reason, ADVICES.get(number, ""))


@dataclass
class Side:
    """One queue pair with its completion queue and memory."""

    qp: Any
    cq: Any
    mr: Any
    pd: Any


@dataclass(frozen=True)
class Path:
    """Where a queue pair sends: the peer's GID, queue pair and LID, and the MTU as an enum ibv_mtu."""

    gid: str
    number: int
    lid: int
    mtu: int


@dataclass
class _Pair:
    """Two sides, connected."""

    verbs: Verbs
    one: Side
    other: Side
    attributes: Any
    gid: str
    subject: str


@contextmanager
def _pair(verbs: Verbs, endpoint: Endpoint) -> Iterator[_Pair]:
    """Everything is released in reverse order at the end, and before an error leaves the block."""
    with ExitStack() as stack:
        context = kept(stack, verbs.device.Context(name=endpoint.device))
        attributes = context.query_port(endpoint.port)
        sides = [side(verbs, stack, context, endpoint.port) for _ in range(2)]
        gid = str(context.query_gid(endpoint.port, endpoint.gid_index or 0))
        for one, peer in (sides, sides[::-1]):
            path = Path(gid, peer.qp.qp_num, attributes.lid, attributes.active_mtu)
            one.qp.to_rts(connection(verbs, endpoint, path))
        yield _Pair(verbs, sides[0], sides[1], attributes, gid, f"{endpoint.device} port {endpoint.port}")


def kept(stack: ExitStack, thing: Any) -> Any:
    """The same thing, closed when the stack ends."""
    stack.callback(thing.close)
    return thing


def side(verbs: Verbs, stack: ExitStack, context: Any, port: int) -> Side:
    """A queue pair that is not connected yet, with what it needs."""
    domain = kept(stack, verbs.pd.PD(context))
    enums, size = verbs.enums, Effort().write_bytes
    access = enums.IBV_ACCESS_LOCAL_WRITE | enums.IBV_ACCESS_REMOTE_WRITE
    queue = kept(stack, verbs.cq.CQ(context, 2 * SLOTS))
    memory = kept(stack, verbs.mr.MR(domain, size, access))
    capacity = verbs.qp.QPCap(max_send_wr=SLOTS, max_recv_wr=SLOTS)
    wanted = verbs.qp.QPInitAttr(qp_type=enums.IBV_QPT_RC, scq=queue, rcq=queue, cap=capacity)
    initial = verbs.qp.QPAttr(port_num=port)
    initial.qp_access_flags = access
    return Side(kept(stack, verbs.qp.QP(domain, wanted, initial)), queue, memory, domain)


def connection(verbs: Verbs, endpoint: Endpoint, path: Path) -> Any:
    """What both state changes to "ready to send" need."""
    enums = verbs.enums
    route = verbs.addr.GlobalRoute(
        dgid=verbs.addr.GID(path.gid),
        sgid_index=endpoint.gid_index or 0,
        hop_limit=HOP_LIMIT,
        traffic_class=endpoint.traffic_class,
    )
    is_global = int(endpoint.gid_index is not None)
    wanted = verbs.qp.QPAttr(port_num=endpoint.port)
    wanted.ah_attr = verbs.addr.AHAttr(gr=route, is_global=is_global, dlid=path.lid, port_num=endpoint.port)
    wanted.qp_access_flags = enums.IBV_ACCESS_LOCAL_WRITE | enums.IBV_ACCESS_REMOTE_WRITE
    wanted.dest_qp_num = path.number
    wanted.path_mtu = path.mtu
    wanted.max_rd_atomic = wanted.max_dest_rd_atomic = 1
    wanted.min_rnr_timer, wanted.timeout, wanted.retry_cnt, wanted.rnr_retry = 12, 14, 7, 7
    return wanted


def _round_trips(pair: _Pair, effort: Effort) -> list[float]:
    """Seconds of each round trip of a small message: one side sends, the other answers."""
    end = time.monotonic() + effort.deadline_seconds
    times: list[float] = []
    for number in range(effort.round_trips):
        payload = number.to_bytes(MESSAGE_BYTES, "little")
        pair.one.mr.write(payload, MESSAGE_BYTES)
        for side in (pair.one, pair.other):
            side.qp.post_recv(pair.verbs.wr.RecvWR(num_sge=1, sg=[_element(pair, side, MESSAGE_BYTES, SLOTS)]))
        started = time.perf_counter()
        for sender, receiver in ((pair.one, pair.other), (pair.other, pair.one)):
            _send(pair, sender)
            _completions(pair, receiver, 1, end)  # the message
            _completions(pair, sender, 1, end)  # its acknowledgement
            if sender is pair.one:
                receiver.mr.write(receiver.mr.read(MESSAGE_BYTES, SLOTS * MESSAGE_BYTES), MESSAGE_BYTES)
        times.append(time.perf_counter() - started)
        if pair.one.mr.read(MESSAGE_BYTES, SLOTS * MESSAGE_BYTES) != payload:
            raise HostError(OPERATION, pair.subject, "a message came back with other bytes than it was sent with")
    return times


def _element(pair: _Pair, side: Side, length: int, slot: int = 0) -> Any:
    return pair.verbs.wr.SGE(side.mr.buf + slot * MESSAGE_BYTES, length, side.mr.lkey)


def _send(pair: _Pair, side: Side) -> None:
    enums, wr = pair.verbs.enums, pair.verbs.wr
    request = wr.SendWR(
        opcode=enums.IBV_WR_SEND,
        num_sge=1,
        sg=[_element(pair, side, MESSAGE_BYTES)],
        send_flags=enums.IBV_SEND_SIGNALED,
    )
    side.qp.post_send(request)


def _bandwidth(pair: _Pair, effort: Effort) -> float:
    """Bits per second of RDMA writes from one side's memory into the other's, `DEPTH` of them in flight."""
    enums, wr = pair.verbs.enums, pair.verbs.wr
    size = min(effort.write_bytes, Effort().write_bytes)
    end = time.monotonic() + effort.deadline_seconds
    posted = done = 0
    started = time.perf_counter()
    while done < effort.writes:
        while posted < effort.writes and posted - done < DEPTH:
            request = wr.SendWR(
                opcode=enums.IBV_WR_RDMA_WRITE,
                num_sge=1,
                sg=[_element(pair, pair.one, size)],
                send_flags=enums.IBV_SEND_SIGNALED,
            )
            request.set_wr_rdma(pair.other.mr.rkey, pair.other.mr.buf)
            pair.one.qp.post_send(request)
            posted += 1
        done += _completions(pair, pair.one, 1, end)
    return done * size * 8 / (time.perf_counter() - started) if done else 0.0


def _completions(pair: _Pair, side: Side, wanted: int, end: float) -> int:
    return len(completions(pair.verbs, side, pair.subject, (wanted, end)))


def completions(verbs: Verbs, side: Side, subject: str, until: tuple[int, float]) -> list[int]:
    """Wait for at least so many completions, until a moment; what each was of (enum ibv_wc_opcode).

    A failed one is an error in its own words.
    """
    wanted, end = until
    found: list[int] = []
    while len(found) < wanted:
        count, completed = side.cq.poll(wanted - len(found))
        for completion in completed[:count]:
            if completion.status != verbs.enums.IBV_WC_SUCCESS:
                raise HostError(OPERATION, subject, _failed(verbs, completion.status), ADVICE_FAILED)
            found.append(completion.opcode)
        if not count and time.monotonic() > end:
            raise DeadlineError(OPERATION, subject, "no completion in time; " + ADVICE_FAILED)
    return found


ADVICE_FAILED = "check that the port is active and that the GID's address is still on its interface"


def _failed(verbs: Verbs, status: int) -> str:
    return f"a message was not delivered (completion status: {verbs.cq.cqe_status_to_str(status).lower()})"
