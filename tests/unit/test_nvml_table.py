"""The page on the NVML simulator says of every exported function what it is."""

from __future__ import annotations

import subprocess

import nvml_table
from nodeagent.simulation.machine_library import library_path


def test_the_page_has_the_table_that_the_sources_make() -> None:
    page = nvml_table.PAGE.read_text()
    assert page == nvml_table.filled(page), "write it with: python tests/nvml_table.py"


def test_every_exported_function_is_in_the_table() -> None:
    listing = subprocess.run(["nm", "-D", "--defined-only", library_path()], capture_output=True, text=True, check=True)
    exported = {line.split()[-1] for line in listing.stdout.splitlines()}
    private = {"nvmlInternalGetExportTable"}
    assert {name for name in exported if not name.startswith("nvmlsim_")} == set(nvml_table.functions()) | private
