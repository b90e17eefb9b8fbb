"""An end of a connection without a NIC: messages and memory go over a socket, and bytes can be spoilt on the way."""

from __future__ import annotations

import hashlib
import socket
from dataclasses import dataclass

from nodeagent.errors import HostError
from nodeagent.host.rdma_peer import LaneInfo
from nodeagent.state.gids import ROCE_V2
from nodeagent.state.verbs import Effort

INFO = LaneInfo("::ffff:10.0.0.1", ROCE_V2, "Ethernet", 0, 4096, 17, 99, 0x1000)


@dataclass
class SocketLane:
    """`rdma_peer.Lane`; `spoilt`: what this end writes arrives with other bytes."""

    pipe: socket.socket
    info: LaneInfo = INFO
    spoilt: bool = False
    memory: bytes = b""
    mtu: int = 0
    peer: LaneInfo = INFO

    def connect(self, peer: LaneInfo, mtu_bytes: int) -> None:
        self.peer, self.mtu = peer, mtu_bytes
        self.pipe.settimeout(60)

    def ping(self, effort: Effort) -> list[float]:
        for number in range(effort.round_trips):
            self.pipe.sendall(number.to_bytes(8, "little"))
            if self._read(8) != number.to_bytes(8, "little"):
                raise HostError("ping", "lane", "other bytes")
        return [2e-6] * effort.round_trips

    def pong(self, effort: Effort) -> None:
        for _ in range(effort.round_trips):
            self.pipe.sendall(self._read(8))
        self.memory = self._read(effort.write_bytes)

    def write(self, effort: Effort) -> float:
        self.memory = b"x" * effort.write_bytes
        self.pipe.sendall(b"y" * effort.write_bytes if self.spoilt else self.memory)
        return 1e9

    def digest(self, size: int) -> str:
        return hashlib.sha256(self.memory[:size]).hexdigest()

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.pipe.recv(size - len(data))
            if not part:
                raise HostError("read", "lane", "closed")
            data += part
        return data
