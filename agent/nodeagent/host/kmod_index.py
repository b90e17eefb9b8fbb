"""What modprobe would find: module files, their order and the configuration that applies, through libkmod's dry run.

Nothing here depends on what is loaded: libkmod reads the running kernel's sysfs wherever the tree lies, so only those
of its functions are used that leave it alone. Source: libkmod.h; kmod's libkmod-module.c and libkmod-config.c (30).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nodeagent.errors import HostError, UnsupportedError
from nodeagent.host import paths
from nodeagent.state.modules import ModuleFile

INDEX_FILES = ("modules.dep.bin", "modules.alias.bin", "modules.symbols.bin", "modules.builtin.bin", "modules.softdep")
LONGEST_NAME = 1024  # bytes; libkmod copies names into buffers of PATH_MAX


@dataclass(frozen=True)
class FileInfo:
    """What one module file says of itself (`.modinfo`, undefined symbols, signature), apart from all configuration."""

    name: str = ""
    version: str = ""
    srcversion: str = ""
    vermagic: str = ""
    license: str = ""
    signer: str = ""
    parameters: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    imports: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Found:
    """The answer to one look-up: everything modprobe would insert, and which of it the name itself stands for."""

    order: tuple[ModuleFile, ...] = ()
    named: tuple[str, ...] = ()


def canonical(name: str) -> str:
    """A module name as the kernel writes it."""
    return name.replace("-", "_")


def load_library() -> Any:
    """The cffi module on libkmod, imported on first use. UnsupportedError when it was not built for this machine."""
    try:
        return importlib.import_module("nodeagent._kmod")
    except ImportError as error:
        raise UnsupportedError("use", "libkmod", str(error), "install libkmod2 and build the native parts") from error


class ModuleIndex:
    """Look-ups in one module tree and its configuration below `root`. Not thread-safe: the caller holds a lock.

    libkmod marks modules as visited inside its context, and parses the configuration when the context is made. The
    context is made anew when a file that it stands on has changed. kmod_validate_resources is not enough for that: it
    misses files edited in place and directories that came later. Answers are kept until then, files by (path, mtime).
    """

    def __init__(self, root: str, release: str) -> None:
        prefix = root.rstrip("/")
        self.tree = f"{prefix}{paths.MODULE_TREES}/{release}"
        self.config = tuple(prefix + directory for directory in paths.MODPROBE_CONFIG)
        self._kmod = load_library()
        self._ffi, self._lib = self._kmod.ffi, self._kmod.lib
        self._context: Any = None
        self._stamp: tuple[object, ...] = ()
        self._watched: tuple[str, ...] = ()
        self._blacklist: frozenset[str] = frozenset()
        self._found: dict[str, tuple[Found, tuple[object, ...]]] = {}
        self._files: dict[str, tuple[object, FileInfo]] = {}

    def find(self, name: str) -> Found:
        """What `modprobe NAME` would insert, aliases resolved; nothing when it knows no such name."""
        if not name or len(name) > LONGEST_NAME or "\0" in name:
            return Found()
        self._refresh()
        kept = self._found.get(name)
        if kept and kept[1] == tuple(_stamp_of(module.path) for module in kept[0].order):
            return kept[0]
        found = self._find(name)
        self._found[name] = found, tuple(_stamp_of(module.path) for module in found.order)
        return found

    def remove_command(self, name: str) -> str:
        """The `remove` rule for a module name, whether or not there is a file for it."""
        self._refresh()
        out = self._ffi.new("struct kmod_module **")
        if self._lib.kmod_module_new_from_name(self._context, name.encode(), out) < 0:
            return ""
        try:
            return self._text(self._lib.kmod_module_get_remove_commands(out[0]))
        finally:
            self._lib.kmod_module_unref(out[0])

    def _refresh(self) -> None:
        stamp = tuple(_stamp_of(path) for path in self._watched)
        if self._context is not None and stamp == self._stamp:
            return
        self._watched = tuple(_watch_list(self.tree, self.config))
        self._stamp = tuple(_stamp_of(path) for path in self._watched)
        self._found.clear()
        self._context = self._new_context()
        self._blacklist = frozenset(self._blacklisted())

    def _new_context(self) -> Any:
        directories = [self._ffi.new("char[]", path.encode()) for path in self.config]
        config = self._ffi.new("char *[]", [*directories, self._ffi.NULL])
        context = self._lib.kmod_new(self.tree.encode(), config)
        if context == self._ffi.NULL:
            raise HostError("open", self.tree, "libkmod could not read the module configuration")
        self._lib.nodeagent_quiet(context)
        return self._ffi.gc(context, self._lib.kmod_unref)

    def _blacklisted(self) -> Iterator[str]:
        iterator = self._lib.kmod_config_get_blacklists(self._context)
        if iterator == self._ffi.NULL:
            return
        while self._lib.kmod_config_iter_next(iterator):
            yield canonical(self._text(self._lib.kmod_config_iter_get_key(iterator)))
        self._lib.kmod_config_iter_free_iter(iterator)

    def _find(self, name: str) -> Found:
        order: dict[str, ModuleFile] = {}
        named: list[str] = []
        modules = self._lookup(name)
        try:
            for module in self._each(modules):
                order |= {entry.name: entry for entry in self._order(module) if entry.name not in order}
                named.append(self._info(module).name)
        finally:
            self._lib.kmod_module_unref_list(modules)
        return Found(tuple(order.values()), tuple(named))

    def _lookup(self, name: str) -> Any:
        out = self._ffi.new("struct kmod_list **")
        result = self._lib.kmod_module_new_from_lookup(self._context, name.encode(), out)
        return self._ffi.NULL if result < 0 else out[0]

    def _order(self, module: Any) -> list[ModuleFile]:
        out = self._ffi.new("struct nodeagent_action **")
        result = self._lib.nodeagent_order(module, out)
        if result < 0:
            name = self._text(self._lib.kmod_module_get_name(module))
            raise HostError("look up", f"module {name}", os.strerror(-result).lower(), "run depmod -a")
        try:
            return [self._describe(action.module, action.runs_command) for action in self._chain(out[0])]
        finally:
            self._lib.nodeagent_order_free(out[0])

    def _describe(self, module: Any, runs_command: bool) -> ModuleFile:
        lib, info = self._lib, self._info(module)
        file_name = self._text(lib.kmod_module_get_name(module))
        path = self._text(lib.kmod_module_get_path(module))
        before, after = self._softdeps(module)
        return ModuleFile(
            name=info.name,
            path=path,
            version=info.version,
            srcversion=info.srcversion,
            vermagic=info.vermagic,
            license=info.license,
            signer=info.signer,
            builtin=not path and self._is_builtin(file_name),
            blacklisted=file_name in self._blacklist or info.name in self._blacklist,
            parameters=info.parameters,
            depends=self._names(lib.kmod_module_get_dependencies(module)),
            softdeps_pre=before,
            softdeps_post=after,
            options=self._text(lib.kmod_module_get_options(module)),
            # libkmod ignores an install rule where a softdep resolves, and says so in the dry run
            install_command=self._text(lib.kmod_module_get_install_commands(module)) if runs_command else "",
            remove_command=self._text(lib.kmod_module_get_remove_commands(module)),
            aliases=info.aliases,
            imports=info.imports,
        )

    def _softdeps(self, module: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
        before, after = self._ffi.new("struct kmod_list **"), self._ffi.new("struct kmod_list **")
        self._lib.kmod_module_get_softdeps(module, before, after)
        return self._names(before[0]), self._names(after[0])

    def _names(self, modules: Any) -> tuple[str, ...]:
        try:
            return tuple(self._info(module).name for module in self._each(modules))
        finally:
            self._lib.kmod_module_unref_list(modules)

    def _is_builtin(self, name: str) -> bool:
        found = self._lookup(name)
        kept = self._ffi.new("struct kmod_list **")
        self._lib.kmod_module_apply_filter(self._context, self._lib.KMOD_FILTER_BUILTIN, found, kept)
        result = found != self._ffi.NULL and kept[0] == self._ffi.NULL
        for modules in (found, kept[0]):
            self._lib.kmod_module_unref_list(modules)
        return bool(result)

    def _info(self, module: Any) -> FileInfo:
        """Reading a module file is costly (it may have to be unpacked, and has thousands of symbols): once per file."""
        path = self._text(self._lib.kmod_module_get_path(module))
        stamp = _stamp_of(path)
        kept = self._files.get(path)
        if path and kept and kept[0] == stamp:
            return kept[1]
        info = self._read_info(module)
        if path:
            self._files[path] = stamp, info
        return info

    def _read_info(self, module: Any) -> FileInfo:
        lib = self._lib
        pairs: dict[str, list[str]] = {}
        out = self._ffi.new("struct kmod_list **")
        if lib.kmod_module_get_info(module, out) >= 0:
            for entry in self._entries(out[0]):
                key = self._text(lib.kmod_module_info_get_key(entry))
                pairs.setdefault(key, []).append(self._text(lib.kmod_module_info_get_value(entry)))
            lib.kmod_module_info_free_list(out[0])
        # the name inside counts: distributions rename files (nvidia-current.ko), the kernel does not look at that
        name = pairs.get("name", [""])[0] or self._text(lib.kmod_module_get_name(module))
        return file_info(canonical(name), pairs, self._imports(module))

    def _imports(self, module: Any) -> tuple[tuple[str, int], ...]:
        lib, out = self._lib, self._ffi.new("struct kmod_list **")
        if not self._text(lib.kmod_module_get_path(module)) or lib.kmod_module_get_dependency_symbols(module, out) < 0:
            return ()
        symbol, crc = lib.kmod_module_dependency_symbol_get_symbol, lib.kmod_module_dependency_symbol_get_crc
        imports = tuple((self._text(symbol(entry)), int(crc(entry))) for entry in self._entries(out[0]))
        lib.kmod_module_dependency_symbols_free_list(out[0])
        return imports

    def _entries(self, first: Any) -> Iterator[Any]:
        entry = first
        while entry != self._ffi.NULL:
            yield entry
            entry = self._lib.kmod_list_next(first, entry)

    def _each(self, modules: Any) -> Iterator[Any]:
        for entry in self._entries(modules):
            module = self._lib.kmod_module_get_module(entry)  # takes a reference
            try:
                yield module
            finally:
                self._lib.kmod_module_unref(module)

    def _chain(self, action: Any) -> Iterator[Any]:
        while action != self._ffi.NULL:
            yield action
            action = action.next

    def _text(self, chars: Any) -> str:
        return "" if chars == self._ffi.NULL else self._ffi.string(chars).decode("utf-8", "replace")


def file_info(name: str, pairs: dict[str, list[str]], imports: tuple[tuple[str, int], ...]) -> FileInfo:
    """The facts among the pairs of a `.modinfo` section; libkmod adds those on the signature to them."""

    def first(key: str) -> str:
        return pairs.get(key, [""])[0]

    described = [text.partition(":")[0] for key in ("parm", "parmtype") for text in pairs.get(key, [])]
    return FileInfo(
        name=name,
        version=first("version"),
        srcversion=first("srcversion"),
        vermagic=first("vermagic").strip(),
        license=first("license"),
        # without OpenSSL libkmod knows that there is a signature, but not whose
        signer=first("signer") or ("unknown" if "sig_id" in pairs else ""),
        parameters=tuple(sorted(set(described))),
        aliases=tuple(pairs.get("alias", [])),
        imports=imports,
    )


def _watch_list(tree: str, config: tuple[str, ...]) -> Iterator[str]:
    for name in INDEX_FILES:
        yield f"{tree}/{name}"
    for directory in config:
        yield directory
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        yield from (f"{directory}/{name}" for name in sorted(names) if name.endswith(".conf"))


def _stamp_of(path: str) -> tuple[int, int, int] | None:
    """What changes when a file is edited or replaced; None for no file."""
    try:
        found = os.stat(path) if path else None
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size) if found else None
