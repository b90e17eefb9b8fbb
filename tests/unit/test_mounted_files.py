"""Links of a node that is mounted somewhere lead where they would on the node."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nodeagent.host.mounted_files import MountedFiles


@pytest.fixture
def files(tmp_path: Path) -> MountedFiles:
    (tmp_path / "host/usr/lib/real").mkdir(parents=True)
    (tmp_path / "host/usr/lib/real/cuda").write_text("the node's")
    (tmp_path / "usr/lib/real").mkdir(parents=True)
    (tmp_path / "usr/lib/real/cuda").write_text("the container's")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/x").write_text("the kernel's")
    links = {
        "host/etc": "/usr/lib",
        "host/usr/lib/absolute": "/usr/lib/real/cuda",
        "host/usr/lib/relative": "real/../real/cuda",
        "host/usr/lib/up": "../../../../../usr/lib/real/cuda",
        "host/usr/lib/chain": "/etc/absolute",
        "host/usr/lib/circle": "circle",
        "host/usr/lib/out": "/usr/only-here",
    }
    for name, target in links.items():
        os.symlink(target, tmp_path / name)
    (tmp_path / "usr/only-here").write_text("not on the node")
    return MountedFiles(str(tmp_path), "/host")


@pytest.mark.parametrize("name", ["absolute", "relative", "up", "chain", "real/cuda"])
def test_links_end_on_the_node(files: MountedFiles, name: str) -> None:
    assert files.read(f"/usr/lib/{name}") == files.read(f"/etc/{name}") == "the node's"
    assert files.read_bytes(f"/usr/lib/{name}", 3) == b"the"


def test_what_is_not_on_the_node_is_not_there(files: MountedFiles) -> None:
    assert not files.exists("/usr/lib/out")
    assert not files.exists("/usr/lib/circle")
    assert not files.exists("/usr/lib/absolute/below")
    assert files.names("/usr/nowhere") == ()


def test_a_link_itself_is_told_as_it_is(files: MountedFiles) -> None:
    assert files.link("/etc/absolute") == "/usr/lib/real/cuda"
    assert files.link("/etc") == "/usr/lib"
    assert files.link("/usr/lib/real/cuda") is None
    assert set(files.names("/etc")) == {"absolute", "relative", "up", "chain", "circle", "out", "real"}


def test_the_kernels_own_trees_are_not_looked_for_in_the_mount(files: MountedFiles) -> None:
    assert files.read("/proc/x") == "the kernel's"
