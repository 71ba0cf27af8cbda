"""`Denoiser`: the object a user holds. It trains, calibrates, predicts, reports and saves."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from napari_btn.core.config import (
    PRESETS,
    CalibrationSettings,
    NetworkSettings,
    Progress,
    TileSettings,
    TrainSettings,
)
from napari_btn.core.conformal import Calibration, HeldOut, Note, blocks_of, calibrate, error_length
from napari_btn.core.pairs import Box, Pair, Scenes, Split, View, canonical_axes, registration_shift, split
from napari_btn.core.report import Report, report, report_on
from napari_btn.io.bundle import Bundle, read_bundle, write_bundle

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_btn.core.config import Step
    from napari_btn.core.families import Blueprint
    from napari_btn.core.predict import Member, Prediction

T = TypeVar("T")

__all__ = ["Denoiser", "Estimate", "PairCheck", "evaluate", "load", "load_partial"]

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
_HELD_OUT_PIXELS = 2_000_000  # predicted at most; evenly spread over a larger held-out part
_STORED_VALUES = 3_000_000  # quantiles and targets kept in the bundle for another level
_MAPS = ("lower", "median", "upper", "spread")


@dataclass(frozen=True)
class PairCheck:
    """What is known of a pair before training.

    Parameters
    ----------
    notes : tuple of Note
        Misalignment, a narrow gap, a shortened network.
    shift : tuple of float, optional
        Pixels by which ``clean`` must move to lie on ``noisy``, one per space axis; None where it
        can't be told.
    receptive_field : int
        Half-width in pixels of the networks that fit the image.
    """

    notes: tuple[Note, ...]
    shift: tuple[float, ...] | None
    receptive_field: int


@dataclass(frozen=True)
class Estimate:
    """What training will take on this machine.

    Parameters
    ----------
    seconds : float
        Wall time, to a factor of about two.
    bytes : int
        Memory beyond the images.
    note : str
        The same for a person.
    """

    seconds: float
    bytes: int
    note: str


@dataclass(frozen=True, eq=False)
class _Fitted:
    """All that training and calibration made; replaced as a whole, never changed."""

    blueprint: Blueprint
    members: tuple[Member, ...]
    losses: dict[int, tuple[float, ...]]
    held_out: HeldOut
    block_px: int
    calibration: Calibration
    report: Report
    notes: tuple[Note, ...]
    axes: str
    channel_names: tuple[str, ...]
    pixel_size: tuple[float, ...] | None
    unit: str
    covers: str
    provenance: dict[str, Any]


class Denoiser:
    """An ensemble of small random networks with calibrated quantiles.

    Parameters
    ----------
    preset : str
        "quick", "standard" or "thorough": how long members train.
    members : int
        Networks in the ensemble, 1 or more.
    alpha : float
        Miscoverage, in (0, 1): intervals hold the signal with coverage ``1 - alpha``.
    levels : tuple of float
        Quantile levels to learn, rising, with 0.5 among them.
    supervision : str
        "pair": a noisy and a clean image.
    seed : int
        The same seed, data and settings give the same pixels on the CPU.
    device : str
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    network, train, calibration, tiles : settings, optional
        Replace the defaults, and for ``train`` the preset's.

    References
    ----------
    Zwart, Varga, Qafoku & Sethian, "Behind the Noise", arXiv 2505.08176.
    """

    def __init__(
        self,
        preset: str = "standard",
        *,
        members: int = 10,
        alpha: float = 0.1,
        levels: Sequence[float] = LEVELS,
        supervision: str = "pair",
        seed: int = 0,
        device: str = "auto",
        network: NetworkSettings | None = None,
        train: TrainSettings | None = None,
        calibration: CalibrationSettings | None = None,
        tiles: TileSettings | None = None,
    ) -> None:
        _need(preset in PRESETS, "preset", preset, '"quick", "standard" or "thorough"')
        _need(isinstance(members, int | np.integer) and 1 <= members <= 1000, "members", members, "1 to 1000")
        _need(
            0 < alpha < 1, "alpha", alpha, "between 0 and 1: the share of pixels that the intervals may miss"
        )
        levels = tuple(float(v) for v in levels)
        rising = all(a < b for a, b in zip(levels, levels[1:], strict=False))
        ok = len(levels) >= 1 and rising and 0 < levels[0] and levels[-1] < 1 and 0.5 in levels
        _need(ok, "levels", levels, "rising numbers between 0 and 1, with 0.5 among them")
        _need(supervision == "pair", "supervision", supervision, '"pair"')
        _need(isinstance(seed, int | np.integer) and seed >= 0, "seed", seed, "a whole number of at least 0")
        self.preset, self.members, self.alpha, self.levels = preset, int(members), float(alpha), levels
        self.supervision, self.seed, self.device = supervision, int(seed), device
        self.network = network or NetworkSettings()
        self.train = train or PRESETS[preset]
        self.calibration_settings = calibration or CalibrationSettings()
        self.tiles = tiles or TileSettings()
        self._fitted: _Fitted | None = None

    # ---------------------------------------------------------------- what is known

    @property
    def trained(self) -> bool:
        """Whether `fit` has finished or a bundle was loaded."""
        return self._fitted is not None

    def _need_fitted(self) -> _Fitted:
        if self._fitted is None:
            raise ValueError(
                "This denoiser is not trained yet; call fit(noisy, clean) or load a bundle first."
            )
        return self._fitted

    @property
    def report(self) -> Report | None:
        """Coverage, widths and scores, cross-fitted on the held-out blocks; None before training."""
        return None if self._fitted is None else self._fitted.report

    @property
    def calibration(self) -> Calibration | None:
        """Offsets in use; None before training."""
        return None if self._fitted is None else self._fitted.calibration

    @property
    def notes(self) -> tuple[Note, ...]:
        """What to know before relying on the result: notes from training and calibration."""
        return () if self._fitted is None else self._fitted.report.warnings

    @property
    def losses(self) -> dict[int, tuple[float, ...]]:
        """Training loss of each step, per member number."""
        return {} if self._fitted is None else self._fitted.losses

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels it was trained on; empty before training."""
        return () if self._fitted is None else self._fitted.channel_names

    @property
    def axes(self) -> str:
        """Axes of the noisy image it was trained on."""
        return "" if self._fitted is None else self._fitted.axes

    @property
    def pixel_size(self) -> tuple[float, ...] | None:
        """Pixel size it was trained at, one per space axis, in `unit`."""
        return None if self._fitted is None else self._fitted.pixel_size

    @property
    def unit(self) -> str:
        """Unit of `pixel_size`."""
        return "px" if self._fitted is None else self._fitted.unit

    @property
    def receptive_field(self) -> int:
        """Half-width in pixels of what a pixel of the result depends on."""
        return self._need_fitted().blueprint.receptive_field

    @property
    def provenance(self) -> dict[str, Any]:
        """JSON-ready: version, settings, seed and fingerprints of the training images."""
        return dict(self._need_fitted().provenance)

    def settings(self) -> dict[str, Any]:
        """All settings as a JSON-ready dict that `from_settings` takes."""
        return {
            "preset": self.preset,
            "members": self.members,
            "alpha": self.alpha,
            "levels": list(self.levels),
            "supervision": self.supervision,
            "seed": self.seed,
            "network": self.network.to_dict(),
            "train": self.train.to_dict(),
            "calibration": self.calibration_settings.to_dict(),
            "tiles": self.tiles.to_dict(),
        }

    @classmethod
    def from_settings(cls, values: dict[str, Any], *, device: str = "auto") -> Self:
        """Return an untrained denoiser from `settings`' dict."""
        values = dict(values)
        return cls(
            values.pop("preset"),
            network=NetworkSettings.from_dict(values.pop("network")),
            train=TrainSettings.from_dict(values.pop("train")),
            calibration=CalibrationSettings.from_dict(values.pop("calibration")),
            tiles=TileSettings.from_dict(values.pop("tiles")),
            device=device,
            **values,
        )

    # ---------------------------------------------------------------- before training

    def check(
        self,
        noisy: Any,
        clean: Any,
        *,
        axes: str = "YX",
        channel_names: Sequence[str] | None = None,
        pixel_size: Sequence[float] | None = None,
        unit: str = "px",
        valid: Any = None,
    ) -> PairCheck:
        """Return what is known of a pair before training, without training.

        Raises
        ------
        ValueError
            With one sentence: what came, what is needed, what to do.
        """
        scenes = _pair(noisy, clean, axes, channel_names, pixel_size, unit, valid).scenes
        plan = self._plan(scenes)
        return PairCheck(plan.notes, plan.shift, plan.blueprint.receptive_field)

    def _plan(self, scenes: Scenes) -> _Plan:
        """Decide schedule and split, and look for a shift between the two images."""
        from napari_btn.core.families import Blueprint
        from napari_btn.core.graph import draw_dilations, receptive_field

        notes: list[Note] = []
        shift = _shift_of(scenes)
        if shift is not None and max(abs(s) for s in shift) > 0.5:
            size = ", ".join(f"{a} {s:+.1f}" for a, s in zip(scenes.noisy.space_axes, shift, strict=True))
            notes.append(
                Note(
                    "amber",
                    f"Clean lies {size} px from noisy; the networks would learn the shift. Align them first.",
                )
            )
        wanted = draw_dilations(self.network, ndim=scenes.noisy.ndim)
        limit = None if not scenes.repeats else max(scenes.noisy.space) // 4
        dilations = draw_dilations(self.network, ndim=scenes.noisy.ndim, limit_px=limit)
        if dilations != wanted:
            notes.append(
                Note(
                    "amber",
                    f"The image is small ({' x '.join(str(n) for n in scenes.noisy.space)} px): networks see "
                    f"{receptive_field(dilations)} px to each side instead of {receptive_field(wanted)}.",
                )
            )
        blueprint = Blueprint(
            self.network,
            dilations,
            scenes.noisy.n_channels,
            scenes.clean.n_channels,
            scenes.noisy.ndim,
            self.levels,
            self.seed,
        )
        parts = split(scenes, blueprint.receptive_field, self.calibration_settings, seed=self.seed)
        return _Plan(blueprint, parts, shift, (*notes, *parts.notes))

    def estimate(self, shape: Sequence[int], axes: str = "YX") -> Estimate:
        """Return time and memory that training will take on this machine, to a factor of about two."""
        view = View(np.broadcast_to(np.float32(0), tuple(shape)), axes)
        patch = 1
        for n in view.space:
            patch *= min(self.train.patch_px, n)
        pixels = patch * self.train.batch_size
        width = self.network.channels * self.network.inputs
        # forward and backward of one 3^d convolution per node; a core does about 3e10 of these a second
        work = 6 * self.network.depth * width**2 * 3**view.ndim * pixels
        from joblib.externals.loky import cpu_count

        workers = min(self.members, cpu_count())
        rounds = -(-self.members // workers)
        held = min(0.4 * float(np.prod(view.space)) * view.n_scenes, _HELD_OUT_PIXELS)
        seconds = 4 + rounds * self.train.steps * work / 3e10 + held * self.members / workers / 6e5
        memory = workers * (350_000_000 + 4 * pixels * width * self.network.depth * 4)
        minutes = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
        note = f"About {minutes} and {memory / 1e9:.1f} GB on {workers} CPU core{'s' if workers > 1 else ''}"
        return Estimate(seconds, int(memory), note)

    # ---------------------------------------------------------------- training

    def fit(
        self,
        noisy: Any,
        clean: Any = None,
        *,
        axes: str = "YX",
        channel_names: Sequence[str] | None = None,
        pixel_size: Sequence[float] | None = None,
        unit: str = "px",
        valid: Any = None,
        executor: Executor | None = None,
    ) -> Self:
        """Train, calibrate and report; return itself. See `fit_steps`."""
        steps = self.fit_steps(
            noisy,
            clean,
            axes=axes,
            channel_names=channel_names,
            pixel_size=pixel_size,
            unit=unit,
            valid=valid,
            executor=executor,
        )
        _drain(steps)
        return self

    def fit_steps(
        self,
        noisy: Any,
        clean: Any = None,
        *,
        axes: str = "YX",
        channel_names: Sequence[str] | None = None,
        pixel_size: Sequence[float] | None = None,
        unit: str = "px",
        valid: Any = None,
        executor: Executor | None = None,
        resume: Sequence[Member] = (),
        preview_every: float = 0.0,
    ) -> Step[Self]:
        """Train, calibrate and report, as a step that may be stopped between any two yields.

        Parameters
        ----------
        noisy : array, (*axes)
            Numpy, dask or zarr.
        clean : array
            The same axes; without ``S`` and ``T`` where scenes are repeats of one field.
        axes : str
            Letters of S, T, C, Z, Y, X in any order.
        channel_names : sequence of str, optional
            One per channel.
        pixel_size : sequence of float, optional
            One per space axis, in ``unit``.
        valid : array of bool, optional
            True where a pixel counts.
        executor : concurrent.futures.Executor, optional
            Where tasks run; local processes by default.
        resume : sequence of Member
            A `Progress.checkpoint` of an earlier run with the same settings and data.
        preview_every : float
            Seconds between previews of the median; 0 for none.

        Returns
        -------
        Denoiser
            Itself, trained. Until then it is unchanged.

        Raises
        ------
        ValueError
            With what came, what is needed and what to do.
        """
        from napari_btn.core.training import train_steps

        yield Progress(0, self.members * self.train.steps, "Checking the images")
        pair = _pair(noisy, clean, axes, channel_names, pixel_size, unit, valid)
        scenes = pair.scenes
        plan = self._plan(scenes)
        pool, workers, device = self._where(executor)
        trained = yield from train_steps(
            scenes,
            plan.split.train,
            plan.blueprint,
            self.train,
            members=self.members,
            executor=pool,
            workers=workers,
            resume=resume,
            preview_every=preview_every,
        )
        boxes = _spread_boxes(plan.split.held_out, scenes.noisy.ndim)
        held_out, block_px = yield from _held_out_steps(
            scenes,
            boxes,
            trained.members,
            plan.blueprint,
            by_scene=plan.split.by_scene,
            alpha=self.alpha,
            settings=self.calibration_settings,
            tiles=self.tiles,
            executor=pool,
            device=device,
        )
        notes = (*plan.notes, *trained.notes)
        covers, noise_notes = _covers(scenes, boxes, held_out)
        notes += noise_notes
        fitted = self._calibrated(
            _Fitted(
                plan.blueprint,
                trained.members,
                trained.losses,
                held_out,
                block_px,
                _NO_CALIBRATION,
                _NO_REPORT,
                notes,
                scenes.noisy.axes,
                scenes.channel_names,
                pair.pixel_size,
                pair.unit,
                covers,
                self._provenance(scenes, plan),
            ),
            self.alpha,
        )
        total = self.members * self.train.steps
        yield Progress(total, total, "Calibrated")
        self._fitted = fitted
        return self

    def _where(self, executor: Executor | None) -> tuple[Executor | None, int, str]:
        """Pool, members in training at a time, and torch's name of the device."""
        if executor is not None:
            return executor, max(getattr(executor, "_max_workers", 2), 1), "cpu"
        from joblib.externals.loky import cpu_count

        return None, max(min(cpu_count(), self.members), 1), "cpu"

    def _provenance(self, scenes: Scenes, plan: _Plan) -> dict[str, Any]:
        import torch

        from napari_btn import __version__

        return {
            "napari_btn": __version__,
            "torch": torch.__version__,
            "settings": self.settings(),
            "receptive_field_px": plan.blueprint.receptive_field,
            "gap_px": plan.split.gap_px,
            "images": fingerprints(scenes),
        }

    def _calibrated(self, fitted: _Fitted, alpha: float) -> _Fitted:
        """Offsets and report at ``alpha`` from stored held-out scores."""
        calibration = calibrate(fitted.held_out, alpha=alpha, settings=self.calibration_settings)
        made = report(
            fitted.held_out,
            self.calibration_settings,
            alpha,
            fitted.channel_names,
            fitted.covers,
            block_px=fitted.block_px,
            seed=self.seed,
            notes=fitted.notes,
        )
        return replace(fitted, calibration=calibration, report=made)

    # ---------------------------------------------------------------- calibration

    def calibrate(
        self,
        noisy: Any = None,
        clean: Any = None,
        *,
        axes: str | None = None,
        alpha: float | None = None,
        valid: Any = None,
        executor: Executor | None = None,
    ) -> Self:
        """Calibrate at another level from the stored scores, or on other data; never trains.

        Parameters
        ----------
        noisy, clean : array, optional
            Images that the members never trained on; all of them calibrate.
        alpha : float, optional
            Miscoverage; the present one by default.

        Raises
        ------
        ValueError
            When the members trained on these images.
        """
        steps = self.calibrate_steps(noisy, clean, axes=axes, alpha=alpha, valid=valid, executor=executor)
        _drain(steps)
        return self

    def calibrate_steps(
        self,
        noisy: Any = None,
        clean: Any = None,
        *,
        axes: str | None = None,
        alpha: float | None = None,
        valid: Any = None,
        executor: Executor | None = None,
    ) -> Step[Self]:
        """`calibrate`, as a step."""
        fitted = self._need_fitted()
        alpha = self.alpha if alpha is None else float(alpha)
        _need(
            0 < alpha < 1, "alpha", alpha, "between 0 and 1: the share of pixels that the intervals may miss"
        )
        if noisy is not None:
            yield Progress(0, 1, "Checking the images")
            pair = _pair(
                noisy, clean, axes or _axes_like(fitted.axes, noisy), fitted.channel_names, None, "px", valid
            )
            scenes = pair.scenes
            self._check_view(scenes.noisy, fitted)
            if set(fingerprints(scenes).values()) & set(fitted.provenance.get("images", {}).values()):
                raise ValueError(
                    "These images trained the members; coverage measured on them would be too good. "
                    "Give images they never saw, or call calibrate(alpha=...) to use the held-out part."
                )
            pool, _, device = self._where(executor)
            boxes = _spread_boxes(scenes.whole(), scenes.noisy.ndim)
            held_out, block_px = yield from _held_out_steps(
                scenes,
                boxes,
                fitted.members,
                fitted.blueprint,
                by_scene=not scenes.repeats,
                alpha=alpha,
                settings=self.calibration_settings,
                tiles=self.tiles,
                executor=pool,
                device=device,
            )
            covers, notes = _covers(scenes, boxes, held_out)
            fitted = replace(fitted, held_out=held_out, block_px=block_px, covers=covers, notes=notes)
        made = self._calibrated(fitted, alpha)
        yield Progress(1, 1, "Calibrated")
        self._fitted, self.alpha = made, alpha
        return self

    # ---------------------------------------------------------------- prediction

    def predict(self, noisy: Any, axes: str | None = None, *, executor: Executor | None = None) -> Prediction:
        """Return calibrated maps of an image. See `predict_steps`."""
        return _drain(self.predict_steps(noisy, axes, executor=executor))

    def predict_steps(
        self, noisy: Any, axes: str | None = None, *, executor: Executor | None = None
    ) -> Step[Prediction]:
        """Calibrated maps of an image, tile by tile; a step.

        Parameters
        ----------
        noisy : array, (*axes)
            The channels that it was trained on; S and T may come or be missing. Values that are
            not finite are read as zero.
        axes : str, optional
            The axes of training by default, less S and T where the image has fewer dimensions.

        Returns
        -------
        Prediction
            Maps in the axes of the input, in the units of the training target.
        """
        from napari_btn.core.predict import Prediction, predict_steps

        fitted = self._need_fitted()
        view = View(noisy, axes or _axes_like(fitted.axes, noisy), "image")
        self._check_view(view, fitted)
        shape = tuple(view.array.shape)
        maps = {name: np.empty(shape, np.float32) for name in _MAPS}
        maps["quantiles"] = np.empty((len(self.levels), *shape), np.float32)
        pool, _, device = self._where(executor)
        yield from predict_steps(
            view,
            fitted.members,
            fitted.blueprint,
            fitted.calibration,
            maps,
            tiles=self.tiles,
            executor=pool if executor is not None else None,
            device=device,
        )
        return Prediction(
            **maps,
            levels=self.levels,
            axes=view.axes,
            channel_names=fitted.channel_names,
            pixel_size=fitted.pixel_size,
            unit=fitted.unit,
            alpha=fitted.calibration.alpha,
            covers=fitted.covers,
            provenance=self._caption(fitted),
        )

    def _caption(self, fitted: _Fitted) -> dict[str, Any]:
        """What a map must carry to be read rightly."""
        return {
            **fitted.provenance,
            "alpha": fitted.calibration.alpha,
            "covers": fitted.covers,
            "rule": fitted.calibration.rule,
            "n_blocks": fitted.calibration.n_blocks,
            "channel_names": list(fitted.channel_names),
            "coverage": [float(v) for v in fitted.report.coverage],
            "warnings": [n.to_dict() for n in fitted.report.warnings],
        }

    def _check_view(self, view: View, fitted: _Fitted) -> None:
        if view.n_channels != fitted.blueprint.n_in:
            raise ValueError(
                f"The image has {view.n_channels} channels (axes {view.axes}, shape {tuple(view.array.shape)}); these "
                f"networks were trained on {fitted.blueprint.n_in}: {', '.join(fitted.channel_names)}. Give those."
            )
        if view.ndim != fitted.blueprint.ndim:
            raise ValueError(
                f"The image has the space axes {view.space_axes}; these networks were trained in "
                f"{fitted.blueprint.ndim}D. Give a {fitted.blueprint.ndim}D image."
            )

    # ---------------------------------------------------------------- files

    def save(self, path: str | Path) -> None:
        """Save as a bundle; the file appears only when it is whole."""
        fitted = self._need_fitted()
        arrays = _weights_to_arrays(fitted.members)
        for k, loss in fitted.losses.items():
            arrays[f"loss.{k}"] = np.asarray(loss, np.float32)
        for name in ("quantiles", "target", "block", "observed", "position"):
            value = getattr(fitted.held_out, name)
            if value is not None:
                arrays[f"held_out.{name}"] = value
        values = {
            "kind": "trained",
            "settings": {**self.settings(), "alpha": self.alpha},
            "dilations": list(fitted.blueprint.dilations),
            "n_in": fitted.blueprint.n_in,
            "n_out": fitted.blueprint.n_out,
            "ndim": fitted.blueprint.ndim,
            "members": [[m.number, m.attempt] for m in fitted.members],
            "block_px": fitted.block_px,
            "calibration": fitted.calibration.to_dict(),
            "report": fitted.report.to_dict(),
            "notes": [n.to_dict() for n in fitted.notes],
            "axes": fitted.axes,
            "channel_names": list(fitted.channel_names),
            "pixel_size": None if fitted.pixel_size is None else list(fitted.pixel_size),
            "unit": fitted.unit,
            "covers": fitted.covers,
            "provenance": fitted.provenance,
        }
        write_bundle(Bundle(values, arrays), path)

    def save_partial(self, path: str | Path, checkpoint: Sequence[Member]) -> None:
        """Save the members that an interrupted run has finished, for `load_partial`."""
        values = {
            "kind": "partial",
            "settings": self.settings(),
            "members": [[m.number, m.attempt] for m in checkpoint],
        }
        write_bundle(Bundle(values, _weights_to_arrays(checkpoint)), path)


@dataclass(frozen=True)
class _Plan:
    """Decisions made before training."""

    blueprint: Blueprint
    split: Split
    shift: tuple[float, ...] | None
    notes: tuple[Note, ...]


def load(path: str | Path, *, device: str = "auto") -> Denoiser:
    """Return the trained denoiser of a bundle.

    Raises
    ------
    ValueError
        When the file is damaged, newer, not a bundle, or of an interrupted training.
    """
    from napari_btn.core.families import Blueprint

    bundle = read_bundle(path)
    values, arrays = bundle.values, bundle.arrays
    if values.get("kind") != "trained":
        raise ValueError(f"{path} is an interrupted training; go on with it (--resume) before using it.")
    try:
        denoiser = Denoiser.from_settings(values["settings"], device=device)
        blueprint = Blueprint(
            denoiser.network,
            tuple(values["dilations"]),
            values["n_in"],
            values["n_out"],
            values["ndim"],
            denoiser.levels,
            denoiser.seed,
        )
        held_out = HeldOut(
            arrays["held_out.quantiles"],
            arrays["held_out.target"],
            arrays["held_out.block"],
            denoiser.levels,
            arrays.get("held_out.observed"),
            arrays.get("held_out.position"),
        )
        members = _members_from(values, arrays)
        denoiser._fitted = _Fitted(
            blueprint,
            members,
            {m.number: tuple(float(v) for v in arrays.get(f"loss.{m.number}", ())) for m in members},
            held_out,
            values["block_px"],
            Calibration.from_dict(values["calibration"]),
            Report.from_dict(values["report"]),
            tuple(Note.from_dict(n) for n in values["notes"]),
            values["axes"],
            tuple(values["channel_names"]),
            None if values["pixel_size"] is None else tuple(values["pixel_size"]),
            values["unit"],
            values["covers"],
            values["provenance"],
        )
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} lacks a part of a bundle ({error}); it is damaged. Save it again."
        ) from error
    return denoiser


def load_partial(path: str | Path, *, device: str = "auto") -> tuple[Denoiser, tuple[Member, ...]]:
    """Return an untrained denoiser and the members that an interrupted run had finished."""
    bundle = read_bundle(path)
    if bundle.values.get("kind") != "partial":
        raise ValueError(f"{path} is not an interrupted training; load it as a bundle instead.")
    denoiser = Denoiser.from_settings(bundle.values["settings"], device=device)
    return denoiser, _members_from(bundle.values, bundle.arrays)


def evaluate(prediction: Prediction, clean: Any, *, valid: Any = None, seed: int = 0) -> Report:
    """Return the report of a prediction against a truth.

    Parameters
    ----------
    prediction : Prediction
    clean : array
        The axes of the prediction, or the same without S and T.
    valid : array of bool, optional
        True where a pixel counts.
    """
    pair = _pair(prediction.median, clean, prediction.axes, prediction.channel_names, None, "px", valid)
    scenes = pair.scenes
    lower, upper = View(prediction.lower, prediction.axes), View(prediction.upper, prediction.axes)
    quantiles = prediction.quantiles
    levels = prediction.levels if quantiles is not None else ()
    stack = [View(quantiles, prediction.axes, first=(i,)) for i in range(len(levels))]
    truth = [scenes.read_clean(s) for s in range(lower.n_scenes)]
    low = [lower.read(s) for s in range(lower.n_scenes)]
    high = [upper.read(s) for s in range(lower.n_scenes)]
    median = [scenes.noisy.read(s) for s in range(lower.n_scenes)]
    side, block = _blocks(truth, low, high, scenes, None)
    known = block >= 0

    def flat(parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.stack(parts, 1)[:, known]

    predicted = [flat([v.read(s) for s in range(v.n_scenes)]) for v in stack]
    held_out = HeldOut(
        np.stack(predicted) if predicted else np.zeros((0, *flat(truth).shape), np.float32),
        flat(truth),
        block[known],
        levels,
    )
    return report_on(
        held_out,
        flat(low),
        flat(median),
        flat(high),
        alpha=prediction.alpha,
        rule=str(prediction.provenance.get("rule", "")),
        channel_names=prediction.channel_names,
        covers=prediction.covers,
        block_px=side,
        seed=seed,
        ssim=_ssim(truth, median, known),
    )


def _ssim(
    truth: list[NDArray[np.float32]], median: list[NDArray[np.float32]], known: NDArray[np.bool_]
) -> NDArray[np.float64] | None:
    """SSIM per channel, averaged over scenes; None where pixels are left out or the image is tiny."""
    from napari_btn.core.metrics import ssim

    if not known.all() or min(truth[0].shape[1:]) < 7:
        return None
    span = [
        max(float(t[c].max()) for t in truth) - min(float(t[c].min()) for t in truth)
        for c in range(len(truth[0]))
    ]
    per_scene = [
        [ssim(t[c], m[c], data_range=span[c]) for c in range(len(t))]
        for t, m in zip(truth, median, strict=True)
    ]
    return np.mean(per_scene, 0)


def fingerprints(scenes: Scenes) -> dict[str, str]:
    """SHA-256 of each noisy scene, by number."""
    prints = {}
    for box in scenes.whole():
        digest = hashlib.sha256()
        for part in _rows(box):
            digest.update(np.ascontiguousarray(scenes.noisy.read(box.scene, part)).tobytes())
        prints[str(box.scene)] = digest.hexdigest()
    return prints


def _rows(box: Box) -> list[tuple[slice, ...]]:
    step = max(16_000_000 // max(box.size // max(box.shape[0], 1), 1), 1)
    first = box.slices[0]
    return [
        (slice(a, min(a + step, first.stop)), *box.slices[1:]) for a in range(first.start, first.stop, step)
    ]


def _pair(
    noisy: Any,
    clean: Any,
    axes: str,
    channel_names: Sequence[str] | None,
    pixel_size: Sequence[float] | None,
    unit: str,
    valid: Any,
) -> Pair:
    """Gather what came into a `Pair`; lists become arrays."""

    def array(value: Any) -> Any:
        return value if value is None or hasattr(value, "shape") else np.asarray(value)

    return Pair(
        array(noisy),
        array(clean),
        axes.upper(),
        None if channel_names is None else tuple(channel_names),
        None if pixel_size is None else tuple(float(v) for v in pixel_size),
        unit,
        array(valid),
    )


def _axes_like(axes: str, image: Any) -> str:
    """Axes of training, less S and T where the image has fewer dimensions."""
    ndim = len(image.shape) if hasattr(image, "shape") else np.ndim(image)
    for candidate in (axes, axes.replace("S", "").replace("T", "")):
        if len(candidate) == ndim:
            return candidate
    return canonical_axes(axes, ndim)


def _shift_of(scenes: Scenes) -> tuple[float, ...] | None:
    """Shift between noisy (mean of up to 8 repeats) and clean, from the middle of large images."""
    if min(scenes.noisy.space) < 32:
        return None
    side = 512 if scenes.noisy.ndim == 2 else 96
    box = tuple(
        slice(max(n - side, 0) // 2, max(n - side, 0) // 2 + min(n, side)) for n in scenes.noisy.space
    )
    shown = range(min(scenes.noisy.n_scenes, 8)) if scenes.repeats else range(1)
    noisy = np.mean([scenes.read_noisy(s, box) for s in shown], axis=0)
    return registration_shift(noisy, np.nan_to_num(scenes.read_clean(0, box)))


def _spread_boxes(boxes: Sequence[Box], ndim: int) -> list[Box]:
    """The boxes, or smaller ones evenly spread over them where they hold more pixels than needed."""
    total = sum(b.size for b in boxes)
    if total <= _HELD_OUT_PIXELS:
        return list(boxes)
    side = 256 if ndim == 2 else 64
    share = _HELD_OUT_PIXELS / total
    chosen: list[Box] = []
    for box in boxes:
        cells = [
            tuple(slice(a, min(a + side, s.stop)) for a, s in zip(starts, box.slices, strict=True))
            for starts in np.ndindex(*(-(-n // side) for n in box.shape))
            for starts in [[s.start + i * side for i, s in zip(starts, box.slices, strict=True)]]
        ]
        step = max(1 / share, 1.0)
        picks = sorted({int(i) for i in np.arange(step / 2, len(cells), step)} or {len(cells) // 2})
        chosen += [Box(box.scene, cells[i]) for i in picks]
    return chosen


def _held_out_steps(
    scenes: Scenes,
    boxes: Sequence[Box],
    members: Sequence[Member],
    blueprint: Blueprint,
    *,
    by_scene: bool,
    alpha: float,
    settings: CalibrationSettings,
    tiles: TileSettings,
    executor: Executor | None,
    device: str,
) -> Step[tuple[HeldOut, int]]:
    """Predict the held-out boxes and gather their pixels by block; a step."""
    from napari_btn.core.predict import tile_quantiles

    n = scenes.noisy.n_channels
    quantiles = [np.empty((len(blueprint.levels), n, *b.shape), np.float32) for b in boxes]
    for progress, result in tile_quantiles(
        scenes.noisy, boxes, members, blueprint, tiles=tiles, executor=executor, device=device
    ):
        if result is not None:
            for box, array in zip(boxes, quantiles, strict=True):
                if box.scene == result.scene and _inside(result.write, box.slices):
                    where = tuple(
                        slice(w.start - s.start, w.stop - s.start)
                        for w, s in zip(result.write, box.slices, strict=True)
                    )
                    array[(slice(None), slice(None), *where)] = result.quantiles
        yield replace(progress, note="Calibrating: " + progress.note.lower())
    target = [scenes.read_clean(b.scene, b.slices) for b in boxes]
    observed = [scenes.read_noisy(b.scene, b.slices) for b in boxes]
    known = [np.isfinite(t).all(0) for t in target]
    flat = HeldOut(
        np.concatenate([q[:, :, k] for q, k in zip(quantiles, known, strict=True)], 2),
        np.concatenate([t[:, k] for t, k in zip(target, known, strict=True)], 1),
        np.zeros(sum(int(k.sum()) for k in known), np.int64),
        blueprint.levels,
    )
    side = settings.block_px or 0
    if not by_scene and not side:
        pooled = calibrate(flat, alpha=alpha, settings=replace(settings, unit="pixel"))
        side = _block_side(
            [
                (pooled.interval(q)[0], t, pooled.interval(q)[2])
                for q, t in zip(quantiles, target, strict=True)
            ]
        )
    block = _number_blocks(scenes, boxes, side, by_scene)
    position = [np.argwhere(k) + [s.start for s in b.slices] for k, b in zip(known, boxes, strict=True)]
    where = np.concatenate(
        [np.column_stack([np.full(len(p), b.scene), p]) for p, b in zip(position, boxes, strict=True)]
    )
    held_out = replace(
        flat,
        block=np.concatenate([b[k] for b, k in zip(block, known, strict=True)]),
        observed=np.concatenate([o[:, k] for o, k in zip(observed, known, strict=True)], 1),
        position=where.astype(np.int32),
    )
    stored = _STORED_VALUES // (n * (len(blueprint.levels) + 2))
    if held_out.block.size > stored:
        rng = np.random.default_rng(np.random.SeedSequence(blueprint.seed, spawn_key=(2**31, 3)))
        held_out = held_out.take(np.sort(rng.choice(held_out.block.size, stored, replace=False)))
    return held_out, side if not by_scene else 0


def _inside(part: Sequence[slice], whole: Sequence[slice]) -> bool:
    return all(w.start <= p.start and p.stop <= w.stop for p, w in zip(part, whole, strict=True))


def _block_side(intervals: Sequence[tuple[Any, Any, Any]]) -> int:
    """Side of a block: four lengths over which misses are alike, at least 16 px."""
    lengths = [1]
    for lower, target, upper in intervals:
        valid = np.isfinite(target)
        miss = valid & ((target < lower) | (target > upper))
        longest = max(min(target.shape[1:]) // 4, 2)
        lengths += [error_length(m, longest, valid=v) for m, v in zip(miss, valid, strict=True)]
    return max(4 * int(np.max(lengths)), 16)


def _number_blocks(
    scenes: Scenes, boxes: Sequence[Box], side: int, by_scene: bool
) -> list[NDArray[np.int64]]:
    """Block number of every pixel of every box."""
    if by_scene:
        order = {scene: i for i, scene in enumerate(sorted({b.scene for b in boxes}))}
        return [np.full(b.shape, order[b.scene], np.int64) for b in boxes]
    mask = np.zeros((1, *scenes.noisy.space), bool)
    for box in boxes:
        mask[(0, *box.slices)] = True
    numbers = blocks_of(mask, side)[0]
    return [numbers[box.slices] for box in boxes]


def _blocks(
    truth: list[NDArray[np.float32]],
    lower: list[NDArray[np.float32]],
    upper: list[NDArray[np.float32]],
    scenes: Scenes,
    side: int | None,
) -> tuple[int, NDArray[np.int64]]:
    """Block side and number of every pixel (S, *space); -1 where the truth is unknown."""
    by_scene = not scenes.repeats
    if side is None:
        side = 0 if by_scene else _block_side(list(zip(lower, truth, upper, strict=True)))
    numbers = np.stack(_number_blocks(scenes, scenes.whole(), side, by_scene))
    numbers[~np.stack([np.isfinite(t).all(0) for t in truth])] = -1
    return side, numbers


def _covers(scenes: Scenes, boxes: Sequence[Box], held_out: HeldOut) -> tuple[str, tuple[Note, ...]]:
    """What the interval covers: "clean", or "long exposure" where the target has noise of its own."""
    middle = held_out.levels.index(0.5)
    residual = np.var(held_out.target - held_out.quantiles[middle], axis=1)
    largest = max(boxes, key=lambda b: b.size)
    target = np.nan_to_num(scenes.read_clean(largest.scene, largest.slices))
    plane = target if target.ndim == 3 else target[:, target.shape[1] // 2]
    if min(plane.shape[1:]) < 8:
        return "clean", ()
    # the diagonal detail of a Haar wavelet holds noise and hardly any signal (Donoho & Johnstone 1994)
    detail = (plane[:, 1:, 1:] - plane[:, 1:, :-1] - plane[:, :-1, 1:] + plane[:, :-1, :-1]) / 2
    noise = np.square(np.median(np.abs(detail), axis=(1, 2)) / 0.6745)
    share = noise / np.maximum(residual, 1e-30)
    worst = int(np.argmax(share))
    if share[worst] < 0.01:
        return "clean", ()
    if share[worst] <= 0.1:
        return "long exposure", ()
    text = (
        f"The target is noisy itself (in {scenes.channel_names[worst]} its noise makes {share[worst]:.0%} of the "
        "residual variance): intervals cover another long exposure, and cover the clean signal more often than stated."
    )
    return "long exposure", (Note("amber", text),)


def _weights_to_arrays(members: Sequence[Member]) -> dict[str, NDArray[Any]]:
    return {f"member.{m.number}.{name}": value for m in members for name, value in m.weights.items()}


def _members_from(values: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> tuple[Member, ...]:
    from napari_btn.core.predict import Member

    members = []
    for number, attempt in values["members"]:
        prefix = f"member.{number}."
        weights = {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}
        members.append(Member(number, attempt, weights))
    return tuple(members)


def _drain(steps: Step[T]) -> T:
    """Run a step to its end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def _need(ok: bool, name: str, value: object, needed: str) -> None:
    if not ok:
        raise ValueError(f"{name} is {value!r}; it must be {needed}.")


_NO_CALIBRATION: Any = None
_NO_REPORT: Any = None
