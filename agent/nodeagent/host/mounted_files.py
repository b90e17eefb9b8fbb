"""The node's file tree where it is mounted in a container: links are followed as the node itself would follow them."""

from __future__ import annotations

import os

from nodeagent.host.files import LocalFiles, rooted
from nodeagent.host.paths import PROC, SYS

MOST_LINKS = 40  # as many as the kernel follows (path_resolution(7))


class MountedFiles(LocalFiles):
    """Files of a node whose root directory is seen at `mount`, for reading; sysfs and procfs are this kernel's anyway.

    An absolute link leads to where it would on the node, not out of the mount. A link in the last part of a path is
    followed by everything but `link` and `target`.
    """

    def __init__(self, root: str, mount: str) -> None:
        super().__init__(root)
        self._mount = rooted(root, mount)

    def link(self, path: str) -> str | None:
        folder, name = os.path.split(path)
        return self._link_at(os.path.join(self.resolved(folder), name))

    def place(self, path: str) -> str:
        """Where the path of the node is in this container."""
        return self._at(path)

    def resolved(self, path: str) -> str:
        """The path on the node without links; one that leads round in a circle stays as far as it got."""
        done, todo, links = "/", [part for part in path.split("/") if part][::-1], 0
        while todo:
            part = todo.pop()
            if part == "..":
                done = os.path.dirname(done)
            elif part != ".":
                step = os.path.join(done, part)
                target = self._link_at(step) if links < MOST_LINKS else None
                if target is None:
                    done = step
                else:
                    links += 1
                    done = "/" if target.startswith("/") else done
                    todo += [one for one in target.split("/") if one][::-1]
        return done

    def _link_at(self, path: str) -> str | None:
        try:
            return os.readlink(rooted(self._mount, path))
        except OSError:
            return None  # no link, or nothing there; whoever opens it is told

    def _at(self, path: str) -> str:
        if path.startswith((f"{SYS}/", f"{PROC}/")):
            return super()._at(path)
        return rooted(self._mount, self.resolved(path))
