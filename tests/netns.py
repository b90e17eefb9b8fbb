"""Code run in fresh network and mount namespaces: real interfaces, a sysfs that shows them, state on a tmpfs."""

from __future__ import annotations

import os
import subprocess
import sys

MOUNTS = "mount -t sysfs sysfs /sys && mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib"
PROLOGUE = """
import subprocess, sys, time
from nodeagent.errors import *
from nodeagent.host.files import LocalFiles
from nodeagent.host.links import RtnlLinks

def ip(arguments):
    subprocess.run(["ip", *arguments.split()], check=True)

ip("link add ens1 type veth peer name ens2")
ip("link set lo up")
ip("link set ens2 up")
links = RtnlLinks(LocalFiles())
"""


def run(code: str, prologue: str = PROLOGUE) -> None:
    """Run the code after the prologue; it must end well and print nothing to standard error."""
    run_program(sys.executable, "-W", "error", "-c", prologue + code)


def run_program(*program: str) -> None:
    """The same for a program; needs root, or user namespaces for all."""
    namespaces = ["--net", "--mount"] if os.geteuid() == 0 else ["--net", "--mount", "--user", "--map-root-user"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        ["unshare", *namespaces, "sh", "-c", f'{MOUNTS} && exec "$@"', "sh", *program],
        env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
