"""`Denoiser`: the object a user holds. It trains, calibrates, predicts, reports and saves.

A facade: settings and a frozen `Model`, and the steps of `workflow` under the names that users call. Docks
and scans use model and steps themselves. Long because its docstrings are the reference of the public
interface: they are half of the lines.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import numpy as np

from napari_btn import model as models
from napari_btn.core.calibration.exceedance import need_lockable
from napari_btn.core.compute.device import device_for
from napari_btn.core.compute.pool import compute_for
from napari_btn.core.data.image import channel_number
from napari_btn.core.evaluation.report import evaluate
from napari_btn.core.progress import drain
from napari_btn.core.settings import (
    LEVELS,
    PRESETS,
    AdaptSettings,
    CalibrationSettings,
    EnsembleSettings,
    NetworkSettings,
    SupervisionSettings,
    TileSettings,
    TokenSettings,
    TrainSettings,
    need,
)
from napari_btn.core.supervision.registry import supervision_of
from napari_btn.core.training.plan import Estimate, Plan, estimate_training
from napari_btn.workflow.adapt import adapt_steps
from napari_btn.workflow.calibrate import calibrate_steps
from napari_btn.workflow.evaluate import (
    coverage_by_level,
    equivalent_filter_steps,
    gain_of_members_steps,
    graph_of_member,
    missed_share,
)
from napari_btn.workflow.fit import Outlook, fit_steps, plan_of, prepare
from napari_btn.workflow.inputs import image_for, pair_for, pair_of, unmasked
from napari_btn.workflow.predict import Folder, predict_steps
from napari_btn.workflow.recipe import Recipe, with_files
from napari_btn.workflow.refine import Refinement, refine_steps
from napari_btn.workflow.tokens import tokens_steps

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_btn.core.calibration.cases import HeldOut
    from napari_btn.core.calibration.conformal import Calibration
    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.compute.pool import Compute
    from napari_btn.core.data.detector import Detector
    from napari_btn.core.data.noise_models import NoiseModel
    from napari_btn.core.evaluation.comparison import Comparison
    from napari_btn.core.evaluation.gain import EnsembleGain
    from napari_btn.core.evaluation.report import Report
    from napari_btn.core.inference.jacobian import EquivalentFilter
    from napari_btn.core.networks.family import Member
    from napari_btn.core.networks.sms.graph import Graph
    from napari_btn.core.progress import Note, Step
    from napari_btn.core.settings import AdaptLoss, TokenMethod
    from napari_btn.core.tokens.tokens import Tokens
    from napari_btn.model import Model

__all__ = ["Denoiser", "Estimate", "Plan", "compare", "evaluate", "load", "load_partial"]

T = TypeVar("T")


class _Runner(Protocol):
    """Runs a step to its end, and returns its result."""

    def __call__(self, step: Step[T], /) -> T:
        """Return the step's result."""


class Denoiser:
    """An ensemble of small random networks with calibrated quantiles.

    Parameters
    ----------
    preset : str
        "instant", "quick", "standard" or "thorough": how long members train; "instant" takes no training step.
    members : int
        Networks in the ensemble, 1 or more.
    alpha : float
        Miscoverage, in (0, 1): intervals aim at the coverage ``1 - alpha``, on average.
    levels : tuple of float
        Quantile levels to learn, rising, with 0.5 among them.
    supervision : str
        What members learn from: "pair" (a noisy and a clean image), "noise2noise" (noisy repeats), "noise2void"
        (noisy images alone), "thinning" (counts alone) or "simulation" (clean images and a noise model).
    seed : int
        The same seed, data and settings give the same pixels on the same kind of CPU.
    device : str
        "auto", "cpu", "cuda", "cuda:1" or "mps": where members train and predict. "auto" is the first
        NVIDIA card, else the CPU.
    network, train, calibration, tiles, supervision_settings : settings, optional
        Replace the defaults, and for ``train`` the preset's.

    Attributes
    ----------
    run : callable
        Runs a step to its end and returns its result; the command line puts one here that shows progress.

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
        supervision_settings: SupervisionSettings | None = None,
    ) -> None:
        supervision_of(supervision)
        device_for(device)
        self._settings = EnsembleSettings(
            preset=preset,
            members=members,
            alpha=alpha,
            levels=levels,  # type: ignore[arg-type]
            supervision=supervision,
            seed=seed,
            network=NetworkSettings() if network is None else network,
            train=PRESETS.get(preset, TrainSettings()) if train is None else train,
            calibration=CalibrationSettings() if calibration is None else calibration,
            tiles=TileSettings() if tiles is None else tiles,
            supervision_settings=SupervisionSettings()
            if supervision_settings is None
            else supervision_settings,
        )
        self.device = device
        self.run: _Runner = drain
        self._model: Model | None = None

    @classmethod
    def of(cls, model: Model, *, device: str = "auto") -> Self:
        """Return the trained denoiser of a model.

        Parameters
        ----------
        model : Model
        device : str
            Where it predicts and trains on.
        """
        made = cls.from_settings(model.settings.to_dict(), device=device)
        made._model = model
        return made

    @classmethod
    def from_settings(cls, values: dict[str, Any], *, device: str = "auto") -> Self:
        """Return an untrained denoiser from `settings`' dict.

        Parameters
        ----------
        values : dict
        device : str
        """
        settings = EnsembleSettings.from_dict(values)
        made = cls(settings.preset, supervision=settings.supervision, device=device)
        made._settings = settings
        return made

    def __repr__(self) -> str:
        state = f"trained on {', '.join(self.channel_names)}" if self.trained else "not trained"
        return (
            f"<Denoiser {self.preset}, {self.members} x {self.network.family}, {self.supervision}, "
            f"alpha={self.alpha:.4g}, {state}>"
        )

    # ---------------------------------------------------------------- what is known

    @property
    def preset(self) -> str:
        """Name of the training settings a person picked first."""
        return self._settings.preset

    @property
    def members(self) -> int:
        """Networks in the ensemble."""
        return self._settings.members

    @property
    def alpha(self) -> float:
        """Miscoverage in use."""
        return self._settings.alpha

    @property
    def levels(self) -> tuple[float, ...]:
        """Quantile levels."""
        return self._settings.levels

    @property
    def supervision(self) -> str:
        """Name of the supervision: the source that members learn from."""
        return self._settings.supervision

    @property
    def supervision_settings(self) -> SupervisionSettings:
        """Settings of learning without clean images."""
        return self._settings.supervision_settings

    @property
    def seed(self) -> int:
        """Seed of all draws."""
        return self._settings.seed

    @property
    def network(self) -> NetworkSettings:
        """Settings of a member's network."""
        return self._settings.network

    @property
    def train(self) -> TrainSettings:
        """Settings of the training."""
        return self._settings.train

    @property
    def calibration_settings(self) -> CalibrationSettings:
        """Settings of the calibration."""
        return self._settings.calibration

    @property
    def tiles(self) -> TileSettings:
        """Settings of the tiles that large images are cut into."""
        return self._settings.tiles

    def settings(self) -> dict[str, Any]:
        """Return all settings as a JSON-ready dict, which `from_settings` takes."""
        return self._settings.to_dict()

    @property
    def model(self) -> Model:
        """All that training and calibration made; ``ValueError`` before training."""
        if self._model is None:
            raise ValueError(
                "This denoiser is not trained yet; call fit(noisy, clean) or load a bundle first."
            )
        return self._model

    def _take(self, model: Model) -> Self:
        """Hold a new model, and its settings."""
        self._model, self._settings = model, model.settings
        return self

    @property
    def trained(self) -> bool:
        """True once `fit` has finished or a bundle was loaded."""
        return self._model is not None

    @property
    def report(self) -> Report | None:
        """Coverage, widths and scores, cross-fitted on the held-out blocks; None before training."""
        return None if self._model is None else self._model.calibrated.report

    @property
    def calibration(self) -> Calibration | None:
        """Offsets in use; None before training."""
        return None if self._model is None else self._model.calibrated.calibration

    @property
    def notes(self) -> tuple[Note, ...]:
        """Notes from training and calibration, to read before relying on the result."""
        return () if self._model is None else self._model.calibrated.report.warnings

    @property
    def losses(self) -> dict[int, tuple[float, ...]]:
        """Training loss of each step, per member number."""
        return {} if self._model is None else self._model.learned.losses

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels it was trained on; empty before training."""
        return () if self._model is None else self._model.channel_names

    @property
    def axes(self) -> str:
        """Axes of the noisy image it was trained on."""
        return "" if self._model is None else self._model.learned.axes

    @property
    def pixel_size(self) -> tuple[float, ...] | None:
        """Pixel size it was trained at, one per space axis, in `unit`."""
        return None if self._model is None else self._model.learned.pixel_size

    @property
    def unit(self) -> str:
        """Unit of `pixel_size`."""
        return "px" if self._model is None else self._model.learned.unit

    @property
    def receptive_field(self) -> int:
        """Half-width in pixels of what a pixel of the result depends on."""
        return self.model.blueprint.receptive_field

    @property
    def parameters(self) -> int:
        """Weights of one member."""
        return self.model.networks.parameters

    @property
    def provenance(self) -> dict[str, Any]:
        """JSON-ready: version, settings, seed and fingerprints of the training images."""
        return dict(self.model.learned.provenance)

    @property
    def recipe(self) -> dict[str, Any]:
        """JSON-ready: every step since the training, with settings and hashes, which ``napari-btn run`` repeats."""
        return Recipe.of(self.model.caption).to_dict()

    def name_inputs(self, **files: str) -> Self:
        """Record in the recipe where the inputs of the last step lie; return itself.

        Parameters
        ----------
        **files
            By the name of the argument ("noisy", "clean"): a file, or a sample such as
            "samples.edx(seed=0, size=(256, 512)).noisy".
        """
        learned = self.model.learned
        known = with_files(learned.provenance, files)
        return self._take(replace(self.model, learned=replace(learned, provenance=known)))

    @property
    def held_out(self) -> HeldOut:
        """Quantiles and targets of pixels that no member trained on, from which offsets come."""
        return self.model.scores.held_out

    # ---------------------------------------------------------------- before training

    def check(
        self,
        noisy: Any,
        clean: Any = None,
        *,
        axes: str = "YX",
        channel_names: Sequence[str] | None = None,
        pixel_size: Sequence[float] | None = None,
        unit: str = "px",
        valid: Any = None,
        noise_model: NoiseModel | None = None,
        detector: Detector | None = None,
        regions: Any = None,
    ) -> Outlook:
        """Return what is decided before training, with its notes, without training; arguments as in `fit`."""
        pair = pair_of(
            noisy,
            clean,
            axes,
            channel_names=channel_names,
            pixel_size=pixel_size,
            unit=unit,
            valid=valid,
            noise_model=noise_model,
            detector=detector,
        )
        return plan_of(pair, self._settings, _painted(regions))

    def prepare(self) -> None:
        """Load what training needs, and start the processes that train, so that `fit` begins at once.

        `fit` does the same when it was not done, which takes seconds. Processes that are idle for two
        minutes end.
        """
        prepare(self._compute(None))

    def estimate(self, shape: Sequence[int], axes: str = "YX") -> Estimate:
        """Return time and memory that training will take on this machine, to a factor of about two.

        Parameters
        ----------
        shape : sequence of int
            Of the noisy image.
        axes : str
            One letter per dimension.
        """
        return estimate_training(
            shape, axes, self.network, self.train, self.members, device=device_for(self.device)
        )

    def _compute(self, executor: Executor | None) -> Compute:
        """Where work runs."""
        return compute_for(self.device, self.members, self.tiles, executor)

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
        noise_model: NoiseModel | None = None,
        detector: Detector | None = None,
        regions: Any = None,
        executor: Executor | None = None,
        resume: Sequence[Member] = (),
        preview_every: float = 0.0,
    ) -> Self:
        """Train, calibrate and report; return itself.

        Parameters
        ----------
        noisy : array, (*axes)
            Numpy, dask or zarr. None for "simulation".
        clean : array, optional
            The same axes; without ``S`` and ``T`` where scenes are repeats of one field. Left out for "noise2void"
            and "thinning"; for "noise2noise" a second noisy image, or left out where ``noisy`` has repeats along
            ``S`` or ``T``.
        axes : str
            Letters of S, T, C, Z, Y, X in any order.
        channel_names : sequence of str, optional
            One per channel.
        pixel_size : sequence of float, optional
            One per space axis, in ``unit``.
        unit : str
            Unit of ``pixel_size``.
        valid : array of bool, or "finite", optional
            True where a pixel counts.
        noise_model : NoiseModel, optional
            Noise that "simulation" draws on ``clean``.
        detector : Detector, optional
            Dark frame, flat field and broken pixels of ``noisy``, which is repaired first; predictions then repair
            their images in the same way. ``clean`` stays as it is.
        regions : array of int, optional
            Painted areas over the space axes, instead of the split: 1 trains, 2 calibrates, 3 (where there
            is any) is what the report is measured on, anything else is left out.
        executor : concurrent.futures.Executor, optional
            Where tasks run; local processes by default.
        resume : sequence of Member
            A `Progress.checkpoint` of an earlier run with the same settings and data.
        preview_every : float
            Least seconds between previews of the median; 0 for none. They take 3 % of the time at most.

        Raises
        ------
        ValueError
            With what came, what is needed and what to do.
        """
        return self.run(
            self.fit_steps(
                noisy,
                clean,
                axes=axes,
                channel_names=channel_names,
                pixel_size=pixel_size,
                unit=unit,
                valid=valid,
                noise_model=noise_model,
                detector=detector,
                regions=regions,
                executor=executor,
                resume=resume,
                preview_every=preview_every,
            )
        )

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
        noise_model: NoiseModel | None = None,
        detector: Detector | None = None,
        regions: Any = None,
        executor: Executor | None = None,
        resume: Sequence[Member] = (),
        preview_every: float = 0.0,
    ) -> Step[Self]:
        """Train as `fit` does; a step, until whose end the denoiser is unchanged."""
        pair = pair_of(
            noisy,
            clean,
            axes,
            channel_names=channel_names,
            pixel_size=pixel_size,
            unit=unit,
            valid=valid,
            noise_model=noise_model,
            detector=detector,
        )
        model = yield from fit_steps(
            pair,
            self._settings,
            self._compute(executor),
            regions=_painted(regions),
            resume=resume,
            preview_every=preview_every,
        )
        return self._take(model)

    def refine(
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
    ) -> Refinement:
        """Go on training from the present members, calibrate and report again; return what that gained.

        With ``windows``, fields of view that were measured again train at their place, beside the pair
        that the members were trained on. Without, members that were trained on one pair are fine-tuned
        on another. Calibration and report come from the pair's held-out part alone, as in `fit`:
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
            As in `fit`, for the pair.
        executor : concurrent.futures.Executor, optional
            Where tasks run; local processes by default.

        Returns
        -------
        Refinement
            Reports before and after, on the same held-out pixels. The denoiser is unchanged until then;
            tokens are learned again when they are asked for.

        Raises
        ------
        ValueError
            With what came, what is needed and what to do; also where pixels would calibrate that the
            members were trained on.
        """
        model = self.model
        steps = refine_steps(
            model,
            pair_for(model, noisy, clean, axes, valid),
            self._compute(executor),
            windows=windows,
            image=None if image is None else image_for(model, image, image_axes),
            train=train,
            regions=_painted(regions),
        )
        made, refinement = self.run(steps)
        self._take(made)
        return refinement

    # ---------------------------------------------------------------- calibration

    def calibrate(
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
    ) -> Self:
        """Calibrate at another level from the stored scores, or on other data; never train.

        Parameters
        ----------
        noisy, clean : array, optional
            Images that the members never trained on; all of them calibrate. Images that trained are refused,
            and crops, flips and quarter turns of their training part; rescaled or interpolated copies are not
            recognised. ``noisy`` alone is the image that the stored scores come from, where ``groups`` needs
            it.
        axes : str, optional
            As in `predict`.
        alpha : float, optional
            Miscoverage; the present one by default.
        valid : array of bool, optional
            True where a pixel counts.
        groups : int or array of int, optional
            What is calibrated apart: so many tokens; or the group of each pixel from 1, 0 for none, over the
            space axes or all axes but C. 0 calibrates all pixels together. The settings' by default.

            The coverage is then aimed at within each group that has enough held-out blocks; a rare phase that is
            only a part of its groups is hardly covered better. Groups must not be drawn by what is known of the target.
        settings : CalibrationSettings, optional
            Unit, score, minimum, folds, certainty and groups instead of the present ones; how the field was
            split stays as it is.
        executor : concurrent.futures.Executor, optional
            Where tasks run; local processes by default.

        Raises
        ------
        ValueError
            If the members trained on these images, or groups can't be found.
        """
        model = self.model
        wanted = replace(
            model.settings,
            alpha=self.alpha if alpha is None else alpha,
            calibration=settings or model.settings.calibration,
        )
        pair = None if noisy is None else pair_for(model, noisy, clean, axes, valid)
        return self._take(
            self.run(calibrate_steps(model, self._compute(executor), wanted, pair=pair, groups=groups))
        )

    def lock(self, threshold: float, channel: str | int | None = None) -> Self:
        """Lock a channel's threshold: saved in the bundle, and in ``locks`` of predictions from now on.

        `Prediction.exceedance` recalibrates at a locked threshold with ``locked=True``.

        Parameters
        ----------
        threshold : float
            In the units of the target.
        channel : str or int, optional
            Name or number; may be left out where there is only one.

        Raises
        ------
        ValueError
            If the channel is missing, the threshold is not finite, there is only one quantile level, or too few
            held-out blocks have targets on a side of the threshold.
        """
        number = channel_number(channel, self.model.channel_names)
        locks = {**self.model.calibrated.locks, self.model.channel_names[number]: float(threshold)}
        model = self.model.with_locks(locks)
        need_lockable(model.scores.held_out, threshold, channel=number)
        return self._take(model)

    def unlock(self, channel: str | int | None = None) -> Self:
        """Unlock the threshold of a channel.

        Parameters
        ----------
        channel : str or int, optional
            Name or number; all channels by default.

        Raises
        ------
        ValueError
            If there is no such channel.
        """
        model = self.model
        name = None if channel is None else model.channel_names[channel_number(channel, model.channel_names)]
        kept = {k: v for k, v in model.calibrated.locks.items() if name not in (None, k)}
        return self._take(model.with_locks(kept))

    def coverage_curve(self, alphas: Sequence[float] = (0.5, 0.32, 0.2, 0.1, 0.05)) -> NDArray[np.float64]:
        """Return the cross-fitted coverage after calibration at several levels, (C, A).

        Parameters
        ----------
        alphas : sequence of float
            The A miscoverages; see `core.evaluation.diagnostics.coverage_curve`.
        """
        return coverage_by_level(self.model, alphas)

    def miscoverage(
        self, shape: Sequence[int], *, noisy: Any = None, axes: str | None = None
    ) -> NDArray[np.float32]:
        """Return the share of missed pixels of each held-out block, painted where it lies; cross-fitted.

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
            If the held-out pixels don't lie within the shape, or come from another image than ``noisy``.
        """
        image = None if noisy is None else image_for(self.model, noisy, axes)
        return missed_share(self.model, shape, axes, image)

    def adapt(
        self,
        noisy: Any,
        axes: str | None = None,
        *,
        loss: AdaptLoss = "blind_spot",
        noise_model: NoiseModel | None = None,
        settings: AdaptSettings | None = None,
    ) -> Denoiser:
        """Return a denoiser adapted to one noisy image, uncalibrated: one gain per channel and layer is tuned.

        No clean image is needed. This one stays as it is. Intervals of the new one are infinite and its report
        empty until `calibrate` gets images with a target or a second scan; ``covers`` of its predictions is "nothing".

        Parameters
        ----------
        noisy : array, (*axes)
            Image that is to be denoised well.
        axes : str, optional
            As in `predict`.
        loss : str
            "blind_spot" for noise that is independent from pixel to pixel; "sure" and "resample" need a noise model.
        noise_model : NoiseModel, optional
            Of this image.
        settings : AdaptSettings, optional
            Loss, steps and step size, instead of ``loss``.

        Returns
        -------
        Denoiser

        Raises
        ------
        ValueError
            If the loss needs a noise model that is missing or doesn't fit, the image doesn't fit the networks, or
            they make other channels than they read.

        References
        ----------
        Mohan et al., "Adaptive denoising via GainTuning", arXiv 2107.12815 (2021).
        """
        image = image_for(self.model, noisy, axes)
        how = AdaptSettings(loss) if settings is None else settings
        need(isinstance(how, AdaptSettings), "settings", settings, "AdaptSettings, or left out")
        made = self.run(adapt_steps(self.model, image, self._compute(None), how, noise_model))
        adapted = type(self).of(made, device=self.device)
        adapted.run = self.run
        return adapted

    # ---------------------------------------------------------------- prediction

    def predict(
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
        detector: Detector | None = None,
        executor: Executor | None = None,
    ) -> Prediction:
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
            infinite. Elsewhere maps are NaN, and the networks see zeros instead of NaN.
        pixel_size : sequence of float, optional
            Of this image, one per space axis, in ``unit``; by default that of training.
        unit : str, optional
            Unit of ``pixel_size``.
        detector : Detector, optional
            Dark frame, flat field and broken pixels of this image; those of the training by default.
        executor : concurrent.futures.Executor, optional
            Where tasks run; local processes by default.

        Returns
        -------
        Prediction
            Maps in the axes of the input, in the units of the training target.

        Raises
        ------
        ValueError
            If the image doesn't fit the networks, a pixel that counts is NaN or infinite, or ``out`` is taken or
            names no zarr.
        """
        noisy, valid = unmasked(noisy, valid, "image")
        image = image_for(self.model, noisy, axes, pixel_size, unit)
        steps = predict_steps(
            self.model,
            image,
            self._compute(executor),
            out=None if out is None else Folder(out, overwrite),
            quantiles=quantiles,
            groups=groups,
            valid=valid,
            detector=detector,
        )
        return self.run(steps)

    def equivalent_filter(
        self,
        noisy: Any,
        at: Sequence[int],
        axes: str | None = None,
        *,
        channel: str | int | None = None,
        scene: int = 0,
        noise_factor: float = 1.0,
    ) -> EquivalentFilter:
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
        noise_factor : float
            Gaussian noise is added so that the noise around the pixel has this many times its standard deviation:
            the filter of a faster scan, in short. 1 leaves the image as it is.

        Returns
        -------
        EquivalentFilter
            Weights in the shape of the input, and the net bias. The median is that of `predict`, but for a
            `minimum` of the calibration. Of members that see neighbouring frames, ``displacements`` say how the
            weights of each frame are displaced: the motion that they follow.

        Raises
        ------
        ValueError
            If the image doesn't fit the networks, has no such pixel or channel, or the noise is to become less.
        """
        image = image_for(self.model, noisy, axes)
        steps = equivalent_filter_steps(
            self.model,
            image,
            at,
            self._compute(None),
            channel=channel,
            scene=scene,
            noise_factor=noise_factor,
        )
        return self.run(steps)

    def tokens(
        self,
        noisy: Any,
        n_tokens: int = 20,
        axes: str | None = None,
        *,
        refit: bool = False,
        order_by: str | int | None = None,
        smooth_px: float = 1.5,
        method: TokenMethod | None = None,
        valid: Any = None,
        prediction: Prediction | None = None,
        executor: Executor | None = None,
    ) -> Tokens:
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
            Learn the palette again from this image.
        order_by : str or int, optional
            Channel whose median orders the tokens, by name or number; by default numbers follow the tree, and stay
            with their tokens in all cuts.
        smooth_px : float
            SD of the Gaussian over the latent components, in pixels, when the palette is learned.
        method : str, optional
            As in `TokenSettings`; another method than the palette's learns again.
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
        made, tokens = self.run(
            tokens_steps(
                self.model,
                image_for(self.model, noisy, axes),
                self._compute(executor),
                TokenSettings(n_tokens, order_by, smooth_px, method),
                refit=refit,
                valid=valid,
                prediction=prediction,
            )
        )
        self._take(made)
        return tokens

    # ---------------------------------------------------------------- members

    def graph(self, member: int = 0) -> Graph:
        """Return a member's random connections, for `plots.figures.graph_figure`.

        Parameters
        ----------
        member : int
            Its number, from 0.

        Raises
        ------
        ValueError
            If there is no such member.
        """
        return graph_of_member(self.model, member)

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
            If the images don't fit the networks, or members were trained on them.
        """
        pair = pair_for(self.model, noisy, clean, axes)
        return self.run(gain_of_members_steps(self.model, pair, self._compute(executor), sizes))

    # ---------------------------------------------------------------- files

    def save(self, path: str | Path) -> None:
        """Save as a bundle; the file appears only when it is whole.

        Parameters
        ----------
        path : str or Path
            Of the bundle, best ending in ``.btn``.
        """
        models.save_model(self.model, path)

    def save_partial(self, path: str | Path, checkpoint: Sequence[Member], data: dict[str, Any]) -> None:
        """Save the members that an interrupted run has finished, and what they learned from, for `load_partial`.

        Parameters
        ----------
        path : str or Path
        checkpoint : sequence of Member
            A `Progress.checkpoint`.
        data : dict
            JSON-ready.
        """
        models.save_partial(self._settings, checkpoint, data, path)


def load(path: str | Path, *, device: str = "auto") -> Denoiser:
    """Return the trained denoiser of a bundle.

    Parameters
    ----------
    path : str or Path
    device : str
        Where it predicts and trains on.

    Raises
    ------
    ValueError
        If the file is damaged, newer, not a bundle, or of an interrupted training.
    """
    return Denoiser.of(models.load_model(path), device=device)


def load_partial(
    path: str | Path, *, device: str = "auto"
) -> tuple[Denoiser, tuple[Member, ...], dict[str, Any]]:
    """Return an untrained denoiser, the members that an interrupted run had finished, and what they learned from.

    Parameters
    ----------
    path : str or Path
    device : str

    Raises
    ------
    ValueError
        If the file is damaged, newer, or of a finished training.
    """
    settings, members, data = models.load_partial(path)
    return Denoiser.from_settings(settings.to_dict(), device=device), members, data


def compare(
    noisy: Any,
    clean: Any = None,
    *,
    axes: str = "YX",
    denoiser: Denoiser | None = None,
    noise_model: NoiseModel | None = None,
    filters: Sequence[str] | None = None,
    channel_names: Sequence[str] | None = None,
    alpha: float | None = None,
) -> Comparison:
    """Return classical filters beside an ensemble: their images and a table of figures.

    With ``clean``, parameters of the filters are the best on a training part, and all methods are judged on a
    held-out part (the denoiser's, if it was trained on this image). Without it, parameters are those of the least
    self-supervised loss, which is then the figure to compare.

    Parameters
    ----------
    noisy : array, (*axes)
    clean : array, optional
        As in `Denoiser.fit`.
    axes : str
        Letters of S, T, C, Z, Y, X in any order.
    denoiser : Denoiser, optional
        A trained one.
    noise_model : NoiseModel, optional
        Filters then work on variance-stabilised values.
    filters : sequence of str, optional
        Names of filters; all by default.
    channel_names : sequence of str, optional
        One per channel; the denoiser's by default.
    alpha : float, optional
        Miscoverage of the intervals whose widths are compared; the denoiser's, or 0.1.

    Raises
    ------
    ValueError
        If the images don't fit each other or the denoiser, or there is no such filter.

    References
    ----------
    Batson & Royer, Noise2Self, ICML 2019, on parameters without clean data.
    """
    from napari_btn.workflow.compare import compare_steps

    known = denoiser is None or isinstance(denoiser, Denoiser)
    need(known, "denoiser", denoiser, "a Denoiser, of a file btn.load(path)")
    model = None if denoiser is None else denoiser.model
    pair = pair_of(noisy, clean, axes, channel_names=channel_names)
    run = drain if denoiser is None else denoiser.run
    device = "cpu" if denoiser is None else denoiser.device
    step = compare_steps(
        pair, compute_for(device, 1), model=model, noise=noise_model, names=filters, alpha=alpha
    )
    return run(step)


def _painted(regions: Any) -> NDArray[Any] | None:
    """Painted areas as an array."""
    return None if regions is None else np.asarray(regions)
