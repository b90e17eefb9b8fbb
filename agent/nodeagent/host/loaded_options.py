"""Our own record of the options each module was loaded with: some parameters cannot be read back (mode 0)."""

from __future__ import annotations

import json
from collections.abc import Mapping

from nodeagent.host.paths import LOADED_OPTIONS, PROC_BOOT_ID
from nodeagent.host.ports import Files


def read_options(files: Files) -> Mapping[str, str]:
    """Module name -> options, as recorded since this boot; empty when the record is missing, older or damaged."""
    try:
        document = json.loads(files.read_optional(LOADED_OPTIONS) or "{}")
        if document.get("boot_id") == _boot_id(files):
            return {str(name): str(options) for name, options in document["options"].items()}
    except (ValueError, AttributeError, KeyError):
        pass  # a record that cannot be read proves nothing, and the next load writes a new one
    return {}


def record_options(files: Files, name: str, options: str) -> None:
    """Note the options before the load, so that a crash right after it leaves no module without its record."""
    known = read_options(files)
    if known.get(name) == options:
        return
    document = {"boot_id": _boot_id(files), "options": {**known, name: options}}
    files.replace(LOADED_OPTIONS, json.dumps(document, indent=1) + "\n")


def _boot_id(files: Files) -> str:
    return files.read_optional(PROC_BOOT_ID) or ""
