"""`devlink` of the node file: parameters of NIC drivers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from nodeagent.spec import names
from nodeagent.spec.keys import key

PARAMETER = r"^[a-z0-9_-]+(@(runtime|driverinit|permanent))?$"


@dataclass(frozen=True)
class DevlinkEntry:
    """devlink parameters of the physical functions that `match` names; what is left out stays as it is."""

    match: str = key(
        "Which physical functions, in the words of `links[].match`.",
        example="driver:mlx5_core",
        pattern=names.LINK_MATCH,
        expected=names.LINK_MATCH_EXPECTED,
        canonical=names.link_match,
    )
    parameters: Mapping[str, str] = key(
        "Values by name; where a parameter has several modes, the first of runtime, driverinit (needs a reload of the "
        "device) and permanent (needs a reset of the card) is meant, or the one behind @.",
        factory=lambda: MappingProxyType({}),
        example="{enable_roce: true, flow_steering_mode: smfs}",
        pattern=r"^[^\x00-\x1f]{1,31}$",
        expected="a value of at most 31 characters: true, false, a number or a word",
        key_pattern=PARAMETER,
        key_expected="the name of a parameter, or NAME@runtime, NAME@driverinit, NAME@permanent",
    )
