"""What is installed beside the program: unit, directories, container and scripts fit it and each other."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from nodeagent.errors import AlreadyRunningError, DeniedError, SpecError
from nodeagent.host import paths
from nodeagent.host.kmod import DEADLINE_SECONDS
from vm.rig.packages import PROGRAMS

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "systemd" / "nodeagent.service"
MIG_UNIT = ROOT / "systemd" / "nodeagent-mig.service"
EXPOSURE_MOST = 5.2  # `systemd-analyze security` of systemd 252, 0 to 10; the unit has 5.1, as it may ask the clock


@pytest.fixture(scope="module")
def service() -> configparser.SectionProxy:
    return unit(UNIT)["Service"]


def unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str
    parser.read(path)
    return parser


def analyze(*words: str) -> str:
    done = subprocess.run(["systemd-analyze", "--no-pager", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("path", [UNIT, MIG_UNIT], ids=lambda path: path.stem)
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path, path: Path) -> None:
    copy = tmp_path / path.name
    copy.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={sys.executable}", path.read_text()))
    assert analyze("verify", "--man=no", "--recursive-errors=no", str(copy)) == ""


def test_the_service_is_exposed_no_more_than_it_was() -> None:
    report = analyze("security", "--offline=true", str(UNIT))
    found = re.search(r"Overall exposure level for nodeagent.service: ([0-9.]+)", report)
    assert found is not None, report
    print(found[0])
    assert float(found[1]) <= EXPOSURE_MOST, report


def test_the_mig_unit_may_do_what_the_agent_may_and_runs_before_it(service: configparser.SectionProxy) -> None:
    mig = unit(MIG_UNIT)
    same = ("CapabilityBoundingSet", "UMask", "ProtectSystem", "RuntimeDirectory", "StateDirectory")
    assert {key: mig["Service"][key] for key in same} == {key: service[key] for key in same}
    later = set(unit(UNIT)["Unit"]["Before"].split()) | {UNIT.name}
    assert later <= set(mig["Unit"]["Before"].split())


def test_what_a_restart_cannot_mend_is_not_restarted(service: configparser.SectionProxy) -> None:
    final = {kind.exit_code for kind in (SpecError, DeniedError, AlreadyRunningError)}
    assert {int(word) for word in service["RestartPreventExitStatus"].split()} == final


def test_one_kernel_call_may_take_its_time(service: configparser.SectionProxy) -> None:
    assert int(service["WatchdogSec"]) > DEADLINE_SECONDS
    assert int(service["TimeoutStopSec"]) > DEADLINE_SECONDS


def test_the_unit_and_tmpfiles_make_the_directories_that_the_agent_uses(service: configparser.SectionProxy) -> None:
    wanted = {paths.RUN_DIRECTORY, paths.STATE_DIRECTORY, str(Path(paths.NODE_FILE).parent)}
    text = (ROOT / "systemd" / "nodeagent.tmpfiles.conf").read_text()
    assert {line.split()[1] for line in text.splitlines() if line.startswith("d ")} == wanted
    made = {"/run/": "RuntimeDirectory", "/var/lib/": "StateDirectory", "/etc/": "ConfigurationDirectory"}
    assert {base + service[key] for base, key in made.items()} == wanted


def test_every_capability_says_what_needs_it(service: configparser.SectionProxy) -> None:
    comment = UNIT.read_text().partition("# Capabilities")[2].partition("CapabilityBoundingSet=")[0]
    reasons = set(re.findall(r"[A-Z_]{4,}", comment))
    assert {name.removeprefix("CAP_") for name in service["CapabilityBoundingSet"].split()} <= reasons


def test_the_container_copies_what_is_there_onto_one_pinned_system() -> None:
    text = (ROOT / "Dockerfile").read_text()
    bases = set(re.findall(r"^FROM (\S+)", text, re.MULTILINE))
    assert len(bases) == 1
    assert re.fullmatch(r"debian:\d+\.\d+-slim", *bases)
    sources = [word for line in re.findall(r"^COPY (?!--)(.*)", text, re.MULTILINE) for word in line.split()[:-1]]
    assert [name for name in sources if not (ROOT / name).exists()] == []


def test_set_up_installs_every_program_that_the_virtual_machine_needs() -> None:
    script = (ROOT / "deploy" / "setup").read_text()
    installed = set(re.findall(r'^ *packages="(.*)"$', script, re.MULTILINE))
    words = {word for line in installed for word in line.split()} | {"apt", "dpkg"}
    assert {package.split()[0] for package in PROGRAMS.values()} <= words


@pytest.mark.parametrize("script", ["deploy/setup", "deploy/demo", "tests/run", ".ci/run", "tests/vm/rig/guest.sh"])
def test_scripts_are_scripts(script: str) -> None:
    subprocess.run(["sh", "-n", str(ROOT / script)], check=True)


def test_what_the_project_pins_the_constraints_pin_alike() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pinned = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    constraints = {normal(line) for line in (ROOT / "deploy" / "constraints.txt").read_text().splitlines()}
    assert [name for name in project["project"]["dependencies"] if normal(name) not in constraints] == []
    assert all("==" in name for name in pinned)


def normal(requirement: str) -> str:
    """Names compare without case, and `-`, `_` and `.` are the same (PyPA, name normalisation)."""
    name, _, version = requirement.partition("==")
    return re.sub(r"[-_.]+", "-", name).lower() + "==" + version
