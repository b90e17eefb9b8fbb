"""The measurement of the whole agent works, and it is the whole: everything that it should do there it does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.figures import Patience
from bench.whole_agent import everything_on, whole
from nodeagent.host.paths import CDI_DYNAMIC, FEATURES_FILE


@pytest.fixture
def short() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        yield Path(place)


def test_everything_is_on(short: Path) -> None:
    with everything_on(short) as (_, root, kubelet):
        assert kubelet.healthy("nvidia.com/gpu")
        assert (root / CDI_DYNAMIC.lstrip("/") / "nodeagent-gpu.json").exists()
        assert "nvidia.com/gpu.product" in (root / FEATURES_FILE.lstrip("/")).read_text()


def test_it_is_measured(short: Path) -> None:
    found = whole(Patience(settle_seconds=0.5), short)
    assert found["resident MiB"] > found["proportional MiB"] > 10
    assert found["series"] > 1000
