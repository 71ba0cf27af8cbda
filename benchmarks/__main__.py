"""Run benchmarks, print their tables, write JSON, and report which bars are met."""

from __future__ import annotations

import argparse
import importlib
import time
import traceback
from pathlib import Path

from benchmarks.measure import machine
from benchmarks.table import OUT, Result, write

# benchmarks that need an idle machine come first
BARS = (
    "screen", "stop", "scaling", "reference", "inference", "memory", "blobs", "coverage", "real", "unet", "volume",
    "tokens", "claims", "mismatch", "draws", "no_clean", "noise",
)  # fmt: skip
# studies behind the choice of defaults: hours, without bars
STUDIES = (
    "plateaus", "ensemble", "lattice", "noise_levels", "loop", "rare", "ablations", "fields", "parts", "series",
    "gaintuning", "noisy_targets",
    "families",
)  # fmt: skip
NAMES = (*BARS, *STUDIES)


def run_all(names: list[str], out: Path, *, tiny: bool) -> bool:
    """Run benchmarks in turn; return True if none raised an error, whether or not bars are met."""
    print(f"Measured on: {machine()}\n")
    results: list[Result] = []
    sound = True
    for name in names:
        began = time.perf_counter()
        print(f"== {name}", flush=True)
        try:
            made = importlib.import_module(f"benchmarks.{name}").run(tiny)
        except Exception:  # noqa: BLE001  (the other benchmarks still run)
            traceback.print_exc()
            sound = False
            continue
        for result in made:
            result.show()
        write(made, name, tiny=tiny, out=out)
        results += made
        print(f"   {time.perf_counter() - began:.0f} s\n", flush=True)
    print("== bars")
    for result in results:
        for bar in result.bars:
            print(bar)
    if tiny:
        print("Tiny settings: they show that the benchmarks run, and no more.")
    write(results, "all", tiny=tiny, out=out)
    page = "\n\n".join(f"## {r.title}\n\n{r.markdown()}" for r in results)
    (out / f"tables{'-tiny' if tiny else ''}.md").write_text(page + "\n", encoding="utf-8")
    return sound


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        help=f"which: {', '.join(NAMES)}; or studies: {', '.join(STUDIES)}; by default {', '.join(BARS)}",
    )
    parser.add_argument("--tiny", action="store_true", help="a few minutes in all: to see that they run")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the JSON files")
    asked = parser.parse_args()
    names = [n for name in asked.names for n in (STUDIES if name == "studies" else (name,))]
    if unknown := sorted(set(names) - set(NAMES)):
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    return 0 if run_all(names or list(BARS), asked.out, tiny=asked.tiny) else 1


if __name__ == "__main__":
    raise SystemExit(main())
