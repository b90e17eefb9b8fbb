"""Rules for section `pcie` of the node file that no single key shows."""

from __future__ import annotations

from collections.abc import Iterator

from nodeagent.spec.findings import Finding
from nodeagent.spec.schema import NodeSpec
from nodeagent.spec.sriov import VfDriver


def read_request_size(spec: NodeSpec) -> Iterator[Finding]:
    """`pcie.max_read_request` is a power of two."""
    size = spec.pcie.max_read_request if spec.pcie else None
    if size is not None and size & (size - 1):
        problem = f"{size} is not a size that PCI Express has; expected 128, 256, 512, 1024, 2048 or 4096"
        yield Finding(("pcie", "max_read_request"), problem)


def redirect_and_virtual_machines(spec: NodeSpec) -> Iterator[Finding]:
    """`pcie.acs_redirect: false` excludes `sriov[].driver: vfio-pci`: ACS keeps virtual machines apart."""
    for index, entry in enumerate(spec.sriov if spec.pcie and spec.pcie.acs_redirect is False else ()):
        if entry.driver is VfDriver.VFIO_PCI:
            problem = f"sriov[{index}] gives functions to virtual machines; expected no acs_redirect, or another driver"
            yield Finding(("pcie", "acs_redirect"), problem, (("sriov", index, "driver"),))


RULES = (read_request_size, redirect_and_virtual_machines)
