"""The machine's file tree below a movable root: sysfs, procfs, /dev and the few regular files the agent keeps.

Every write is one write(2) on an unbuffered descriptor: a buffered file reports the kernel's refusal at close, where
it is lost (sysfs(5); the refusal is the errno of write itself).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from nodeagent.errors import BusyError, DeadlineError, DeniedError, GoneError, HostError, UnsupportedError
from nodeagent.host.paths import DEV_CHAR
from nodeagent.state.processes import DeviceNode, DeviceNumber

ERROR_OF_ERRNO: Mapping[int, type[HostError]] = {
    **dict.fromkeys((errno.EBUSY, errno.EAGAIN, errno.ETXTBSY), BusyError),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), DeniedError),
    **dict.fromkeys((errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ESRCH, errno.ENOTDIR), GoneError),
    **dict.fromkeys((errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.ERANGE), UnsupportedError),
    errno.ETIMEDOUT: DeadlineError,
}
ADVICE: Mapping[int, str] = {
    errno.EACCES: "run as root, in a container as a privileged one",
    errno.EPERM: "run as root, in a container as a privileged one",
    errno.EROFS: "mount it read-write for the agent",
    errno.ENOSPC: "make room on the file system",
}
# What a sysfs attribute answers while it has no value to show: a link that is down, a feature the device lacks.
NO_VALUE = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENODEV, errno.ENXIO, errno.EIO})
ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESRCH})
READ_SIZE = 65536
# One read tells a whole attribute of these, a page at most (Documentation/filesystems/sysfs.rst); a short one ends it.
ATTRIBUTES = ("/sys/class/", "/sys/bus/", "/sys/devices/", "/sys/module/")


def host_error(operation: str, subject: str, error: OSError) -> HostError:
    """The agent's error for an errno: the class says who must act, the text keeps the kernel's words."""
    number = error.errno or 0
    reason = (os.strerror(number) if number else str(error)).lower()
    return ERROR_OF_ERRNO.get(number, HostError)(operation, subject, reason, ADVICE.get(number, ""))


@contextmanager
def host_errors(operation: str, subject: str) -> Iterator[None]:
    """Turn every OSError of the block into the agent's error for `operation subject`."""
    try:
        yield
    except OSError as error:
        raise host_error(operation, subject, error) from error


def rooted(root: str, path: str) -> str:
    """Where an absolute path of the machine lies when the machine's tree stands at `root`."""
    return path if root in {"", "/"} else root.rstrip("/") + path


def character_number(path: str) -> DeviceNumber | None:
    """Number of the character device that `path` leads to, None if it is something else. OSError as of stat(2)."""
    found = os.stat(path)
    if not stat.S_ISCHR(found.st_mode):
        return None
    return DeviceNumber(os.major(found.st_rdev), os.minor(found.st_rdev))


class LocalFiles:
    """`ports.Files` on this machine, or on any directory tree that stands for one."""

    def __init__(self, root: str = "/") -> None:
        self.root = root

    def read(self, path: str) -> str:
        with host_errors("read", path):
            return self._read(path)

    def read_optional(self, path: str) -> str | None:
        try:
            return self._read(path)
        except OSError as error:
            if error.errno in ABSENT | NO_VALUE:
                return None
            raise host_error("read", path, error) from error

    def names(self, path: str) -> tuple[str, ...]:
        try:
            return tuple(sorted(os.listdir(self._at(path))))
        except OSError as error:
            if error.errno in ABSENT:
                return ()
            raise host_error("list", path, error) from error

    def target(self, path: str) -> str | None:
        found = self.link(path)
        return None if found is None else found.rpartition("/")[2]

    def link(self, path: str) -> str | None:
        try:
            return os.readlink(self._at(path))
        except OSError as error:
            if error.errno in ABSENT or error.errno == errno.EINVAL:
                return None
            raise host_error("read the link", path, error) from error

    def read_bytes(self, path: str, size: int, offset: int = 0) -> bytes:
        with host_errors("read", path):
            handle = os.open(self._at(path), os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.pread(handle, size, offset)
            finally:
                os.close(handle)

    def make_directory(self, path: str) -> None:
        with host_errors("make directory", path), suppress(FileExistsError):
            os.mkdir(self._at(path))

    def remove_directory(self, path: str) -> None:
        with host_errors("remove directory", path), suppress(FileNotFoundError):
            os.rmdir(self._at(path))

    def exists(self, path: str) -> bool:
        return os.path.exists(self._at(path))

    def write(self, path: str, text: str) -> None:
        data = text.encode()
        with host_errors("write", path):
            handle = os.open(self._at(path), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
            try:
                written = os.write(handle, data)
            finally:
                os.close(handle)
        if written != len(data):
            raise HostError("write", path, f"the kernel took {written} of {len(data)} bytes")

    def write_bytes(self, path: str, data: bytes, offset: int) -> None:
        with host_errors("write", path):
            handle = os.open(self._at(path), os.O_WRONLY | os.O_CLOEXEC)
            try:
                written = os.pwrite(handle, data, offset)
            finally:
                os.close(handle)
        if written != len(data):
            raise HostError("write", path, f"the kernel took {written} of {len(data)} bytes")

    def replace(self, path: str, text: str, mode: int = 0o600) -> None:
        """As the port says; directories that are missing are created with mode 0755."""
        final = self._at(path)
        temporary = _beside(final)
        with host_errors("replace", path):
            os.makedirs(os.path.dirname(final), mode=0o755, exist_ok=True)
            with _removed_on_failure(temporary):
                _write_durably(temporary, text.encode(), mode)
                os.rename(temporary, final)
            _sync_directory(os.path.dirname(final))

    def remove(self, path: str) -> None:
        """As the port says; the link in /dev/char that leads to a removed device node goes with it."""
        node = self.device_node(path)
        with host_errors("remove", path), suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(self._at(path))
        if node is not None and self.target(_char_link(node)) == os.path.basename(path):
            self.remove(_char_link(node))

    def mode(self, path: str) -> int | None:
        try:
            return stat.S_IMODE(os.stat(self._at(path)).st_mode)
        except OSError as error:
            if error.errno in ABSENT:
                return None
            raise host_error("look at", path, error) from error

    def device_node(self, path: str) -> DeviceNode | None:
        try:
            found = os.lstat(self._at(path))
        except OSError as error:
            if error.errno in ABSENT:
                return None
            raise host_error("look at", path, error) from error
        if not stat.S_ISCHR(found.st_mode):
            return None
        numbers = os.major(found.st_rdev), os.minor(found.st_rdev)
        return DeviceNode(path, *numbers, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)

    def make_device_node(self, node: DeviceNode) -> None:
        """As the port says, with a link in /dev/char as nvidia-modprobe makes it.

        Container runtimes find the device of a cgroup rule through that link; without it a container loses its GPU at
        the next `systemctl daemon-reload` (nvidia-container-toolkit, troubleshooting).
        """
        final = self._at(node.path)
        found = self.device_node(node.path)
        with host_errors("make device node", node.path):
            os.makedirs(os.path.dirname(final), mode=0o755, exist_ok=True)
            if found is None or (found.major, found.minor) != (node.major, node.minor):
                _make_character_device(final, node)
            else:
                _set_owner_and_mode(final, node)
            self._link_by_number(node)

    def _link_by_number(self, node: DeviceNode) -> None:
        link, target = self._at(_char_link(node)), os.path.relpath(node.path, DEV_CHAR)
        with suppress(FileNotFoundError):
            if os.readlink(link) == target:
                return
        os.makedirs(os.path.dirname(link), mode=0o755, exist_ok=True)
        temporary = _beside(link)
        with _removed_on_failure(temporary):
            os.symlink(target, temporary)
            os.rename(temporary, link)

    def _at(self, path: str) -> str:
        return rooted(self.root, path)

    def _read(self, path: str) -> str:
        handle = os.open(self._at(path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            blocks = [os.read(handle, READ_SIZE)]
            while blocks[-1] and not (len(blocks[-1]) < READ_SIZE and path.startswith(ATTRIBUTES)):
                blocks.append(os.read(handle, READ_SIZE))
        finally:
            os.close(handle)
        return b"".join(blocks).decode(errors="replace").removesuffix("\n")


def _char_link(node: DeviceNode) -> str:
    return f"{DEV_CHAR}/{node.major}:{node.minor}"


def _beside(path: str) -> str:
    """A name for a temporary file in the same directory, so that a rename puts it in place atomically."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}.{os.getpid()}")


@contextmanager
def _removed_on_failure(path: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(path)
        raise


def _write_durably(path: str, data: bytes, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(handle, mode)  # the mode given to open is subject to the umask
        while data:
            data = data[os.write(handle, data) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_directory(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_character_device(path: str, node: DeviceNode) -> None:
    temporary = _beside(path)
    with _removed_on_failure(temporary):
        os.mknod(temporary, stat.S_IFCHR | 0o600, os.makedev(node.major, node.minor))
        _set_owner_and_mode(temporary, node)
        os.rename(temporary, path)


def _set_owner_and_mode(path: str, node: DeviceNode) -> None:
    os.chown(path, node.uid, node.gid)
    os.chmod(path, node.mode)
