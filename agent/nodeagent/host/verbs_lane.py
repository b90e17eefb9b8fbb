"""`rdma_peer.Lane` on a real port through pyverbs: one queue pair, one region of memory, one completion queue."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from nodeagent.errors import HostError
from nodeagent.host import verbs as shared
from nodeagent.host.files import host_errors
from nodeagent.host.rdma_peer import LaneInfo
from nodeagent.host.verbs import DEPTH, MESSAGE_BYTES, OPERATION, SLOTS, Verbs
from nodeagent.state.verbs import Effort, Endpoint

ETHERNET = "Ethernet"


class VerbsLane:
    """Made by `open_lane`. Incoming messages land in a slot behind those that go out."""

    def __init__(self, verbs: Verbs, endpoint: Endpoint, side: shared.Side, info: LaneInfo) -> None:
        self.info = info
        self._verbs, self._endpoint, self._side = verbs, endpoint, side
        self._subject = f"{endpoint.device} port {endpoint.port}"
        self._peer = info
        self._arrived: Counter[int] = Counter()

    def connect(self, peer: LaneInfo, mtu_bytes: int) -> None:
        """As the lane says; a receive is posted before the peer may send."""
        self._peer = peer
        path = shared.Path(peer.gid, peer.queue_pair, peer.lid, shared.mtu_code(mtu_bytes))
        self._side.qp.to_rts(shared.connection(self._verbs, self._endpoint, path))
        self._receive()

    def ping(self, effort: Effort) -> list[float]:
        end = time.monotonic() + effort.deadline_seconds
        times = []
        for number in range(effort.round_trips):
            payload = number.to_bytes(MESSAGE_BYTES, "little")
            self._side.mr.write(payload, MESSAGE_BYTES)
            started = time.perf_counter()
            self._send()
            self._await(self._verbs.enums.IBV_WC_RECV, end)
            self._await(self._verbs.enums.IBV_WC_SEND, end)
            times.append(time.perf_counter() - started)
            if self._side.mr.read(MESSAGE_BYTES, SLOTS * MESSAGE_BYTES) != payload:
                raise HostError(OPERATION, self._subject, "a message came back with other bytes than it was sent with")
            self._receive()
        return times

    def pong(self, effort: Effort) -> None:
        end = time.monotonic() + effort.deadline_seconds
        for _ in range(effort.round_trips):
            self._await(self._verbs.enums.IBV_WC_RECV, end)
            self._side.mr.write(self._side.mr.read(MESSAGE_BYTES, SLOTS * MESSAGE_BYTES), MESSAGE_BYTES)
            self._receive()
            self._send()
            self._await(self._verbs.enums.IBV_WC_SEND, end)

    def write(self, effort: Effort) -> float:
        """As the lane says; what is written is made for this run, so that bytes of an earlier one prove nothing."""
        size = effort.write_bytes
        pattern = hashlib.sha256(f"{time.time_ns()}".encode()).digest()
        self._side.mr.write((pattern * (size // len(pattern) + 1))[:size], size)
        end = time.monotonic() + effort.deadline_seconds
        posted = done = 0
        started = time.perf_counter()
        while done < effort.writes:
            while posted < effort.writes and posted - done < DEPTH:
                self._post_write(size)
                posted += 1
            self._await(self._verbs.enums.IBV_WC_RDMA_WRITE, end)
            done += 1
        return done * size * 8 / (time.perf_counter() - started)

    def digest(self, size: int) -> str:
        return hashlib.sha256(self._side.mr.read(size, 0)).hexdigest()

    def _post_write(self, size: int) -> None:
        enums = self._verbs.enums
        request = self._verbs.wr.SendWR(
            opcode=enums.IBV_WR_RDMA_WRITE,
            num_sge=1,
            sg=[self._element(size)],
            send_flags=enums.IBV_SEND_SIGNALED,
        )
        request.set_wr_rdma(self._peer.rkey, self._peer.address)
        self._side.qp.post_send(request)

    def _send(self) -> None:
        enums = self._verbs.enums
        request = self._verbs.wr.SendWR(
            opcode=enums.IBV_WR_SEND,
            num_sge=1,
            sg=[self._element(MESSAGE_BYTES)],
            send_flags=enums.IBV_SEND_SIGNALED,
        )
        self._side.qp.post_send(request)

    def _receive(self) -> None:
        self._side.qp.post_recv(self._verbs.wr.RecvWR(num_sge=1, sg=[self._element(MESSAGE_BYTES, SLOTS)]))

    def _element(self, length: int, slot: int = 0) -> Any:
        return self._verbs.wr.SGE(self._side.mr.buf + slot * MESSAGE_BYTES, length, self._side.mr.lkey)

    def _await(self, kind: int, end: float) -> None:
        """Wait for one completion of this kind; the peer's next message may come before our own acknowledgement."""
        while not self._arrived[kind]:
            self._arrived.update(shared.completions(self._verbs, self._side, self._subject, (1, end)))
        self._arrived[kind] -= 1


@contextmanager
def open_lane(verbs: Verbs, endpoint: Endpoint, kind: str) -> Iterator[VerbsLane]:
    """A lane of the port; `kind` is the type of its GID. Errors as of `Verbs.ping_pong`; released at the end."""
    subject = f"{endpoint.device} port {endpoint.port}"
    try:
        with host_errors(OPERATION, subject), ExitStack() as stack:
            context = shared.kept(stack, verbs.device.Context(name=endpoint.device))
            attributes = context.query_port(endpoint.port)
            side = shared.side(verbs, stack, context, endpoint.port)
            info = LaneInfo(
                gid=str(context.query_gid(endpoint.port, endpoint.gid_index or 0)),
                kind=kind,
                link_layer=ETHERNET if endpoint.gid_index is not None else "InfiniBand",
                lid=attributes.lid,
                mtu_bytes=shared.mtu_bytes(attributes.active_mtu),
                queue_pair=side.qp.qp_num,
                rkey=side.mr.rkey,
                address=side.mr.buf,
            )
            yield VerbsLane(verbs, endpoint, side, info)
    except verbs.error as error:
        raise shared.refusal(subject, error) from error
