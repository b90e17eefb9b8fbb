"""`python -m nodeagent` and the `nodeagent` command."""

from __future__ import annotations

import sys


def main() -> None:
    from nodeagent.cli import main as run  # noqa: PLC0415 - worker processes import this package without the command line

    sys.exit(run())


if __name__ == "__main__":
    main()
