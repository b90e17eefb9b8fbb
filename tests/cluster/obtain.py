"""What the tests need of a network, fetched before they give it up: the container's file system, and helm."""

from __future__ import annotations

from pathlib import Path

import helm
from vm.rig import image

CACHE = helm.ROOT / ".cache" / "vm"


def container() -> Path:
    """The file system of the agent's container, as the Dockerfile makes it."""
    return image.obtain(CACHE, helm.ROOT)


if __name__ == "__main__":
    container()
    helm.helm()
