"""Verb `simulate`: profiles, jobs, load and faults of a simulated node, from outside the agent that runs on it."""

from __future__ import annotations

import argparse
import errno
import os
import re
import shutil
import sys
from collections.abc import Callable
from typing import Any

from nodeagent.cli.completing import offer, profile_names
from nodeagent.cli.output import columns, emit, style_for
from nodeagent.cli.quantities import percent, some, some_seconds
from nodeagent.cli.target import Target, default_directory, running_simulations
from nodeagent.errors import UsageError
from nodeagent.host.lock import node_lock
from nodeagent.simulation.faults import FAULTS, heal, make_fault, report_xid
from nodeagent.simulation.machine import ResetRoute
from nodeagent.simulation.node import Job, SimulatedNode, open_node
from nodeagent.simulation.profiles import profiles

_EPILOG = """\
The node is --simulate PROFILE, else the only simulated node that an agent runs on.

examples:
  nodeagent simulate profiles
  nodeagent simulate job start --gpu 3 --name train.py --memory 20GiB
  nodeagent simulate job end 4200001
  nodeagent simulate fail-module nvidia_peermem --on load --errno EINVAL
  nodeagent simulate hang --gpu 2 --seconds 60
  nodeagent simulate job start --gpu 0 --mig MIG-31184895-3e2c-5c86-ac6f-64c1228045e4
  nodeagent simulate lose --gpu 5
  nodeagent simulate reset-route reboot --gpu 1
  nodeagent simulate reboot
  nodeagent simulate xid 79 --gpu 3
  nodeagent simulate fault ecc --gpu 1
  nodeagent simulate fault port-down --at enp12s0np0
  nodeagent simulate heal
"""
_UNITS = {"": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_ANY_CALL = "*"


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    text = "profiles, jobs and faults of a simulated node"
    parser = subparsers.add_parser("simulate", help=text, description=text, epilog=_EPILOG)
    verbs = parser.add_subparsers(dest="operation", metavar="OPERATION", required=True)

    def add(name: str, help_: str, function: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        verb: argparse.ArgumentParser = verbs.add_parser(
            name, parents=[common, _node_options()], help=help_, description=help_, epilog=_EPILOG
        )
        verb.set_defaults(run=function)
        return verb

    add("profiles", "the machines that can be simulated", run_profiles)
    add("heal", "take back every fault", run_heal)
    route = _add_gpu(
        add("reset-route", "what can reset a GPU: SetMigMode, only nvidia-smi, or only a reboot", run_route)
    )
    route.add_argument("route", choices=tuple(one.name.lower() for one in ResetRoute))
    add("reboot", "start the node anew: no driver, no process, pending MIG modes in force", run_reboot)
    add("remove", "delete the directory of a simulated node", run_remove)
    _add_gpu(add("lose", "let a GPU fall off the bus", run_lose))
    hang = _add_gpu(add("hang", "let every NVML call on a GPU hang", run_hang))
    hang.add_argument("--seconds", type=some_seconds, default=60.0, help="how long each call hangs (default: 60)")
    _add_health(add)
    load = _add_gpu(add("load", "set how busy a GPU is", run_load))
    load.add_argument("percent", type=percent, metavar="PERCENT")
    fail = add("fail-module", "let the kernel refuse a module", run_fail_module)
    fail.add_argument("module")
    fail.add_argument("--on", choices=("load", "unload"), default="load")
    fail.add_argument("--errno", default="EINVAL", help="error name (default: EINVAL)")
    fail.add_argument("--times", type=some, default=1, help="how many times (default: 1)")
    _add_jobs(verbs, common)


def _add_health(add: Callable[..., argparse.ArgumentParser]) -> None:
    xid = _add_gpu(add("xid", "let the driver report an Xid, in the kernel's log and through NVML", run_xid))
    xid.add_argument("code", type=int)
    xid.add_argument("--text", default="", help="what the line says behind the number")
    fault = add(
        "fault", "break something: " + "; ".join(f"{name}: {kind.text}" for name, kind in FAULTS.items()), run_fault
    )
    fault.add_argument("kind", choices=sorted(FAULTS))
    fault.add_argument("--gpu", type=int, default=None, help="index of the GPU")
    fault.add_argument("--at", default="", help="interface, RDMA device or PCI address, for faults of those")
    fault.add_argument("--value", type=float, default=None, help="how much, if not the usual")


def _add_jobs(verbs: Any, common: argparse.ArgumentParser) -> None:
    job = verbs.add_parser("job", help="processes that use a GPU", epilog=_EPILOG)
    operations = job.add_subparsers(dest="job", metavar="OPERATION", required=True)
    parents = [common, _node_options()]
    start = _add_gpu(operations.add_parser("start", parents=parents, help="start a job on a GPU and print its PID"))
    start.add_argument("--mig", default="", metavar="UUID", help="the MIG device of the GPU that it runs on")
    start.add_argument("--name", default="train.py")
    start.add_argument("--memory", default="1GiB", help="GPU memory it takes, as 512MiB or 20GiB (default: 1GiB)")
    start.add_argument("--container", default="", help="container id it runs in")
    start.add_argument("--pod", default="", help="pod it runs in: NAMESPACE/NAME, or a UID")
    start.set_defaults(run=run_job_start)
    end = operations.add_parser("end", parents=parents, help="end a job")
    end.add_argument("pid", type=int)
    end.set_defaults(run=run_job_end)
    pin = operations.add_parser("register-memory", parents=parents, help="let a job register GPU memory with a NIC")
    pin.add_argument("pid", type=int)
    pin.add_argument("--regions", type=some, default=1)
    pin.set_defaults(run=run_job_register)


def _node_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    offer(parser.add_argument("--simulate", metavar="PROFILE", default="", help="which simulated node"), profile_names)
    parser.add_argument("--simulate-dir", metavar="DIR", default="", help="its directory, if not the default one")
    return parser


def _add_gpu(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--gpu", type=int, required=True, help="index of the GPU")
    return parser


def run_profiles(arguments: argparse.Namespace) -> int:
    documents = [
        {"name": one.name, "product": one.product, "gpus": len(one.gpus), "board": one.board, "nics": len(one.nics)}
        for one in profiles().values()
    ]
    rows = [(d["name"], f"{d['gpus']} x {d['board']}", f"{d['nics']} NICs", d["product"]) for d in documents]
    emit(documents, arguments.output, lambda: columns([tuple(map(str, row)) for row in rows]))
    return 0


def run_job_start(arguments: argparse.Namespace) -> int:
    memory = _bytes(arguments.memory)
    job = Job(arguments.name, memory, arguments.mig, arguments.container, arguments.pod)
    pid = _node(arguments).start(arguments.gpu, job)
    emit({"pid": pid, "gpu": arguments.gpu}, arguments.output, lambda: str(pid))
    return 0


def run_job_end(arguments: argparse.Namespace) -> int:
    _node(arguments).end_job(arguments.pid)
    return _said(arguments, f"job {arguments.pid} has ended")


def run_job_register(arguments: argparse.Namespace) -> int:
    _node(arguments).register_memory(arguments.pid, arguments.regions)
    return _said(arguments, f"job {arguments.pid} has {arguments.regions} more region(s) registered")


def run_lose(arguments: argparse.Namespace) -> int:
    node = _node(arguments)
    node.machine.lose(_uuid(node, arguments.gpu), lost=True)
    return _said(arguments, f"GPU {arguments.gpu} is lost")


def run_hang(arguments: argparse.Namespace) -> int:
    node = _node(arguments)
    node.machine.hang(_uuid(node, arguments.gpu), _ANY_CALL, arguments.seconds)
    return _said(arguments, f"NVML calls on GPU {arguments.gpu} hang for {arguments.seconds:g} s")


def run_route(arguments: argparse.Namespace) -> int:
    node, route = _node(arguments), ResetRoute[arguments.route.upper()]
    node.machine.set_reset_route(_uuid(node, arguments.gpu), route)
    way = {ResetRoute.DRIVER: "the driver", ResetRoute.TOLD: "nvidia-smi alone", ResetRoute.REBOOT: "a reboot alone"}
    return _said(arguments, f"from now on {way[route]} resets GPU {arguments.gpu}")


def run_reboot(arguments: argparse.Namespace) -> int:
    target = _target(arguments)
    with node_lock(target.root):  # an agent does not outlive its node
        open_node(target.simulated, target.root).reboot()
    return _said(arguments, "the node has started anew, without a driver")


def run_xid(arguments: argparse.Namespace) -> int:
    node = _node(arguments)
    report_xid(node, _uuid(node, arguments.gpu), arguments.code, arguments.text)
    return _said(arguments, f"GPU {arguments.gpu} reports Xid {arguments.code}")


def run_fault(arguments: argparse.Namespace) -> int:
    node = _node(arguments)
    where = arguments.at if arguments.gpu is None else _uuid(node, arguments.gpu)
    make_fault(node, arguments.kind, where, arguments.value)
    return _said(arguments, f"{FAULTS[arguments.kind].text}: made")


def run_load(arguments: argparse.Namespace) -> int:
    node = _node(arguments)
    node.machine.set_load(_uuid(node, arguments.gpu), arguments.percent)
    return _said(arguments, f"GPU {arguments.gpu} is {arguments.percent} % busy")


def run_fail_module(arguments: argparse.Namespace) -> int:
    number = getattr(errno, arguments.errno.upper(), None)
    if not isinstance(number, int):
        raise UsageError(f"--errno {arguments.errno}: no such error; expected a name such as EINVAL, EBUSY or ENODEV")
    operation = {"load": "insert", "unload": "remove"}[arguments.on]
    _node(arguments).kernel.fail(operation, arguments.module.replace("-", "_"), number, arguments.times)
    return _said(arguments, f"the next {arguments.times} {arguments.on}(s) of {arguments.module} fail")


def run_heal(arguments: argparse.Namespace) -> int:
    node = _node(arguments)
    heal(node)
    return _said(arguments, "no faults are left")


def run_remove(arguments: argparse.Namespace) -> int:
    target = _target(arguments)
    if not os.path.isdir(target.root):
        raise UsageError(f"remove {target.root}: there is no simulated node")
    with node_lock(target.root):  # never under a running agent
        open_node(target.simulated, target.root)  # refuses a directory that is not a simulated node
        shutil.rmtree(target.root)
    return _said(arguments, f"{target.root} is removed")


def _node(arguments: argparse.Namespace) -> SimulatedNode:
    target = _target(arguments)
    return open_node(target.simulated, target.root)


def _target(arguments: argparse.Namespace) -> Target:
    if arguments.simulate:
        return Target(arguments.simulate_dir or default_directory(arguments.simulate), arguments.simulate)
    running = running_simulations()
    if len(running) == 1 and not arguments.simulate_dir:
        return running[0]
    found = ", ".join(target.simulated for target in running) or "none"
    raise UsageError(f"say which node with --simulate PROFILE; simulated nodes with a running agent: {found}")


def _uuid(node: SimulatedNode, index: int) -> str:
    gpus = node.machine.gpus
    if not 0 <= index < len(gpus):
        raise UsageError(f"--gpu {index}: there is no such GPU; there are 0 to {len(gpus) - 1}")
    return gpus[index].uuid


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+)\s*(KiB|MiB|GiB|)", text, re.IGNORECASE)
    if not found:
        raise UsageError(f"--memory {text}: expected a number with KiB, MiB or GiB, such as 20GiB")
    return int(found[1]) * _UNITS[found[2].lower()]


def _said(arguments: argparse.Namespace, text: str) -> int:
    emit({"done": text}, arguments.output, lambda: style_for(arguments, sys.stdout)("good", text))
    return 0
