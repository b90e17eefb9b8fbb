"""What is said of CDI files, the loader's cache and the rules of names and versions."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from nodeagent.host.container_facts import parse_cdi
from nodeagent.host.driver_facts import parse_capability
from nodeagent.host.driver_files import parse_loader_cache
from nodeagent.resources.cdi_checks import Severity, findings
from nodeagent.resources.cdi_specs import lowest_version


def device(name="0", **edits):
    return {"name": name, "containerEdits": edits or {"deviceNodes": [{"path": "/dev/nvidia0"}]}}


def written(*devices, path="/var/run/cdi/a.json", kind="nvidia.com/gpu", version="1.1.0", **rest):
    return parse_cdi(path, json.dumps({"cdiVersion": version, "kind": kind, "devices": devices, **rest}))


def texts(*files, missing=()):
    return [(found.severity, found.text) for found in findings(files, missing)]


def test_a_right_file_has_no_findings():
    assert texts(written(device(), device("GPU-1"), device("0:1"))) == []


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (written(device("-0")), "must begin and end with a letter or digit"),
        (written(device("0:")), "must begin and end with a letter or digit"),
        (written(device(), device()), "device 0 is there twice"),
        (written(), "it has no devices"),
        (written(device(), kind="nvidia.com/" + "g" * 64), "longer than 63"),
        (written(device(), kind="nvidia"), "is not VENDOR/CLASS"),
        (written(device(), version="0.4.0"), "cdiVersion is 0.4.0, its content needs 0.5.0"),
        (parse_cdi("/etc/cdi/a.json", "{"), "it is not a CDI specification"),
        (parse_cdi("/etc/cdi/a.yaml", "a: [b"), "it is not a CDI specification"),
        (parse_cdi("/etc/cdi/a.json", "[]"), "it is not a CDI specification"),
        (parse_cdi("/etc/cdi/a.json", '{"kind": "a/b", "devices": [3]}'), "it is not a CDI specification"),
    ],
)
def test_a_wrong_file_is_an_error(file, words):
    found = texts(file)
    assert len(found) == 1
    assert found[0][0] is Severity.ERROR
    assert words in found[0][1]


def test_missing_paths_of_nodes_mounts_and_hooks():
    edits = {
        "deviceNodes": [{"path": "/dev/a", "hostPath": "/host/a"}],
        "mounts": [{"hostPath": "/lib/b", "containerPath": "/c"}],
        "hooks": [{"hookName": "createContainer", "path": "/usr/bin/hook"}],
    }
    file = written(device(), containerEdits=edits)
    assert file.paths == ("/host/a", "/lib/b", "/usr/bin/hook", "/dev/nvidia0")
    assert [text.split()[0] for _, text in texts(file, missing=file.paths[1:3])] == ["/lib/b", "/usr/bin/hook"]


def test_equal_rank_breaks_both_and_a_lower_rank_is_only_shadowed():
    ours, other = written(device()), written(device(), device("1"), path="/var/run/cdi/nvidia.json")
    assert [one for one, _ in texts(ours, other)] == [Severity.ERROR, Severity.ERROR]
    static = written(device(), path="/etc/cdi/nvidia.json")
    assert texts(static, ours) == [(Severity.REMARK, "/var/run/cdi/a.json wins over it for nvidia.com/gpu=0")]
    assert texts(written(device("2"), path="/var/run/cdi/b.json"), ours) == []
    assert texts(written(device(), kind="other.com/gpu", path="/var/run/cdi/b.json"), ours) == []


@pytest.mark.parametrize(
    ("document", "version"),
    [
        ({"kind": "a.b/c", "devices": [device("gpu0")]}, "0.3.0"),
        ({"kind": "a.b/c", "devices": [device("g", mounts=[{"type": "bind"}])]}, "0.4.0"),
        ({"kind": "a.b/c", "devices": [device("g", deviceNodes=[{"path": "/a", "hostPath": "/b"}])]}, "0.5.0"),
        ({"kind": "a.b/c", "devices": [device("0:1")]}, "0.5.0"),
        ({"kind": "a.b/c.d", "devices": [device("g")]}, "0.6.0"),
        ({"kind": "a.b/c", "devices": [device("g")], "containerEdits": {"additionalGids": [44]}}, "0.7.0"),
    ],
)
def test_lowest_version_that_has_what_is_used(document, version):
    assert lowest_version(document) == version


def test_loader_cache_as_ldconfig_reads_it():
    """This machine's own cache: the same sonames and paths as `ldconfig -p`."""
    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^\t(\S+) \(.*\) => (\S+)$", listed, re.MULTILINE)
    assert rows
    assert list(parse_loader_cache(Path("/etc/ld.so.cache").read_bytes())) == rows


@pytest.mark.parametrize("cut", [0, 5, 30, 50, 60, -1])
def test_a_cut_cache_is_no_cache_or_shorter(cut):
    data = Path("/etc/ld.so.cache").read_bytes()[:cut]
    assert all(path.startswith("/") for _, path in parse_loader_cache(data))


def test_capability_mode_is_decimal():
    found = parse_capability("DeviceFileMinor: 12\nDeviceFileMode: 292\nDeviceFileModify: 1\n")
    assert (found.minor, found.mode) == (12, 0o444)
