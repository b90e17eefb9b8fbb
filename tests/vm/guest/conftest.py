"""Every test in the guest begins and ends with the modules, rules and device nodes that the machine booted with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nodeagent.host.kmod import LibKmod
from vm.guest import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

AGENT_DIRECTORIES = ("/var/lib/nodeagent", "/run/nodeagent")


@pytest.fixture(scope="session")
def booted_with() -> set[str]:
    return kernel.loaded()


@pytest.fixture(autouse=True)
def as_booted(booted_with: set[str]) -> Iterator[None]:
    yield
    kernel.remove_all_but(booted_with)
    for path in (*kernel.MODPROBE_RULES.iterdir(), *Path("/dev").glob("nvidia*"), *Path("/dev").glob("gdrdrv")):
        path.unlink()
    for directory in AGENT_DIRECTORIES:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def kmod() -> LibKmod:
    return LibKmod.real()
