"""QEMU's monitor as the guest reaches it: QMP through the virtio port `monitor` (docs/interop/qmp-spec.rst of QEMU)."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PORTS = Path("/sys/class/virtio-ports")


class Monitor:
    """One command at a time."""

    def __init__(self, port: IO[bytes]) -> None:
        self._port = port

    def set_link(self, device: str, up: bool) -> None:
        """Plug or unplug the cable of a network card."""
        self.command("set_link", name=device, up=up)

    def command(self, execute: str, /, **arguments: Any) -> Any:
        """What it returns; events before that are passed over."""
        answer = self.ask(execute, arguments)
        assert "return" in answer, answer
        return answer["return"]

    def ask(self, execute: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The whole answer, which may be a refusal."""
        self._port.write(json.dumps({"execute": execute, "arguments": arguments}).encode() + b"\n")
        while True:
            answer: dict[str, Any] = json.loads(self._port.readline())
            if answer.keys() & {"return", "error"}:
                return answer


@contextmanager
def monitor() -> Iterator[Monitor]:
    """The monitor, ready for commands; module virtio_console must be there."""
    (found,) = [path.name for path in PORTS.iterdir() if (path / "name").read_text().strip() == "monitor"]
    with Path(f"/dev/{found}").open("r+b", buffering=0) as port:
        opened = Monitor(port)
        opened.ask("qmp_capabilities", {})  # refused where an earlier test has said so already
        yield opened
