"""Print constraints.txt: the exact version of every package in this environment except the project."""

from __future__ import annotations

import re
from importlib.metadata import distributions

HEADER = """\
# Exact versions of everything that CI installs; `make constraints` writes it from .venv.
# torch has no local suffix (+cpu, +cu128): each machine takes the build that its package index offers."""
NOT_PINNED = {"napari-btn", "pip"}


def main() -> None:
    """Print the pins, sorted by name."""
    found = [(d.metadata["Name"], d.version.split("+")[0]) for d in distributions()]
    pins = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}
    print(HEADER)
    for name in sorted(pins.keys() - NOT_PINNED):
        print(f"{name}=={pins[name]}")


if __name__ == "__main__":
    main()
