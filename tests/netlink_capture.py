"""Messages that real tools and real kernels exchanged, as they are kept in tests/data/netlink."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nodeagent.host.netlink_codec import Message, messages

DATA = Path(__file__).resolve().parent / "data" / "netlink"


@dataclass(frozen=True)
class Captured:
    """One datagram: the command during which it went, and its direction."""

    command: str
    sent: bool
    data: bytes

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple(messages(self.data))


def captured(name: str) -> tuple[Captured, ...]:
    """Every datagram of a file."""
    lines = (line for line in (DATA / name).read_text().splitlines() if not line.startswith("#"))
    rows = (line.split(" | ") for line in lines)
    return tuple(Captured(command, way == "sent", bytes.fromhex(data)) for command, way, data in rows)


def exchange(name: str, command: str) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """(sent, received) during a command."""
    found = [one for one in captured(name) if one.command == command]
    sent = tuple(message for one in found if one.sent for message in one.messages)
    return sent, tuple(message for one in found if not one.sent for message in one.messages)
