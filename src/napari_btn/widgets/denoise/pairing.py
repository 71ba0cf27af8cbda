"""The picked pair of images with the settings of a training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from napari_btn.session import Training

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType
    from weakref import ReferenceType

    from napari.layers import Image as ImageLayer

    from napari_btn.widgets.shared.layers import LayerImage

__all__ = ["PairInputs", "differences", "in_order_of", "unlike_pixels"]

_SAME_PIXELS = 0.02
_READ_AT_ONCE = 64 * 2**20


@dataclass(frozen=True)
class PairInputs:
    """The pair and settings of a training, read from the layers once.

    Parameters
    ----------
    noisy, clean : LayerImage
        The images.
    settings : dict
        Arguments for the denoiser.
    clean_layer : weak reference, optional
        The clean layer, to share its contrast with the results.
    masks : mapping
        ``valid`` and ``regions`` for the denoiser, where they are given.
    masks_key : tuple
        Identifies the masks.
    """

    noisy: LayerImage
    clean: LayerImage
    settings: dict[str, Any]
    clean_layer: ReferenceType[ImageLayer] | None = None
    masks: Mapping[str, Any] = field(default_factory=dict)
    masks_key: tuple[Any, ...] = ()

    @property
    def quick_to_read(self) -> bool:
        """True if both images are small and in memory."""
        small = self.noisy.nbytes + self.clean.nbytes <= _READ_AT_ONCE
        return small and self.noisy.in_memory and self.clean.in_memory

    def pair(self) -> dict[str, Any]:
        """Return the arguments for the denoiser's ``fit_steps`` and ``check``."""
        names = self.noisy.channel_names or self.clean.channel_names
        return {
            "noisy": self.noisy.data,
            "clean": self.clean.data,
            "axes": self.noisy.axes,
            "channel_names": names if "C" in self.noisy.axes else None,
            "pixel_size": self.noisy.pixel_size,
            "unit": self.noisy.unit,
            **self.masks,
        }

    def training(self) -> Training:
        """Return what the session keeps, to continue training later."""
        from napari_btn.core.data.pairs import Pair

        given = self.pair()
        regions = given.pop("regions", None)
        return Training(Pair(**given, name=self.noisy.name), regions)

    def images(self) -> tuple[int, ...]:
        """Return a key that identifies the images."""
        images = (self.noisy, self.clean)
        return tuple(id(a) for image in images for a in getattr(image.data, "arrays", (image.data,)))

    def key(self) -> tuple[Any, ...]:
        """Return a key of everything that a check, or finished members, depend on."""
        settings = {k: v for k, v in self.settings.items() if k not in ("members", "alpha", "device")}
        return (self.images(), self.noisy.axes, self.noisy.channel_names, repr(settings), self.masks_key)

    def check(self, engine: ModuleType, *, values: bool) -> None:
        """Check axes and settings at once, and the values where that is quick.

        Parameters
        ----------
        engine : module
            Holds ``Denoiser``.
        values : bool
            True to read the images.

        Raises
        ------
        ValueError
            With what came, what is needed and what to do.
        """
        from napari_btn.core.data.image import canonical_axes
        from napari_btn.core.data.pairs import Pair

        canonical_axes(self.noisy.axes, len(self.noisy.shape), "noisy")
        engine.Denoiser(**self.settings)
        if values:
            _ = Pair(**{k: v for k, v in self.pair().items() if k != "regions"}).scenes


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
        f"Noisy has pixels of {noisy.pixel_size[-1]:.4g} {noisy.unit}, clean of {clean.pixel_size[-1]:.4g}: another "
        "field, or one was resampled? Results take those of noisy."
    )
    return (("amber", text),)


def differences(source: LayerImage, denoiser: Any) -> list[tuple[str, str]]:
    """Return notes on how an image differs from the training images of a denoiser.

    Parameters
    ----------
    source : LayerImage
        Image that was denoised.
    denoiser : Denoiser
        Trained.

    Returns
    -------
    list of (level, sentence)
        To show; empty when all is alike.
    """
    notes = []
    here, there = source.channel_names or (), denoiser.channel_names or ()
    if here != there and sorted(here) == sorted(there):
        text = (
            f"'{source.name}' has the channels {', '.join(here)}; the networks were trained on "
            f"{', '.join(there)}, in this order. Reorder them."
        )
        notes.append(("amber", text))
    if source.pixel_size and denoiser.pixel_size and source.unit == denoiser.unit:
        ratio = [a / b for a, b in zip(source.pixel_size, denoiser.pixel_size, strict=False)]
        if any(abs(r - 1) > _SAME_PIXELS for r in ratio):
            text = (
                f"'{source.name}' has pixels of {source.pixel_size[-1]:.4g} {source.unit}, the networks were "
                f"trained at {denoiser.pixel_size[-1]:.4g}. Resample it, or don't rely on the coverage."
            )
            notes.append(("amber", text))
    return notes
