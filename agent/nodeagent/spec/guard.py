"""`guard` of the node file: interfaces that must not be lost, and how a change to one of them is made."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from nodeagent.spec import names
from nodeagent.spec.keys import key


class GuardMode(StrEnum):
    """refuse: none is made. automatic: rolled back unless carrier, default route and gateway are there again in time.
    manual: rolled back unless `nodeagent confirm` is given in time. allow: made like any other.
    """

    REFUSE = "refuse"
    AUTOMATIC = "automatic"
    MANUAL = "manual"
    ALLOW = "allow"


@dataclass(frozen=True)
class Guard:
    """What is done about interfaces with the default route or the connection of the ssh session that gave the command,
    those below them, and those listed here. A change also needs what `disruption.nic` says.
    """

    changes: GuardMode = key("Changes to these interfaces.", default=GuardMode.AUTOMATIC)
    seconds: float = key("How long a change may take to be confirmed.", default=60.0, minimum=1, maximum=3600)
    interfaces: tuple[str, ...] = key(
        "More such interfaces, in the words of `links[].match`.",
        default=(),
        pattern=names.LINK_MATCH,
        expected=names.LINK_MATCH_EXPECTED,
        canonical=names.link_match,
        example="[eno1]",
    )
