"""Measures what docs/performance.md reports: start-up, a pass that finds nothing to do, memory, scrapes.

By hand: `PYTHONPATH=agent:tests python tests/bench/figures.py`. test_figures.py runs the same with less patience.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from bench.stopwatch import Figures, measured
from nodeagent.errors import GoneError
from nodeagent.host.control_client import ask
from nodeagent.plan.convergence import goal_of, survey
from nodeagent.spec.example import example_text
from nodeagent.spec.reader import read_spec
from sim_node import sim_node

PROFILE = "dgx-a100"


@dataclass(frozen=True)
class Patience:
    """How often things are repeated, and how long the agent has run when its memory is read."""

    runs: int = 25
    settle_seconds: float = 60.0
    scrapes: int = 500


# Start-up.


def startup(patience: Patience, root: Path) -> dict[str, Figures]:
    """Milliseconds from fork to exit, medians, and the ratio of CPU times to a bare interpreter; kmod beside it."""
    where = ("--simulate", PROFILE, "--simulate-dir", str(root))
    agent = (sys.executable, "-m", "nodeagent")
    commands = {
        "python -c pass": (sys.executable, "-c", "pass"),
        " ".join(kmod_words()): kmod_words(),
        "nodeagent version": (*agent, "version"),
        "nodeagent status": (*agent, "status", *where),
        "nodeagent status -o json": (*agent, "status", *where, "-o", "json"),
    }
    found = {name: measured(words, patience.runs) for name, words in commands.items()}
    bare = found["python -c pass"]["CPU ms"]
    return {name: {**row, "CPU / python -c pass": row["CPU ms"] / bare} for name, row in found.items()}


def kmod_words() -> tuple[str, ...]:
    """`kmod list` needs /proc/modules, which a kernel without loadable modules does not have."""
    return ("kmod", "list") if Path("/proc/modules").exists() else ("kmod", "--version")


# A pass with nothing to do.


def converged_pass(patience: Patience, directory: Path) -> Figures:
    """CPU milliseconds of one pass on a converged node, with NVML in this process so that nothing is left out."""
    with converged_node(directory) as look:
        times, walls = [], []
        for _ in range(patience.runs):
            cpu, wall = time.process_time(), time.perf_counter()
            look()
            times.append(1000 * (time.process_time() - cpu))
            walls.append(1000 * (time.perf_counter() - wall))
    return {"CPU ms": statistics.median(times), "wall ms": statistics.median(walls)}


@contextmanager
def converged_node(directory: Path) -> Iterator[Callable[[], None]]:
    """A simulated node that is as its example says; the function is one look that finds nothing to do."""
    text = example_text(PROFILE).replace("version: 1\n", "", 1)
    with sim_node(directory, PROFILE, "in-process") as node:
        assert node.converge(text).plan.converged
        goal = goal_of(read_spec(str(node.file)))

        def look() -> None:
            assert survey(node.observer, goal)[1].converged

        yield look


# What only the simulation does: its state file, and the search of /proc for who has a placeholder open.
OF_THE_SIMULATION = re.compile(r"/\.simulation/|/proc/\d+/(fd|stat\b|comm)|/proc/self/ns|/proc>")


def system_calls(directory: Path, looks: int = 10) -> dict[str, Figures]:
    """System calls of one converged pass: the difference between two runs under strace, divided by the passes."""
    few, many = (_traced(directory, count) for count in (1, looks + 1))
    each = {name: (many[name] - few[name]) / looks for name in many}
    rows = {"the agent": False, "the simulated kernel": True}
    return {
        text: {"all": sum(count for (_, simulated), count in each.items() if simulated is kind)}
        | {name: each.get((name, kind), 0) for name in ("openat", "newfstatat", "getdents64", "read", "readlink")}
        for text, kind in rows.items()
    }


def _traced(directory: Path, looks: int) -> Counter[tuple[str, bool]]:
    """Calls by name and by whether they are the simulation's."""
    table = directory / "strace"
    program = f"import figures, pathlib; figures.look_often(pathlib.Path({str(directory)!r}), {looks})"
    paths = [str(Path(__file__).parent), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    command = ("strace", "-f", "-y", "-o", str(table), sys.executable, "-c", program)
    subprocess.run(command, env=environment, check=True)
    lines = re.findall(r"^\d+ +(\w+)(\(.*)$", table.read_text(errors="replace"), re.MULTILINE)
    return Counter((name, OF_THE_SIMULATION.search(rest) is not None) for name, rest in lines)


def look_often(directory: Path, looks: int) -> None:
    with converged_node(directory) as look:
        for _ in range(looks):
            look()


# The running agent.


@contextmanager
def running_agent(directory: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """An agent that has made a simulated node what the profile's example says, with its node's directory."""
    root = directory / "n"
    where = ("--simulate", PROFILE, "--simulate-dir", str(root), "--listen", "127.0.0.1:0")
    log = directory / "log"
    with log.open("w") as errors:
        process = subprocess.Popen([sys.executable, "-m", "nodeagent", "run", *where], stderr=errors, text=True)
        try:
            while not is_converged(root):
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            yield process, root
        finally:
            process.terminate()
            process.wait(120)


def is_converged(root: Path) -> bool:
    try:
        return bool(ask(str(root), "GET", "/v1/status")["condition"] == "converged")
    except GoneError:
        return False


def memory(process: subprocess.Popen[str], root: Path, patience: Patience) -> dict[str, Figures]:
    """Resident and proportional MB (10^6 bytes) of the main process and its NVML worker."""
    time.sleep(patience.settle_seconds)
    worker = int(ask(str(root), "GET", "/v1/status")["nvmlPid"])
    return {"main process": _rollup(process.pid), "NVML worker": _rollup(worker)}


def _rollup(pid: int) -> Figures:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    kib = {name: int(size) for name, size in re.findall(r"^(\w+): +(\d+) kB", text, re.MULTILINE)}
    return {name: kib[name] * 1024 / 1e6 for name in ("Rss", "Pss", "Anonymous")}


def agent_cpu(process: subprocess.Popen[str], seconds: float) -> float:
    """CPU seconds per hour of an idle agent with its worker, telemetry every 15 s included."""
    before = _cpu(process.pid)
    time.sleep(seconds)
    return (_cpu(process.pid) - before) / seconds * 3600


def _cpu(pid: int) -> float:
    pids = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    fields = [Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split() for one in pids]
    return sum(int(row[11]) + int(row[12]) for row in fields) / os.sysconf("SC_CLK_TCK")


# Scrapes.


def scrapes(root: Path, patience: Patience) -> dict[str, Figures]:
    """Milliseconds per scrape over one connection, from the agent and from prometheus_client with as many series."""
    address = ask(str(root), "GET", "/v1/status")["metrics"]
    host, _, port = address.rpartition(":")
    body = _fetch(http.client.HTTPConnection(host, int(port)))
    names = [sample.name for family in text_string_to_metric_families(body.decode()) for sample in family.samples]
    results = {f"nodeagent, {len(names)} series, {len(body)} bytes": _scrape(host, int(port), patience.scrapes)}
    with reference_server(len(names)) as other:
        results["prometheus_client"] = _scrape("127.0.0.1", other, patience.scrapes)
    return results


@contextmanager
def reference_server(series: int) -> Iterator[int]:
    """prometheus_client's own server in this process, with gauges of 40 series each; its port."""
    registry = CollectorRegistry()
    for family in range(series // 40 + 1):
        gauge = Gauge(f"family_{family}", "A family.", ["gpu", "uuid", "device", "host"], registry=registry)
        for one in range(min(40, series - family * 40)):
            gauge.labels(str(one), f"GPU-{one}", f"nvidia{one}", "node").set(one)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _scrape(host: str, port: int, count: int) -> Figures:
    times = []
    for _ in range(count):
        started = time.perf_counter()
        _fetch(http.client.HTTPConnection(host, port))
        times.append(1000 * (time.perf_counter() - started))
    return {"median ms": statistics.median(times), "99 % ms": sorted(times)[int(len(times) * 0.99) - 1]}


def _fetch(connection: http.client.HTTPConnection) -> bytes:
    connection.request("GET", "/metrics")
    body = connection.getresponse().read()
    connection.close()
    return body


# By hand.


def report(patience: Patience) -> Iterator[str]:
    """The figures as lines of Markdown."""
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        yield from table("a pass with nothing to do", {"": converged_pass(patience, directory)})
        yield from table("system calls of that pass", system_calls(directory))
    with tempfile.TemporaryDirectory() as place, running_agent(Path(place)) as (process, root):
        yield from table("start-up", startup(patience, root))
        yield from table("scrapes", scrapes(root, patience))
        yield from table("memory in MB", memory(process, root, patience))
        yield f"idle agent: {agent_cpu(process, patience.settle_seconds):.1f} s of CPU per hour"


def table(title: str, rows: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Lines of a Markdown table."""
    columns = list(next(iter(rows.values())))
    yield f"\n| {title} | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}"
    for name, row in rows.items():
        yield f"| {name} | {' | '.join(f'{row[column]:.3g}' for column in columns)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repetitions, to see that it works")
    quick = parser.parse_args().quick
    for line in report(Patience(3, 2.0, 20) if quick else Patience()):
        print(line, flush=True)


if __name__ == "__main__":
    main()
