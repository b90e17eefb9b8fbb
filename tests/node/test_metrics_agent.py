"""The agent on a simulated DGX as seen from outside: Prometheus scrapes it, people look at it, GPUs go wrong."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from dashboard_page import page
from dashboard_source import Source
from kubelet import Kubelet, serving
from linter import complaints, expected
from nodeagent.host.control_client import ask
from nodeagent.simulation.machine import Machine

ROOT = Path(__file__).parents[2]
BOARDS = ROOT / "deploy" / "grafana"
PATIENCE_SECONDS = 90
# The queries of NVIDIA's dashboard 12239 whose values do not need Hopper's GPM.
DCGM_DASHBOARD = (
    'max(DCGM_FI_DEV_GPU_TEMP{Hostname=~".*", gpu=~".*"}) by (Hostname, gpu, uuid)',
    'avg(DCGM_FI_DEV_GPU_TEMP{Hostname=~".*", gpu=~".*"})',
    'max(DCGM_FI_DEV_POWER_USAGE{Hostname=~".*", gpu=~".*"}) by (Hostname, gpu, uuid)',
    'sum(max(DCGM_FI_DEV_POWER_USAGE{Hostname=~".*", gpu=~".*"}) by (gpu))',
    'max(DCGM_FI_DEV_SM_CLOCK{Hostname=~".*", gpu=~".*"} * 1000000) by (Hostname, UUID, gpu)',
    'max(DCGM_FI_DEV_FB_USED{Hostname=~".*", gpu=~".*"}) by (Hostname, gpu, GPU_I_ID, GPU_I_PROFILE)',
    'DCGM_FI_DEV_GPU_UTIL{gpu=~".*"}',
)
# Those of the dashboard in dcgm-exporter's repository (grafana/dcgm-exporter-dashboard.json), its variables first.
REPOSITORY_DASHBOARD = (
    "DCGM_FI_DEV_GPU_TEMP",
    'DCGM_FI_DEV_GPU_TEMP{instance=~"$instance", gpu=~"$gpu"}',
    'avg(DCGM_FI_DEV_GPU_TEMP{instance=~"$instance", gpu=~"$gpu"})',
    'DCGM_FI_DEV_POWER_USAGE{instance=~"$instance", gpu=~"$gpu"}',
    'sum(DCGM_FI_DEV_POWER_USAGE{instance=~"$instance", gpu=~"$gpu"})',
    'DCGM_FI_DEV_SM_CLOCK{instance=~"$instance", gpu=~"$gpu"} * 1000000',
    'DCGM_FI_DEV_GPU_UTIL{instance=~"$instance", gpu=~"$gpu"}',
    'DCGM_FI_DEV_FB_USED{instance=~"$instance", gpu=~"$gpu"}',
)
REPOSITORY_HOPPER = 'DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{instance=~"$instance", gpu=~"$gpu"}'
HOPPER_DASHBOARD = (
    'max(DCGM_FI_PROF_GR_ENGINE_ACTIVE{Hostname=~".*", gpu=~".*"}) by (Hostname, gpu, GPU_I_ID, GPU_I_PROFILE)',
    'max(DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{Hostname=~".*", gpu=~".*"}) by (Hostname, gpu, GPU_I_ID, GPU_I_PROFILE)',
)
SPEC = """\
version: 1
modules: {nvidia: {}, rdma: {}}
mig: [{mode: enabled, gpus: [0, 1], devices: {PROFILES}}]
links: [{match: "driver:mlx5_core", up: true, qos: {setup: lossless-dscp26-prio3}}]
roce: {devices: [{match: "rail:*", mode: v2, tos: 106}]}
metrics: {listen: "127.0.0.1:0", node_exporter_names: true, textfile: /var/lib/nodeagent.prom,
  pod_resources_socket: /run/kubelet.sock, job_mapping_dir: /run/jobs}
loop: {sample_seconds: 1, nvml_deadline_seconds: 2}
"""
PROFILES = {"dgx-a100": "{3g.20gb: 1, 1g.5gb: 2}", "dgx-h100": "{3g.40gb: 1, 1g.10gb: 2}"}


RAILS = {(str(number), str(number)) for number in range(8)}


def nodeagent(*words: str) -> list[str]:
    return [sys.executable, "-m", "nodeagent", *words]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT / "agent"), "PYTHONUNBUFFERED": "1"}


def until(what, explain=lambda: "it never came to pass"):
    """The first true answer."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := what()):
        assert time.monotonic() < deadline, explain()
        time.sleep(0.1)
    return found


@contextmanager
def process(command, log: Path):
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment()) as running:
        try:
            yield running
        finally:
            running.terminate()
            running.wait(PATIENCE_SECONDS)


class Agent:
    """A running agent on a simulated node."""

    def __init__(self, profile: str, directory: Path) -> None:
        self.profile, self.directory = profile, directory
        self.log = directory.parent / "agent.log"
        self.address = ""

    def options(self) -> list[str]:
        return ["--simulate", self.profile, "--simulate-dir", str(self.directory)]

    def text(self, path: str = "/metrics") -> str:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=60) as answer:
            return answer.read().decode()

    def value(self, name: str, *labels: str) -> float | None:
        lines = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", self.text(), re.MULTILINE)
        found = [float(number) for pairs, number in lines if all(label in pairs for label in labels)]
        return found[0] if found else None

    def uuids(self) -> list[str]:
        """Of the GPUs, by index."""
        found = dict(re.findall(r'^nodeagent_gpu_info{gpu="(\d+)",UUID="([^"]+)"', self.text(), re.MULTILINE))
        return [found[index] for index in sorted(found, key=int)]

    def find_address(self) -> bool:
        done = subprocess.run(
            nodeagent("status", "-o", "json", *self.options()), env=environment(), capture_output=True, check=False
        )
        document = json.loads(done.stdout or "{}")
        if document.get("metrics") and document.get("condition") == "converged":
            self.address = document["metrics"]
        return bool(self.address)


@contextmanager
def running(profile: str, base: Path):
    agent = Agent(profile, base / "n")
    file = base / "node.yaml"
    file.write_text(SPEC.replace("{PROFILES}", PROFILES[profile]))
    with process(nodeagent("run", "--file", str(file), *agent.options()), agent.log):
        until(agent.find_address)
        until(lambda: agent.value("DCGM_FI_DEV_FB_USED", "GPU_I_ID") is not None)
        yield agent


@pytest.fixture(scope="module", params=["dgx-a100", "dgx-h100"])
def agent(request, tmp_path_factory):
    with running(request.param, tmp_path_factory.mktemp("m")) as started:
        yield started


@pytest.fixture(scope="module")
def prometheus(agent, tmp_path_factory):
    """The address of a Prometheus that has scraped the agent twice; it takes a free port and says which."""
    base = tmp_path_factory.mktemp("prometheus")
    rules = ROOT / "deploy" / "prometheus" / "rules.yaml"
    (base / "prometheus.yml").write_text(
        f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{rules}]\n"
        f"scrape_configs: [{{job_name: nodeagent, static_configs: [{{targets: ['{agent.address}']}}]}}]\n"
    )
    options = [
        f"--config.file={base}/prometheus.yml",
        f"--storage.tsdb.path={base}/d",
        "--web.listen-address=127.0.0.1:0",
    ]
    with process(["prometheus", *options], base / "log"):
        address = until(lambda: re.search(r"Listening on.* address=(\S+)", (base / "log").read_text()))[1]
        until(lambda: query(address, "count_over_time(up[1m]) > 2"))
        yield address


def query(address: str, expression: str) -> list[dict]:
    url = f"http://{address}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return json.load(answer)["data"]["result"]
    except OSError:
        return []


def test_prometheus_takes_every_line(agent, prometheus):
    (up,) = query(prometheus, "up")
    assert up["value"][1] == "1"

    def is_whole():
        lines = [line for line in agent.text().splitlines() if not line.startswith("#")]
        (scraped,) = query(prometheus, "scrape_samples_scraped")
        return abs(int(scraped["value"][1]) - len(lines)) <= 10

    until(is_whole)


def test_nvidias_dashboard_finds_its_data(agent, prometheus):
    queries = DCGM_DASHBOARD + (HOPPER_DASHBOARD if agent.profile == "dgx-h100" else ())
    for expression in queries:
        assert until(lambda expression=expression: query(prometheus, expression)), expression
    instances = query(prometheus, 'DCGM_FI_DEV_FB_USED{GPU_I_ID!=""}')
    assert len(instances) == 6
    assert {found["metric"]["GPU_I_PROFILE"] for found in instances} == set(
        re.findall(r"\dg\.\d+gb", PROFILES[agent.profile])
    )


def test_the_dashboard_of_dcgm_exporters_repository_finds_its_data(agent, prometheus):
    """With the values that its variables offer, one by one; a GPU with MIG enabled has no utilization of its own."""
    hopper = agent.profile == "dgx-h100"
    found = until(lambda: query(prometheus, REPOSITORY_DASHBOARD[0]))
    assert {one["metric"]["instance"] for one in found} == {agent.address}
    gpus = {one["metric"]["gpu"] for one in found}
    assert gpus == {str(index) for index in range(8)}
    for gpu in sorted(gpus):
        for template in (*REPOSITORY_DASHBOARD, *((REPOSITORY_HOPPER,) if hopper else ())):
            divided = gpu in ("0", "1") and "GPU_UTIL" in template
            expression = template.replace("$instance", re.escape(agent.address)).replace("$gpu", gpu)
            expression = expression.replace("\\", "\\\\")  # a backslash within PromQL's string
            assert bool(query(prometheus, expression)) is not divided, expression


def test_the_linter_objects_to_dcgms_names_alone(agent):
    text = agent.text()
    assert complaints(text) == expected(text)
    assert complaints(without_dcgm(text)) == set()


def without_dcgm(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not re.match(r"(# \w+ )?DCGM_", line))


@pytest.mark.parametrize("board", sorted(BOARDS.glob("*.json")), ids=lambda path: path.stem)
def test_every_panel_of_our_dashboards_finds_its_data_or_says_why_not(agent, prometheus, board):
    """A panel that may be empty has words of its own for it, which are good news or say what the node has not."""
    document = json.loads(board.read_text())
    empty: dict[str, str] = {}

    def all_found():
        empty.clear()
        empty.update(words_of_empty_panels(prometheus, document))
        return not {"No data", "-"} & set(empty.values())

    until(all_found, lambda: empty)
    drawn = page(document, Source(prometheus, time.time() - 30, time.time(), 1))
    assert [word for word in empty.values() if word not in drawn] == []
    without_gpm = any("GPM" in word for word in empty.values())
    assert without_gpm == (agent.profile == "dgx-a100" and board.stem in ("gpu", "mig"))


def words_of_empty_panels(prometheus: str, document: dict) -> dict[str, str]:
    """What panels say that find nothing, by title; a rate needs two scrapes of its series."""
    source = Source(prometheus, time.time() - 30, time.time(), 15)  # a minute for a rate
    panels = [panel for panel in document["panels"] if panel["type"] != "row"]
    return {
        panel["title"]: panel["fieldConfig"]["defaults"]["noValue"]
        for panel in panels
        if not any(map(source.rows, panel["targets"]))  # a query that cannot be read is an HTTP error
    }


def test_our_rules_evaluate(prometheus):
    assert until(lambda: query(prometheus, "instance:nodeagent_gpu_power_watts:sum"))
    assert query(prometheus, "count(nodeagent_gpu_up == 1)")[0]["value"][1] == "8"
    with urllib.request.urlopen(f"http://{prometheus}/api/v1/rules", timeout=60) as answer:
        groups = json.load(answer)["data"]["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}
    firing = [rule["name"] for group in groups for rule in group["rules"] if rule.get("state") == "firing"]
    assert firing == []


def test_rails_and_other_names(agent):
    text = agent.text()
    rails = set(re.findall(r'nodeagent_rdma_port_up\{[^}]*rail="(\d+)",gpu="(\d+)"', text))
    assert rails == RAILS
    assert agent.value("node_infiniband_port_data_transmitted_bytes_total", 'device="mlx5_0"') is not None


def test_pages_and_text_file(agent):
    assert "GPU" in agent.text("/")
    assert agent.text("/readyz") == "ready\n"
    textfile = agent.directory / "var/lib/nodeagent.prom"
    until(textfile.exists)  # it is written after the page
    assert "DCGM_FI_DEV_GPU_TEMP" in textfile.read_text()
    assert oct(textfile.stat().st_mode & 0o777) == "0o644"


def test_metrics_verb_prints_what_a_scrape_gets(agent, tmp_path):
    done = subprocess.run(nodeagent("metrics", *agent.options()), env=environment(), capture_output=True, check=True)
    assert b"# TYPE DCGM_FI_DEV_GPU_TEMP gauge\n" in done.stdout
    checked = subprocess.run(
        nodeagent("metrics", "--check", "-o", "json", *agent.options()),
        env=environment(),
        capture_output=True,
        check=True,
    )
    assert json.loads(checked.stdout)["series"] > 1000
    target = tmp_path / "x.prom"
    command = nodeagent("metrics", "--textfile", str(target), *agent.options())
    subprocess.run(command, env=environment(), check=True)
    assert target.read_bytes().startswith(b"# HELP DCGM")


def test_top_once_and_live(agent):
    done = subprocess.run(
        nodeagent("top", "--once", *agent.options()), env=environment(), capture_output=True, text=True, check=True
    )
    assert "3g." in done.stdout
    assert "mlx5_0/1" in done.stdout
    mother, child = pty.openpty()
    command = nodeagent("top", "--interval", "0.3", *agent.options())
    with subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=environment()) as live:
        os.close(child)
        shown = read_until(mother, b"RECEIVED")
        os.write(mother, b"q")
        shown += read_until(mother, b"\x1b[?1049l")
        assert live.wait(PATIENCE_SECONDS) == 0
    os.close(mother)
    assert b"\x1b[?1049h" in shown


def reload(agent: Agent) -> None:
    """Let the agent observe the node once more."""
    passes = agent.value("nodeagent_passes_total")
    ask(str(agent.directory), "POST", "/v1/reconcile")
    until(lambda: agent.value("nodeagent_passes_total") > passes)


def read_until(descriptor: int, wanted: bytes) -> bytes:
    found, deadline = b"", time.monotonic() + PATIENCE_SECONDS
    while wanted not in found:
        assert time.monotonic() < deadline, found
        assert select.select([descriptor], [], [], PATIENCE_SECONDS)[0], found
        found += os.read(descriptor, 65536)
    return found


def test_memory_stays_small(agent):
    resident = agent.value("process_resident_memory_bytes")
    assert resident < 60 << 20
    done = subprocess.run(
        nodeagent("status", "-o", "json", *agent.options()), env=environment(), capture_output=True, check=True
    )
    worker = Path(f"/proc/{json.loads(done.stdout)['nvmlPid']}/status").read_text()
    assert int(re.search(r"VmRSS:\s+(\d+) kB", worker)[1]) < 40 << 10


def test_pods_by_the_kubelet_and_in_the_text_of_a_holder(agent, tmp_path):
    whole, divided = (agent.uuids()[index] for index in (2, 0))
    mig = re.search(rf'UUID="{divided}".*mig_uuid="(MIG-[^"]+)"', agent.text())[1]
    kubelet = Kubelet({("default", "train-7", "pytorch"): {"nvidia.com/gpu": [whole], "nvidia.com/mig-1g.5gb": [mig]}})
    with serving(kubelet, f"{agent.directory}/run/kubelet.sock"):
        until(lambda: agent.value("DCGM_FI_DEV_GPU_TEMP", whole, 'namespace="default",pod="train-7"') is not None)
        until(lambda: agent.value("DCGM_FI_DEV_FB_USED", divided, 'pod="train-7"') is not None)
        read = agent.value("nodeagent_pods_timestamp_seconds")
    assert until(lambda: agent.value("nodeagent_cycle_errors_total", 'source="pods"')) >= 1
    assert agent.value("DCGM_FI_DEV_GPU_TEMP", whole, 'pod="train-7"') is not None, "the last answer stays"
    assert agent.value("nodeagent_pods_timestamp_seconds") >= read
    command = nodeagent("simulate", "job", "start", "--gpu", "2", "--pod", "default/train-7", *agent.options())
    subprocess.run(command, env=environment(), check=True)
    (tmp_path / "node.yaml").write_text("version: 1\nmig: [{mode: enabled, gpus: [2]}]\n")
    command = nodeagent("plan", "--file", str(tmp_path / "node.yaml"), *agent.options())
    plan = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert "(pod default/train-7)" in plan.stdout


def test_a_lost_a_hanging_and_a_failing_gpu_cost_only_themselves(agent):
    """Last in this file: it leaves the node hurt."""
    descriptors = agent.value("process_open_fds")
    with Machine.open(str(next(agent.directory.rglob("machine*")))) as machine:
        hanging, lost, failing = (machine.gpus[index].uuid for index in (3, 4, 5))
        machine.xid(failing, 94)
        until(lambda: agent.value("nodeagent_gpu_xid_errors_total", failing, 'xid="94"') == 1)
        machine.lose(lost)
        simulate = nodeagent("simulate", "xid", "79", "--gpu", "4", *agent.options())
        subprocess.run(simulate, env=environment(), capture_output=True, check=True)
        machine.hang(hanging, "nvmlDeviceGetFieldValues", 120)
        until(lambda: agent.value("nodeagent_gpu_up", hanging) == 0 and agent.value("nodeagent_gpu_up", lost) == 0)
        until(lambda: agent.value("nodeagent_gpu_xid_errors_total", lost, 'xid="79"') == 1)
        assert agent.value("nodeagent_gpu_last_xid_timestamp_seconds", lost) is not None
        reload(agent)
        assert agent.value("nodeagent_gpu_xid_errors_total", lost, 'gpu="4"', 'xid="79"') == 1
        assert agent.value("nodeagent_gpu_info", lost, 'gpu="4"') == 1
        assert set(re.findall(r'rdma_port_up\{[^}]*rail="(\d+)",gpu="(\d+)"', agent.text())) == RAILS
        assert agent.value("DCGM_FI_DEV_GPU_TEMP", hanging) is None
        assert agent.value("DCGM_FI_DEV_GPU_TEMP", failing) is not None
        assert agent.value("DCGM_FI_DEV_XID_ERRORS", failing) == 94
        assert agent.value("nodeagent_nvml_hangs_total") >= 1
        assert agent.text("/healthz") == "ok\n"
        machine.clear_faults()
        machine.lose(lost, lost=False)
        until(lambda: agent.value("nodeagent_gpu_up", lost) == 1)
        until(lambda: agent.value("nodeagent_gpu_up", hanging) == 1)
    until(lambda: agent.value("process_open_fds") <= descriptors + 1)
