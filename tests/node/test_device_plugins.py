"""The agent and a kubelet on a simulated node: pods get what the node has, and nothing while it changes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from agent_process import run_command
from kubelet_devices import AdmissionError, DeviceManager, until
from nodeagent.host.control_client import ask
from nodeagent.simulation.faults import heal, make_fault
from plugin_place import Place, place_with

GPU, SMALL, BIG = "nvidia.com/gpu", "nvidia.com/mig-1g.5gb", "nvidia.com/mig-3g.20gb"
FILE = """\
version: 1
modules: {nvidia: {modeset: false}, rdma: {}}
mig:
  - {mode: enabled, gpus: [0], devices: {3g.20gb: 1, 1g.5gb: 1}}
cdi: {}
kubernetes: {gpus: {mig_strategy: mixed, pass_device_specs: true}}
health: {damping: {hold_seconds: 0, quiet_seconds: 1}}
loop: {interval_seconds: 3600, sample_seconds: 1, backoff_seconds: 0.2, nvml_deadline_seconds: 2}
"""


@pytest.fixture
def place() -> Iterator[Place]:
    with place_with(FILE) as found:
        yield found


def test_pods_get_gpus_and_mig_devices_by_cdi_and_keep_them_over_a_repartition(place: Place) -> None:
    kubelet = place.kubelet
    whole = {place.uuid(n) for n in (1, 2, 3)}
    until(lambda: kubelet.healthy(GPU) == whole and len(kubelet.healthy(SMALL)) == 1, place.told)
    small = next(iter(kubelet.healthy(SMALL)))
    assert [one.name for one in kubelet.admit("small", SMALL, 1).cdi_devices] == [f"nvidia.com/gpu={small}"]
    nodes = {one.host_path for one in kubelet.admit("train", GPU, 2).devices}
    assert {"/dev/nvidiactl", "/dev/nvidia-uvm"} < nodes
    assert len([one for one in nodes if one[-1].isdigit()]) == 2
    with pytest.raises(AdmissionError, match="requested 2, available 1"):
        kubelet.admit("another", GPU, 2)
    kubelet.end_pod("small")

    place.agent.write(FILE.replace("{3g.20gb: 1, 1g.5gb: 1}", "{1g.5gb: 3}"))
    until(lambda: len(kubelet.healthy(SMALL)) == 3 and not kubelet.listed(BIG), place.told)
    assert small not in kubelet.listed(SMALL) or small in _uuids(place)
    until(lambda: kubelet.healthy(SMALL) == _uuids(place), place.told)  # the state is that of a pass that has ended
    assert kubelet.healthy(GPU) == whole, "nobody else was disturbed"
    said = place.agent.log.read_text()
    steps = re.findall(r"^(quiesce|act|restore) +(withdraw|offer|create|destroy)? ?", said, re.MULTILINE)
    mig = [words for words in steps if words[1]][-8:]
    first, last = mig.index(("quiesce", "withdraw")), len(mig) - 1 - mig[::-1].index(("restore", "offer"))
    assert {words[1] for words in mig[first + 1 : last]} == {"create", "destroy"}, said


def _uuids(place: Place) -> set[str]:
    rows = ask(str(place.agent.root), "GET", "/v1/state")["gpus"]
    return {one for gpu in rows for part in gpu["instances"] for one in part["devices"]}


def test_a_sick_gpu_is_unhealthy_until_it_is_well_and_a_kubelets_restart_is_survived(place: Place) -> None:
    kubelet = place.kubelet
    until(lambda: len(kubelet.healthy(GPU)) == 3, place.told)
    make_fault(place.node, "remap-failed", place.uuid(2), None)
    until(lambda: place.uuid(2) not in kubelet.healthy(GPU), place.told)
    rows = {row["resource"]: row for row in ask(str(place.agent.root), "GET", "/v1/offers")["resources"]}
    assert [one["id"] for one in rows[GPU]["unhealthy"]] == [place.uuid(2)]
    assert rows[GPU]["unhealthy"][0]["reason"].startswith("row-remap: ")
    done = run_command("offers", *place.agent.target)
    assert done.returncode == 4
    assert re.search(rf"^{GPU} +3 +2 +yes$", done.stdout, re.MULTILINE)
    assert f"{place.uuid(2)}: row-remap: " in done.stdout
    kubelet.restart()
    until(lambda: len(kubelet.healthy(GPU)) == 2 and len(kubelet.listed(GPU)) == 3, place.told)
    heal(place.node)
    until(lambda: len(kubelet.healthy(GPU)) == 3, place.told)
    until(lambda: run_command("offers", *place.agent.target).returncode == 0, place.told)


def test_nothing_is_offered_beside_nvidias_plugin_nor_without_the_section(place: Place) -> None:
    kubelet = place.kubelet
    until(lambda: len(kubelet.healthy(GPU)) == 3, place.told)
    place.agent.write(FILE.replace("kubernetes: {", "kubernetes: {plugin_directory: /elsewhere, "))
    until(lambda: not kubelet.listed(GPU) and not kubelet.healthy(GPU), place.told)
    rival = DeviceManager(str(kubelet.directory))  # only its socket matters
    socket = kubelet.directory / "nvidia-gpu.sock"
    socket.symlink_to("kubelet.sock")
    place.agent.write(FILE)
    until(lambda: "left to NVIDIA's device plugin" in place.agent.log.read_text(), place.told)
    assert not kubelet.listed(GPU)
    socket.unlink()
    until(lambda: len(kubelet.healthy(GPU)) == 3, place.told)
    assert rival.resources == {}


def test_the_configuration_file_of_nvidias_plugin_is_followed_and_a_bad_one_is_not(place: Place) -> None:
    kubelet, file = place.kubelet, place.agent.root / "etc/plugin.yaml"
    until(lambda: len(kubelet.healthy(GPU)) == 3, place.told)
    file.write_text(
        "version: v1\nflags: {migStrategy: mixed}\n"
        "sharing: {timeSlicing: {resources: [{name: nvidia.com/gpu, replicas: 2}]}}\n"
    )
    place.agent.write(FILE.replace("gpus: {mig_strategy: mixed,", "gpus: {config_file: /etc/plugin.yaml,"))
    until(lambda: len(kubelet.healthy(GPU)) == 6 and len(kubelet.healthy(SMALL)) == 1, place.told)
    first, second = sorted(kubelet.free(GPU))[:2]
    assert first.partition("::")[0] == second.partition("::")[0]
    shares = kubelet.admit("two", GPU, 2) and kubelet.given["two"][GPU]
    assert len({one.partition("::")[0] for one in shares}) == 2, "spread"
    file.write_text("version: v1\nflags: {migStrategy: wrong}\n")
    text = "/etc/plugin.yaml:2:9: flags.migStrategy: expected none or single or mixed, found wrong"
    until(lambda: text in place.agent.log.read_text(), place.told)
    assert len(kubelet.healthy(GPU)) == 6, "the last good one stays"
    file.write_text("version: v1\n")
    until(lambda: len(kubelet.healthy(GPU)) == 4 and not kubelet.listed(SMALL), place.told)


def test_what_nvidias_file_asks_for_besides_gpus_is_given_as_soon_as_the_node_has_it(place: Place) -> None:
    """GDRCopy, GPUDirect Storage, RDMA devices and IMEX channel 0, which is required."""
    kubelet, file = place.kubelet, place.agent.root / "etc/plugin.yaml"
    flags = "gdrcopyEnabled: true, gdsEnabled: true, mofedEnabled: true, plugin: {deviceListStrategy: cdi-cri}"
    file.write_text(f"version: v1\nflags: {{{flags}}}\nimex: {{channelIDs: [0], required: true}}\n")
    with_file = FILE.replace("gpus: {mig_strategy: mixed,", "gpus: {config_file: /etc/plugin.yaml,")
    place.agent.write(with_file)
    until(lambda: len(kubelet.listed(GPU)) == 4 and not kubelet.healthy(GPU), place.told)
    done = run_command("offers", *place.agent.target)
    assert "IMEX channel 0: /dev/nvidia-caps-imex-channels/channel0 is not there; see NVreg_Create" in done.stdout
    assert "remark: gdrcopy: /dev/gdrdrv is not there; load gdrdrv (modules.gdrcopy); containers get" in done.stdout
    modules = (
        "modules: {nvidia: {modeset: false, parameters: {CreateImexChannel0: 1}}, gdrcopy: true, gds: true, rdma: {}}"
    )
    place.agent.write(re.sub("modules: .*", modules, with_file))
    until(lambda: len(kubelet.healthy(GPU)) == 4, place.told)
    until(lambda: not ask(str(place.agent.root), "GET", "/v1/offers")["remarks"], place.told)
    answer = kubelet.admit("train", GPU, 1)
    names = [one.name for one in answer.cdi_devices]
    assert names[1:] == [
        "nvidia.com/imex-channel=0",
        *(f"nvidia.com/{name}=all" for name in ("gdrcopy", "gds", "mofed")),
    ]
    assert names[0].startswith("nvidia.com/gpu=GPU-")
    assert dict(answer.envs) == {f"NVIDIA_{name}": "enabled" for name in ("GDRCOPY", "GDS", "MOFED")}
    listed = run_command("cdi", "list", *place.agent.target).stdout
    assert all(name in listed for name in names), "whatever a container is given, a runtime can resolve"
