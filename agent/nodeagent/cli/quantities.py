"""Types of arguments that are quantities: what is no quantity of the kind is refused with what would be one."""

from __future__ import annotations

import argparse
import math


def seconds(text: str) -> float:
    """A time from 0 on; neither nan nor inf, with which a wait would never end."""
    return _number(text, 0.0, "expected a number of seconds, 0 or more")


def some_seconds(text: str) -> float:
    """A time above 0."""
    return _number(text, math.nextafter(0, 1), "expected a number of seconds above 0")


def some(text: str) -> int:
    """A count from 1 on."""
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number, 1 or more")
    return int(text)


def percent(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 3 or int(text) > 100:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number from 0 to 100")
    return int(text)


def _number(text: str, least: float, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: {expected}")
    return value
