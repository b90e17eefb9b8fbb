"""An executable that behaves as Slurm's scontrol does to `show node` and `update`, with its node in a file beside it.

What it imitates: scontrol(1), `State=DRAIN` needs a reason, UNDRAIN takes the drain and the reason away, an unknown
node is an error on stderr with exit code 1; src/api/node_info.c for the text.
"""

from __future__ import annotations

import json
from pathlib import Path

_PROGRAM = """\
#!/usr/bin/env -S python3 -ISE
import json, sys, pathlib
place = pathlib.Path(__file__).with_name("slurm.json")
found = json.loads(place.read_text())
def fail(text):
    print("scontrol: error: " + text, file=sys.stderr)
    sys.exit(1)
words = sys.argv[1:]
if words[:2] == ["show", "node"]:
    if words[2] != found["name"]:
        print(f"Node {words[2]} not found")
        sys.exit(1)
    flags = "+DRAIN" if found["drained"] else ""
    print(f"NodeName={found['name']} Arch=x86_64 CoresPerSocket=32\\n   Gres=gpu:4")
    print(f"   State={found['base']}{flags} ThreadsPerCore=2 TmpDisk=0 Weight=1 Owner=N/A")
    print("   Partitions=all")
    if found["reason"]:
        print(f"   Reason={found['reason']} [root@2026-11-22T12:00:00]")
elif words[:1] == ["update"]:
    given = dict(word.split("=", 1) for word in words[1:])
    if given.get("nodename") != found["name"]:
        fail("slurm_update error: Invalid node name specified")
    state = given.get("state", "").lower()
    if state == "drain":
        if not given.get("reason"):
            fail("You must specify a reason when DOWNING or DRAINING a node. Request denied")
        found |= {"drained": True, "reason": given["reason"]}
    elif state in ("undrain", "resume"):
        found |= {"drained": False, "reason": ""}
    else:
        fail("Invalid input: state")
    place.write_text(json.dumps(found))
else:
    fail("invalid keyword")
"""


def install_scontrol(root: Path, name: str, base: str = "IDLE") -> Path:
    """Put it where a simulated node looks for it; the program."""
    program = root / "usr" / "bin" / "scontrol"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(_PROGRAM)
    program.chmod(0o755)
    set_slurm(root, name, base)
    return program


def set_slurm(root: Path, name: str, base: str = "IDLE", reason: str = "") -> None:
    """Make the node this, drained with a reason if one is given."""
    found = {"name": name, "base": base, "drained": bool(reason), "reason": reason}
    (root / "usr" / "bin" / "slurm.json").write_text(json.dumps(found))


def slurm_node(root: Path) -> tuple[str, str]:
    """State with flags, and the reason."""
    found = json.loads((root / "usr" / "bin" / "slurm.json").read_text())
    return found["base"] + ("+DRAIN" if found["drained"] else ""), found["reason"]
