"""Maps of many files, one after another, with a table of coverage and of differences from the training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.image import shown_names
from napari_btn.core.progress import Progress, with_progress
from napari_btn.io.datasets import is_description, read_dataset
from napari_btn.io.images import (
    SUFFIXES,
    output_format,
    read_image,
    split_key,
    split_suffix,
    write_prediction,
)
from napari_btn.io.proposals import of_folder
from napari_btn.io.tables import write_table
from napari_btn.workflow.inputs import image_for
from napari_btn.workflow.predict import predict_steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.compute.pool import Compute
    from napari_btn.core.data.image import Image
    from napari_btn.core.progress import Step
    from napari_btn.model import Model

__all__ = ["TABLE", "BatchFile", "BatchRow", "batch_files", "batch_steps"]

TABLE = "table.csv"
"""Name of the table beside the maps."""

_FAR = 0.1  # a coverage this much below what is asked for is noted


@dataclass(frozen=True)
class BatchFile:
    """A file of a batch.

    Parameters
    ----------
    image : str
        Image file, with a key if it holds several.
    output : Path
        File for its maps.
    clean : str, optional
        Image file of its truth, on which coverage is measured.
    """

    image: str
    output: Path
    clean: str | None = None


@dataclass(frozen=True)
class BatchRow:
    """The result of one file.

    Parameters
    ----------
    file : BatchFile
    width : ndarray of float, (C,), optional
        Mean width of the intervals of each channel; None if the file failed.
    coverage : ndarray of float, (C,), optional
        Share of the pixels of the truth inside the intervals; None without a truth.
    notes : tuple of str
        Where the image differs from the images of the training.
    error : str
        Why the file has no maps; empty if it has.
    """

    file: BatchFile
    width: NDArray[np.floating[Any]] | None = None
    coverage: NDArray[np.floating[Any]] | None = None
    notes: tuple[str, ...] = ()
    error: str = ""


def batch_files(given: Sequence[str | Path], folder: Path) -> tuple[BatchFile, ...]:
    """Return the files of a batch, each with its truth where it is known.

    Parameters
    ----------
    given : sequence of str or Path
        Image files, descriptions of data sets, and folders of images. In a folder whose names tell noisy from
        clean images, the clean ones are the truth of the noisy ones; else all of its images are taken.
    folder : Path
        Folder for the maps.

    Raises
    ------
    ValueError
        If a file is missing, or two images would have the same output.
    """
    images: list[str] = []
    truths: list[str | None] = []
    for one in given:
        path = Path(one)
        if is_description(path):
            described = read_dataset(path)
        elif path.is_dir() and path.suffix.lower() not in SUFFIXES:
            described = of_folder(path)
        else:
            images.append(str(one))
            truths.append(None)
            continue
        noisy, clean = described.matched()
        images += noisy
        truths += clean if len(clean) == len(noisy) else (clean[0] if clean else None,) * len(noisy)
    outputs = _outputs_of(images, folder)
    return tuple(BatchFile(*one) for one in zip(images, outputs, truths, strict=True))


def _outputs_of(images: Sequence[str], folder: Path) -> tuple[Path, ...]:
    """Return a file in a folder for the maps of each image, named after it."""
    made: dict[Path, str] = {}
    for image in images:
        file, key = split_key(image)
        name = split_suffix(file.name)[0] + (f"_{key.strip('/').replace('/', '_')}" if key else "")
        path = folder / f"{name}.ome.tif"
        if path in made:
            raise ValueError(
                f"{made[path]} and {image} would both be written to {path.name}; rename one, or write "
                "them to different folders."
            )
        made[path] = image
    return tuple(made)


def batch_steps(
    model: Model,
    files: Sequence[BatchFile],
    compute: Compute,
    *,
    axes: str | None = None,
    table: Path | None = None,
    overwrite: bool = False,
) -> Step[tuple[BatchRow, ...]]:
    """Write the maps of files, one after another; a step. A file that fails leaves a row that says why.

    After each file, the progress has the rows so far as its checkpoint, and the table is written again.

    Parameters
    ----------
    model : Model
    files : sequence of BatchFile
    compute : Compute
    axes : str, optional
        Axes of the images; those in the files, or else those of the training, by default.
    table : Path, optional
        CSV file for the rows; its folder is made if it is missing.
    overwrite : bool
        Replace existing files.

    Returns
    -------
    tuple of BatchRow
        In the order of the files.

    Raises
    ------
    ValueError
        If an output exists already, or its format can't be written.
    """
    for file in files:
        output_format(file.output)
    for path in (*([] if table is None else [table]), *(file.output for file in files)):
        if path.exists() and not overwrite:
            raise ValueError(f"{path} exists already; allow it to be replaced, or choose another folder.")
    if table is not None:
        table.parent.mkdir(exist_ok=True)
    rows: list[BatchRow] = []
    for number, file in enumerate(files):
        note = f"{number + 1} of {len(files)}: {Path(file.image).name}"
        yield Progress(1000 * number, 1000 * len(files), note)
        one = _file_steps(model, file, compute, axes, overwrite=overwrite)

        def part(progress: Progress, number: int = number, note: str = note) -> Progress:
            """Return the progress of the batch from that of one file."""
            return replace(
                progress, done=int(1000 * (number + progress.fraction)), total=1000 * len(files), note=note
            )

        try:
            rows.append((yield from with_progress(one, part)))
        except (ValueError, OSError) as error:
            rows.append(BatchRow(file, error=" ".join(str(error).split())))
        if table is not None:
            write_table(_batch_table(rows, model.channel_names), table, overwrite=True)
        yield Progress(1000 * (number + 1), 1000 * len(files), note, checkpoint=tuple(rows))
    return tuple(rows)


def _file_steps(
    model: Model, file: BatchFile, compute: Compute, axes: str | None, *, overwrite: bool
) -> Step[BatchRow]:
    """Write the maps of one file; a step."""
    image = read_image(file.image)
    own = axes or (None if image.axes_guessed else image.axes)
    size = image.pixel_size if own and image.pixel_size and not image.axes_guessed else None
    opened = image_for(model, image.data, own, size, image.unit)
    prediction = yield from predict_steps(model, opened, compute, quantiles=False, valid="finite")
    write_prediction(prediction, file.output, overwrite=overwrite)
    known = {note.text for note in model.calibrated.report.warnings}
    notes = [note.text for note in prediction.notes if note.text not in known]
    coverage = None
    if file.clean is not None:
        coverage = _coverage(read_image(file.clean), opened, prediction)
    elsewhere = tuple(i for i, a in enumerate(prediction.axes) if a != "C")
    width = np.atleast_1d(np.nanmean(np.asarray(prediction.width, np.float64), axis=elsewhere))
    notes += _covered_less(coverage, model)
    return BatchRow(file, width, coverage, (*_differences(model, image), *notes))


def _covered_less(coverage: NDArray[np.floating[Any]] | None, model: Model) -> list[str]:
    """Return a note on the channels whose truth is covered far less than asked for."""
    asked = 1 - model.settings.alpha
    if coverage is None:
        return []
    low = [
        f"{name} {100 * share:.0f} %"
        for name, share in zip(shown_names(model.channel_names), coverage, strict=True)
        if share < asked - _FAR
    ]
    if not low:
        return []
    return [
        f"The intervals hold less of the clean image than the {100 * asked:g} % that were asked for: "
        f"{', '.join(low)}."
    ]


def _coverage(clean: Image, image: Image, prediction: Any) -> NDArray[np.floating[Any]]:
    """Return the share of the truth inside the intervals, by channel."""
    lower, upper = (np.asarray(m, np.float32) for m in (prediction.lower, prediction.upper))
    truth = np.asarray(clean.data, np.float32)
    if truth.shape != lower.shape:
        raise ValueError(
            f"The truth {clean.name} has shape {truth.shape}, the image {image.name} {lower.shape}; they must match."
        )
    known = np.isfinite(truth) & np.isfinite(lower)
    inside = np.where(known, (lower <= truth) & (truth <= upper), np.nan)
    elsewhere = tuple(i for i, a in enumerate(prediction.axes) if a != "C")
    return np.atleast_1d(np.nanmean(inside, axis=elsewhere))


def _differences(model: Model, image: Image) -> tuple[str, ...]:
    """Return where an image has other channel names than those of the training."""
    notes = []
    if image.channel_names and tuple(image.channel_names) != model.channel_names:
        notes.append(
            f"Channels are {', '.join(image.channel_names)}; the networks know {', '.join(model.channel_names)}."
        )
    return tuple(notes)


def _batch_table(rows: Sequence[BatchRow], channel_names: Sequence[str]) -> dict[str, list[Any]]:
    """Return the results as a table for `io.tables.write_table`: a row per file."""
    table: dict[str, list[Any]] = {
        "file": [row.file.image for row in rows],
        "maps": [row.file.output.name if not row.error else None for row in rows],
    }
    for what in ("width", "coverage"):
        values = [getattr(row, what) for row in rows]
        if any(v is not None for v in values):
            for c, name in enumerate(shown_names(channel_names)):
                table[f"{name} {what}"] = [None if v is None else float(v[c]) for v in values]
    table["notes"] = [" ".join(row.notes) or None for row in rows]
    table["error"] = [row.error or None for row in rows]
    return table
