"""Makes docs/pictures anew: simulated nodes, faults, a real Prometheus, each dashboard and the agent's page as a PNG.

    python tests/dashboard_pictures.py [--minutes 4] [--to docs/pictures]

Needs prometheus, chromium and pngquant (Debian packages). The dashboards are drawn by `dashboard_page`, not by Grafana.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dashboard_page import WIDTH, page, page_height
from dashboard_source import Source
from listening import port_of

ROOT = Path(__file__).parents[1]
SCRAPE_SECONDS = 5
BOARDS = ROOT / "deploy" / "grafana"
QOS = 'links: [{match: "driver:mlx5_core", up: true, qos: {setup: lossless-dscp26-prio3}}]\n'
LOOP = "loop: {interval_seconds: 5, sample_seconds: 2, nvml_deadline_seconds: 1}\n"
BIG = (
    "version: 1\nmodules: {nvidia: {}, rdma: {}}\n"
    "mig:\n  - {mode: enabled, gpus: [0, 1], devices: {1g.10gb: 7}}\n"
    "  - {mode: enabled, gpus: [2], devices: {3g.40gb: 1, 1g.10gb: 2}}\n"
    'roce: {devices: [{match: "rail:*", mode: v2, tos: 106}]}\n' + QOS + LOOP
)
SMALL = "version: 1\nmodules: {nvidia: {}, rdma: {}}\n" + QOS + 'roce: {devices: [{match: "rdma:*", tos: 0}]}\n' + LOOP
SMALL_WITH_MIG = SMALL + "mig: [{mode: enabled, gpus: [0], devices: {3g.20gb: 2}}]\n"


@dataclass(frozen=True)
class Node:
    """A simulated node with its agent."""

    profile: str
    directory: Path
    address: str

    def simulate(self, *words: str) -> str:
        """`nodeagent simulate WORDS` on the node; what it printed."""
        place = ("--simulate", self.profile, "--simulate-dir", str(self.directory / "n"))
        done = subprocess.run(nodeagent("simulate", *words, *place), env=environment(), capture_output=True, check=True)
        return done.stdout.decode().strip()

    def text(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def write(self, text: str) -> None:
        (self.directory / "node.new").write_text(text)
        (self.directory / "node.new").rename(self.directory / "node.yaml")


def nodeagent(*words: str) -> list[str]:
    return [sys.executable, "-m", "nodeagent", *words]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT / "agent")}


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[str]:
    """A program that is told to listen on any port; its address."""
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment()) as process:
        try:
            yield f"127.0.0.1:{port_of(process.pid)}"
        finally:
            process.terminate()


@contextmanager
def agent(profile: str, base: Path, spec: str) -> Iterator[Node]:
    directory = base / profile
    directory.mkdir()
    Node(profile, directory, "").write(spec)
    place = ("--simulate", profile, "--simulate-dir", str(directory / "n"), "--file", str(directory / "node.yaml"))
    with running(nodeagent("run", *place, "--listen", "127.0.0.1:0"), directory / "log") as address:
        node = Node(profile, directory, address)
        wait_for(lambda: "nodeagent_converged 1" in node.text("/metrics"))
        yield node


def wait_for(true) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            if true():
                return
        except OSError:
            pass
        time.sleep(0.5)
    raise SystemExit("a process did not start in two minutes")


@contextmanager
def prometheus(base: Path, targets: dict[str, str]) -> Iterator[str]:
    """A Prometheus that scrapes the addresses under these names, with our rules."""
    jobs = [{"targets": [where], "labels": {"instance": name}} for name, where in targets.items()]
    config = {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": "5s"},
        "rule_files": [str(ROOT / "deploy/prometheus/rules.yaml")],
        "scrape_configs": [{"job_name": "nodeagent", "static_configs": jobs}],
    }
    (base / "prometheus.yml").write_text(json.dumps(config))
    options = (f"--config.file={base}/prometheus.yml", f"--storage.tsdb.path={base}/data")
    with running(["prometheus", *options, "--web.listen-address=127.0.0.1:0"], base / "prometheus.log") as address:
        wait_for(lambda: urllib.request.urlopen(f"http://{address}/-/ready", timeout=5).status == 200)
        yield address


def busy(big: Node, small: Node) -> None:
    """Who works before anything breaks."""
    for gpu, percent in ((3, 97), (4, 91), (5, 88), (6, 95), (7, 35)):
        big.simulate(
            "job", "start", "--gpu", str(gpu), "--name", "train.py", "--memory", "60GiB", "--pod", "ml/llama-0"
        )
        big.simulate("load", str(percent), "--gpu", str(gpu))
    slices = re.findall(r'mig_device_info\{gpu="(\d)".*?mig_uuid="([^"]+)"', big.text("/metrics"))
    for number, (gpu, uuid) in enumerate(slices[:12]):
        words = ("--mig", uuid, "--name", "triton", "--memory", f"{2 + number % 7}GiB", "--pod", f"serve/api-{number}")
        big.simulate("job", "start", "--gpu", gpu, *words)
    for gpu in (0, 1, 2):
        big.simulate("load", str(50 + 10 * gpu), "--gpu", str(gpu))
    small.simulate("job", "start", "--gpu", "0", "--name", "notebook", "--memory", "20GiB")
    small.simulate("load", "60", "--gpu", "0")


def break_things(big: Node, small: Node) -> None:
    """What the person on call is called for."""
    big.simulate("xid", "79", "--gpu", "5")
    big.simulate("lose", "--gpu", "5")
    big.simulate("xid", "31", "--gpu", "3")
    big.simulate("fault", "ecc", "--gpu", "4")
    big.simulate("load", "20", "--gpu", "3")
    port = re.search(r'rdma_port_up\{device="mlx5_\d+",port="1",netdev="(\w+)"[^}]*rail="6"', big.text("/metrics"))
    if port:
        big.simulate("fault", "port-down", "--at", port[1])
    small.write(SMALL_WITH_MIG)  # a job is in the way


def heat(big: Node, held_seconds: float) -> None:
    """Power brake holds the clocks of a GPU down for a part of the time."""
    big.simulate("fault", "power-brake", "--gpu", "6", "--value", str(round(held_seconds * 1e9)))


def story(big: Node, small: Node, minutes: float) -> None:
    busy(big, small)
    quiet = minutes * 60 * 0.4
    time.sleep(quiet)
    break_things(big, small)
    started = time.monotonic()
    while (passed := time.monotonic() - started) < minutes * 60 - quiet:
        heat(big, passed * 0.3)
        time.sleep(5)


def picture(address: str, target: Path, size: tuple[int, int], *options: str) -> None:
    """What headless Chromium makes of an address, in 32 colours or fewer."""
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars")
    shot = (f"--screenshot={target}", f"--window-size={size[0]},{size[1]}", "--virtual-time-budget=3000")
    subprocess.run(["chromium", *flags, *options, *shot, address], check=True, capture_output=True, timeout=120)
    subprocess.run(["pngquant", "--force", "--strip", "--ext", ".png", "32", str(target)], check=True)


def draw(source: Source, base: Path, to: Path) -> None:
    for path in sorted(BOARDS.glob("*.json")):
        board = json.loads(path.read_text())
        file = base / f"{path.stem}.html"
        file.write_text(page(board, source))
        picture(f"file://{file}", to / f"dashboard-{path.stem}.png", (WIDTH, page_height(board)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "pictures")
    parser.add_argument("--stay", action="store_true", help="keep everything running until Enter, to look and redraw")
    wishes = parser.parse_args()
    wishes.to.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        big = stack.enter_context(agent("dgx-h100", base, BIG))
        small = stack.enter_context(agent("gpu-server-4x-a100", base, SMALL))
        targets = {"dgx-1": big.address, "a100-7": small.address, "dgx-2": "127.0.0.1:1"}
        address = stack.enter_context(prometheus(base, targets))
        start = time.time()
        story(big, small, wishes.minutes)
        if wishes.stay:
            print(
                json.dumps({"prometheus": address, "start": start, "big": big.address, "base": str(base)}), flush=True
            )
            sys.stdin.readline()
        draw(Source(address, start, time.time(), SCRAPE_SECONDS), base, wishes.to)
        picture(f"http://{big.address}/", wishes.to / "page.png", (1100, 1500))
        picture(f"http://{big.address}/", wishes.to / "page-phone.png", (400, 900))


if __name__ == "__main__":
    main()
