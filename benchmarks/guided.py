"""Coverage-guided damage: atheris keeps bytes that reach new lines of a reader, and damages them further.

``python -m benchmarks.guided NAME RUNS SEED FILE`` writes the figures of one reader to a JSON file; `make soak` with
``--guided RUNS`` does so for each. It needs `pip install atheris`, which exists for Linux and macOS.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.hostile import KINDS, READERS, Tally, changed

_BEGUN = 40  # damaged files to begin with, beside the whole one


def main() -> None:
    """Fuzz one reader; atheris ends the process."""
    import atheris

    name, runs, seed, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    rng = np.random.default_rng(seed)
    home = Path(tempfile.mkdtemp(dir=out.parent))
    (home / "data").mkdir()
    (home / "corpus").mkdir()
    # readers import what they need when they read, so a first reading is instrumented
    with atheris.instrument_imports(include=["napari_btn.io", "napari_btn.core", "napari_btn.workflow"]):
        tally = Tally(READERS[name], home / "data")
    files = list(tally.whole)
    for k, file in enumerate(files):
        for n in range(_BEGUN + 1):
            one = (KINDS[rng.integers(6)], float(rng.random() ** 3), int(rng.integers(2**16)))
            data = changed(tally.whole[file], [one] * bool(n))
            (home / "corpus" / f"{k}-{n}").write_bytes(data + bytes([k]))

    def once(data: bytes) -> None:
        """Read once; the last byte says which file is damaged."""
        tally.take(files[data[-1] % len(files)] if data else files[0], data[:-1])
        if tally.counts.total() % 200 == 0 or sum(tally.counts.values()) + tally.odd.total() >= runs:
            out.write_text(json.dumps(tally.to_dict()), encoding="utf-8")

    most = 2 * max(map(len, tally.whole.values()))
    options = [f"-runs={runs}", f"-seed={seed + 1}", f"-max_len={most}", "-timeout=60", "-rss_limit_mb=0"]
    atheris.Setup([sys.argv[0], *options, "-verbosity=0", str(home / "corpus")], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
