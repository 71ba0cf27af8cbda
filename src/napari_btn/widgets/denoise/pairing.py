"""The picked pair of images with the settings of a training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from napari_btn.core.data.image import canonical_axes, shown_unit
from napari_btn.core.data.pairs import Pair
from napari_btn.session import Training
from napari_btn.widgets.shared import engine

if TYPE_CHECKING:
    from weakref import ReferenceType

    from napari.layers import Image as ImageLayer
    from numpy.typing import NDArray

    from napari_btn.core.data.detector import Detector
    from napari_btn.core.data.noise_models import NoiseModel
    from napari_btn.core.settings import EnsembleSettings
    from napari_btn.model import Model
    from napari_btn.widgets.shared.layers import LayerImage

__all__ = ["PairInputs", "arrays_of", "differences", "in_order_of", "unlike_pixels"]

_SAME_PIXELS = 0.02
_READ_AT_ONCE = 64 * 2**20


@dataclass(frozen=True)
class PairInputs:
    """The pair and settings of a training, read from the layers once.

    Parameters
    ----------
    noisy : LayerImage, optional
        None if noise is simulated on the clean image.
    clean : LayerImage, optional
        None if the networks learn from noisy images alone.
    settings : EnsembleSettings
        Settings of the form.
    clean_layer : weak reference, optional
        The clean layer, to share its contrast with the results.
    valid : array of bool, or "finite", optional
        True where a pixel counts.
    regions : ndarray of int, optional
        Painted areas for training and calibration.
    masks_key : tuple
        Identifies the masks and the frames of the detector.
    detector : Detector, optional
        Frames by which the noisy image is repaired first.
    noise_model : NoiseModel, optional
        Noise to simulate on the clean image.
    applied : LayerImage, optional
        Noisy image to denoise after a training on simulated noise.
    """

    noisy: LayerImage | None
    clean: LayerImage | None
    settings: EnsembleSettings
    clean_layer: ReferenceType[ImageLayer] | None = None
    valid: Any = None
    regions: NDArray[Any] | None = None
    masks_key: tuple[Any, ...] = ()
    detector: Detector | None = None
    noise_model: NoiseModel | None = None
    applied: LayerImage | None = None

    @property
    def image(self) -> LayerImage:
        """The noisy image, or the clean one that noise is simulated on: its axes and channels count."""
        image = self.noisy or self.clean
        assert image is not None, "a training has an image"
        return image

    @property
    def quick_to_read(self) -> bool:
        """True if both images are small and in memory."""
        images = [image for image in (self.noisy, self.clean) if image is not None]
        return sum(i.nbytes for i in images) <= _READ_AT_ONCE and all(i.in_memory for i in images)

    @cached_property
    def pair(self) -> Pair:
        """Pair of the images, which steps take."""
        clean, image = self.clean, self.image
        names = image.channel_names or (None if clean is None else clean.channel_names)
        return Pair(
            None if self.noisy is None else self.noisy.data,
            None if clean is None else clean.data,
            image.axes,
            names if "C" in image.axes else None,
            image.pixel_size,
            image.unit,
            self.valid,
            image.name,
            noise_model=self.noise_model,
            detector=self.detector,
        )

    def training(self) -> Training:
        """Return what the session keeps, to continue training later."""
        return Training(self.pair, self.regions)

    def key(self) -> tuple[Any, ...]:
        """Return a key of everything that a check, or finished members, depend on."""
        settings = replace(self.settings, members=1, alpha=0.5)
        return (
            arrays_of(self.pair),
            id(self.noise_model),
            self.image.axes,
            self.image.channel_names,
            repr(settings),
            self.masks_key,
        )

    def check(self, *, values: bool) -> None:
        """Check the axes, and the values where that is quick.

        Parameters
        ----------
        values : bool
            True to read the images.

        Raises
        ------
        ValueError
            With what came, what is needed and what to do.
        """
        canonical_axes(self.image.axes, len(self.image.shape), "clean" if self.noisy is None else "noisy")
        if values and self.noisy is not None and self.clean is not None:
            _ = self.pair.scenes


def arrays_of(pair: Pair) -> tuple[int, ...]:
    """Return the identities of the arrays of a pair; a stack of layers has several.

    Parameters
    ----------
    pair : Pair
    """
    return tuple(id(a) for image in (pair.noisy, pair.clean) for a in getattr(image, "arrays", (image,)))


def in_order_of(axes: str, clean: LayerImage) -> LayerImage:
    """Return clean with its axes in the order of noisy's, if it names them.

    Parameters
    ----------
    axes : str
        Axes of noisy.
    clean : LayerImage
        Any image.

    Returns
    -------
    LayerImage
        A view of clean, or clean itself.
    """
    wanted = axes if len(clean.shape) == len(axes) else "".join(a for a in axes if a not in "ST")
    if clean.axes_guessed and len(wanted) == len(clean.shape):
        return clean.with_axes(wanted)
    if clean.axes == wanted or sorted(clean.axes) != sorted(wanted) or not hasattr(clean.data, "transpose"):
        return clean
    order = [clean.axes.index(a) for a in wanted]
    placement = clean.placement.onto(wanted)
    return replace(clean, data=clean.data.transpose(order), axes=wanted, placement=placement)


def unlike_pixels(noisy: LayerImage, clean: LayerImage) -> tuple[tuple[str, str], ...]:
    """Return a note if the layers of a pair have different pixel sizes.

    Parameters
    ----------
    noisy, clean : LayerImage
        As picked.

    Returns
    -------
    tuple of (level, sentence)
        Empty where they are alike, or one doesn't say.
    """
    if not noisy.pixel_size or not clean.pixel_size or noisy.unit != clean.unit:
        return ()
    ratio = [a / b for a, b in zip(noisy.pixel_size, clean.pixel_size, strict=False)]
    if all(abs(r - 1) <= _SAME_PIXELS for r in ratio):
        return ()
    text = (
        f"Noisy has pixels of {noisy.pixel_size[-1]:.4g} {shown_unit(noisy.unit)}, clean of "
        f"{clean.pixel_size[-1]:.4g} {shown_unit(clean.unit)}. Is it another field, or was one resampled? "
        "Results have the pixel size of noisy."
    )
    return (("amber", text),)


def differences(source: LayerImage, model: Model) -> list[tuple[str, str]]:
    """Return notes on how an image differs from the training images of a model.

    Parameters
    ----------
    source : LayerImage
        Image that was denoised.
    model : Model

    Returns
    -------
    list of (level, sentence)
        To show; empty when all is alike.
    """
    notes = []
    here, there = source.channel_names or (), model.channel_names
    if here != there and sorted(here) == sorted(there):
        text = (
            f"'{source.name}' has the channels {', '.join(here)}; the networks were trained on "
            f"{', '.join(there)}, in this order. Reorder them."
        )
        notes.append(("amber", text))
    if size := engine.size_note(model, source.axes or model.learned.axes, source.pixel_size, source.unit):
        notes.append((size.level, size.text))
    return notes
