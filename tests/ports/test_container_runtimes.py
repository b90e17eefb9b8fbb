"""The real adapter: the distribution's containerd and Podman, and programs that answer as others do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from container_world import as_root
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


# Where docker's folder is mounted at its own place in the container, and the node's root directory at $HOST.
IN_A_CONTAINER = """
set -eu
mkdir -p "$HOST/mnt"
mount --bind "$HOST/etc/docker" /mnt
mount --bind "$HOST/etc/docker" "$HOST/mnt"
exec "$PYTHON" - <<'END'
import os
from nodeagent.errors import UnsupportedError
from nodeagent.host.clock import RealClock
from nodeagent.host.container_runtimes import LocalRuntimes
from nodeagent.host.files import LocalFiles
from nodeagent.host.services import Systemd
runtimes = LocalRuntimes(Systemd(LocalFiles(), RealClock()), host_root=os.environ["HOST"])
print(runtimes.version("docker"), repr(runtimes.version("containerd")))
runtimes.verify("docker", "/mnt/daemon.json", '{"features": {"cdi": true}}')
try:
    runtimes.verify("docker", "/mnt/daemon.json", "{}")
except UnsupportedError as error:
    print(error)
END
"""
DOCKERD = """\
#!/bin/sh
case "$1" in
--version) echo "Docker version 26.1.5, build $(cat /etc/mark)" ;;
--validate) grep -q cdi "$3" || { echo "no cdi in it" >&2; exit 1; } ;;
esac
"""


def test_in_a_container_the_nodes_own_programs_are_run_in_its_root_directory(tmp_path):
    host = tmp_path / "host"
    for folder in ("bin", "etc/docker", "opt/docker", "usr/sbin"):
        (host / folder).mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), host / "bin/busybox")
    for name in ("sh", "cat", "grep"):
        (host / "bin" / name).symlink_to("busybox")
    (host / "etc/mark").write_text("of the node")
    (host / "opt/docker/dockerd").write_text(DOCKERD)
    (host / "opt/docker/dockerd").chmod(0o755)
    (host / "usr/sbin/dockerd").symlink_to("/opt/docker/dockerd")  # as the node means it
    variables = {**os.environ, "HOST": str(host), "PYTHON": sys.executable}
    command = as_root(["unshare", "--mount", "sh", "-c", IN_A_CONTAINER], ("HOST", "PYTHON", "PYTHONPATH"))
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "26.1.5 ''",
        "verify /mnt/daemon.json: docker refuses it: no cdi in it",
    ], done.stderr
    assert not list((host / "etc/docker").iterdir()), "what was tried is gone"
