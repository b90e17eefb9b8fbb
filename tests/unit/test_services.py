"""Systemd adapter against a program that answers as systemctl does; its units live in files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from nodeagent.errors import DeadlineError, DeniedError, GoneError, HostError
from nodeagent.host.clock import RealClock
from nodeagent.host.files import LocalFiles
from nodeagent.host.services import Systemd, parse_show
from nodeagent.state.processes import Service
from trees import make_tree

UNIT = "nvidia-persistenced.service"
# Keeps one state per unit in a file; `slow` units change at the second look, `broken` ones fail, `stuck` ones stay.
SYSTEMCTL = """\
#!/bin/sh
cd "{units}"
echo "$@" >> ../calls
env > ../environment
verb=$1; shift
while [ "$1" != -- ]; do shift; done; shift
if [ $verb = show ]; then
    for unit in "$@"; do
        echo "Id=$unit"
        if [ -e $unit ]; then echo LoadState=loaded; else echo LoadState=not-found; fi
        case "$unit" in
        slow*) if [ -e $unit.seen ]; then cp $unit.next $unit
               elif [ -e $unit.next ]; then touch $unit.seen; echo Job=77; fi;;
        stuck*|queued*) echo Job=78;;
        esac
        echo "ActiveState=$(cat $unit 2>/dev/null || echo inactive)"
        echo MainPID=41
        echo "ControlGroup=/system.slice/$unit"
        echo
    done
    exit 0
fi
case "$1" in
none*) echo "Failed to $verb $1: Unit $1 not found." >&2; exit 5;;
denied*) echo "Failed to $verb $1: Access denied" >&2; exit 4;;
esac
case "$verb $1" in
"list-jobs queued"*) echo "78 $1 start waiting";;
"list-jobs"*) echo "78 $1 start running";;
"start queued"*) ;;
"start broken"*|"restart broken"*) echo failed > $1;;
"restart slow"*) echo deactivating > $1; echo active > $1.next;;
"start slow"*) echo active > $1.next;;
*stuck*) ;;
start*|restart*) echo active > $1;;
stop*) echo inactive > $1;;
esac
"""


@pytest.fixture
def node(tmp_path: Path) -> LocalFiles:
    (tmp_path / "units").mkdir()
    program = tmp_path / "systemctl"
    program.write_text(SYSTEMCTL.replace("{units}", str(tmp_path / "units")))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    cgroup = f"/sys/fs/cgroup/system.slice/{UNIT}"
    texts = {"/run/systemd/system/x": "", f"{cgroup}/cgroup.procs": "41\n43", f"{cgroup}/sub/cgroup.procs": "44"}
    return make_tree(tmp_path, texts)


def _systemd(node: LocalFiles, deadline_seconds: float = 20.0) -> Systemd:
    return Systemd(node, RealClock(), program=f"{node.root}/systemctl", deadline_seconds=deadline_seconds)


def _unit(node: LocalFiles, unit: str, state: str) -> None:
    Path(node.root, "units", unit).write_text(state + "\n")


def test_show_gives_known_units_with_all_their_processes(node: LocalFiles) -> None:
    _unit(node, UNIT, "active")
    _unit(node, "nvidia-dcgm.service", "inactive")
    assert _systemd(node).show([UNIT, "none.service", "nvidia-dcgm.service"]) == (
        Service(UNIT, True, (41, 43, 44)),
        Service("nvidia-dcgm.service", False, (41,)),
    )


def test_stop_and_start_wait_for_the_unit(node: LocalFiles) -> None:
    _unit(node, UNIT, "active")
    _unit(node, "slow.service", "failed")
    systemd = _systemd(node)
    systemd.stop(UNIT)
    assert systemd.show([UNIT])[0].active is False
    systemd.start(UNIT)
    systemd.start("slow.service")
    assert [found.active for found in systemd.show([UNIT, "slow.service"])] == [True, True]
    calls = Path(node.root, "calls").read_text()
    assert f"start --no-block -- {UNIT}\n" in calls


def test_restart_waits_for_the_unit_to_be_up_again(node: LocalFiles) -> None:
    _unit(node, UNIT, "active")
    _unit(node, "slow.service", "active")
    _unit(node, "broken.service", "active")
    systemd = _systemd(node)
    systemd.restart(UNIT)
    systemd.restart("slow.service")
    assert [found.active for found in systemd.show([UNIT, "slow.service"])] == [True, True]
    assert f"restart --no-block -- {UNIT}\n" in Path(node.root, "calls").read_text()
    with pytest.raises(HostError, match=r"restart broken\.service: the unit is failed; see `systemctl"):
        systemd.restart("broken.service")
    with pytest.raises(GoneError, match=r"^restart none\.service"):
        systemd.restart("none.service")


def test_reload_leaves_the_unit_up_and_waits_for_its_job(node: LocalFiles) -> None:
    _unit(node, UNIT, "active")
    _unit(node, "stopped.service", "inactive")
    systemd = _systemd(node)
    systemd.reload(UNIT)
    assert f"reload --no-block -- {UNIT}\n" in Path(node.root, "calls").read_text()
    assert "restart" not in Path(node.root, "calls").read_text()
    with pytest.raises(HostError, match=r"reload stopped\.service: the unit is inactive; see `systemctl"):
        systemd.reload("stopped.service")
    with pytest.raises(GoneError, match=r"^reload none\.service"):
        systemd.reload("none.service")


@pytest.mark.parametrize(
    ("unit", "kind", "text"),
    [
        (
            "none.service",
            GoneError,
            r"^start none\.service: failed to start .*: unit none\.service not found;",
        ),
        ("denied.service", DeniedError, "access denied"),
        ("broken.service", HostError, r"start broken\.service: systemd is done and the unit is failed; see `systemctl"),
    ],
)
def test_refusals(node: LocalFiles, unit: str, kind: type[HostError], text: str) -> None:
    with pytest.raises(kind, match=text):
        _systemd(node).start(unit)


def test_a_unit_that_does_not_stop_meets_the_deadline(node: LocalFiles) -> None:
    _unit(node, "stuck.service", "active")
    with pytest.raises(DeadlineError, match=r"stop stuck\.service: still active after 2 s"):
        _systemd(node, deadline_seconds=2).stop("stuck.service")


def test_a_unit_that_starts_after_our_own_is_queued_and_not_waited_for(node: LocalFiles) -> None:
    make_tree(Path(node.root), {"/proc/self/cgroup": "0::/system.slice/nodeagent-mig.service"})
    _unit(node, "nodeagent-mig.service", "activating")
    for unit in ("queued.service", "stuck.service"):
        _unit(node, unit, "inactive")
    _systemd(node).start("queued.service")
    with pytest.raises(DeadlineError):
        _systemd(node, deadline_seconds=0.5).start("stuck.service")
    _unit(node, "nodeagent-mig.service", "active")
    with pytest.raises(DeadlineError):
        _systemd(node, deadline_seconds=0.5).start("queued.service")


def test_a_systemd_that_does_not_answer_meets_the_deadline(node: LocalFiles) -> None:
    Path(node.root, "systemctl").write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(DeadlineError, match="systemctl show: no answer within 0"):
        _systemd(node, deadline_seconds=0.2).show([UNIT])


def test_without_systemd_there_are_no_units(tmp_path: Path) -> None:
    systemd = Systemd(LocalFiles(str(tmp_path)), RealClock(), program="/nonexistent")
    assert systemd.show([UNIT]) == ()
    with pytest.raises(GoneError, match="systemd does not run here"):
        systemd.stop(UNIT)


def test_without_systemctl_there_are_no_units(node: LocalFiles) -> None:
    systemd = Systemd(node, RealClock(), program="/nonexistent")
    assert systemd.show([UNIT]) == ()
    with pytest.raises(HostError, match="systemctl cannot be run"):
        systemd.stop(UNIT)


def _environment_of_systemctl(node: LocalFiles, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    _systemd(node).show([UNIT])
    lines = Path(node.root, "environment").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def test_systemctl_does_not_inherit_what_is_ours(node: LocalFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = _environment_of_systemctl(node, monkeypatch)
    assert "NOTIFY_SOCKET" not in environment
    assert environment["LC_ALL"] == "C"
    assert "SYSTEMCTL_FORCE_BUS" not in environment
    assert environment["SYSTEMD_IGNORE_CHROOT"] == "1"  # else, with the host's PIDs, it does nothing and says success


def test_in_a_container_the_hosts_bus_is_used(node: LocalFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    os.rename(f"{node.root}/run/systemd", f"{node.root}/run/elsewhere")
    make_tree(Path(node.root), {"/run/dbus/system_bus_socket": ""})
    assert _environment_of_systemctl(node, monkeypatch)["SYSTEMCTL_FORCE_BUS"] == "1"


def test_show_output_of_systemctl() -> None:
    text = "Id=a.service\nLoadState=loaded\nActiveState=active\nMainPID=1\nControlGroup=/a\nJob=12\n\nId=b.service\n"
    first, second = parse_show(text)
    assert (first.name, first.is_loaded, first.state, first.main_pid, first.cgroup, first.has_job) == (
        "a.service", True, "active", 1, "/a", True,
    )  # fmt: skip
    assert (second.is_loaded, second.main_pid, second.has_job) == (False, 0, False)
    assert list(parse_show("")) == []
