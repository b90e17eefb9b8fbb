"""The simulator's declarations against the official nvml.h, with the compiler as the judge."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import files
from pathlib import Path

import pytest

from nodeagent.simulation.machine import library_path

NATIVE = Path(__file__).resolve().parents[2] / "native" / "nvml"
ABI = "".join(path.read_text() for path in sorted(NATIVE.glob("abi*.h")))
STRUCTURE = re.compile(r"typedef (?:struct|union) \{\n(.*?)^\} (\w+);", re.DOTALL | re.MULTILINE)
MEMBER = re.compile(r"^\t(?:[\w ]+? |\} )\*?(\w+)(?:\[\w+\])?;", re.MULTILINE)
PRIVATE = {"nvmlInternalGetExportTable"}  # no header has it, and nvidia-smi does not start without it
ENUMERATOR = re.compile(r"\b(NVML_\w+|nvmlEvent\w+|nvmlClocks\w+) = ")
OWN_NAME = re.compile(r"\b(?:NVML_\w+|nvml\w+_t|nvml\w+_st|nvmlEvent[A-Z]\w+|nvmlClocks[A-Z]\w+)\b")
STRUCTURES = {name: MEMBER.findall(body) for body, name in STRUCTURE.findall(ABI)}


@pytest.fixture(scope="module")
def include() -> str:
    header = next(path for path in files("nvidia-nvml-dev") or () if path.name == "nvml.h")
    return str(Path(str(header.locate())).parent)


def compile_unit(text: str, include: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["gcc", "-std=gnu11", "-x", "c", "-I", include, "-I", str(NATIVE), *arguments, "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


def both_headers() -> list[str]:
    """Our types under names of their own, then the official header."""
    names = sorted(set(OWN_NAME.findall(ABI)))
    renamed = [f"#define {name} sim_{name}" for name in names]
    restored = [f"#undef {name}" for name in names]
    return ["#include <stddef.h>", *renamed, '#include "abi.h"', *restored, '#include "nvml.h"']


def layout_checks(name: str, members: list[str]) -> list[str]:
    checks = [f'_Static_assert(sizeof(sim_{name}) == sizeof({name}), "size of {name}");']
    for member in members:
        place = f"offsetof(sim_{name}, {member}) == offsetof({name}, {member})"
        size = f"sizeof(((sim_{name} *)0)->{member}) == sizeof((({name} *)0)->{member})"
        checks.append(f'_Static_assert({place} && {size}, "{name}.{member}");')
    return checks


def test_every_structure_is_found_by_the_check() -> None:
    assert len(STRUCTURES) == ABI.count("typedef struct {") + ABI.count("typedef union {")
    assert all(STRUCTURES.values())
    assert STRUCTURES["nvmlGpuInstanceInfo_t"] == ["device", "id", "profileId", "placement"]
    assert STRUCTURES["nvmlGpmMetric_t"] == ["metricId", "nvmlReturn", "value", "metricInfo"]


def test_structures_have_the_official_layout(include: str) -> None:
    checks = [line for name, members in STRUCTURES.items() for line in layout_checks(name, members)]
    result = compile_unit("\n".join([*both_headers(), *checks]), include, "-fsyntax-only")
    assert result.returncode == 0, result.stderr


def test_constants_have_the_official_values(include: str) -> None:
    names = ENUMERATOR.findall(ABI)
    assert len(names) == len(re.findall(r" = \w+[,} ]", ABI))
    checks = [f'_Static_assert((long long)sim_{name} == (long long){name}, "{name}");' for name in names]
    result = compile_unit("\n".join([*both_headers(), *checks]), include, "-fsyntax-only")
    assert result.returncode == 0, result.stderr


def test_the_layout_check_notices_a_difference(include: str) -> None:
    wrong = '_Static_assert(sizeof(sim_nvmlMemory_t) == sizeof(nvmlMemory_v2_t), "differs");'
    result = compile_unit("\n".join([*both_headers(), wrong]), include, "-fsyntax-only")
    assert "differs" in result.stderr


OFFICIAL_FIRST = '#define NVML_NO_UNVERSIONED_FUNC_DEFS\n#include "nvml.h"\n#define NVMLSIM_OFFICIAL_TYPES\n'


def test_prototypes_are_the_official_ones(include: str) -> None:
    """A second declaration that differs in any parameter does not compile."""
    result = compile_unit(OFFICIAL_FIRST + '#include "api.h"\n', include, "-fsyntax-only")
    assert result.returncode == 0, result.stderr
    wrong = OFFICIAL_FIRST + '#include "api.h"\nnvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, int *index);\n'
    assert "conflicting types" in compile_unit(wrong, include, "-fsyntax-only").stderr


def declared(text: str) -> set[str]:
    return set(re.findall(r"\b(nvml[A-Z]\w*)\s*\([^()]*\)\s*;", text))


def test_the_library_exports_all_of_nvml(include: str) -> None:
    official = compile_unit(OFFICIAL_FIRST, include, "-E", "-P").stdout
    listing = subprocess.run(["nm", "-D", "--defined-only", library_path()], capture_output=True, text=True, check=True)
    exported = {line.split()[-1] for line in listing.stdout.splitlines()}
    wanted = declared(official)
    assert len(wanted) > 400
    assert {name for name in exported if not name.startswith("nvmlsim_")} == wanted | PRIVATE


@pytest.mark.parametrize("source", sorted(NATIVE.glob("*.c")), ids=lambda path: path.name)
def test_sources_compile_without_a_warning(source: Path) -> None:
    warnings = ["-Wall", "-Wextra", "-Wmissing-prototypes", "-Wshadow", "-Werror"]
    command = ["gcc", "-std=gnu11", "-O2", "-fvisibility=hidden", *warnings, "-c", "-o", "/dev/null", str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_library_goes_by_its_driver_name() -> None:
    dynamic = subprocess.run(["readelf", "-d", library_path()], capture_output=True, text=True, check=True).stdout
    assert "Library soname: [libnvidia-ml.so.1]" in dynamic
