"""`Denoiser`: the object a user holds. It trains, calibrates, predicts, reports and saves."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from functools import partial, wraps
from inspect import signature
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

import numpy as np

from napari_btn.core.calibration.held_out import (
    covers,
    drift_notes,
    fingerprint_steps,
    held_out_steps,
    profile_of,
)
from napari_btn.core.compute.device import device_for, works
from napari_btn.core.data.image import channel_number
from napari_btn.core.data.splits import CALIBRATE, REPORT, TRAIN, split, spread_boxes
from napari_btn.core.data.windows import windows_of
from napari_btn.core.evaluation.diagnostics import coverage_curve, inside_map, miscoverage_map
from napari_btn.core.evaluation.report import evaluate
from napari_btn.core.progress import Progress, drain
from napari_btn.core.settings import (
    PRESETS,
    TOKEN_METHODS,
    CalibrationSettings,
    NetworkSettings,
    TileSettings,
    TrainSettings,
)
from napari_btn.core.supervision.patches import patch_sides, patches_for
from napari_btn.core.supervision.redraw import against_overfitting
from napari_btn.core.training.plan import (
    Estimate,
    PairCheck,
    Plan,
    estimate_training,
    plan_training,
    validation_part,
)
from napari_btn.io.bundle import Bundle, read_bundle, write_bundle
from napari_btn.io.maps import open_maps, zarr_maps
from napari_btn.model import (
    Fitted,
    Measured,
    Networks,
    at_stage,
    from_bundle,
    member_arrays,
    members_of,
    to_bundle,
)
from napari_btn.workflow.calibrate import (
    by_mask,
    by_tokens_steps,
    calibrated_steps,
    held_out_intervals,
    labels_steps,
)
from napari_btn.workflow.inputs import (
    image_for,
    in_axes_of,
    is_same,
    need_same,
    over_scenes,
    over_space,
    pair_of,
    scenes_for,
    sizes_along,
)
from napari_btn.workflow.refine import Refinement, gentler, refining_steps, regroup_notes, split_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_btn.core.calibration.cases import HeldOut
    from napari_btn.core.calibration.conformal import Calibration
    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.data.image import View
    from napari_btn.core.data.pairs import Scenes
    from napari_btn.core.data.splits import Split
    from napari_btn.core.evaluation.gain import EnsembleGain
    from napari_btn.core.evaluation.report import Report
    from napari_btn.core.inference.jacobian import EquivalentFilter
    from napari_btn.core.networks.family import Member
    from napari_btn.core.networks.sms.graph import Graph
    from napari_btn.core.progress import Note, Step
    from napari_btn.core.settings import TokenMethod
    from napari_btn.core.tokens.tokens import Tokens
    from napari_btn.core.training.processes import Trained

P = ParamSpec("P")
T = TypeVar("T")

__all__ = ["Denoiser", "Estimate", "PairCheck", "evaluate", "load", "load_partial"]

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
_MAPS = ("lower", "median", "upper", "spread")


def _whole(steps: Callable[P, Step[T]]) -> Callable[P, T]:
    """The method that runs a step to its end, with the same arguments and documentation."""

    @wraps(steps)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return drain(steps(*args, **kwargs))

    whole = signature(steps)
    made = str(whole.return_annotation).removeprefix("Step[").removesuffix("]")
    run.__dict__["__signature__"] = whole.replace(return_annotation=made)
    run.__name__ = steps.__name__.removesuffix("_steps")
    run.__qualname__ = steps.__qualname__.removesuffix("_steps")
    return run


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
        "auto", "cpu", "cuda", "cuda:1" or "mps": where members train and predict. "auto" is the first
        NVIDIA card, else the CPU.
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
        rising = all(a < b for a, b in pairwise(levels))
        ok = len(levels) >= 1 and rising and levels[0] > 0 and levels[-1] < 1 and 0.5 in levels
        _need(ok, "levels", levels, "rising numbers between 0 and 1, with 0.5 among them")
        _need(supervision == "pair", "supervision", supervision, '"pair"')
        _need(isinstance(seed, int | np.integer) and seed >= 0, "seed", seed, "a whole number of at least 0")
        device_for(device)
        self.preset, self.members, self.alpha, self.levels = preset, int(members), float(alpha), levels
        self.supervision, self.seed, self.device = supervision, int(seed), device
        self.network = network or NetworkSettings()
        self.train = train or PRESETS[preset]
        self.calibration_settings = calibration or CalibrationSettings()
        self.tiles = tiles or TileSettings()
        self._fitted: Fitted | None = None

    # ---------------------------------------------------------------- what is known

    @property
    def trained(self) -> bool:
        """Whether `fit` has finished or a bundle was loaded."""
        return self._fitted is not None

    def _need_fitted(self) -> Fitted:
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
        regions: Any = None,
    ) -> PairCheck:
        """Return what is known of a pair before training, without training.

        Raises
        ------
        ValueError
            With one sentence: what came, what is needed, what to do.
        """
        scenes = pair_of(noisy, clean, axes, channel_names, pixel_size, unit, valid).scenes
        plan = self._plan(scenes, regions)
        return PairCheck(plan.notes, plan.shift, plan.blueprint.receptive_field)

    def _plan(self, scenes: Scenes, regions: Any = None) -> Plan:
        return plan_training(
            scenes,
            self.network,
            self.calibration_settings,
            self.levels,
            self.seed,
            None if regions is None else np.asarray(regions),
        )

    def prepare(self) -> None:
        """Load what training needs, and start the processes that train, so that `fit` begins at once.

        `fit` does the same when it was not done, which takes seconds. Processes that are idle for two
        minutes end.
        """
        from napari_btn.core.compute.pool import process_pool

        # first, so that the processes load their libraries while this one loads its own
        if self._where(None)[2] == "cpu":
            process_pool()
        import napari_btn.core.training.processes  # noqa: F401  (loaded here so that it isn't later)

    def estimate(self, shape: Sequence[int], axes: str = "YX") -> Estimate:
        """Return time and memory that training will take on this machine, to a factor of about two."""
        device = device_for(self.device)
        return estimate_training(shape, axes, self.network, self.train, self.members, device=device)

    # ---------------------------------------------------------------- training

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
        regions: Any = None,
        executor: Executor | None = None,
        resume: Sequence[Member] = (),
        preview_every: float = 0.0,
    ) -> Step[Self]:
        """Train, calibrate and report; return itself. `fit_steps` may be stopped between any two yields.

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
        regions : array of int, optional
            Painted areas over the space axes, instead of the split: 1 trains, 2 calibrates, 3 (where there
            is any) is what the report is measured on, anything else is left out.
        executor : concurrent.futures.Executor, optional
            Where tasks run; local processes by default.
        resume : sequence of Member
            A `Progress.checkpoint` of an earlier run with the same settings and data.
        preview_every : float
            Least seconds between previews of the median; 0 for none. They take a twentieth of the time at most.

        Returns
        -------
        Denoiser
            Itself, trained. Until then it is unchanged.

        Raises
        ------
        ValueError
            With what came, what is needed and what to do.
        """
        yield Progress(0, self.members * self.train.steps, "Checking the images")
        pair = pair_of(noisy, clean, axes, channel_names, pixel_size, unit, valid)
        scenes = pair.views
        yield from scenes.check_steps()
        yield Progress(0, self.members * self.train.steps, "Planning the training")
        pool, workers, device = self._where(executor)
        if executor is None:
            # they start while the training is planned
            self.prepare()
        plan = self._plan(scenes, regions)
        learnt = scenes.within(plan.split.regions, TRAIN)
        own, validation = (
            validation_part(plan.split.train) if self.train.early_stopping else (plan.split.train, ())
        )
        train = patches_for(self.train, plan.blueprint, own)
        count, side = train.patches
        sides = patch_sides(side, own)
        shown = f"{count} patch{'es' if count > 1 else ''} of {' x '.join(str(n) for n in sides)} px"
        yield Progress(0, self.members * self.train.steps, f"Each step learns from {shown}")
        train, redraw = yield from against_overfitting(learnt, own, train)
        trained = yield from self._trainer(pool, device)(
            learnt,
            own,
            plan.blueprint,
            train,
            members=self.members,
            workers=workers,
            resume=resume,
            preview_every=preview_every,
            redraw=redraw,
            validation=validation,
        )
        total = self.members * train.steps
        provenance = yield from self._provenance(scenes, plan)
        provenance |= {"patches": {"count": count, "sides_px": list(sides)}}
        yield Progress(total, total, "Calibrating: what the images look like")
        made = Networks(
            blueprint=plan.blueprint,
            members=trained.members,
            losses=trained.losses,
            notes=(*plan.notes, *trained.notes),
            axes=scenes.noisy.axes,
            channel_names=scenes.channel_names,
            pixel_size=pair.pixel_size,
            unit=pair.unit,
            provenance=provenance,
            profile=profile_of(scenes.noisy),
        )
        fitted = yield from self._judged(made, scenes, plan.split, executor)
        yield Progress(total, total, "Calibrated")
        self._fitted = fitted
        return self

    fit = _whole(fit_steps)

    def refine_steps(
        self,
        noisy: Any,
        clean: Any,
        *,
        axes: str | None = None,
        windows: Sequence[tuple[Any, Any]] = (),
        image: Any = None,
        image_axes: str | None = None,
        train: TrainSettings | None = None,
        valid: Any = None,
        regions: Any = None,
        executor: Executor | None = None,
    ) -> Step[Refinement]:
        """Go on training from the present members, calibrate and report anew; return what that gained.

        With ``windows``, fields of view that were measured again train at their place, beside the pair
        that the members were trained on. Without, members that were trained on one pair are fine-tuned
        on another. Calibration and report come from the pair's held-out part alone, as in `fit_steps`:
        windows are chosen where it is hard, so what they hold is no sample of the image, and held-out
        pixels that a network would see beside a window are left out.

        Parameters
        ----------
        noisy, clean : array
            The pair of the first training, which is split as it was then; or another one, of the same
            channels and pixel size.
        axes : str, optional
            As in `predict`.
        windows : sequence of (Region or sequence of int, array)
            Where each lies (a `Region`, or its first pixel along (Z,) Y, X), and what was measured
            there, in the units of ``clean`` and the axes of ``image`` without S and T. All of them train.
        image : array, optional
            Noisy image that the windows lie in, of one scene; ``noisy`` by default. A field that is part
            of ``noisy``, or that ``noisy`` is part of, is found by its values.
        image_axes : str, optional
            As in `predict`.
        train : TrainSettings, optional
            By default the denoiser's own with half the steps at half the rate.
        valid, regions : array, optional
            As in `fit_steps`, for the pair.
        executor : concurrent.futures.Executor, optional
            Where tasks run; local processes by default.

        Returns
        -------
        Refinement
            Reports before and after, on the same held-out pixels. The denoiser is unchanged until then;
            tokens are learned anew when they are asked for.

        Raises
        ------
        ValueError
            With what came, what is needed and what to do; also where pixels would calibrate that the
            members were trained on.
        """
        from napari_btn.core.training.processes import Start

        fitted = self._need_fitted()
        wanted = gentler(self.train) if train is None else train
        yield Progress(0, self.members * wanted.steps, "Checking the images")
        scenes = scenes_for(fitted, noisy, clean, axes, valid)
        yield from scenes.check_steps()
        painted = None if regions is None else np.asarray(regions)
        parts = split(
            scenes,
            fitted.blueprint.receptive_field,
            self.calibration_settings,
            seed=self.seed,
            regions=painted,
        )
        wanted = patches_for(wanted, fitted.blueprint, parts.train)
        seen = scenes.noisy if image is None else image_for(fitted, image, image_axes)
        plan = yield from refining_steps(
            scenes,
            parts,
            windows_of(windows, seen, fitted.channel_names),
            seen,
            fitted.provenance,
            reach_px=fitted.blueprint.receptive_field,
            patch_px=wanted.patches[1],
        )
        pool, workers, device = self._where(executor)
        settings, redraw = yield from against_overfitting(plan.learnt, plan.boxes, wanted)
        trained = yield from self._trainer(pool, device)(
            plan.learnt,
            plan.boxes,
            fitted.blueprint,
            settings,
            members=self.members,
            workers=workers,
            redraw=redraw,
            start=Start(fitted.members, plan.first_draw),
        )
        now = replace(
            fitted,
            members=trained.members,
            losses={k: (*fitted.losses.get(k, ()), *v) for k, v in trained.losses.items()},
            notes=(*plan.notes, *trained.notes, *regroup_notes(fitted.grouping)),
            provenance=plan.provenance,
            profile=profile_of(scenes.noisy),
            tokens=None,
        )
        now = yield from self._judged(now, plan.counted, parts, executor)
        before = yield from self._judged(replace(fitted, notes=plan.notes), plan.counted, parts, executor)
        # the same blocks for both, so that they are told apart by the members alone
        blocks = replace(before.held_out, block=now.held_out.block)
        before = replace(before, held_out=blocks, block_px=now.block_px)
        before = yield from calibrated_steps(before, self.alpha, self.calibration_settings, self.seed)
        total = self.members * settings.steps
        yield Progress(total, total, "Calibrated")
        self._fitted = now
        return Refinement(before.report, now.report, len(windows))

    refine = _whole(refine_steps)

    def _judged(
        self, networks: Networks, scenes: Scenes, parts: Split, executor: Executor | None
    ) -> Step[Fitted]:
        """Members with the held-out part predicted, the calibration and the report that come from it."""
        settings = self.calibration_settings
        pool, _, device = self._where(executor)
        measure = partial(
            held_out_steps,
            members=networks.members,
            blueprint=networks.blueprint,
            by_scene=parts.by_scene,
            alpha=self.alpha,
            settings=settings,
            tiles=self.tiles,
            executor=pool,
            device=device,
        )
        judged = scenes.within(parts.regions, CALIBRATE)
        boxes = spread_boxes(parts.held_out, scenes.noisy.ndim)
        held_out, block_px = yield from measure(judged, boxes)
        reported = None
        if parts.report:
            apart = scenes.within(parts.regions, REPORT)
            reported, _ = yield from measure(apart, spread_boxes(parts.report, scenes.noisy.ndim))
        covered, noise_notes = covers(judged, boxes, held_out)
        made = at_stage(
            Measured,
            networks,
            held_out=held_out,
            block_px=block_px,
            covers=covered,
            notes=(*networks.notes, *noise_notes),
            reported=reported,
            grouping=None,
        )
        if settings.groups:
            made = yield from self._by_tokens(made, scenes.noisy, settings.groups, executor)
        return (yield from calibrated_steps(made, self.alpha, settings, self.seed))

    def _where(self, executor: Executor | None) -> tuple[Executor | None, int, str]:
        """Pool, members in training at a time, and torch's name of the device."""
        if executor is not None:
            from napari_btn.core.compute.pool import slots

            return executor, slots(executor), "cpu"
        from joblib.externals.loky import cpu_count

        device = device_for(self.device)
        if not works(device):
            if self.device != "auto":
                raise ValueError(
                    f"PyTorch can't use {self.device!r}, most likely because the graphics driver is older than it "
                    'needs; update the driver, or give device="cpu".'
                )
            device = "cpu"
        return None, max(min(cpu_count(), self.members), 1), device

    @staticmethod
    def _trainer(pool: Executor | None, device: str) -> Callable[..., Step[Trained]]:
        """The step that trains on a device: members in processes of their own, or together on a card."""
        if device == "cpu":
            from napari_btn.core.training.processes import train_steps

            return partial(train_steps, executor=pool)
        from napari_btn.core.training.card import train_together_steps

        return partial(train_together_steps, device=device)

    def _provenance(self, scenes: Scenes, plan: Plan) -> Step[dict[str, Any]]:
        import torch

        from napari_btn import __version__

        prints = yield from fingerprint_steps(scenes.noisy)
        targets = yield from fingerprint_steps(scenes.clean)
        return {
            "napari_btn": __version__,
            "torch": torch.__version__,
            "settings": self.settings(),
            "receptive_field_px": plan.blueprint.receptive_field,
            "gap_px": plan.split.gap_px,
            "images": prints,
            "targets": targets,
            "splits": [split_record(plan.split, list(prints.values()))],
        }

    # ---------------------------------------------------------------- calibration

    def calibrate_steps(
        self,
        noisy: Any = None,
        clean: Any = None,
        *,
        axes: str | None = None,
        alpha: float | None = None,
        valid: Any = None,
        groups: Any = None,
        settings: CalibrationSettings | None = None,
        executor: Executor | None = None,
    ) -> Step[Self]:
        """Calibrate at another level from the stored scores, or on other data; never trains.

        Parameters
        ----------
        noisy, clean : array, optional
            Images that the members never trained on; all of them calibrate. Whole images that trained are
            refused; that parts or copies of them don't come is the caller's to see to. ``noisy`` alone is the
            image that the stored scores come from, where ``groups`` needs it.
        axes : str, optional
            As in `predict`.
        alpha : float, optional
            Miscoverage; the present one by default.
        valid : array of bool, optional
            True where a pixel counts.
        groups : int or array of int, optional
            What is calibrated apart, so that a rare phase is covered as well as the rest: so many tokens; or
            the group of each pixel from 1, 0 for none, over the space axes or all axes but C. 0 calibrates
            all pixels together. The settings' by default.

            Groups must not be drawn by what is known of the target.
        settings : CalibrationSettings, optional
            Unit, score, minimum, folds, certainty and groups instead of the present ones; how the field was
            split stays as it is.
        executor : concurrent.futures.Executor, optional
            Where tasks run; local processes by default.

        Raises
        ------
        ValueError
            When the members trained on these images, or groups can't be told.
        """
        fitted = self._need_fitted()
        alpha = self.alpha if alpha is None else float(alpha)
        _need(
            0 < alpha < 1, "alpha", alpha, "between 0 and 1: the share of pixels that the intervals may miss"
        )
        if settings is not None and groups is None and settings.groups != self.calibration_settings.groups:
            groups = settings.groups
        settings = settings or self.calibration_settings
        if isinstance(groups, int | np.integer):
            settings = replace(settings, groups=int(groups))
        elif groups is not None:
            settings = replace(settings, groups=0)
        view = None
        if noisy is not None:
            yield Progress(0, 1, "Checking the images")
            view = image_for(fitted, noisy, axes)
            if clean is not None or groups is None:
                self._need_groups(fitted, groups)
                fitted = yield from self._measured_on(
                    fitted, noisy, clean, view.axes, alpha, settings, valid, executor
                )
            else:
                need_same(view, fitted.held_out)
        measured = yield from self._grouped(fitted, view, groups, settings.groups, executor)
        made = yield from calibrated_steps(measured, alpha, settings, self.seed)
        yield Progress(1, 1, "Calibrated")
        self._fitted, self.alpha, self.calibration_settings = made, alpha, settings
        return self

    calibrate = _whole(calibrate_steps)

    def _measured_on(
        self,
        fitted: Fitted,
        noisy: Any,
        clean: Any,
        axes: str,
        alpha: float,
        settings: CalibrationSettings,
        valid: Any,
        executor: Executor | None,
    ) -> Step[Fitted]:
        """The same with held-out scores of other images, all of their pixels in one group."""
        scenes = scenes_for(fitted, noisy, clean, axes, valid)
        yield from scenes.check_steps()
        yield from self._need_unseen(scenes, fitted)
        pool, _, device = self._where(executor)
        boxes = spread_boxes(scenes.whole(), scenes.noisy.ndim)
        held_out, block_px = yield from held_out_steps(
            scenes,
            boxes,
            fitted.members,
            fitted.blueprint,
            by_scene=not scenes.repeats,
            alpha=alpha,
            settings=settings,
            tiles=self.tiles,
            executor=pool,
            device=device,
        )
        covered, notes = covers(scenes, boxes, held_out)
        return replace(
            fitted,
            held_out=held_out,
            block_px=block_px,
            covers=covered,
            notes=notes,
            profile=profile_of(scenes.noisy),
            reported=None,
            grouping=None,
        )

    @staticmethod
    def _need_groups(fitted: Fitted, groups: Any) -> None:
        """Raise where groups were painted, and other images come without theirs."""
        if groups is None and fitted.grouping is not None and fitted.grouping.model is None:
            raise ValueError(
                "Groups of a mask are calibrated apart; give groups of these images as well, or groups=0 to "
                "calibrate all pixels together."
            )

    def _grouped(
        self, fitted: Measured, view: View | None, groups: Any, count: int, executor: Executor | None
    ) -> Step[Measured]:
        """The same with its held-out pixels in these groups; a step."""
        known = fitted.grouping
        if groups is not None and not isinstance(groups, int | np.integer):
            axes = fitted.axes if view is None else view.axes
            return by_mask(fitted, over_space(groups, axes, "groups"))
        if not count:
            return replace(fitted, grouping=known if groups is None else None)
        if view is not None:
            return (yield from self._by_tokens(fitted, view, count, executor))
        if known is None or known.model is None:
            raise ValueError(
                f"groups is {count}, and the tokens of the held-out pixels are unknown; give the image that they come "
                f"from: calibrate(noisy, groups={count})."
            )
        return replace(fitted, grouping=replace(known, count=min(count, known.model.palette.size)))

    def _by_tokens(
        self, fitted: Measured, view: View, count: int, executor: Executor | None
    ) -> Step[Measured]:
        pool, _, device = self._where(executor)
        return by_tokens_steps(
            fitted,
            view,
            count,
            seed=self.seed,
            tiles=self.tiles,
            executor=pool if executor is not None else None,
            device=device,
        )

    # ---------------------------------------------------------------- prediction

    def predict_steps(
        self,
        noisy: Any,
        axes: str | None = None,
        *,
        out: str | Path | None = None,
        overwrite: bool = False,
        quantiles: bool = True,
        groups: Any = None,
        valid: Any = None,
        pixel_size: Sequence[float] | None = None,
        unit: str | None = None,
        executor: Executor | None = None,
    ) -> Step[Prediction]:
        """Return calibrated maps of an image, computed tile by tile.

        Parameters
        ----------
        noisy : array, (*axes)
            The channels that it was trained on; S and T may come or be missing.
        axes : str, optional
            The axes of training by default, less S and T where the image has fewer dimensions.
        out : str or Path, optional
            ``.ome.zarr`` or ``.zarr``: maps go there tile by tile, and the result reads them from there
            where asked, so that neither image nor maps need fit in memory. It appears when it is whole.
        overwrite : bool
            Replace what ``out`` names.
        quantiles : bool
            Keep the ensemble's quantiles, which `Prediction.exceedance` needs: as large as the other maps
            together.
        groups : array of int, optional
            Group of each pixel, where groups of a mask were calibrated apart; tokens need none.
        valid : array of bool, or "finite", optional
            True where a pixel counts, over the space axes or all axes but C; "finite": where no channel is NaN or
            infinite. Elsewhere maps are NaN, and the networks see zeros.
        pixel_size : sequence of float, optional
            Of this image, one per space axis, in ``unit``; by default that of training.
        unit : str, optional
            Unit of ``pixel_size``.
        executor : concurrent.futures.Executor, optional
            Where tasks run; local processes by default.

        Returns
        -------
        Prediction
            Maps in the axes of the input, in the units of the training target.

        Raises
        ------
        ValueError
            When the image doesn't fit the networks, a pixel that counts is NaN or infinite, or ``out`` is taken or
            names no zarr.
        """
        from napari_btn.core.calibration.maps import predict_steps
        from napari_btn.core.calibration.prediction import Prediction

        fitted = self._need_fitted()
        view = image_for(fitted, noisy, axes)
        pool, _, device = self._where(executor)
        mask = None if groups is None else over_space(groups, view.axes, "groups")
        counted: Any = "finite" if isinstance(valid, str) and valid == "finite" else over_scenes(valid, view)
        size = sizes_along(view.axes, fitted) if pixel_size is None else tuple(float(v) for v in pixel_size)
        unit = fitted.unit if pixel_size is None else unit or "px"
        given = pool if executor is not None else None
        group, group_notes = yield from labels_steps(
            fitted, view, mask, tiles=self.tiles, executor=given, device=device
        )
        drift = drift_notes(fitted.profile, view, fitted.channel_names)
        notes = (*fitted.report.warnings, *group_notes, *drift)
        caption = {**self._caption(fitted), "warnings": [n.to_dict() for n in notes]}
        shape = tuple(view.array.shape)
        with self._maps(fitted, view.axes, shape, caption, out, overwrite, quantiles, size, unit) as maps:
            said = yield from predict_steps(
                view,
                fitted.members,
                fitted.blueprint,
                fitted.calibration,
                maps,
                groups=None if group is None or fitted.groups is None else (fitted.groups, group),
                valid=counted,
                tiles=self.tiles,
                executor=given,
                device=device,
            )
        if out is not None:
            maps = open_maps(out, view.axes)
        return Prediction(
            lower=maps["lower"],
            median=maps["median"],
            upper=maps["upper"],
            spread=maps["spread"],
            quantiles=maps.get("quantiles"),
            stored_width=maps.get("width"),
            levels=self.levels,
            axes=view.axes,
            channel_names=fitted.channel_names,
            pixel_size=size,
            unit=unit,
            alpha=fitted.calibration.alpha,
            covers=fitted.covers,
            provenance=caption,
            notes=(*notes, *said),
            distribution=fitted.distribution,
            held_out=fitted.held_out,
            groups=None if group is None else in_axes_of(group + 1, view),
        )

    predict = _whole(predict_steps)

    @contextmanager
    def _maps(
        self,
        fitted: Fitted,
        axes: str,
        shape: tuple[int, ...],
        caption: dict[str, Any],
        out: str | Path | None,
        overwrite: bool,
        quantiles: bool,
        pixel_size: tuple[float, ...] | None,
        unit: str,
    ) -> Iterator[dict[str, Any]]:
        """Arrays for the maps: in memory, or on disk, where the width is kept as well."""
        names = (*_MAPS, "quantiles") if quantiles else _MAPS
        if out is None:
            sizes = {"quantiles": (len(self.levels), *shape)}
            yield {name: np.empty(sizes.get(name, shape), np.float32) for name in names}
            return
        from napari_btn.core.inference.run import written_steps

        space = [a for a in axes if a in "ZYX"]
        inner = written_steps(
            fitted.blueprint, [shape[axes.index(a)] for a in sorted(space, reverse=True)], self.tiles
        )
        with zarr_maps(
            out,
            (*names, "width"),
            shape,
            axes=axes,
            channel_names=fitted.channel_names,
            pixel_size=pixel_size,
            unit=unit,
            provenance={"levels": list(self.levels), **caption},
            overwrite=overwrite,
            steps=dict(zip(sorted(space, reverse=True), inner, strict=True)),
        ) as maps:
            yield maps

    # ---------------------------------------------------------------- where coverage holds

    def coverage_curve(self, alphas: Sequence[float] = (0.5, 0.32, 0.2, 0.1, 0.05)) -> NDArray[np.float64]:
        """Cross-fitted coverage after calibration at several levels, (C, A). See `core.diagnostics`."""
        fitted = self._need_fitted()
        grouping = fitted.grouping
        group = None if grouping is None else grouping.groups(grouping.held_out).astype(np.int64)
        return coverage_curve(
            fitted.held_out,
            self.calibration_settings,
            alphas,
            group=group,
            parents=None if grouping is None else grouping.parents,
            seed=self.seed,
        )

    def miscoverage(
        self, shape: Sequence[int], *, noisy: Any = None, axes: str | None = None
    ) -> NDArray[np.float32]:
        """Share of missed pixels of each held-out block, painted where the block lies; cross-fitted.

        Parameters
        ----------
        shape : sequence of int
            Shape of the field that was calibrated on, in pixels, one number per space axis in the
            order ZYX; where scenes have targets of their own, one per axis of the image but C, in its order.
        noisy : array, optional
            Image that the map is meant for: it must be the one that was calibrated on.
        axes : str, optional
            Of ``noisy``, as in `predict`.

        Returns
        -------
        ndarray of float32, (C, *shape)
            0 to 1; NaN outside the held-out blocks.

        Raises
        ------
        ValueError
            When the held-out pixels don't lie within the shape, or come from another image than ``noisy``.
        """
        fitted = self._need_fitted()
        if noisy is not None:
            need_same(image_for(fitted, noisy, axes), fitted.held_out)
        lower, _, upper = held_out_intervals(fitted, fitted.calibration, self.calibration_settings, self.seed)
        ndim = fitted.blueprint.ndim
        letters = "ZYX"[-ndim:] if len(shape) == ndim else (axes or fitted.axes).upper().replace("C", "")
        if len(letters) != len(shape):
            raise ValueError(
                f"The shape {tuple(shape)} has {len(shape)} numbers; give one per axis of {letters}, or {ndim} for "
                "the space axes alone."
            )
        return miscoverage_map(fitted.held_out, lower, upper, shape, letters)

    def _inside(
        self, fitted: Fitted, view: View, shape: Sequence[int], axes: str
    ) -> NDArray[np.float32] | None:
        """Which held-out pixels of an image lie inside their intervals; None for one not calibrated on."""
        if not is_same(view, fitted.held_out):
            return None
        lower, _, upper = held_out_intervals(fitted, fitted.calibration, self.calibration_settings, self.seed)
        return inside_map(fitted.held_out, lower, upper, shape, axes)

    # ---------------------------------------------------------------- members

    @property
    def parameters(self) -> int:
        """Weights of one member."""
        buffers = ("x_loc", "x_scale", "y_loc", "y_scale")
        weights = self._need_fitted().members[0].weights
        return sum(int(value.size) for name, value in weights.items() if name not in buffers)

    @property
    def held_out(self) -> HeldOut:
        """What the calibration comes from: quantiles and targets of pixels that no member trained on."""
        return self._need_fitted().held_out

    def graph(self, member: int = 0) -> Graph:
        """Return a member's random connections, for `plots.graph_figure`.

        Parameters
        ----------
        member : int
            Its number, from 0.

        Raises
        ------
        ValueError
            When there is no such member.
        """
        from napari_btn.core.networks.family import graph_of

        fitted = self._need_fitted()
        _need(0 <= member < len(fitted.members), "member", member, f"0 to {len(fitted.members) - 1}")
        found = fitted.members[member]
        return graph_of(fitted.blueprint, found.number, found.attempt)

    def ensemble_gain(
        self,
        noisy: Any,
        clean: Any,
        *,
        axes: str | None = None,
        sizes: Sequence[int] = (1, 2, 5, 10, 25),
        executor: Executor | None = None,
    ) -> EnsembleGain:
        """Return what so many of the members reach: correlation, coverage and width by their number.

        Parameters
        ----------
        noisy, clean : array
            Images that the members never trained on.
        axes : str, optional
            As in `predict`.
        sizes : sequence of int
            Numbers of members; those above `members` are left out.
        executor : concurrent.futures.Executor, optional
            Where tasks run; local processes by default.

        Raises
        ------
        ValueError
            When the images don't fit the networks or trained them.
        """
        from napari_btn.core.evaluation.gain import gain_steps

        fitted = self._need_fitted()
        scenes = scenes_for(fitted, noisy, clean, axes)
        drain(scenes.check_steps())
        drain(self._need_unseen(scenes, fitted))
        steps = gain_steps(
            scenes,
            fitted.members,
            fitted.blueprint,
            alpha=self.alpha,
            sizes=sizes,
            settings=self.calibration_settings,
            tiles=self.tiles,
            executor=executor,
            device=self._where(executor)[2],
            seed=self.seed,
        )
        return drain(steps)

    @staticmethod
    def _need_unseen(scenes: Scenes, fitted: Fitted) -> Step[None]:
        """Raise for images that trained the members, noisy or clean, by their fingerprints; a step."""
        for name, image in (("images", scenes.noisy), ("targets", scenes.clean)):
            prints = yield from fingerprint_steps(image)
            if not set(prints.values()) & set(fitted.provenance.get(name, {}).values()):
                continue
            raise ValueError(
                "These images trained the members; coverage measured on them would be too good. "
                "Give images they never saw, or call calibrate(alpha=...) to use the held-out part."
            )

    # ---------------------------------------------------------------- what made a pixel

    def equivalent_filter_steps(
        self,
        noisy: Any,
        at: Sequence[int],
        axes: str | None = None,
        *,
        channel: str | int | None = None,
        scene: int = 0,
    ) -> Step[EquivalentFilter]:
        """Return the linear filter that makes one pixel of the median: which input pixels, and how much of each.

        Parameters
        ----------
        noisy : array, (*axes)
            As in `predict`; only what the pixel depends on is read.
        at : sequence of int
            The pixel, one index along each space axis (Z, Y, X).
        axes : str, optional
            As in `predict`.
        channel : str or int, optional
            Channel of the median; may be left out where there is only one.
        scene : int
            Number of the scene, S times T in that order, from 0.

        Returns
        -------
        EquivalentFilter
            Weights in the shape of the input, and the net bias. The median is that of `predict`, but for a
            `minimum` of the calibration.

        Raises
        ------
        ValueError
            If the image doesn't fit the networks, or has no such pixel or channel.
        """
        from napari_btn.core.inference.jacobian import filter_steps

        fitted = self._need_fitted()
        number = channel_number(channel, fitted.channel_names)
        view, device = image_for(fitted, noisy, axes), self._where(None)[2]
        return (
            yield from filter_steps(
                view, fitted.members, fitted.blueprint, at, channel=number, scene=scene, device=device
            )
        )

    equivalent_filter = _whole(equivalent_filter_steps)

    # ---------------------------------------------------------------- tokens

    def tokens_steps(
        self,
        noisy: Any,
        n_tokens: int = 20,
        axes: str | None = None,
        *,
        refit: bool = False,
        order_by: str | int = 0,
        smooth_px: float = 1.5,
        method: TokenMethod | None = None,
        valid: Any = None,
        prediction: Prediction | None = None,
        executor: Executor | None = None,
    ) -> Step[Tokens]:
        """Return the image as tokens: clusters of what the networks see in each pixel.

        The first call learns the palette, later ones use it.

        Parameters
        ----------
        noisy : array, (*axes)
            The channels that it was trained on.
        n_tokens : int
            Tokens at first; ``Tokens.cut`` gives any other number at once.
        axes : str, optional
            As in `predict`.
        refit : bool
            Learn the palette anew from this image.
        order_by : str or int
            Channel whose median orders the tokens, by name or number.
        smooth_px : float
            SD of the Gaussian over the latent components, in pixels, when the palette is learned.
        method : str, optional
            "kmeans"; "mixture", Gaussians of any shape and size; or "hdbscan", dense groups of any shape, as
            many as there are, where the rest goes to the nearest. Another method than the palette's learns
            anew; None keeps the palette's, and is "kmeans" at first.
        valid : array of bool, optional
            True where a pixel counts, over the space axes or all axes but C; the rest gets label 0.
        prediction : Prediction, optional
            Of the same image, where it is there already.
        executor : concurrent.futures.Executor, optional
            Where tasks run; local processes by default.

        Returns
        -------
        Tokens
            Labels, table, stability, and cuts.

        Raises
        ------
        ValueError
            If there cannot be so many tokens, the image or its prediction doesn't fit, or HDBSCAN finds no
            two groups.
        """
        from napari_btn.core.inference.latents import EnsembleLatents
        from napari_btn.core.tokens.learn import tokens_steps

        fitted = self._need_fitted()
        view = image_for(fitted, noisy, axes)
        names = fitted.channel_names
        known = order_by in names if isinstance(order_by, str) else 0 <= order_by < len(names)
        _need(known, "order_by", order_by, f"a channel: {', '.join(names)}, or its number from 0")
        _need(method in (None, *TOKEN_METHODS), "method", method, ", ".join(map(repr, TOKEN_METHODS)))
        if prediction is None:
            prediction = yield from self.predict_steps(
                noisy, view.axes, quantiles=False, valid=valid, executor=executor
            )
        elif tuple(prediction.median.shape) != tuple(view.array.shape) or prediction.axes != view.axes:
            raise ValueError(
                f"The prediction has axes {prediction.axes} {tuple(prediction.median.shape)}, the image {view.axes} "
                f"{tuple(view.array.shape)}; they must match. Predict this image, or leave prediction out."
            )
        pool, _, device = self._where(executor)
        source = EnsembleLatents(
            view,
            fitted.members,
            fitted.blueprint,
            tiles=self.tiles,
            executor=pool if executor is not None else None,
            device=device,
        )
        model, tokens = yield from tokens_steps(
            source,
            view.axes,
            np.asarray(prediction.median[...], np.float32),
            width=prediction.width,
            model=None if refit else fitted.tokens,
            k=n_tokens,
            order_by=names.index(order_by) if isinstance(order_by, str) else order_by,
            smooth_px=smooth_px,
            seed=self.seed,
            valid=over_scenes(valid, view),
            method=method,
        )
        if self._fitted is fitted:
            self._fitted = replace(fitted, tokens=model)
        return replace(
            tokens,
            inside=self._inside(fitted, view, tokens.labels.shape, tokens.axes),
            channel_names=names,
            pixel_size=sizes_along(view.axes, fitted),
            unit=fitted.unit,
            provenance={
                **self._caption(fitted),
                "tokens": {
                    "n_tokens": tokens.k,
                    "method": model.palette.method,
                    "palette": model.palette.size,
                    "smooth_px": model.projection.smooth_px,
                    "stability": tokens.stability,
                },
            },
        )

    tokens = _whole(tokens_steps)

    def _caption(self, fitted: Fitted) -> dict[str, Any]:
        """What a map must carry to be read rightly."""
        return {
            **fitted.provenance,
            "alpha": fitted.calibration.alpha,
            "covers": fitted.covers,
            "rule": fitted.calibration.rule,
            **({} if fitted.grouping is None else {"grouped_by": fitted.grouping.name}),
            "n_blocks": fitted.calibration.n_blocks,
            "channel_names": list(fitted.channel_names),
            "coverage": fitted.report.to_dict()["coverage"],
            "warnings": [n.to_dict() for n in fitted.report.warnings],
        }

    # ---------------------------------------------------------------- files

    def save(self, path: str | Path) -> None:
        """Save as a bundle; the file appears only when it is whole."""
        settings = {**self.settings(), "alpha": self.alpha}
        write_bundle(to_bundle(self._need_fitted(), settings), path)

    def save_partial(self, path: str | Path, checkpoint: Sequence[Member], data: dict[str, Any]) -> None:
        """Save the members that an interrupted run has finished, and what they learned from, for `load_partial`."""
        values = {
            "kind": "partial",
            "settings": self.settings(),
            "data": data,
            "members": [[m.number, m.attempt] for m in checkpoint],
        }
        write_bundle(Bundle(values, member_arrays(checkpoint)), path)


def load(path: str | Path, *, device: str = "auto") -> Denoiser:
    """Return the trained denoiser of a bundle.

    Raises
    ------
    ValueError
        When the file is damaged, newer, not a bundle, or of an interrupted training.
    """
    bundle = read_bundle(path)
    if bundle.values.get("kind") != "trained":
        raise ValueError(f"{path} is an interrupted training; go on with it (--resume) before using it.")
    try:
        denoiser = Denoiser.from_settings(bundle.values["settings"], device=device)
        denoiser._fitted = from_bundle(bundle, denoiser.network, denoiser.levels, denoiser.seed)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} lacks a part of a bundle ({error}); it is damaged. Save it again."
        ) from error
    return denoiser


def load_partial(
    path: str | Path, *, device: str = "auto"
) -> tuple[Denoiser, tuple[Member, ...], dict[str, Any]]:
    """Return an untrained denoiser, the members that an interrupted run had finished, and what they learned from."""
    bundle = read_bundle(path)
    if bundle.values.get("kind") != "partial":
        raise ValueError(f"{path} is not an interrupted training; load it as a bundle instead.")
    try:
        denoiser = Denoiser.from_settings(bundle.values["settings"], device=device)
        return denoiser, members_of(bundle.values, bundle.arrays), dict(bundle.values.get("data", {}))
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} lacks a part of a bundle ({error}); it is damaged. Start the training anew."
        ) from error


def _need(ok: bool, name: str, value: object, needed: str) -> None:
    if not ok:
        raise ValueError(f"{name} is {value!r}; it must be {needed}.")
