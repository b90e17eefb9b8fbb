"""The real adapter: the distribution's containerd and Podman, and programs that answer as others do."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

from nodeagent.errors import UnsupportedError
from nodeagent.host.clock import RealClock
from nodeagent.host.container_runtimes import LocalRuntimes, parse_version
from nodeagent.host.files import LocalFiles
from nodeagent.host.paths import CONTAINERD_CONFIG
from nodeagent.host.runtime_facts import read_runtimes
from nodeagent.host.services import Systemd
from nodeagent.resources.runtime_rules import Wanted, change_for
from nodeagent.state.containers import ConfigFile, Runtime


@pytest.fixture
def runtimes(tmp_path):
    files = LocalFiles(str(tmp_path))
    return LocalRuntimes(Systemd(files, RealClock()))


@pytest.fixture
def defaults() -> str:
    return subprocess.run(["containerd", "config", "default"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3", "1.6.20~ds1"),
        ("containerd github.com/containerd/containerd/v2 v2.1.4 75cb2b7", "2.1.4"),
        ("Docker version 20.10.24+dfsg1, build 297e128", "20.10.24+dfsg1"),
        ("crio version 1.30.0\nVersion:        1.30.0", "1.30.0"),
        ("podman version 4.3.1", "4.3.1"),
        ("no idea", ""),
    ],
)
def test_versions(text, version):
    assert parse_version(text) == version


def test_what_is_installed_here_says_its_version(runtimes):
    found = read_runtimes(LocalFiles(), runtimes)
    assert found["podman"].release >= (4, 1)
    assert found["containerd"].release >= (1, 6)


@pytest.mark.parametrize("version", ["1.7.24", "2.1.0"])
def test_containerds_own_default_configuration_edited_and_read_by_it(runtimes, defaults, version):
    """All that changes is the one key in the distribution's file, and containerd itself reads the result."""
    changed = defaults.replace("    disable_apparmor = false\n", "    disable_apparmor = false # a comment of ours\n")
    turned = changed.replace('[plugins."io.containerd.grpc.v1.cri"]\n', '[plugins."io.containerd.grpc.v1.cri"]\n'
                             + ("    enable_cdi = false\n" if version > "2" else ""))  # fmt: skip
    found = Runtime("containerd", version, {CONTAINERD_CONFIG: ConfigFile(turned)}, active=True)
    change = change_for(found, Wanted())
    lines, before = change.text.splitlines(), turned.splitlines()
    assert [line.strip() for line in lines if line not in before] == ["enable_cdi = true"]
    assert [line.strip() for line in before if line not in lines] == (["enable_cdi = false"] if version > "2" else [])
    runtimes.verify("containerd", CONTAINERD_CONFIG, change.text)
    wanted = tomllib.loads(changed)
    wanted["plugins"]["io.containerd.grpc.v1.cri"]["enable_cdi"] = True
    assert tomllib.loads(change.text) == wanted


def test_debians_own_file_edited_and_read(runtimes):
    text = Path("/etc/containerd/config.toml").read_text()
    found = Runtime("containerd", "1.7.0", {CONTAINERD_CONFIG: ConfigFile(text)}, active=True)
    change = change_for(found, Wanted())
    assert set(text.splitlines()) < set(change.text.splitlines())
    runtimes.verify("containerd", CONTAINERD_CONFIG, change.text)


def test_containerd_itself_refuses_what_is_wrong(runtimes, defaults):
    with pytest.raises(UnsupportedError, match=r"verify /etc/containerd/config.toml: containerd refuses it"):
        runtimes.verify("containerd", CONTAINERD_CONFIG, defaults.replace("oom_score = 0", 'oom_score = "much"'))


def test_an_option_that_a_program_does_not_know_is_no_verdict(tmp_path):
    program = tmp_path / "dockerd"
    program.write_text("#!/bin/sh\necho 'Status: unknown flag: --validate' >&2\nexit 125\n")
    program.chmod(0o755)
    runtimes = LocalRuntimes(Systemd(LocalFiles(str(tmp_path)), RealClock()), str(tmp_path))
    runtimes.verify("docker", "/etc/docker/daemon.json", "{}")
    assert runtimes.version("containerd") == ""
    program.write_text("#!/bin/sh\necho 'unable to configure: invalid character' >&2\nexit 1\n")
    with pytest.raises(UnsupportedError, match="invalid character"):
        runtimes.verify("docker", "/etc/docker/daemon.json", "{")
