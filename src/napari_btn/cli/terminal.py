"""Output of the command line: progress bars, notes, errors in one line, tables, JSON files."""

from __future__ import annotations

import json
import logging
import re
import signal
import sys
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from napari_btn.core.evaluation.report import Report
    from napari_btn.core.progress import Note, Progress, Step

__all__ = [
    "Commands",
    "Interrupted",
    "deferred",
    "drain",
    "say",
    "say_notes",
    "sentence",
    "table",
    "write_json",
    "write_text",
]

T = TypeVar("T")

_ARGUMENTS = re.compile(r"`(valid|regions)`")  # of Python, which are options of these names here


class _Refused(click.ClickException):
    """An error of the input or the call."""

    exit_code = 2


class _Signalled(KeyboardInterrupt):
    """A signal that ends the program as Ctrl-C does."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        self.number = number


class Interrupted(click.ClickException):
    """An interrupt by Ctrl-C (exit code 130), SIGTERM (143) or SIGHUP (129), with the finished members."""

    def __init__(
        self, message: str = "Interrupted.", checkpoint: Any = None, *, cause: BaseException | None = None
    ) -> None:
        super().__init__(message)
        self.checkpoint = checkpoint
        known = isinstance(cause, _Signalled | Interrupted)
        self.number: int = getattr(cause, "number", signal.SIGINT) if known else signal.SIGINT
        self.exit_code = 128 + self.number  # type: ignore[misc]

    def show(self, file: Any = None) -> None:
        """Write the message without calling it an error."""
        click.echo(self.message, file=file, err=True)


@contextmanager
def _signals() -> Iterator[None]:
    """End at SIGTERM and SIGHUP (a job that is stopped, a connection that is closed) as at Ctrl-C."""

    def end(number: int, _frame: Any) -> None:
        """Raise the interrupt in the main thread."""
        raise _Signalled(number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            # a handler of someone else stays, and so does `nohup`
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred() -> Iterator[None]:
    """Let an interrupt wait for the end of this context, which writes a file in a few seconds."""
    came: list[int] = []
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and callable(signal.getsignal(number)):
                before[number] = signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise _Signalled(came[0])


@contextmanager
def _one_line(ctx: click.Context) -> Iterator[None]:
    """Turn errors of input and call into one line without a traceback, and warnings into one line each."""
    # tifffile logs what it finds wrong in a file, beside the one sentence on it
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    with warnings.catch_warnings(), _signals():
        warnings.showwarning = lambda message, *_args, **_kwargs: say(f"Warning: {message}")
        try:
            yield
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            path = (error.ctx or ctx).command_path
            raise _Refused(_single_line(f"{error.format_message()} See: {path} --help")) from None
        except KeyboardInterrupt as error:
            raise Interrupted(cause=error) from None
        except BrokenPipeError:  # stdout was closed by its reader; click ends quietly
            raise
        except (ValueError, OSError) as error:
            if ctx.params.get("traceback"):
                raise
            raise _Refused(_single_line(sentence(error))) from None
        except (MemoryError, RuntimeError, ArithmeticError, ImportError) as error:
            if ctx.params.get("traceback") or (text := _of_the_machine(error)) is None:
                raise
            raise _Refused(_single_line(text)) from None


# of PyTorch's own allocator, of oneDNN, which says no more where a buffer of its own can't be had, and of the loader
# of compiled libraries
_NO_MEMORY = ("can't allocate memory", "could not create a primitive", "failed to map segment")


def _of_the_machine(error: Exception) -> str | None:
    """Return the sentence on memory that lacks, a worker that died or a loss that diverged; None for a bug."""
    from napari_btn.core.compute.pool import WorkerDiedError

    lacks = isinstance(error, (RuntimeError, ImportError)) and any(text in str(error) for text in _NO_MEMORY)
    if isinstance(error, MemoryError) or lacks:
        return (
            f"There is not enough memory ({_single_line(str(error)) or 'none is left'}). Close other programs, crop "
            "the image, or write a prediction to .ome.zarr, which needs memory for a few tiles only."
        )
    told = isinstance(error, WorkerDiedError) or type(error) is ArithmeticError
    return str(error) if told else None


class Commands(click.Group):
    """A group whose commands write errors in one line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse and check the arguments."""
        with _one_line(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _one_line(ctx):
            return super().invoke(ctx)


def sentence(error: Exception) -> str:
    """Return the message of an error in the terms of the command line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    return _with_options(str(error)) or type(error).__name__


def _with_options(text: str) -> str:
    """Return a sentence that names options instead of arguments."""
    return _ARGUMENTS.sub(r"--\1", text)


def _single_line(text: str) -> str:
    """Return a text on one line."""
    return " ".join(text.split())


def say(text: str) -> None:
    """Write a note to stderr."""
    click.echo(text, err=True)


def say_notes(notes: Iterable[Note]) -> None:
    """Write notes to stderr, red ones as warnings."""
    for note in notes:
        say(f"{'Warning' if note.level == 'red' else 'Note'}: {_with_options(note.text)}")


def drain(
    step: Step[T],
    losses: list[tuple[int, int, float]] | None = None,
    watch: Callable[[Progress], None] | None = None,
) -> T:
    """Run a step to its end with a progress bar on stderr, and return its result."""
    from tqdm import tqdm

    form = "{desc} {percentage:3.0f}% |{bar}| {elapsed} so far"
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
            if watch is not None:
                watch(progress)
            if losses is not None:
                losses.extend(progress.losses)
            if progress.done > bar.initial:
                bar.bar_format = f"{form}, {{remaining}} left"
            bar.total = progress.total
            bar.set_description_str(progress.note, refresh=False)
            bar.update(progress.done - bar.n)
    except StopIteration as end:
        result: T = end.value
        return result
    except KeyboardInterrupt as error:
        raise Interrupted(checkpoint=checkpoint, cause=error) from None
    finally:
        step.close()
        if bar is not None:
            bar.close()


def table(report: Report) -> str:
    """Return a report as lines, one per channel, without the columns that are unknown."""
    from napari_btn.core.calibration.conformal import covered
    from napari_btn.core.calibration.rules import aim_of
    from napari_btn.core.data.image import shown_names

    low, high = report.coverage_low, report.coverage_high
    columns: list[tuple[str, Iterable[str]]] = [
        ("channel", shown_names(report.channel_names)),
        ("coverage", _numbers(report.coverage, ".3f")),
        ("95 % interval", (f"{a:.3f}-{b:.3f}" for a, b in zip(low, high, strict=True))),
        ("SD of fields", _numbers(report.between_fields[:, 0], ".3f")),
        ("fields", ("-" if a != a else f"{a:.3f}-{b:.3f}" for _, a, b in report.between_fields)),
        ("below", _numbers(report.below, ".3f")),
        ("above", _numbers(report.above, ".3f")),
        ("width", _numbers(report.width, ".4g")),
        ("vs noisy", _numbers(report.width_ratio, ".3f")),
        ("correlation", _numbers(report.correlation, ".3f")),
        ("PSNR (dB)", _numbers(report.psnr, ".1f")),
    ]
    cells = [[title, *values] for title, values in columns]
    known = [column for column in cells if set(column[1:]) != {"-"}]
    padded = [[cell.ljust(max(map(len, column))) for cell in column] for column in known]
    lines = ["  ".join(row).rstrip() for row in zip(*padded, strict=True)]
    lines += _group_lines(report)
    if (least := report.by_true.least()) is not None:
        lines.append(f"Least covered, by true value: {report.by_true.words(report.channel_names, *least)}")
    aim = aim_of(report.rule, report.alpha, covered(report.covers))
    lines += [f"Aimed at: {aim}; this says nothing about a single pixel"]
    blocks = report.blocks.replace("blocks", "block", 1) if report.n_blocks[0] == 1 else report.blocks
    lines += [f"Measured on {report.n_blocks[0]} {blocks}"]
    return "\n".join([*lines, f"The 95 % interval is that of {report.scope}{report.beyond}"])


def _group_lines(report: Report) -> list[str]:
    """Return lines with the coverage of each group that is calibrated separately."""
    if not report.group_coverage.size:
        return []
    from napari_btn.core.data.image import shown_names

    head = [report.group_name, "share", *shown_names(report.channel_names)]
    rows = [
        [str(g + 1), f"{100 * share:.1f} %", *_numbers(report.group_coverage[:, g], ".3f")]
        for g, share in enumerate(report.group_share)
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]


def _numbers(values: Iterable[float], form: str) -> list[str]:
    """Return numbers as text, unknown ones as a dash."""
    return ["-" if value != value else format(value, form) for value in values]


def write_json(values: dict[str, Any], path: Path) -> None:
    """Write JSON; an existing file is replaced once the new one is whole."""
    write_text(json.dumps(values, indent=2) + "\n", path)


def write_text(text: str, path: Path) -> None:
    """Write text; an existing file is replaced once the new one is whole."""
    from napari_btn.io.atomic import written_whole

    with written_whole(path, overwrite=True) as rough:
        rough.write_text(text, encoding="utf-8")
