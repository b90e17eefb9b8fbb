"""A kernel that wants signatures: first through lockdown, then because they are enforced; the order counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodeagent.errors import DeniedError, HostError
from nodeagent.host.files import LocalFiles
from nodeagent.host.kernel_policy import read_policy
from nodeagent.host.kmod import LibKmod
from vm.guest import kernel

ENFORCE = Path("/sys/module/module/parameters/sig_enforce")


def test_lockdown_refuses_an_unsigned_module_and_the_message_says_so(kmod: LibKmod) -> None:
    policy = read_policy(LocalFiles())
    assert (policy.lockdown, policy.signature_enforced) == ("integrity", False)
    with pytest.raises(DeniedError, match=r"(?i)lockdown.*nvidia|nvidia.*lockdown"):
        kmod.load("nvidia")
    assert "nvidia" not in kernel.loaded()


def test_the_distribution_s_signed_modules_load_under_lockdown(kmod: LibKmod) -> None:
    found = kmod.file("ib_core")
    assert found is not None
    assert found.signer
    kmod.load("ib_core")
    assert "ib_core" in kernel.loaded()


def test_a_module_that_the_kernel_command_line_forbids(kmod: LibKmod) -> None:
    assert read_policy(LocalFiles()).command_line_blacklist == ("psample",)
    with pytest.raises(DeniedError, match=r"psample.*module_blacklist="):
        kmod.load("psample")
    assert "psample" not in kernel.loaded()


def test_enforced_signatures_reject_an_unsigned_module_and_the_message_says_so(kmod: LibKmod) -> None:
    ENFORCE.write_text("Y")
    assert read_policy(LocalFiles()).signature_enforced
    found = kmod.file("nvidia")
    assert found is not None
    assert found.signer == ""
    with pytest.raises(HostError, match=r"(?i)nvidia.*sign") as refusal:
        kmod.load("nvidia")
    assert "rejected" in str(refusal.value)
    assert "nvidia" not in kernel.loaded()
    kmod.load("ib_core")
