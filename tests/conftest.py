"""What every test on this machine has in common; the guest of tests/vm does not read it."""

from __future__ import annotations

from hypothesis import HealthCheck, settings


def pytest_configure() -> None:
    """Generated tests fail for what they find, not for how long a loaded machine took over it."""
    settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("patient")
