"""A daemon in a box that stands for its systemd unit, and a `systemctl` for it.

There is no systemd where the tests run. What containerd.service and docker.service say of themselves is kept:
KillMode=process (a stop ends the daemon and none of its containers) and ExecReload=kill -HUP.
"""

from __future__ import annotations

import os
from pathlib import Path

from nodeagent.host.clock import RealClock
from nodeagent.host.container_runtimes import LocalRuntimes
from nodeagent.host.files import LocalFiles
from nodeagent.host.paths import SYSTEMD_RUNNING
from nodeagent.host.services import Systemd

# Shell: `serve` starts the daemon in the background, `answers` says whether it is up; orders come over a FIFO. What
# the daemon has below /opt and /var/lib goes with the box, and `close` leaves no control group $GROUP behind.
UNIT = r"""
for place in /opt /var/lib; do mount -t tmpfs none "$place"; done
begin() {
    serve >> "$OUT/log" 2>&1 &
    main=$!
    for _ in $(seq 600); do
        if ! kill -0 "$main" 2> /dev/null; then break; fi
        if answers > /dev/null 2>&1; then echo active > "$OUT/state"; return; fi
        sleep 0.1
    done
    echo failed > "$OUT/state"
}
end() {
    kill "$main" 2> /dev/null || true
    wait "$main" || true
}
obey() {
    while read -r order; do
        echo "$order" >> "$OUT/obeyed"
        case "$order" in
        restart) end; begin ;;
        reload) kill -HUP "$main" ;;
        end) break ;;
        esac
        : > "$OUT/idle"
    done < "$OUT/orders"
}
close() {
    end
    for place in /sys/fs/cgroup/$GROUP /sys/fs/cgroup/*/$GROUP; do [ ! -d "$place" ] || rmdir "$place"; done
}
"""
_SYSTEMCTL = """\
#!/bin/sh
set -eu
out={out}
for unit; do :; done
case "$1" in
show)
    job=; [ -e "$out/idle" ] || job=1
    printf 'Id=%s\\nLoadState=loaded\\nActiveState=%s\\nMainPID=0\\nControlGroup=\\nJob=%s\\n' \\
        "$unit" "$(cat "$out/state")" "$job" ;;
restart | reload)
    rm -f "$out/idle"
    echo "$1" > "$out/orders" ;;
esac
"""


class UnitBox:
    """The outside of a box: `out` is a directory that both sides see."""

    def __init__(self, out: Path) -> None:
        self.out = out
        out.mkdir(parents=True, exist_ok=True)
        for name in ("log", "obeyed", "idle"):
            (out / name).touch()
        (out / "state").write_text("activating\n")
        os.mkfifo(out / "orders")
        self._orders = os.open(out / "orders", os.O_RDWR)
        self._program = out / "systemctl"
        self._program.write_text(_SYSTEMCTL.format(out=out))
        self._program.chmod(0o755)

    def runtimes(self, path: str) -> LocalRuntimes:
        """The agent's adapter of container runtimes, with this unit in place of systemd's."""
        root = self.out / "root"
        (root / SYSTEMD_RUNNING.lstrip("/")).mkdir(parents=True, exist_ok=True)
        systemd = Systemd(LocalFiles(str(root)), RealClock(), program=str(self._program))
        return LocalRuntimes(systemd, path)

    @property
    def obeyed(self) -> list[str]:
        """What the daemon was told so far."""
        return (self.out / "obeyed").read_text().split()

    @property
    def state(self) -> str:
        return (self.out / "state").read_text().strip()

    @property
    def log(self) -> str:
        return (self.out / "log").read_text()

    def close(self) -> None:
        """Have it end in order."""
        os.write(self._orders, b"end\n")
        os.close(self._orders)
