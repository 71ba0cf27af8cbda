"""Presentation of results: text tables, bars, JSON."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import machine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

OUT = Path(__file__).parent / "results"


@dataclass
class Bar:
    """A goal for a figure.

    Parameters
    ----------
    name : str
    value : float
    needed : float
    above : bool
        True if the value must be at least ``needed``, False if at most.
    """

    name: str
    value: float
    needed: float
    above: bool = True

    @property
    def met(self) -> bool:
        """True if the goal is reached."""
        return self.value >= self.needed if self.above else self.value <= self.needed

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "name": self.name,
            "value": self.value,
            "needed": self.needed,
            "above": self.above,
            "met": self.met,
        }

    def __str__(self) -> str:
        sign = ">=" if self.above else "<="
        return (
            f"{'met    ' if self.met else 'NOT MET'}  {self.name}: {self.value:.4g} ({sign} {self.needed:g})"
        )


@dataclass
class Result:
    """The table and bars of a benchmark."""

    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, row: dict[str, Any]) -> None:
        """Add a row and print it at once, to show the progress of a long run."""
        self.rows.append(row)
        print("   ", "  ".join(f"{k} {_text(v)}" for k, v in row.items()), flush=True)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        bars = [bar.to_dict() for bar in self.bars]
        return {"title": self.title, "rows": self.rows, "bars": bars, "notes": self.notes}

    def markdown(self) -> str:
        """Return the table and the bars as Markdown."""
        columns = list(dict.fromkeys(k for row in self.rows for k in row))
        lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(_text(row.get(c, "")) for c in columns) + " |" for row in self.rows]
        lines += [""] + [f"- {bar}" for bar in self.bars] + [f"- {note}" for note in self.notes]
        return "\n".join(lines)

    def show(self) -> None:
        """Print the table and the bars."""
        columns = list(dict.fromkeys(k for row in self.rows for k in row))
        cells = [columns, *([_text(row.get(c, "")) for c in columns] for row in self.rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
        print(f"\n{self.title}")
        for line in cells:
            print("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip())
        for bar in self.bars:
            print(bar)
        for note in self.notes:
            print(note)
        print(flush=True)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def write(results: Sequence[Result], name: str, *, tiny: bool, out: Path = OUT) -> Path:
    """Write results and the description of the machine as JSON."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}{'-tiny' if tiny else ''}.json"
    values = {"machine": machine(), "tiny": tiny, "results": [r.to_dict() for r in results]}
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")
    return path


def main(
    name: str,
    run: Callable[..., list[Result]],
    parts: Mapping[str, Callable[[bool], Result]] | None = None,
    **counts: int,
) -> None:
    """Run one benchmark from the command line, or one of its parts; counts are options of `run` with defaults."""
    parser = argparse.ArgumentParser(description=run.__doc__)
    parser.add_argument("--tiny", action="store_true", help="a few seconds: to see that it runs")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the JSON files")
    if parts:
        parser.add_argument("--part", choices=list(parts), help="this part alone")
    for option, default in counts.items():
        parser.add_argument(f"--{option}", type=int, default=default, help=f"{default} by default")
    arguments = parser.parse_args()
    began = time.perf_counter()
    part = getattr(arguments, "part", None)
    given = {option: getattr(arguments, option) for option in counts}
    results = [parts[part](arguments.tiny)] if parts and part else run(arguments.tiny, **given)
    for result in results:
        result.show()
    path = write(results, f"{name}-{part}" if part else name, tiny=arguments.tiny, out=arguments.out)
    print(f"{path} after {time.perf_counter() - began:.0f} s")
