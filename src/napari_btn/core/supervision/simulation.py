"""Learning from clean images or simulations: their noise is drawn from a noise model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.image import View
from napari_btn.core.progress import Note, counted
from napari_btn.core.supervision.pair import DEFAULT, PairSupervision
from napari_btn.core.supervision.patches import Lesson

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from numpy.typing import NDArray

    from napari_btn.core.data.image import Box
    from napari_btn.core.data.noise_models import NoiseModel
    from napari_btn.core.data.pairs import Pair, Scenes
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import SupervisionSettings, TrainSettings
    from napari_btn.core.supervision.patches import Patch

__all__ = ["SIMULATION"]


class _Simulated(View):
    """A noisy image drawn once from a clean one, with its noise model for further draws."""

    def __init__(self, clean: View, model: NoiseModel, seed: int) -> None:
        super().__init__(np.empty(tuple(clean.array.shape), np.float32), clean.axes, "noisy")
        self.model = model
        for scene in range(clean.n_scenes):
            rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2**31, 5, scene)))
            self.write(scene, [slice(0, n) for n in self.space], drawn(clean.read(scene), model, rng))


class _Simulation(PairSupervision):
    """Learning of clean images from simulated noisy ones, as a `Supervision`."""

    name = "simulation"
    title = "Clean images and a noise model"
    help = "Clean images or simulations, and a noise model that adds noise to them."
    shown: Literal["median", "mean"] = "median"
    because = "A noise model turns clean images into noisy ones."
    rank, alone, windows, simulated = 4, False, False, True

    def scenes(self, pair: Pair, settings: SupervisionSettings = DEFAULT, *, seed: int = 0) -> Scenes:
        """Return simulated noisy images and the clean ones; raise ``ValueError`` if one of both is missing."""
        del settings
        if pair.noisy is not None or pair.clean is None or pair.noise_model is None:
            came = (
                "noisy"
                if pair.noisy is not None
                else "no clean image"
                if pair.clean is None
                else "no noise_model"
            )
            raise ValueError(
                f"simulation learns from clean images and a noise model, and {came} came: call fit(None, clean, "
                "noise_model=btn.NoiseModel(...)); on the command line, give --noise-model. With a "
                'noisy and a clean image, use supervision="pair".'
            )
        clean = View(pair.clean, pair.axes, "clean")
        if not hasattr(pair.noise_model, "n_channels"):
            raise ValueError(
                f"noise_model is {pair.noise_model!r}; give a NoiseModel, of a file btn.NoiseModel.load(path)."
            )
        if pair.noise_model.n_channels != clean.n_channels:
            raise ValueError(
                f"The noise model has {counted(pair.noise_model.n_channels, 'channel')}, clean has "
                f"{clean.n_channels} (axes {clean.axes}); give a model of the same channels."
            )
        measured = pair.noise_model.correlation.shape[1]
        if pair.noise_model.correlation_px.any() and measured != clean.ndim:
            raise ValueError(
                f"The noise model has correlated noise of {measured}D images, clean is {clean.ndim}D (axes "
                f"{clean.axes}); give a model that was measured in {clean.ndim}D."
            )
        noisy = _Simulated(clean, pair.noise_model, seed)
        if all(np.array_equal(noisy.read(s), clean.read(s), equal_nan=True) for s in range(clean.n_scenes)):
            offsets = ", ".join(f"{v:.4g}" for v in pair.noise_model.offset)
            raise ValueError(
                f"The noise model adds no noise to the clean images: values at or below its offset ({offsets}) are "
                "without light. Give clean images in the units of the noise model, offset included."
            )
        made = replace(pair, noisy=noisy.array, noise_model=None).views
        return replace(made, noisy=noisy)

    def lesson_steps(
        self,
        scenes: Scenes,
        boxes: Sequence[Box],
        train: TrainSettings,
        validation: Sequence[Box] = (),
        settings: SupervisionSettings = DEFAULT,
    ) -> Step[tuple[TrainSettings, Lesson]]:
        """Return clean patches with new noise each time; a step."""
        del settings
        yield from ()
        if not isinstance(scenes.noisy, _Simulated):
            return train, Lesson(scenes, tuple(boxes), tuple(validation))
        model = scenes.noisy.model

        def example(scene: int, crop: Sequence[slice], patch: Patch, rng: np.random.Generator) -> Patch:
            """Return the patch with noise drawn again."""
            del scene, crop
            return drawn(patch[1], model, rng), patch[1]

        return train, Lesson(scenes, tuple(boxes), tuple(validation), example=example)

    def noise_variance(
        self, observed: NDArray[np.floating[Any]], target: NDArray[np.floating[Any]]
    ) -> NDArray[np.floating[Any]] | None:
        """Return zeros, (C,): the targets are clean."""
        del observed
        return np.zeros(len(target))

    def covers(
        self,
        noise: NDArray[np.floating[Any]] | None,
        channel_names: Sequence[str],
        scenes: Scenes | None = None,
    ) -> tuple[str, tuple[Note, ...]]:
        """Return "simulation", and a note that real images may differ."""
        del noise, channel_names, scenes
        text = (
            "Calibrated on simulated noise: the coverage is that of images and noise like the simulated ones, on "
            "average, and unknown for real ones. Check it on a slow scan of a real field; a "
            "noisy repeat lies inside less often, even where the intervals are right."
        )
        return "simulation", (Note("amber", text),)


def drawn(clean: NDArray[np.float32], model: NoiseModel, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a noisy image of a clean one (C, *space); unknown pixels get the noise of their channel's mean."""
    known = np.isfinite(clean)
    if known.all():
        return model.sample(clean, rng)
    axes = tuple(range(1, clean.ndim))
    middle = np.where(known, clean, 0).sum(axes, keepdims=True) / np.maximum(
        known.sum(axes, keepdims=True), 1
    )
    return model.sample(np.where(known, clean, middle), rng)


SIMULATION = _Simulation()
