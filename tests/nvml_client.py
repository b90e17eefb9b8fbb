"""Processes that use NVML through the unmodified nvidia-ml-py, driven one expression at a time by a test."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Self

CHILD = """
import json, os, sys
from ctypes import *
from pynvml import *

def buffer(kind, room, ask):
    items, count = (kind * room)(), c_uint(room)
    ask(items, byref(count))
    return list(items[:count.value])

def field(handle, number):
    value = nvmlDeviceGetFieldValues(handle, [number])[0]
    kinds = {0: value.value.dVal, 1: value.value.uiVal, 3: value.value.ullVal}
    return kinds[value.valueType] if value.nvmlReturn == 0 else "error %d" % value.nvmlReturn

def placements(handle, profile):
    found = buffer(c_nvmlGpuInstancePlacement_t, 8,
                   lambda items, count: nvmlDeviceGetGpuInstancePossiblePlacements(handle, profile, items, count))
    return [(at.start, at.size) for at in found]

def instances(handle, profile):
    return buffer(c_nvmlGpuInstance_t, 8, lambda items, count: nvmlDeviceGetGpuInstances(handle, profile, items, count))

def at(start, size):
    return byref(c_nvmlGpuInstancePlacement_t(start, size))

def place(instance):
    info = nvmlGpuInstanceGetInfo(instance)
    return info.id, info.profileId, info.placement.start, info.placement.size

def profiles(handle):
    found = {}
    for number in range(100):
        try:
            found[number] = nvmlDeviceGetGpuInstanceProfileInfo(handle, number)
        except NVMLError_InvalidArgument:
            return found
        except NVMLError_NotSupported:
            pass

print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    try:
        try:
            result = eval(line)
        except SyntaxError:
            result = exec(line)
    except NVMLError as error:
        result = "error %d" % error.value
    print(json.dumps(result, default=str), flush=True)
"""


class Client:
    """One process with nvidia-ml-py: `client("expression")` is its value through JSON, or "error N" of NVML."""

    def __init__(self, environment: dict[str, str], prelude: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", prelude + CHILD],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.receive() == "ready"

    def send(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def receive(self) -> Any:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def __call__(self, line: str) -> Any:
        self.send(line)
        return self.receive()

    def start(self) -> Self:
        """Open a session with the handles g0, g1, ... of every GPU."""
        assert self("nvmlInit()") is None
        for index in range(self("nvmlDeviceGetCount()")):
            assert self(f"g{index} = nvmlDeviceGetHandleByIndex({index})") is None
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
