"""The NVML worker: answers one request after the other over a socket until its owner closes it or dies.

A frame is a 4-byte big-endian length and a pickle; both ends are this program and share the socket alone. Requests are
read by a thread of its own: so the end of the owner ends the worker even while a call into the driver hangs.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
import threading
from queue import SimpleQueue
from typing import Any

from nodeagent.errors import HostError

_LENGTH = struct.Struct(">I")

REQUESTS = (
    "open",
    "count",
    "identify",
    "read",
    "sample",
    "nvlink",
    "ask_mig_mode",
    "create_gpu_instance",
    "destroy_gpu_instance",
    "create_compute_instance",
    "destroy_compute_instance",
    "release",
)


def pack(value: Any) -> bytes:
    """One frame."""
    body = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


def receive(sock: socket.socket) -> Any:
    """The next frame's value. EOFError when the other end has closed; TimeoutError by the socket's timeout."""
    (length,) = _LENGTH.unpack(_exactly(sock, _LENGTH.size))
    return pickle.loads(_exactly(sock, length))  # noqa: S301 - the other end is our own process


def _exactly(sock: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = sock.recv(size - len(parts))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


def describe(error: HostError) -> tuple[str, str, str, str, str]:
    """An error as plain text for the way through the socket: class name and the four attributes."""
    return type(error).__name__, error.operation, error.subject, error.reason, error.advice


def answer(nvml: Any, request: tuple[str, tuple[Any, ...]]) -> tuple[str, Any]:
    """Carry out one request; ("value", it) or ("error", its description)."""
    method, arguments = request
    try:
        return "value", getattr(nvml, method)(*arguments)
    except HostError as error:
        return "error", describe(error)


def _read_requests(sock: socket.socket, requests: SimpleQueue[Any]) -> None:
    while True:
        try:
            requests.put(receive(sock))
        except (EOFError, OSError):
            # The main thread may be in a call that never returns; the kernel closes what NVML had open.
            os._exit(0)


def main(descriptor: int, library: str | None) -> None:
    """Serve on an inherited socket. The library's environment is the process's own."""
    from nodeagent.host.nvml import InProcessNvml  # noqa: PLC0415 - the owner imports this module without NVML

    for number in (signal.SIGINT, signal.SIGTERM):
        # Sent to the whole control group or terminal; the owner finishes its step first, and may need us for it.
        signal.signal(number, signal.SIG_IGN)
    sock = socket.socket(fileno=descriptor)
    requests: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_read_requests, args=(sock, requests), daemon=True).start()
    nvml = InProcessNvml(library)
    while True:
        request = requests.get()
        if request[0] in REQUESTS:
            sock.sendall(pack(answer(nvml, request)))
