"""Writes minimal but true kernel module files (ELF64 relocatable), and the tree of indexes that depmod makes of them.

A file holds what the kmod tools and the kernel's loader look at before they run code: `.modinfo`, `__versions` (CRCs of
the imported symbols), the undefined and exported symbols, and no code. Sources: elf(5); linux include/linux/module.h,
scripts/mod/modpost.c for the layout of these sections; kmod libkmod/libkmod-elf.c for what is read.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from nodeagent.errors import HostError
from nodeagent.host import paths

ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")  # Elf64_Ehdr
SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")  # Elf64_Shdr
SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym
VERSION = struct.Struct("<Q56s")  # struct modversion_info on 64 bit
IDENTIFICATION = b"\x7fELF\x02\x01\x01" + bytes(9)  # 64 bit, little endian, version 1, System V
ET_REL, EM_X86_64 = 1, 62
SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB = 1, 2, 3
SHF_ALLOC = 2
SHN_UNDEF, SHN_ABS = 0, 0xFFF1
GLOBAL = 1 << 4  # st_info of STB_GLOBAL, STT_NOTYPE
LONGEST_SYMBOL = 55  # __versions holds 56 bytes with the closing zero


@dataclass(frozen=True)
class ModuleSource:
    """What one module file shall say.

    `exports` and `imports` map a symbol to its CRC (32 bits). `depends` are the names modpost would write, filled in by
    `write_tree` from the imports when empty. `parameters` maps a name to its type ("int", "charp", "bool"). `softdep`
    is the text of one MODULE_SOFTDEP ("pre: a b post: c"). `directory` lies below the tree ("kernel", "updates").
    """

    name: str
    version: str = ""
    srcversion: str = ""
    vermagic: str = ""
    license: str = "GPL"
    description: str = ""
    depends: tuple[str, ...] = ()
    softdep: str = ""
    parameters: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    aliases: tuple[str, ...] = ()
    exports: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    imports: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    directory: str = "kernel"
    file_name: str = ""

    @property
    def path(self) -> str:
        """Path of the file below lib/modules/RELEASE."""
        return f"{self.directory}/{self.file_name or self.name}.ko"


@dataclass(frozen=True)
class Section:
    """One ELF section; `link` and `info` are section and symbol numbers (sh_link, sh_info)."""

    name: str
    kind: int
    content: bytes
    flags: int = 0
    link: int = 0
    info: int = 0
    entry_size: int = 0


def module_info(source: ModuleSource) -> bytes:
    """The `.modinfo` section: `key=value` strings, each closed by a zero byte."""
    pairs = [
        ("version", source.version),
        ("description", source.description),
        ("license", source.license),
        ("srcversion", source.srcversion),
        *(("alias", alias) for alias in source.aliases),
        ("softdep", source.softdep),
        *(("parm", f"{name}:{name}") for name in source.parameters),
        *(("parmtype", f"{name}:{kind}") for name, kind in source.parameters.items()),
        ("name", source.name),
        ("vermagic", source.vermagic),
    ]
    kept = [f"{key}={value}" for key, value in pairs if value] + [f"depends={','.join(source.depends)}"]
    return b"".join(text.encode() + b"\0" for text in kept)


def versions(imports: Mapping[str, int]) -> bytes:
    """The `__versions` section. ValueError when a symbol's name is too long for it."""
    for symbol in imports:
        if len(symbol) > LONGEST_SYMBOL:
            message = f"symbol {symbol}: longer than {LONGEST_SYMBOL} bytes"
            raise ValueError(message)
    return b"".join(VERSION.pack(crc, symbol.encode()) for symbol, crc in imports.items())


def symbols(source: ModuleSource) -> tuple[bytes, bytes]:
    """Symbol table and its strings: `__crc_` and `__ksymtab_` symbols of the exports, undefined ones of the imports."""
    table = bytearray(SYMBOL.size)
    strings = bytearray(b"\0")

    def add(name: str, section: int, value: int) -> None:
        table.extend(SYMBOL.pack(len(strings), GLOBAL, 0, section, value, 0))
        strings.extend(name.encode() + b"\0")

    for name, crc in source.exports.items():
        add(f"__crc_{name}", SHN_ABS, crc)
        add(f"__ksymtab_{name}", SHN_ABS, 0)
        add(name, SHN_ABS, 0)
    for name in source.imports:
        add(name, SHN_UNDEF, 0)
    return bytes(table), bytes(strings)


def module_bytes(source: ModuleSource) -> bytes:
    """The whole module file."""
    table, strings = symbols(source)
    exported = b"".join(name.encode() + b"\0" for name in source.exports)
    sections = [
        Section("", 0, b""),
        Section(".modinfo", SHT_PROGBITS, module_info(source), SHF_ALLOC),
        Section("__versions", SHT_PROGBITS, versions(source.imports), SHF_ALLOC),
        Section("__ksymtab_strings", SHT_PROGBITS, exported, SHF_ALLOC),
        Section(".gnu.linkonce.this_module", SHT_PROGBITS, source.name.encode().ljust(64, b"\0"), SHF_ALLOC),
        Section(".symtab", SHT_SYMTAB, table, link=6, info=1, entry_size=SYMBOL.size),
        Section(".strtab", SHT_STRTAB, strings),
    ]
    return elf([section for section in sections if section.content or not section.name or section.kind != SHT_PROGBITS])


def elf(sections: Sequence[Section]) -> bytes:
    """A relocatable ELF64 file of these sections, with the section names added as the last one."""
    numbers = {section.name: number for number, section in enumerate(sections)}
    names = bytearray(b"\0")
    headers = bytearray()
    body = bytearray(ELF_HEADER.size)
    name_table = Section(".shstrtab", SHT_STRTAB, b"")
    for section in (*sections, name_table):
        offset = len(names) if section.name else 0
        if section.name:
            names.extend(section.name.encode() + b"\0")
        content = bytes(names) if section is name_table else section.content
        link = numbers[".strtab"] if section.kind == SHT_SYMTAB else section.link
        place = (section.flags, 0, len(body), len(content), link, section.info, 8 if section.name else 0)
        headers.extend(SECTION_HEADER.pack(offset, section.kind, *place, section.entry_size))
        body.extend(content)
        body.extend(bytes(-len(body) % 8))
    count = len(sections) + 1
    start = (IDENTIFICATION, ET_REL, EM_X86_64, 1, 0, 0, len(body), 0)
    body[: ELF_HEADER.size] = ELF_HEADER.pack(*start, ELF_HEADER.size, 0, 0, SECTION_HEADER.size, count, count - 1)
    return bytes(body + headers)


def with_dependencies(sources: Sequence[ModuleSource]) -> tuple[ModuleSource, ...]:
    """The sources with `depends` filled in from who exports the imported symbols, as modpost does; pure."""
    owners = {symbol: source.name for source in sources for symbol in source.exports}

    def needed(source: ModuleSource) -> tuple[str, ...]:
        return tuple(dict.fromkeys(owners[symbol] for symbol in source.imports if symbol in owners))

    return tuple(source if source.depends else replace(source, depends=needed(source)) for source in sources)


def write_tree(root: str, release: str, modules: Sequence[ModuleSource], builtin: Iterable[str] = ()) -> str:
    """Write ROOT/lib/modules/RELEASE with the modules and depmod's indexes; return its path.

    `builtin` are paths such as "kernel/lib/crc32.ko". Modules without a vermagic get one for this release. HostError
    when depmod is missing or fails.
    """
    tree = root.rstrip("/") + paths.MODULE_TREES + "/" + release
    complete = [
        source if source.vermagic else replace(source, vermagic=f"{release} SMP preempt mod_unload modversions ")
        for source in with_dependencies(modules)
    ]
    for source in complete:
        _write(f"{tree}/{source.path}", module_bytes(source))
    # depmod warns without these two, which the kernel's build makes
    _write(f"{tree}/modules.order", "".join(f"{source.path}\n" for source in complete).encode())
    _write(f"{tree}/modules.builtin", "".join(f"{path}\n" for path in builtin).encode())
    index(root, release)
    return tree


def index(root: str, release: str) -> None:
    """Run depmod on the tree. HostError when it is missing or fails."""
    search = os.pathsep.join((os.environ.get("PATH", os.defpath), *paths.SYSTEM_PROGRAMS))
    program = shutil.which("depmod", path=search)
    if program is None:
        raise HostError("index", f"modules of {release}", "the program depmod is not there", "install the package kmod")
    done = subprocess.run([program, "-b", root or "/", release], capture_output=True, text=True, check=False)
    if done.returncode:
        raise HostError("index", f"modules of {release}", f"depmod failed: {done.stderr.strip()}")


def _write(path: str, content: bytes) -> None:
    """Replace, never rewrite in place: libkmod maps module files into memory."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.new"
    with open(temporary, "wb") as file:
        file.write(content)
    os.replace(temporary, path)
