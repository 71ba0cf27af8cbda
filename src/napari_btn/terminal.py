"""How the command line speaks: progress bars, notes, refusals in one line, tables, JSON files."""

from __future__ import annotations

import json
import os
import sys
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from napari_btn.core.config import Step
    from napari_btn.core.conformal import Note
    from napari_btn.core.report import Report

__all__ = ["Commands", "Interrupted", "drain", "say", "say_notes", "sentence", "table", "write_json"]

T = TypeVar("T")


class _Refused(click.ClickException):
    """The input or the call is wrong."""

    exit_code = 2


class Interrupted(click.ClickException):
    """Ctrl-C; holds what the step had finished."""

    exit_code = 130

    def __init__(self, message: str = "Interrupted.", checkpoint: Any = None) -> None:
        super().__init__(message)
        self.checkpoint = checkpoint

    def show(self, file: Any = None) -> None:
        """Say it without calling it an error."""
        click.echo(self.message, file=file, err=True)


@contextmanager
def _one_line(ctx: click.Context) -> Iterator[None]:
    """Bad input and bad calls as one line without a traceback; warnings as one line each."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_args, **_kwargs: say(f"Warning: {message}")
        try:
            yield
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            path = (error.ctx or ctx).command_path
            raise _Refused(_single_line(f"{error.format_message()} See: {path} --help")) from None
        except KeyboardInterrupt:
            raise Interrupted from None
        except BrokenPipeError:  # the reader of stdout left; click ends quietly
            raise
        except (ValueError, OSError, ImportError) as error:
            if ctx.params.get("traceback"):
                raise
            raise _Refused(_single_line(sentence(error))) from None


class Commands(click.Group):
    """A group whose commands fail in one line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Arguments, checked."""
        with _one_line(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Result of the command."""
        with _one_line(ctx):
            return super().invoke(ctx)


def sentence(error: Exception) -> str:
    """What went wrong, without Python's words for it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    return str(error) or type(error).__name__


def _single_line(text: str) -> str:
    """Text on one line."""
    return " ".join(text.split())


def say(text: str) -> None:
    """Write a note to stderr."""
    click.echo(text, err=True)


def say_notes(notes: Iterable[Note]) -> None:
    """Write what the user should know, the red ones as warnings."""
    for note in notes:
        say(f"{'Warning' if note.level == 'red' else 'Note'}: {note.text}")


def drain(step: Step[T], losses: list[tuple[int, int, float]] | None = None) -> T:
    """Result of a step run to its end, with a progress bar on stderr."""
    from tqdm import tqdm

    form = "{desc}{percentage:3.0f}% |{bar}| {elapsed} gone, {remaining} left"
    quiet = 0.2 if sys.stderr.isatty() else 10.0  # a log file needs no line per tile
    checkpoint: Any = None
    bar: Any = None
    try:
        while True:
            progress = next(step)
            if bar is None:
                bar = tqdm(desc=progress.note, total=progress.total, initial=progress.done, file=sys.stderr,
                           bar_format=form, mininterval=quiet, dynamic_ncols=True)  # fmt: skip
            checkpoint = progress.checkpoint or checkpoint
            if losses is not None:
                losses.extend(progress.losses)
            bar.total = progress.total
            bar.set_description_str(progress.note, refresh=False)
            bar.update(progress.done - bar.n)
    except StopIteration as end:
        result: T = end.value
        return result
    except KeyboardInterrupt:
        raise Interrupted(checkpoint=checkpoint) from None
    finally:
        step.close()
        if bar is not None:
            bar.close()


def table(report: Report) -> str:
    """A report as a table, one line per channel."""
    rows = [
        (
            "channel",
            "coverage",
            "95 % interval",
            "below",
            "above",
            "width",
            "of noisy's",
            "correlation",
            "PSNR",
        )
    ]
    for i, name in enumerate(report.channel_names):
        rows.append((
            name,
            f"{report.coverage[i]:.3f}",
            f"{report.coverage_low[i]:.3f}-{report.coverage_high[i]:.3f}",
            f"{report.below[i]:.3f}",
            f"{report.above[i]:.3f}",
            f"{report.width[i]:.4g}",
            f"{report.width_ratio[i]:.3f}",
            f"{report.correlation[i]:.3f}",
            f"{report.psnr[i]:.1f}",
        ))  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    blocks = f"{report.n_blocks[0]} blocks" + (f" of {report.block_px} px" if report.block_px else "")
    aim = f"{1 - report.alpha:g} of the {report.covers} image wanted, on average over {blocks}, not per pixel"
    return "\n".join([*lines, aim])


def write_json(values: dict[str, Any], path: Path) -> None:
    """Write JSON under its name only when it is whole."""
    rough = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        rough.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        rough.replace(path)
    finally:
        rough.unlink(missing_ok=True)
