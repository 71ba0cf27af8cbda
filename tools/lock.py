"""Write the pins of constraints.txt, and the same pins with hashes for tools/setup.sh.

``python tools/lock.py`` keeps the versions that are pinned already; ``--upgrade`` takes the newest ones.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINS, LOCKED, CUDA = (
    ROOT / name for name in ("constraints.txt", "tools/locked.txt", "tools/locked-cuda.txt")
)
HEADERS = {
    PINS: """\
# Exact versions of everything that CI installs, on all platforms; `make constraints` writes this file.
# torch has no local suffix (+cpu, +cu128): each machine takes the build that its package index offers.
""",
    LOCKED: """\
# What tools/setup.sh installs, with the hashes of all its wheels; `make constraints` writes this file.
""",
    CUDA: """\
# What the CUDA build of torch needs on Linux, with hashes; `make constraints` writes this file.
""",
}
# The oldest Python, a patch release: ">3.11" in the metadata of a package leaves out 3.11.0 only.
COMPILE = (
    *("-m", "uv", "pip", "compile", "pyproject.toml", "--extra", "all", "--extra", "test"),
    *("--universal", "--python-version", "3.11.1", "--only-binary", ":all:", "--generate-hashes"),
    *("--no-config", "--no-header", "--no-annotate", "--quiet"),
)


def compiled(*options: str) -> dict[str, set[str]]:
    """Return hashes by pin, as the index has them today."""
    run = subprocess.run(
        [sys.executable, *COMPILE, *options], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return parsed(run.stdout)


def parsed(text: str) -> dict[str, set[str]]:
    """Return hashes by pin (``name==version``, with its marker) of a requirements file."""
    blocks = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.M).strip())
    return {block.split(" \\")[0]: set(re.findall(r"sha256:\w+", block)) for block in blocks if block}


def builds(pin: str, folders: list[Path]) -> set[str]:
    """Return hashes of wheels in folders that are a local build of a pinned version, such as ``+cpu``."""
    name, _, version = pin.split(" ;")[0].partition("==")
    wheels = (w for folder in folders for w in folder.glob(f"{name.replace('-', '_')}-{version}+*.whl"))
    return {f"sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}" for wheel in wheels}


def main() -> None:
    """Write the three files."""
    old = {
        p: h for f in (LOCKED, CUDA) if f.exists() for p, h in parsed(f.read_text(encoding="utf-8")).items()
    }
    keep = () if "--upgrade" in sys.argv[1:] else ("-c", str(PINS))
    folders = [
        Path(folder) for folder in os.environ.get("PIP_FIND_LINKS", "").split() if Path(folder).is_dir()
    ]
    # a wheel that another machine found for the same version stays allowed
    found = {p: h | builds(p, folders) | old.get(p, set()) for p, h in compiled(*keep).items()}
    text = {PINS: HEADERS[PINS] + "".join(f"{pin}\n" for pin in found)}
    for file in (LOCKED, CUDA):
        blocks = (
            " \\\n    --hash=".join([pin, *sorted(hashes)]) + "\n"
            for pin, hashes in found.items()
            if (re.match("nvidia-|cuda-|triton", pin) is not None) == (file == CUDA)
        )
        text[file] = HEADERS[file] + "".join(blocks)
    for file, lines in text.items():
        file.write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
