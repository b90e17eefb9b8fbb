"""LocalFiles on a real directory: reading, single writes, durable replacement, and the error of each refusal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nodeagent.errors import BusyError, DeniedError, GoneError, HostError, UnsupportedError
from nodeagent.host.files import LocalFiles, character_number, host_error, rooted
from nodeagent.state.processes import DeviceNode, DeviceNumber
from trees import make_tree


def test_read_takes_one_newline_off(tmp_path: Path) -> None:
    files = make_tree(tmp_path, {"/sys/a": "live", "/sys/b": "two\nlines\n"})
    assert files.read("/sys/a") == "live"
    assert files.read("/sys/b") == "two\nlines\n"


def test_read_of_what_is_absent_is_gone_and_names_the_path(tmp_path: Path) -> None:
    files = LocalFiles(str(tmp_path))
    with pytest.raises(GoneError, match=r"^read /sys/none: no such file or directory$"):
        files.read("/sys/none")
    assert files.read_optional("/sys/none") is None


def test_read_survives_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "cmdline").write_bytes(b"a\xffb\0c")
    assert LocalFiles(str(tmp_path)).read("/cmdline") == "a�b\0c"


def test_read_of_a_directory_is_an_error_with_its_cause(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="is a directory"):
        make_tree(tmp_path, {"/sys/d/x": ""}).read("/sys/d")


def test_names_target_and_exists(tmp_path: Path) -> None:
    files = make_tree(tmp_path, {"/sys/m/b": "", "/sys/m/a": ""}, {"/sys/dev/driver": "../../bus/drivers/mlx5_core"})
    assert files.names("/sys/m") == ("a", "b")
    assert files.names("/sys/none") == files.names("/sys/m/a") == ()
    assert files.target("/sys/dev/driver") == "mlx5_core"
    assert files.target("/sys/m/a") is files.target("/sys/none") is None
    assert files.exists("/sys/m")
    assert not files.exists("/sys/none")


def test_write_replaces_the_whole_text_of_an_attribute(tmp_path: Path) -> None:
    files = make_tree(tmp_path, {"/sys/mtu": "15000"})
    files.write("/sys/mtu", "9000")
    assert files.read("/sys/mtu") == "9000"


def test_write_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(GoneError):
        LocalFiles(str(tmp_path)).write("/new", "1")
    assert list(tmp_path.iterdir()) == []


def test_write_shows_the_refusal_of_the_kernel() -> None:
    with pytest.raises(HostError, match=r"^write /dev/full: no space left on device; make room"):
        LocalFiles().write("/dev/full", "1")


def test_write_that_the_kernel_takes_in_part_is_an_error(tmp_path: Path) -> None:
    files = make_tree(tmp_path, {"/attribute": ""})
    code = (
        "import resource, sys\n"
        "from nodeagent.errors import HostError\n"
        "from nodeagent.host.files import LocalFiles\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: LocalFiles(sys.argv[1]).write('/attribute', 'x' * 10000)\n"
        "except HostError as error: sys.exit(str(error))\n"
    )
    command = [sys.executable, "-c", code, files.root]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False, timeout=120)
    assert done.stderr == "write /attribute: the kernel took 4096 of 10000 bytes\n"


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_replace_is_complete_has_its_mode_and_leaves_nothing_behind(tmp_path: Path) -> None:
    files = LocalFiles(str(tmp_path))
    before = os.umask(0o077)
    try:
        files.replace("/var/lib/x/journal", "one", mode=0o644)
        files.replace("/var/lib/x/journal", "two", mode=0o644)
    finally:
        os.umask(before)
    assert files.read("/var/lib/x/journal") == "two"
    assert (tmp_path / "var/lib/x/journal").stat().st_mode & 0o7777 == 0o644
    assert files.names("/var/lib/x") == ("journal",)


def test_replace_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    files = make_tree(tmp_path, {"/var/journal/inside": "old"})
    with pytest.raises(HostError):
        files.replace("/var/journal", "new")
    assert files.names("/var") == ("journal",)
    assert files.read("/var/journal/inside") == "old"


def test_remove_of_what_is_absent_does_nothing(tmp_path: Path) -> None:
    files = make_tree(tmp_path, {"/run/x": ""})
    files.remove("/run/x")
    files.remove("/run/x")
    files.remove("/run/x/y")
    assert files.names("/run") == ()


@pytest.mark.parametrize(
    ("number", "kind"),
    [(16, BusyError), (1, DeniedError), (13, DeniedError), (30, DeniedError), (2, GoneError), (19, GoneError),
     (6, GoneError), (22, UnsupportedError), (95, UnsupportedError), (5, HostError)],
)  # fmt: skip
def test_each_errno_has_its_class(number: int, kind: type[HostError]) -> None:
    error = host_error("write", "/sys/x", OSError(number, "whatever"))
    assert type(error) is kind
    assert str(error).startswith(f"write /sys/x: {os.strerror(number).lower()}")


def test_rooted_paths() -> None:
    assert rooted("/", "/sys/a") == rooted("", "/sys/a") == "/sys/a"
    assert rooted("/tmp/node/", "/sys/a") == rooted("/tmp/node", "/sys/a") == "/tmp/node/sys/a"


NODE = DeviceNode("/dev/nvidia0", 195, 0, 0o660, os.getuid(), os.getgid())


def test_device_node_is_made_with_its_link_and_removed_with_it(tmp_path: Path) -> None:
    files = LocalFiles(str(tmp_path))
    files.make_device_node(NODE)
    assert files.device_node("/dev/nvidia0") == NODE
    assert (tmp_path / "dev/char/195:0").readlink() == Path("../nvidia0")
    files.remove("/dev/nvidia0")
    assert files.device_node("/dev/nvidia0") is None
    assert files.names("/dev/char") == ()


def test_device_node_is_corrected_in_place(tmp_path: Path) -> None:
    files = LocalFiles(str(tmp_path))
    caps = DeviceNode("/dev/nvidia-caps/nvidia-cap1", 511, 1, 0o400, NODE.uid, NODE.gid)
    moved = DeviceNode(caps.path, 509, 1, 0o444, NODE.uid, NODE.gid)
    files.make_device_node(caps)
    files.make_device_node(moved)
    files.make_device_node(moved)
    assert files.device_node(caps.path) == moved
    assert files.names("/dev/nvidia-caps") == ("nvidia-cap1",)
    assert (tmp_path / "dev/char/509:1").readlink() == Path("../nvidia-caps/nvidia-cap1")


def test_device_node_takes_the_place_of_a_plain_file(tmp_path: Path) -> None:
    files = make_tree(tmp_path, {"/dev/nvidia0": "written by mistake"})
    assert files.device_node("/dev/nvidia0") is None
    files.make_device_node(NODE)
    assert files.device_node("/dev/nvidia0") == NODE


def test_character_number_is_by_number_and_not_by_path(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").symlink_to("/dev/null")
    assert character_number(str(tmp_path / "elsewhere")) == DeviceNumber(1, 3)
    assert character_number(str(tmp_path)) is None
