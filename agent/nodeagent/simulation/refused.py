"""The error of a system call that the simulated kernel refuses."""

from __future__ import annotations

import os


def refused(number: int) -> OSError:
    """OSError with this errno and its text."""
    return OSError(number, os.strerror(number))
