"""The configuration file of NVIDIA's device plugin is read as it is; what is wrong is told with line and key."""

from __future__ import annotations

import pytest

from nodeagent.errors import SpecError
from nodeagent.spec.importing import import_text
from nodeagent.spec.kubernetes import DeviceId, DeviceList, PluginGpus, SharedAllocation
from nodeagent.spec.labels import MigStrategy, SharingStrategy
from nodeagent.spec.plugin_config import applied, read_plugin_config

# The README's example of k8s-device-plugin, with every flag.
WHOLE = """\
version: v1
flags:
  migStrategy: mixed
  failOnInitError: true
  nvidiaDriverRoot: /
  mpsRoot: /run/nvidia/mps
  gdrcopyEnabled: true
  gdsEnabled: true
  mofedEnabled: true
  useNodeFeatureAPI: true
  deviceDiscoveryStrategy: auto
  plugin:
    passDeviceSpecs: true
    deviceListStrategy: [envvar, cdi-cri]
    deviceIDStrategy: index
    cdiAnnotationPrefix: cdi.k8s.io/
    nvidiaCTKPath: /usr/bin/nvidia-ctk
    containerDriverRoot: /driver-root
    sharedDevicesAllocationPolicy: packed
  gfd:
    oneshot: false
    noTimestamp: false
    sleepInterval: 60s
    outputFile: /etc/kubernetes/node-feature-discovery/features.d/gfd
    machineTypeFile: /sys/class/dmi/id/product_name
resources:
  gpus:
  - {pattern: "*", name: gpu}
sharing:
  timeSlicing:
    renameByDefault: true
    failRequestsGreaterThanOne: true
    resources:
    - name: nvidia.com/gpu
      replicas: 10
    - name: mig-1g.5gb
      replicas: 2
imex: {channelIDs: [0], required: true}
"""


def test_everything_that_it_can_say():
    found = applied(PluginGpus(config_file="/x"), read_plugin_config(WHOLE, "c.yaml"))
    assert found.mig_strategy is MigStrategy.MIXED
    assert found.pass_device_specs
    assert found.device_list == (DeviceList.ENVVAR, DeviceList.CDI_CRI)
    assert found.device_id is DeviceId.INDEX
    assert found.shared_allocation is SharedAllocation.PACKED
    assert (found.gdrcopy, found.gds, found.mofed) == (True, True, True)
    assert (found.imex.channels, found.imex.required) == ((0,), True)
    assert found.mps_directory == "/run/nvidia/mps"
    assert found.sharing.strategy is SharingStrategy.TIME_SLICING
    assert found.sharing.replicas == {"gpu": 10, "mig-1g.5gb": 2}
    assert found.sharing.rename
    assert found.sharing.fail_above_one is True
    assert found.config_file == "/x"


def test_what_is_not_taken_over_is_told_with_its_place():
    remarks = [str(one) for one in read_plugin_config(WHOLE, "c.yaml").remarks]
    assert "c.yaml:5:3: flags.nvidiaDriverRoot: set cdi.driver_root" in remarks
    assert any(one.startswith("c.yaml:26:1: resources: NVIDIA's plugin ignores names") for one in remarks)
    assert not [one for one in remarks if "imex" in one or "Enabled" in one]


def test_the_least_and_mps():
    assert applied(PluginGpus(), read_plugin_config("version: v1\n", "c")) == PluginGpus()
    assert applied(PluginGpus(), read_plugin_config("", "c")) == PluginGpus()
    text = "version: v1\nsharing: {mps: {resources: [{name: nvidia.com/gpu, replicas: 4}]}}\n"
    found = applied(PluginGpus(), read_plugin_config(text, "c"))
    assert found.sharing.strategy is SharingStrategy.MPS
    assert found.sharing.fail_above_one is None, "with mps it is the rule"
    slicing = "timeSlicing: {resources: [{name: gpu, replicas: 2}]}"
    both = read_plugin_config(text.replace("{mps", "{" + slicing + ", mps"), "c")
    assert applied(PluginGpus(), both).sharing.strategy is SharingStrategy.MPS
    assert [one.problem for one in both.remarks] == ["does not count beside mps"]
    one = "version: v1\nflags: {plugin: {deviceListStrategy: 'cdi-annotations,cdi-cri'}}"
    assert applied(PluginGpus(), read_plugin_config(one, "c")).device_list == (
        DeviceList.CDI_ANNOTATIONS,
        DeviceList.CDI_CRI,
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("version: v2", "c.yaml:1:1: version: expected version: v1"),
        ("flags: {}", "c.yaml:1:1: version: expected version: v1"),
        ("version: v1\nflag: {}", "c.yaml:2:1: flag: unknown key flag"),
        ("version: v1\nflags:\n  migStrategy: both", "c.yaml:3:3: flags.migStrategy: expected none or single or mixed"),
        ("version: v1\nflags: {plugin: {passDeviceSpecs: maybe}}", "expected true or false"),
        ("version: v1\nflags: {plugin: {deviceListStrategy: env}}", "expected cdi-cri or cdi-annotations or"),
        (
            "version: v1\nsharing:\n  timeSlicing:\n    resources:\n    - name: nvidia.com/gpu\n      replicas: 1",
            "c.yaml:6:7: sharing.timeSlicing.resources[0].replicas: expected a whole number from 2 to 1024",
        ),
        ("version: v1\nsharing: {mps: {resources: [{replicas: 2}]}}", "sharing.mps.resources[0].name: key name is mis"),
        (
            "version: v1\nsharing: {mps: {resources: [{name: amd.com/gpu, replicas: 2}]}}",
            "expected nvidia.com/gpu or nvidia.com/mig-PROFILE, found amd.com/gpu",
        ),
        (
            "version: v1\nsharing: {mps: {resources: [{name: gpu, replicas: 2}, {name: nvidia.com/gpu, replicas: 3}]}}",
            "is there twice",
        ),
    ],
)
def test_mistakes_have_line_and_key(text, problem):
    with pytest.raises(SpecError) as refusal:
        read_plugin_config(text, "c.yaml")
    assert problem in str(refusal.value)


def test_it_can_be_imported_as_a_node_file():
    document = import_text(WHOLE, "c.yaml").document
    assert document["kubernetes"]["gpus"]["mig_strategy"] == "mixed"
