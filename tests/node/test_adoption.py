"""A node that is set up already is adopted: its file says it as it is, and a plan from that file is empty."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cli_driver import Cli
from nodeagent.plan.adopting import adopt_node
from nodeagent.simulation.machine import ResetRoute
from nodeagent.spec.qos import QosSetup
from sim_node import SimNode, sim_node

MODULES = "modules: {nvidia: {modeset: false}, rdma: {ipoib: true}, gdrcopy: true}\n"
PORTS = {"0000:61:00.0": "enp97s0np0", "0000:e1:00.0": "enp225s0np0"}
OWN = "qos: {trust: dscp, dscp: {26: 5, 48: 6}, pfc: [5], ets: {bandwidth: [20, 0, 0, 0, 0, 80, 0, 0], strict: [6]}}"


def adopted(node: SimNode) -> dict[str, object]:
    """The document, when a plan from it is empty and reading the node changed nothing."""
    before = (node.marks(), node.everything())
    found = adopt_node(node.observer)
    assert not found.differences
    assert (node.marks(), node.everything()) == before
    return dict(found.document)


@pytest.mark.parametrize("profile", ["dgx-a100", "dgx-h100", "dgx-h200", "dgx-b200", "gpu-server-4x-a100"])
def test_a_node_with_nothing_loaded_has_a_file_that_asks_for_nothing(tmp_path: Path, profile: str) -> None:
    with sim_node(tmp_path, profile, "in-process") as node:
        document = adopted(node)
        assert "mig" not in document
        assert "nvidia" not in document.get("modules", {})


def test_what_somebody_set_up_is_wanted_as_it_is(tmp_path: Path) -> None:
    text = (
        f"{MODULES}mig: [{{gpus: [1], mode: enabled, devices: {{3g.20gb: 1, 1c.3g.20gb: 2}}}}]\n"
        "links:\n"
        "  - {match: enp97s0np0, up: true, mtu: 9000, qos: {setup: lossless-dscp26-prio3}}\n"
        f"  - {{match: enp225s0np0, up: true, mtu: 4200, {OWN}}}\n"
        'roce: {devices: [{match: "rdma:mlx5_0", mode: v2, tos: 106}]}\n'
        'sriov: [{match: "0000:61:00.0", vfs: 3}]\n'
    )
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as node:
        assert node.converge(text).plan.converged
        document = adopted(node)
        assert document["modules"] == {
            "nvidia": {"flavor": "open", "uvm": True, "modeset": False, "drm": False},
            "rdma": {"drivers": ["mlx5_core", "mlx5_ib"], "user_access": True, "ipoib": True},
            "gdrcopy": True,
            "absent": ["nouveau"],
        }
        divided = next(entry for entry in document["mig"] if entry["mode"] == "enabled")
        assert divided["gpus"] == [node.uuid(1)]
        assert sorted((one["profile"], tuple(one.get("compute", ()))) for one in divided["instances"]) == [
            ("3g.20gb", ()),
            ("3g.20gb", ("1c",)),
        ]
        links = {PORTS[entry.pop("match")]: entry for entry in document["links"]}
        assert links["enp97s0np0"] == {"up": True, "mtu": 9000, "qos": {"setup": QosSetup.LOSSLESS_DSCP.value}}
        assert links["enp225s0np0"]["qos"] == {
            "trust": "dscp",
            "dscp": {"26": 5, "48": 6},
            "pfc": [5],
            "ets": {"bandwidth": [20, 0, 0, 0, 0, 80, 0, 0], "strict": [6], "classes": list(range(8))},
        }
        assert document["sriov"] == [{"match": "0000:61:00.0", "vfs": 3}]
        assert {"match": "rdma:mlx5_0", "mode": "v2", "tos": 106} in document["roce"]["devices"]


def test_interfaces_that_are_alike_share_an_entry(tmp_path: Path) -> None:
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as node:
        node.converge(f'{MODULES}links: [{{match: "driver:mlx5_core", up: true, mtu: 9000}}]\n')
        assert adopted(node)["links"] == [{"match": "driver:mlx5_core", "up": True, "mtu": 9000}]


def test_what_the_file_cannot_keep_is_said(tmp_path: Path) -> None:
    """A MIG mode that waits for a reset is neither what it was nor what it will be."""
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as node:
        node.node.machine.set_reset_route(node.uuid(0), ResetRoute.REBOOT)
        node.converge(f"{MODULES}mig: [{{gpus: [0], mode: enabled, devices: {{}}}}]\n")
        assert any(node.uuid(0) in one for one in adopt_node(node.observer).differences)


def test_the_verb_prints_a_file_that_the_other_verbs_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli = Cli(tmp_path / "node", tmp_path / "adopted.yaml", capsys)
    assert cli("apply") == 0
    assert cli("config", "adopt") == 0
    cli.file.write_text(cli.out)
    assert cli.out.startswith("# simulated node")
    assert cli("check", file=True) == 0
    assert cli("config", "adopt", "-o", "json") == 0
    assert yaml.safe_load(cli.out)["document"] == yaml.safe_load(cli.file.read_text())
    assert cli("config", "adopt", "--simulate-dir", str(tmp_path), node=False) == 2
