"""Comparison of classical filters with an ensemble on one image."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.blocks import blocks_of
from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.conformal import calibrate
from napari_btn.core.calibration.rules import need_alpha
from napari_btn.core.compute.pool import Compute, Inline
from napari_btn.core.data.image import View, middle_of_space
from napari_btn.core.data.noise_models import need_noise_model
from napari_btn.core.data.splits import split
from napari_btn.core.evaluation.classical import (
    Filtered,
    filled,
    filter_steps,
    hidden_loss,
    hide,
    straight_line,
)
from napari_btn.core.evaluation.comparison import ENSEMBLE, NOISY, CompareRow, Comparison
from napari_btn.core.evaluation.metrics import correlation, coverage, psnr, ssim
from napari_btn.core.progress import Progress, with_progress
from napari_btn.core.settings import CalibrationSettings
from napari_btn.workflow.inputs import image_for, is_same, sound_view
from napari_btn.workflow.predict import predict_steps
from napari_btn.workflow.unseen import need_unseen_steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.data.image import Box
    from napari_btn.core.data.noise_models import NoiseModel
    from napari_btn.core.data.pairs import Pair, Scenes
    from napari_btn.core.progress import Step
    from napari_btn.model import Model

__all__ = ["compare_steps"]


_REACH = 16  # gap between the parts in receptive fields, where no model has one
_BLOCK = {2: 32, 3: 16}  # side of a block in pixels, where no model has one
_PIXELS = 300_000  # most pixels that an interval is calibrated on
_HIDDEN_SIDE = {2: 192, 3: 40}


@dataclass(frozen=True, eq=False)
class _Made:
    """The result of one method: an estimate (S, C, *space), and quantiles (L, S, C, *space) if it has some."""

    name: str
    estimate: NDArray[np.float32]
    seconds: float
    tuning_seconds: float = 0.0
    parameters: tuple[dict[str, float], ...] = ()
    quantiles: NDArray[np.float32] | None = None
    levels: tuple[float, ...] = ()


def compare_steps(
    pair: Pair,
    compute: Compute,
    *,
    model: Model | None = None,
    noise: NoiseModel | None = None,
    names: Sequence[str] | None = None,
    alpha: float | None = None,
) -> Step[Comparison]:
    """Tune and apply classical filters, predict with a model, and compare; a step.

    With clean, filters are tuned on a training part, and all methods are judged on a held-out part: that of the
    model, if it was trained on this image. Values that are not finite are left out.

    Parameters
    ----------
    pair : Pair
        Noisy image, and clean or None.
    compute : Compute
    model : Model, optional
    noise : NoiseModel, optional
        Filters then work on variance-stabilised values.
    names : sequence of str, optional
        Filters; all by default.
    alpha : float, optional
        Miscoverage of the intervals; the model's, or 0.1.

    Raises
    ------
    ValueError
        If the images don't fit each other or the model, the model was trained on a part that would be judged, or
        there is no such filter.
    """
    yield Progress(0, 1, "Reading the images")
    noisy = View(pair.noisy, pair.axes, "noisy")
    if noise is not None:
        need_noise_model(noise, noisy.n_channels)
    chosen = (model.settings.alpha if model is not None else 0.1) if alpha is None else alpha
    need_alpha(chosen)
    channels = model.channel_names if model is not None else pair.channel_names
    channels = channels or tuple(str(c) for c in range(noisy.n_channels))
    trial = None if pair.clean is None else (yield from _trial_steps(pair, model))
    filtered = yield from with_progress(
        filter_steps(
            noisy,
            names=names,
            scenes=None if trial is None else trial.scenes,
            train=() if trial is None else trial.train,
            noise=noise,
        ),
        lambda progress: replace(progress, total=progress.total + 1),
    )
    made = [_Made(f.name, f.image, f.seconds, f.tuning_seconds, f.parameters) for f in filtered]
    losses: dict[str, NDArray[np.float64]] = {}
    prediction = None
    if model is not None:
        image = image_for(model, pair.noisy, pair.axes)
        prediction, seconds = yield from _timed_steps(
            predict_steps(model, image, _alone(compute), valid="finite")
        )
        made.append(_of_prediction(prediction, noisy, seconds))
    if trial is None:
        losses = yield from _loss_steps(noisy, filtered, model, compute)
        rows = [row for m in made for row in _without_truth(m, channels, losses[m.name], prediction)]
    else:
        rows = []
        for m in (trial.noisy_itself(noisy), *made):
            yield Progress(len(made), len(made) + 1, f"Comparing: {m.name}")
            rows += trial.rows(m, channels, chosen)
    images = {m.name: _in_axes(m.estimate, noisy) for m in made}
    return Comparison(tuple(rows), images, noisy.axes, chosen)


def _alone(compute: Compute) -> Compute:
    """Return a computation in this thread, whose CPU-seconds can be measured."""
    return replace(compute, executor=Inline()) if compute.device == "cpu" else compute


def _timed_steps(step: Step[Any]) -> Step[tuple[Any, float]]:
    """Return the result of a step and the CPU-seconds that this thread spent on it; a step."""
    spent = 0.0
    try:
        while True:
            began = time.thread_time()
            try:
                progress = next(step)
            except StopIteration as end:
                return end.value, spent + time.thread_time() - began
            spent += time.thread_time() - began
            yield replace(progress, note=f"Ensemble: {progress.note}")
    finally:
        step.close()


def _stacked(array: Any, axes: str) -> NDArray[np.float32]:
    """Return an array in the order (S, C, *space)."""
    view = View(array, axes, "map")
    return np.stack([view.read(s) for s in range(view.n_scenes)])


def _in_axes(values: NDArray[np.float32], view: View) -> NDArray[np.float32]:
    """Return (S, C, *space) in the axes of an image."""
    out = np.empty(tuple(view.array.shape), np.float32)
    target = View(out, view.axes, "map")
    for scene, one in enumerate(values):
        target.write(scene, tuple(slice(0, n) for n in view.space), one)
    return out


def _of_prediction(prediction: Prediction, noisy: View, seconds: float) -> _Made:
    """Return a prediction in the form of a method's result."""
    quantiles = np.stack([_stacked(q, noisy.axes) for q in np.asarray(prediction.quantiles)])
    return _Made(
        ENSEMBLE,
        _stacked(prediction.median, noisy.axes),
        seconds,
        quantiles=quantiles,
        levels=tuple(prediction.levels),
    )


# ---------------------------------------------------------------- with a truth


@dataclass(frozen=True, eq=False)
class _Trial:
    """A pair with a part to tune on and pixels to judge on."""

    scenes: Scenes
    train: tuple[Box, ...]
    held_out: tuple[Box, ...]
    clean: NDArray[np.float32]  # (S, C, *space)
    block: NDArray[np.int64]  # (S, *space), -1 where nothing is judged

    def noisy_itself(self, noisy: View) -> _Made:
        """Return the noisy image in clean's unit, by the best straight line."""
        image = np.stack([noisy.read(s) for s in range(noisy.n_scenes)])
        made = np.full_like(image, np.nan)
        for c in range(noisy.n_channels):
            x, y = self._training(image, c)
            slope, shift = straight_line(x, y)
            made[:, c] = slope * image[:, c] + shift
        return _Made(NOISY, made, 0.0)

    def _training(self, estimate: NDArray[np.float32], c: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return estimate and clean of a channel on the training part."""
        pairs = [(estimate[_at(box, c)].ravel(), self.clean[_at(box, c)].ravel()) for box in self.train]
        x, y = (np.concatenate(part).astype(np.float64) for part in zip(*pairs, strict=True))
        known = np.isfinite(x) & np.isfinite(y)
        return x[known], y[known]

    def rows(self, made: _Made, channels: Sequence[str], alpha: float) -> list[CompareRow]:
        """Return the figures of a method on the judged pixels, one row per channel."""
        judged = self.block >= 0
        step = max(int(judged.sum()) // _PIXELS, 1)
        block = np.unique(self.block[judged][::step], return_inverse=True)[1].astype(np.int64)
        rows = []
        for c, channel in enumerate(channels):
            y, x = self.clean[:, c][judged], made.estimate[:, c][judged]
            peak = float(np.ptp(y))
            levels, quantiles = self._quantiles(made, c, judged, alpha)
            held = HeldOut(quantiles[:, None, ::step], y[None, ::step], block, levels)
            calibration = calibrate(held, alpha=alpha, settings=CalibrationSettings())
            lower, _, upper = calibration.interval(quantiles[:, None])
            alike = [self._ssim(made, c, box, peak) for box in self.held_out]
            rows.append(
                CompareRow(
                    made.name,
                    channel,
                    float(psnr(y, x, data_range=peak)),
                    float(np.nanmean(alike)) if np.isfinite(alike).any() else float("nan"),
                    float(correlation(y, x)),
                    float("nan"),
                    float(coverage(y[None], lower, upper)),
                    float(np.mean(upper - lower)),
                    made.seconds,
                    made.tuning_seconds,
                    made.parameters[c] if made.parameters else {},
                )
            )
        return rows

    def _quantiles(
        self, made: _Made, c: int, judged: NDArray[np.bool_], alpha: float
    ) -> tuple[tuple[float, ...], NDArray[np.float32]]:
        """Return levels and quantiles (L, n) of the judged pixels of a channel.

        A filter has no quantiles: those of its errors on the training part are added to what it made.
        """
        if made.quantiles is not None:
            return made.levels, made.quantiles[:, :, c][:, judged]
        levels = (alpha / 2, 0.5, 1 - alpha / 2)
        x, y = self._training(made.estimate, c)
        errors = np.quantile(y - x, levels)
        values = made.estimate[:, c][judged] + errors[:, None]
        return levels, values.astype(np.float32)

    def _ssim(self, made: _Made, c: int, box: Box, peak: float) -> float:
        """Return the structural similarity of a box; NaN where a value is unknown."""
        y, x = self.clean[_at(box, c)], made.estimate[_at(box, c)]
        return ssim(y, x, data_range=peak) if np.isfinite(y).all() and np.isfinite(x).all() else float("nan")


def _at(box: Box, *channel: int) -> Any:
    """Return the index of a box in an array (S, *space), or of a channel's in one (S, C, *space)."""
    return (box.scene, *channel, *box.slices)


def _trial_steps(pair: Pair, model: Model | None) -> Step[_Trial]:
    """Return the parts of a pair to tune and to judge on; a step."""
    scenes = (pair if pair.valid is not None else replace(pair, valid="finite")).views
    yield from scenes.check_steps()
    seen = False
    if model is not None:
        also = None if model.learned.detector is None else sound_view(model, scenes.noisy)
        looks = [scenes.noisy] if also is None else [scenes.noisy, also]
        seen = any(is_same(look, model.scores.held_out) for look in looks)
        if not seen:
            yield from need_unseen_steps(model, scenes, also)
    settings = CalibrationSettings() if model is None else model.settings.calibration
    reach = _REACH if model is None else model.blueprint.receptive_field
    parts = split(scenes, reach, settings, seed=0 if model is None else model.settings.seed)
    noisy, train = scenes.noisy, parts.train
    judged = np.zeros((noisy.n_scenes, *noisy.space), bool)
    for box in parts.held_out:
        judged[_at(box)] = True
    if seen and model is not None and model.scores.held_out.position is not None:
        judged[...] = False
        judged[tuple(model.scores.held_out.position.T)] = True
        train = tuple(box for box in train if not judged[_at(box)].any())
        if not train:
            raise ValueError(
                "The model's held-out part covers all that filters could be tuned on; give images that it was not "
                "trained on."
            )
    clean = np.stack([scenes.read_clean(s) for s in range(noisy.n_scenes)])
    judged &= np.isfinite(clean).all(1)
    side = (model.scores.block_px if seen and model is not None else 0) or _BLOCK[noisy.ndim]
    return _Trial(
        scenes, train, parts.held_out, clean, blocks_of(judged, side, by_scene=not scenes.one_field)
    )


# ---------------------------------------------------------------- without a truth


def _loss_steps(
    noisy: View, filtered: Sequence[Filtered], model: Model | None, compute: Compute
) -> Step[dict[str, NDArray[np.float64]]]:
    """Return the self-supervised loss of each method, (C,), on the middle of the image; a step."""
    side = _HIDDEN_SIDE[noisy.ndim]
    part = []
    for cut in middle_of_space(noisy.space):
        length = min(cut.stop - cut.start, side)
        first = (cut.start + cut.stop - length) // 2
        part.append(slice(first, first + length))
    image = filled(noisy.read(0, part))
    hidden, where = hide(image)
    found = {}
    for f in filtered:
        yield Progress(len(filtered), len(filtered) + 1, f"Self-supervised loss: {f.name}")
        found[f.name] = hidden_loss(image, f.apply(hidden), where)
    if model is not None:
        axes = "C" + noisy.space_axes
        prediction = yield from predict_steps(model, image_for(model, hidden, axes), _alone(compute))
        found[ENSEMBLE] = hidden_loss(image, np.asarray(prediction.median), where)
    return found


def _without_truth(
    made: _Made, channels: Sequence[str], loss: NDArray[np.float64], prediction: Prediction | None
) -> list[CompareRow]:
    """Return the rows of a method where nothing is known to be true."""
    none = float("nan")
    rows = []
    for c, channel in enumerate(channels):
        width = none
        if made.quantiles is not None and prediction is not None:
            width = float(np.nanmean(_stacked(prediction.width, prediction.axes)[:, c]))
        rows.append(
            CompareRow(
                made.name,
                channel,
                none,
                none,
                none,
                float(loss[c]),
                none,
                width,
                made.seconds,
                made.tuning_seconds,
                made.parameters[c] if made.parameters else {},
            )
        )
    return rows
