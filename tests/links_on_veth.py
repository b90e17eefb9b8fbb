"""The real machine of tests/links_contract.py: a veth pair in a network namespace of its own, without a module's help.

`python -m links_on_veth CLAUSE` runs one clause in the namespace that it is started in; `run` makes that namespace.
"""

from __future__ import annotations

import subprocess
import sys

import netns
from links_contract import CONTRACT, Machine
from nodeagent.host.files import LocalFiles
from nodeagent.host.links import RtnlLinks

NAME, PEER = "ens1", "ens2"


def run(clause: str) -> None:
    """The clause in fresh namespaces, with a sysfs that shows their interfaces; needs root, or user namespaces."""
    netns.run_program(sys.executable, "-W", "error", "-m", "links_on_veth", clause)


def make_machine() -> Machine:
    queues = "numtxqueues 4 numrxqueues 4"  # by itself the kernel makes as many as there are processors
    _ip(f"link add {NAME} {queues} type veth peer name {PEER} {queues}")
    _ip(f"link set {PEER} up")
    files = LocalFiles()
    return Machine(
        links=RtnlLinks(files),
        files=files,
        name=NAME,
        address=lambda text: _ip(f"address add {text} dev {NAME}" + (" nodad" if ":" in text else "")),
        route=lambda text: _ip(f"route add {text} dev {NAME} proto static"),
        neighbour=lambda text: _ip(f"neighbour replace {text.replace(' at ', ' lladdr ')} dev {NAME} nud permanent"),
        unplug=lambda: _ip(f"link del {NAME}"),
    )


def remove_machine() -> None:
    """Where it still is: a namespace of its own needs no cleaning."""
    subprocess.run(["ip", "link", "del", NAME], check=False, capture_output=True)


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True)


if __name__ == "__main__":
    next(clause for clause in CONTRACT if clause.__name__ == sys.argv[1])(make_machine())
