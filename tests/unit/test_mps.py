"""MPS control daemons, with programs that answer as NVIDIA's do: limits, life, death, back-off."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from nodeagent.errors import GoneError, HostError
from nodeagent.host.mps import MpsDaemon, MpsWish
from nodeagent.supervisor.mps_keeper import MpsKeeper

# `-d` starts a daemon, standing for which is a file in the pipe directory; else a command comes on standard input.
# nvidia-cuda-mps-control(1) and NVIDIA's guide to MPS: names, arguments and environment; what is not there is refused.
CONTROL = r"""#!{python} -S
import os, re, sys
place, logs = (os.environ.get("CUDA_MPS_%s_DIRECTORY" % name, "/tmp/nvidia-mps") for name in ("PIPE", "LOG"))
heard, alive = os.path.join(place, "heard"), os.path.join(place, "control")
devices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
if sys.argv[1:] == ["-d"]:
    if os.path.exists(alive):
        sys.exit("An instance of this daemon is already running")
    if not os.path.isdir(logs):
        sys.exit("no directory for logs")
    open(alive, "w").write(",".join(devices))
    sys.exit(0)
if sys.argv[1:]:
    sys.exit("usage: nvidia-cuda-mps-control [-d | -f]")
command = sys.stdin.read().strip()
open(heard, "a").write(command + "\n")
if not os.path.exists(alive):
    sys.exit("Cannot find MPS control daemon process")
known = {
    "quit": r"( -t \d+)?",
    "get_server_list": "",
    "get_default_active_thread_percentage": "",
    "set_default_active_thread_percentage": r" (100|[1-9]\d?)(\.\d+)?",
    "set_default_device_pinned_mem_limit": r" \d+ [1-9]\d*[GM]",
    "get_default_device_pinned_mem_limit": r" \d+",
}
name, rest = re.match(r"(\w*)(.*)", command).groups()
if name not in known or not re.fullmatch(known[name], rest):
    sys.exit("Unknown command")
if name.endswith("mem_limit") and int(rest.split()[0]) >= len(devices):
    sys.exit("no such device")
if os.path.exists(os.path.join(place, "refuse")) and command.startswith("set_"):
    sys.exit("refused")
if name == "quit":
    os.unlink(alive)
elif command == "get_default_active_thread_percentage":
    print("25.0")
"""
SMI = """#!{python} -S
import sys
open(__file__ + ".log", "a").write(" ".join(sys.argv[1:]) + "\\n")
"""


@pytest.fixture
def programs(tmp_path: Path) -> str:
    place = tmp_path / "bin"
    place.mkdir()
    for name, text in (("nvidia-cuda-mps-control", CONTROL), ("nvidia-smi", SMI)):
        (place / name).write_text(text.replace("{python}", sys.executable))
        (place / name).chmod(0o755)
    return str(place)


@pytest.fixture
def wish(tmp_path: Path) -> MpsWish:
    return MpsWish(str(tmp_path / "mps" / "nvidia.com" / "gpu"), (("GPU-a", 40960), ("GPU-b", 40961)), 4)


def heard(wish: MpsWish) -> list[str]:
    return Path(wish.directory, "pipe", "heard").read_text().splitlines()


def test_it_is_started_with_its_limits_and_stopped_without_traces(programs: str, wish: MpsWish) -> None:
    daemon = MpsDaemon(wish, programs)
    assert not daemon.is_alive()
    daemon.start()
    assert daemon.is_alive()
    assert heard(wish)[:3] == [
        "set_default_device_pinned_mem_limit 0 10240M",
        "set_default_device_pinned_mem_limit 1 10240M",
        "set_default_active_thread_percentage 25",
    ]
    assert Path(wish.directory, "pipe", "control").read_text() == "GPU-a,GPU-b"
    assert Path(wish.directory, ".started").exists()
    daemon.stop()
    assert not daemon.is_alive()
    assert not Path(wish.directory, ".started").exists()
    modes = Path(programs, "nvidia-smi.log").read_text().splitlines()
    assert modes == [f"-i {uuid} -c {mode}" for mode in ("EXCLUSIVE_PROCESS", "DEFAULT") for uuid in ("GPU-a", "GPU-b")]


def test_a_launcher_starts_it_outside_of_our_unit(programs: str, wish: MpsWish) -> None:
    launcher = Path(programs, "launch")
    launcher.write_text(f'#!/bin/sh\necho "$@" > {programs}/launched\nshift\nexec "$@"\n')
    launcher.chmod(0o755)
    daemon = MpsDaemon(wish, programs, ("launch", "--scope"))
    daemon.start()
    assert daemon.is_alive()
    assert Path(programs, "launched").read_text() == "--scope nvidia-cuda-mps-control -d\n"


def test_limits_that_are_refused_leave_no_daemon_and_a_missing_program_is_named(
    programs: str, wish: MpsWish, tmp_path: Path
) -> None:
    os.makedirs(f"{wish.directory}/pipe")
    Path(wish.directory, "pipe", "refuse").touch()
    daemon = MpsDaemon(wish, programs)
    with pytest.raises(HostError, match=r"set_default_device_pinned_mem_limit 0 .*: refused"):
        daemon.start()
    assert not daemon.is_alive()
    with pytest.raises(GoneError, match="no such program"):
        MpsDaemon(wish, str(tmp_path)).start()


def test_after_a_restart_of_ours_a_daemon_with_other_limits_is_started_anew_and_no_other(
    programs: str, wish: MpsWish
) -> None:
    MpsDaemon(wish, programs).start()

    def quits_with(wanted: MpsWish) -> int:
        before = heard(wish).count("quit")
        keeper = MpsKeeper(lambda: {"nvidia.com/gpu": wanted}, lambda: None, programs)
        keeper.look(0.0)
        keeper.look(10.0)
        assert keeper.ready == {uuid for uuid, _ in wanted.gpus}
        return heard(wish).count("quit") - before

    assert quits_with(wish) == 0
    assert quits_with(MpsWish(wish.directory, wish.gpus[:1], 4)) == 0, "one that serves more serves this too"
    assert quits_with(MpsWish(wish.directory, wish.gpus, 8)) == 1
    assert "set_default_active_thread_percentage 12" in heard(wish)
    Path(wish.directory, ".started").write_text("")  # as NVIDIA's plugin leaves it
    assert quits_with(wish) == 0


def test_the_keeper_adopts_watches_and_starts_again_with_growing_waits(programs: str, wish: MpsWish) -> None:
    MpsDaemon(wish, programs).start()
    wanted, told = {"nvidia.com/gpu": wish}, []
    keeper = MpsKeeper(lambda: wanted, lambda: told.append(keeper.ready), programs)
    keeper.look(0.0)
    assert told == [{"GPU-a", "GPU-b"}]
    assert heard(wish).count("set_default_active_thread_percentage 25") == 1, "one that is there is taken over"
    control = Path(wish.directory, "pipe", "control")
    control.unlink()
    Path(wish.directory, "pipe", "refuse").touch()
    keeper.look(10.0)
    assert told[-1] == frozenset()
    tries = [heard(wish).count("quit")]
    for now in (10.5, 11.5, 12.0, 14.0):
        keeper.look(now)
        tries.append(heard(wish).count("quit"))
    assert tries == [1, 1, 2, 2, 3], "after one second, then two"
    Path(wish.directory, "pipe", "refuse").unlink()
    keeper.look(100.0)
    assert told[-1] == {"GPU-a", "GPU-b"}
    wanted["nvidia.com/gpu"] = MpsWish(wish.directory, wish.gpus[:1], 4)
    before = heard(wish).count("quit")
    keeper.look(110.0)
    assert heard(wish).count("quit") == before, "a GPU that goes does not end the work of the others"
    wanted.clear()
    keeper.look(120.0)
    assert not control.exists()
    assert told[-1] == frozenset()
