"""Machine trees for tests: real files and links below a directory that stands for /."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nodeagent.host.files import LocalFiles


def make_tree(root: Path, texts: Mapping[str, str], links: Mapping[str, str] | None = None) -> LocalFiles:
    """Write the files (a newline is added, as the kernel does) and symbolic links, and open the tree."""
    for path, text in texts.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text + "\n")
    for path, target in (links or {}).items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)
    return LocalFiles(str(root))
