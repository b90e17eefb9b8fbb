"""How the simulated machines are wired, as their users' guides show it, and what the commands print of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nodeagent.cli import main
from nodeagent.host.topology_facts import read_topology
from nodeagent.resources.topology_findings import findings
from nodeagent.state.rails import gpus_of, nics_of, rails_of
from nodeagent.state.topology import PortKind
from sim_node import sim_node, text_of


@pytest.mark.parametrize(
    ("profile", "rails"),
    [
        ("dgx-a100", ["0c", "12", "4b", "54", "8d", "94", "ba", "cc"]),
        ("dgx-h100", ["18", "40", "4f", "5e", "9a", "c0", "ce", "dc"]),
        ("gpu-server-4x-a100", ["61", "e1"]),
    ],
)
def test_rails_before_and_after_the_drivers_are_loaded(tmp_path: Path, profile: str, rails: list[str]) -> None:
    with sim_node(tmp_path, profile, "in-process") as sim:
        before = rails_of(sim.observer.observe(()))
        assert [rail.address for rail in before] == [f"0000:{bus}:00.0" for bus in rails]
        sim.converge("modules: {nvidia: {}, rdma: {}}")
        assert rails_of(sim.observer.observe(())) == before


def test_the_rails_of_a_node_that_lost_a_gpu_and_a_nic_keep_their_numbers_and_addresses(tmp_path: Path) -> None:
    text = 'modules: {rdma: {}}\nlinks: [{match: "rail:*", up: true, addresses: ["10.0.{rail}.5/24"]}]\n'
    with sim_node(tmp_path, "dgx-h100", "in-process") as sim:
        assert sim.converge(text).plan.converged
        before = {rail.address: rail.number for rail in rails_of(sim.observer.observe(()))}
        gpu, nic = gpus_of(sim.observer.observe(()))[2].address, next(iter(before))
        for address in (gpu, nic):
            Path(sim.node.directory, "sys/bus/pci/devices", address).unlink()
        after = {rail.address: rail.number for rail in rails_of(sim.observer.observe(()))}
        assert before.items() - after.items() == {(nic, before[nic])}
        assert sim.plan(text).converged, text_of(sim.plan(text))
        wanted = sim.plan(text.replace("rail:*", f"rail:{before[nic]}"))
        assert f"not here any more: {before[nic]} ({nic})" in text_of(wanted)


def test_the_path_of_every_gpu_and_nic_is_read_to_the_root(tmp_path: Path) -> None:
    with sim_node(tmp_path, "dgx-a100", "in-process") as sim:
        state = sim.observer.observe(())
        topology = read_topology(sim.host.files, (*gpus_of(state), *nics_of(state)))
        assert findings(state, topology) == ()
        kinds = [topology.nodes[address].config for address in state.pci["0000:07:00.0"].path[1:]]
        assert [config.kind for config in kinds if config] == [
            PortKind.ROOT_PORT,
            PortKind.UPSTREAM,
            PortKind.DOWNSTREAM,
            PortKind.ENDPOINT,
        ]
        node = topology.nodes["0000:07:00.0"]
        assert (node.link.speed_gts, node.link.width, node.iommu_type) == (16.0, 16, "identity")


def run(capsys: pytest.CaptureFixture[str], directory: Path, *words: str) -> str:
    assert main([*words, "--simulate", "dgx-a100", "--simulate-dir", str(directory / "node")]) == 0
    return capsys.readouterr().out


def test_topology_as_text_document_and_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, tmp_path, "topology").splitlines()
    assert text[0].split()[:9] == [*(f"GPU{index}" for index in range(8)), "NIC0"]
    assert text[1].split()[:9] == ["GPU0", "X", "PIX", *["SYS"] * 6]
    assert "NVLinks are not known: the NVIDIA driver does not answer" in text
    assert text[-1] == "nothing found that slows the way between them"
    document = json.loads(run(capsys, tmp_path, "topology", "-o", "json"))
    assert document["matrix"]["GPU0"]["0000:0c:00.0"] == "PIX"
    assert [gpu["rail"] for gpu in document["gpus"]] == list(range(8))
    assert document["gpus"][0]["maxPayloadBytes"] == 512
    graph = run(capsys, tmp_path, "topology", "--dot")
    assert graph.startswith("graph topology {")
    assert '"0000:07:00.0" -- "0000:0c:00.0" [style=dashed, constraint=false, label="rail 0"];' in graph
    assert graph.count("--") == len({line for line in graph.splitlines() if " -- " in line})


@pytest.mark.parametrize(("profile", "links"), [("dgx-a100", 12), ("dgx-h100", 18), ("gpu-server-4x-a100", 0)])
def test_nvlinks_stand_in_the_matrix_as_nvidia_smi_counts_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], profile: str, links: int
) -> None:
    with sim_node(tmp_path, profile, "in-process") as sim:
        sim.converge("modules: {nvidia: {}}")
        there = {found.pci_address: found for found in sim.host.nvml.nvlinks()}
    gpus = sorted(there)
    assert [found.to_switch for found in there.values()] == [links] * len(gpus)
    words = ["topology", "--simulate", profile, "--simulate-dir", str(tmp_path / "node")]
    assert main([*words, "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    cells = {document["matrix"]["GPU0"][f"GPU{index}"] for index in range(1, len(gpus))}
    assert cells == ({f"NV{links}"} if links else {"NODE", "SYS"} & cells)
    assert document["nvlinks"]["GPU0"] == ({f"GPU{index}": links for index in range(1, len(gpus))} if links else {})
    assert main(words) == 0
    assert ("NV#   that many NVLinks" in capsys.readouterr().out) is bool(links)
    assert main([*words, "--dot"]) == 0
    assert capsys.readouterr().out.count(
        f'-- "NVSwitch" [style=bold, color=darkgreen, constraint=false, label="NV{links}"'
    ) == (len(gpus) if links else 0)


def test_the_roce_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sim_node(tmp_path, "dgx-a100", "in-process") as sim:
        sim.converge('modules: {rdma: {}}\nlinks: [{match: "rail:0", up: true}]\n')
        sim.node.use_interface("enp12s0np0", "10.1.0.1/24")
    shown = json.loads(run(capsys, tmp_path, "roce", "show", "--match", "rail:0", "-o", "json"))
    (port,) = shown["ports"]
    assert (port["device"], port["rail"], port["gidIndex"], port["gid"]) == ("mlx5_0", 0, 3, "10.1.0.1")
    assert shown["netnsMode"] == "shared"
    assert "use  10.1.0.1" in run(capsys, tmp_path, "roce", "gids", "-m", "rdma:mlx5_0")
    assert "np_cnp_sent" in run(capsys, tmp_path, "roce", "counters")
    settings = run(capsys, tmp_path, "roce", "nccl-env", "--match", "rail:0").splitlines()
    assert "export NCCL_IB_HCA='=mlx5_0:1'" in settings
    assert "export NCCL_IB_GID_INDEX='3'" in settings
    words = ["roce", "gids", "-m", "rail:99", "--simulate", "dgx-a100", "--simulate-dir", str(tmp_path / "node")]
    assert main(words) == 2
    assert "match rail:99: no rdma device; rails here: 0 to 7" in capsys.readouterr().err


def test_a_simulated_node_has_no_traffic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["validate", "rdma", "--simulate", "dgx-a100", "--simulate-dir", str(tmp_path / "node")]
    assert main(words) == 2
    assert "a simulated node has no NICs" in capsys.readouterr().err
