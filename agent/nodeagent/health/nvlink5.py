"""What the parts of Xids 144 to 150 mean (NVLink 5, from Blackwell on): unit, error status and sub-code.

The word Fatal in the line and the driver's recovery action decide; these tables explain, and say what may be ignored.

Source: leptonai/gpud:components/accelerator/nvidia/xid (NVLink 5 rules of NVIDIA's Xid catalogue).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from nodeagent.health.kernel_lines import Link5
from nodeagent.state.health import Recovery

T = TypeVar("T")
IGNORE, RESET, INSPECT = Recovery.NONE, Recovery.RESET_GPU, Recovery.INSPECT


@dataclass(frozen=True)
class Ruling:
    """What to do, and why in a few words. `asks_driver`: see the Xid 154 that comes with it."""

    recovery: Recovery
    note: str
    asks_driver: bool = False


_SIGNAL = Ruling(RESET, "reset the GPU and check the cables and the signal")
_CABLE = Ruling(INSPECT, "the cartridge or cable is suspect")
_PEER = Ruling(RESET, "the device on the other end is suspect")
_SOFTWARE = Ruling(RESET, "software or its user may have brought it about")
_ALL = Ruling(RESET, "signal, software and peer are suspect")
_FATAL = Ruling(RESET, "the unit needs a reset")
_NOTHING = Ruling(IGNORE, "may be ignored")
_ECC = Ruling(IGNORE, "a memory error: see Xid 48, 94 or 95")
_DRIVER = Ruling(IGNORE, "the application dies; the driver's recovery action says more", asks_driver=True)
_BITS = range(31, -1, -1)

# (Xid, unit): error status bit -> ruling; the unit is the longest one that the name in the line begins with.
STATUS: dict[tuple[int, str], dict[int, Ruling]] = {
    (144, "SAW_MVB"): {
        0x1: _ECC, 0x2: _FATAL, 0x10: _FATAL, 0x4: _NOTHING, 0x8: _NOTHING, 0x20: _NOTHING,
    },
    (145, "RLW_REMAP"): {
        **dict.fromkeys((0x1, 0x2, 0x4, 0x8, 0x10, 0x20), _DRIVER),
        **dict.fromkeys((0x40, 0x80), _FATAL),
        **dict.fromkeys((0x100, 0x200, 0x80000000), _NOTHING),
    },
    (145, "RLW_RSPCOL"): {0x2: _FATAL},
    (145, "RLW_RXPIPE"): dict.fromkeys((1 << bit for bit in _BITS), _NOTHING),
    (145, "RLW_SRC_TRACK"): {
        **dict.fromkeys((0x1, 0x10, 0x20), _FATAL), **dict.fromkeys((0x4, 0x8), _DRIVER), 0x2: _NOTHING,
    },
    (145, "RLW_TAGSTATE"): {
        **dict.fromkeys((0x2, 0x20000, 0x100000), _FATAL), **dict.fromkeys((0x1, 0x10000), _NOTHING),
    },
    (145, "RLW_CTRL"): dict.fromkeys((1 << bit for bit in _BITS), _NOTHING),
    (146, "TLW"): {0x1: _NOTHING, 0x2: _ECC, 0x4: _FATAL, 0x80000000: _NOTHING},
}  # fmt: skip

# (Xid, unit): sub-code -> ruling
SUB_CODES: dict[tuple[int, str], dict[int, Ruling]] = {
    (149, "NETIR_LINK"): {
        0: Ruling(RESET, "often follows an error elsewhere; report it if it comes alone"),
        1: Ruling(RESET, "report it if it comes more than once a day"),
        2: _SIGNAL,
        4: _CABLE,
        10: _CABLE,
        **dict.fromkeys((15, 17, 22), _SOFTWARE),
        **dict.fromkeys((16, 18), _ALL),
        **dict.fromkeys((21, 32, 33, 34, 35, 36, 37), _PEER),
        38: _NOTHING,
        40: _NOTHING,
        **dict.fromkeys((42, 43), _SIGNAL),
    },
    (149, "NETIR_MFDE_EVENT"): {**dict.fromkeys((1, 4, 5, 7), _FATAL), 3: _NOTHING},
}
# (Xid, unit): ruling for whatever status or sub-code
WHOLE: dict[tuple[int, str], Ruling] = {
    (147, ""): _NOTHING,
    (148, ""): _NOTHING,
    (149, "NETIR_INT"): Ruling(RESET, "the link is lost"),
    (149, "NETIR_BER_EVENT"): Ruling(IGNORE, "bit errors on the link: check cable and signal"),
    (150, ""): Ruling(RESET, "the firmware's watchdog expired"),
}


def ruling(code: int, link5: Link5) -> Ruling | None:
    """What the tables say, None where they say nothing. Of several status bits the one that asks for most counts."""
    status = _of_unit(STATUS, code, link5.unit)
    if status is not None:
        found = [status[1 << bit] for bit in _BITS if link5.status >> bit & 1 and 1 << bit in status]
        return max(found, key=_weight, default=None)
    sub_codes = _of_unit(SUB_CODES, code, link5.unit)
    return sub_codes.get(link5.sub_code) if sub_codes is not None else _of_unit(WHOLE, code, link5.unit)


def _of_unit(table: dict[tuple[int, str], T], code: int, unit: str) -> T | None:
    fitting = [key for key in table if key[0] == code and unit.startswith(key[1])]
    return table[max(fitting, key=lambda key: len(key[1]))] if fitting else None


def _weight(found: Ruling) -> int:
    return 2 if found.recovery is not IGNORE else int(found.asks_driver)
