"""`Variational`: a model of noisy images alone, and draws of the clean images that they may come from.

It is no family of members: members learn quantiles of a target, and are calibrated on held-out pixels of it. This model
has a likelihood instead of a target and draws instead of quantiles, so it has its own network, loss and bundle.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from napari_btn.core.calibration.draws import need_draws
from napari_btn.core.compute.device import device_for
from napari_btn.core.data import noise_models
from napari_btn.core.data.fingerprint import fingerprint_steps
from napari_btn.core.data.image import Box, View, upper_axes
from napari_btn.core.data.noise_frames import read_noise_frames_steps
from napari_btn.core.progress import Note, Progress, drain
from napari_btn.core.settings import VariationalSettings, is_whole, need
from napari_btn.core.training.plan import Estimate
from napari_btn.io.bundle import Bundle, read_bundle, write_bundle
from napari_btn.io.damage import reading
from napari_btn.io.noise import NoiseModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.networks.vae import Ladder
    from napari_btn.core.progress import Step

__all__ = ["Variational"]

_KIND = "variational"
_LACKS = (
    "{file} lacks a part of a variational model, or has a wrong one ({why}); it is damaged. Copy it again."
)
_LEAST_SIDE = 16
_READ = 4_000_000  # pixels read at a time
_UNUSED = 1e-3  # nats per value below which latent variables say nothing


@dataclass(frozen=True, eq=False, kw_only=True)
class Variational:
    """A variational model of noisy images: an encoder, latent variables, and a decoder to the clean signal.

    Make one with `fit` or `load`.

    Attributes
    ----------
    settings : VariationalSettings
    seed : int
        Seed of the training.
    noise_model : NoiseModel
        Noise of each channel, given or measured.
    weights : dict of str to ndarray
        Of the network, by name.
    bound : tuple of float
        Lower bound of the log evidence at each training step, in nats per value of the image.
    kl : tuple of float
        What the latent variables of each level say about the image in nats per value, finest level first.
    axes : str
        Axes of the image that it learned from.
    channel_names : tuple of str
        One per channel.
    notes : tuple of Note
        Notes to read before relying on draws.
    provenance : dict
        JSON-ready: version, and fingerprints of the images.

    References
    ----------
    Prakash, Krull and Jug (DivNoising), ICLR 2021, arXiv 2006.06072; Prakash, Delbracio, Milanfar and Jug (HDN),
    ICLR 2022, arXiv 2104.01374.
    """

    covers: Final = (
        "clean images as a model of the noisy ones finds them plausible: not calibrated, and only as right as the "
        "noise model and the network"
    )
    """What the draws show."""

    settings: VariationalSettings
    seed: int
    noise_model: NoiseModel
    weights: dict[str, NDArray[np.float32]]
    bound: tuple[float, ...]
    kl: tuple[float, ...]
    axes: str
    channel_names: tuple[str, ...]
    notes: tuple[Note, ...]
    provenance: dict[str, Any]

    @property
    def ndim(self) -> int:
        """Number of space axes."""
        return sum(a in "ZYX" for a in self.axes)

    # ---------------------------------------------------------------- training

    @classmethod
    def fit(
        cls,
        noisy: Any,
        axes: str = "YX",
        *,
        noise_model: noise_models.NoiseModel | None = None,
        settings: VariationalSettings | None = None,
        channel_names: Sequence[str] | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> Self:
        """Train on noisy images alone.

        Parameters
        ----------
        noisy : array, (*axes)
            Numpy, dask or zarr.
        axes : str
            One letter of S, T, C, Z, Y, X per dimension.
        noise_model : NoiseModel, optional
            Noise of each channel, independent from pixel to pixel; measured on the image by default.
        settings : VariationalSettings, optional
        channel_names : sequence of str, optional
        seed : int
            The same seed, data and settings give the same model on the same kind of CPU.
        device : str
            "auto", "cpu", "cuda", "cuda:1" or "mps".

        Raises
        ------
        ValueError
            If noise is correlated or missing, the noise model has other channels, or the image is too small, constant,
            or not finite.
        """
        return drain(
            cls.fit_steps(
                noisy,
                axes,
                noise_model=noise_model,
                settings=settings,
                channel_names=channel_names,
                seed=seed,
                device=device,
            )
        )

    @classmethod
    def fit_steps(
        cls,
        noisy: Any,
        axes: str = "YX",
        *,
        noise_model: noise_models.NoiseModel | None = None,
        settings: VariationalSettings | None = None,
        channel_names: Sequence[str] | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> Step[Self]:
        """Train as a step that yields `Progress` and returns the model; arguments as in `fit`."""
        from napari_btn import __version__
        from napari_btn.core.training.vae import train_ladder_steps

        settings = VariationalSettings() if settings is None else settings
        need(
            isinstance(settings, VariationalSettings),
            "settings",
            settings,
            "VariationalSettings, or left out",
        )
        need(is_whole(seed) and seed >= 0, "seed", seed, "a whole number of at least 0")
        view = View(noisy, axes, "noisy")
        names = tuple(channel_names or (str(c) for c in range(view.n_channels)))
        need(len(names) == view.n_channels, "channel_names", names, f"{view.n_channels} names")
        name = device_for(device)
        yield from _sound_steps(view, "noisy", constant=True)
        if noise_model is None:
            noise_model = yield from NoiseModel.fit_steps(
                (yield from read_noise_frames_steps(view.array, view.axes))
            )
        _need_independent(noise_model, view.n_channels)
        prints = yield from fingerprint_steps(view)
        trained = yield from train_ladder_steps(view, noise_model, settings, seed=seed, device=name)
        return cls(
            settings=settings,
            seed=seed,
            noise_model=NoiseModel.from_dict(noise_model.to_dict()),
            weights=trained.weights,
            bound=trained.bound,
            kl=trained.kl,
            axes=view.axes,
            channel_names=names,
            notes=_notes(noise_model, trained.kl),
            provenance={"version": __version__, "images": sorted(prints.values())},
        )

    @staticmethod
    def estimate(
        shape: Sequence[int], axes: str = "YX", settings: VariationalSettings | None = None
    ) -> Estimate:
        """Return time and memory that training will take on a core of this machine, to a factor of about two.

        Parameters
        ----------
        shape : sequence of int
            Of the noisy image.
        axes : str
            One letter per dimension.
        settings : VariationalSettings, optional
        """
        from napari_btn.core.training.vae import training_cost

        seconds, memory = training_cost(
            View(np.broadcast_to(np.float32(0), tuple(shape)), axes), settings or VariationalSettings()
        )
        minutes = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
        return Estimate(seconds, memory, f"About {minutes} and {memory / 1e9:.1f} GB on 1 CPU core")

    # ---------------------------------------------------------------- draws

    def draws(
        self,
        noisy: Any,
        n: int,
        *,
        axes: str | None = None,
        seed: int = 0,
        out: Any = None,
        device: str = "auto",
    ) -> Any:
        """Return whole plausible images, (n, *axes), in the unit of the noisy image.

        Parameters
        ----------
        noisy : array, (*axes)
        n : int
            Number of draws, at least 1.
        axes : str, optional
            Those of the training by default, less S and T where the image has fewer dimensions.
        seed : int
            The same seed gives the same draws; more draws keep the earlier ones.
        out : array of float32, (n, *axes), optional
            Where to write them tile by tile, such as a memory map or a zarr array; a new array by default.
        device : str

        Raises
        ------
        ValueError
            If the image has other channels or space axes than that of the training, or is not finite.
        """
        return drain(self.draws_steps(noisy, n, axes=axes, seed=seed, out=out, device=device))

    def draws_steps(
        self,
        noisy: Any,
        n: int,
        *,
        axes: str | None = None,
        seed: int = 0,
        out: Any = None,
        device: str = "auto",
    ) -> Step[Any]:
        """Draw as a step; arguments as in `draws`."""
        from napari_btn.core.inference.vae import ladder_draws_steps

        view = yield from self._view_steps(noisy, axes)
        sizes = tuple(int(length) for length in view.array.shape)
        need_draws(n, seed, out, sizes)
        out = np.empty((n, *sizes), np.float32) if out is None else out
        return (yield from ladder_draws_steps(self._ladder(device), view, out, seed=seed))

    def mean(
        self, noisy: Any, n: int = 32, *, axes: str | None = None, seed: int = 0, device: str = "auto"
    ) -> NDArray[np.float32]:
        """Return the mean of draws, which has the least squared error that this model knows of.

        Parameters
        ----------
        noisy : array, (*axes)
        n : int
            Number of draws.
        axes : str, optional
        seed : int
            As in `draws`: the mean is that of the same draws.
        device : str
        """
        return drain(self.mean_steps(noisy, n, axes=axes, seed=seed, device=device))

    def mean_steps(
        self, noisy: Any, n: int = 32, *, axes: str | None = None, seed: int = 0, device: str = "auto"
    ) -> Step[NDArray[np.float32]]:
        """Return the mean of draws as a step; arguments as in `mean`."""
        from napari_btn.core.inference.vae import ladder_mean_steps

        need_draws(n, seed, None, ())
        view = yield from self._view_steps(noisy, axes)
        return (yield from ladder_mean_steps(self._ladder(device), view, n, seed=seed))

    def _view_steps(self, noisy: Any, axes: str | None) -> Step[View]:
        """Return the view of an image that fits the training; a step."""
        noisy = noisy if hasattr(noisy, "shape") else np.asarray(noisy)
        shorter = self.axes.replace("S", "").replace("T", "")
        wanted = self.axes if axes is None else upper_axes(axes)
        known = next((a for a in (wanted, self.axes, shorter) if len(a) == len(noisy.shape)), wanted)
        view = View(noisy, known, "image")
        came = f"{view.n_channels} channels and the space axes {view.space_axes}"
        fits = view.n_channels == len(self.channel_names) and view.ndim == self.ndim
        need(
            fits,
            "image",
            came,
            f"one of {len(self.channel_names)} channels in {self.ndim}D, as in the training",
        )
        yield from _sound_steps(view, "image", constant=False)
        return view

    def _ladder(self, device: str) -> Ladder:
        """Return the network on a device."""
        import torch

        from napari_btn.core.networks.vae import Ladder

        made = Ladder(len(self.channel_names), self.ndim, self.settings)
        made.load_state_dict({k: torch.tensor(v) for k, v in self.weights.items()})
        return made.to(device_for(device))

    # ---------------------------------------------------------------- files

    def save(self, path: str | Path) -> None:
        """Save the model as a bundle, safetensors without pickle; the file appears only when it is whole.

        Parameters
        ----------
        path : str or Path
        """
        values = {
            "kind": _KIND,
            "settings": self.settings.to_dict(),
            "seed": self.seed,
            "noise_model": self.noise_model.to_dict(),
            "bound": list(self.bound),
            "kl": list(self.kl),
            "axes": self.axes,
            "channel_names": list(self.channel_names),
            "notes": [n.to_dict() for n in self.notes],
            "provenance": self.provenance,
        }
        write_bundle(Bundle(values, dict(self.weights)), path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return the model of a file.

        Parameters
        ----------
        path : str or Path

        Raises
        ------
        ValueError
            If the file is damaged, newer, or not a variational model.
        """
        bundle = read_bundle(path)
        values = bundle.values
        if values.get("kind") != _KIND:
            raise ValueError(f"{path} holds no variational model; open it with napari_btn.load.")
        with reading(Path(path), _LACKS):
            made = cls(
                settings=VariationalSettings.from_dict(values["settings"]),
                seed=values["seed"],
                noise_model=NoiseModel.from_dict(values["noise_model"]),
                weights=bundle.arrays,
                bound=tuple(values["bound"]),
                kl=tuple(values["kl"]),
                axes=values["axes"],
                channel_names=tuple(values["channel_names"]),
                notes=tuple(Note.from_dict(n) for n in values["notes"]),
                provenance=values["provenance"],
            )
            # weights that don't fit are found now, not in the first draw
            made._ladder("cpu")
        return made


def _sound_steps(view: View, name: str, *, constant: bool) -> Step[None]:
    """Raise ``ValueError`` if an image is small, not finite, or (if asked) constant in a channel; a step."""
    short = min(view.space[-2:])
    size = " x ".join(str(n) for n in view.space)
    need(short >= _LEAST_SIDE, name, f"{size} px", f"at least {_LEAST_SIDE} px along Y and X")
    low, high = np.full(view.n_channels, np.inf), np.full(view.n_channels, -np.inf)
    for scene in range(view.n_scenes):
        for part in Box(scene, tuple(slice(0, n) for n in view.space)).slabs(_READ):
            yield Progress(scene, view.n_scenes, "Reading the images")
            values = view.read(scene, part).reshape(view.n_channels, -1)
            if not np.isfinite(values).all():
                raise ValueError(
                    f"{name.capitalize()} holds NaN or infinite values; fill or crop them first."
                )
            low, high = np.minimum(low, values.min(1)), np.maximum(high, values.max(1))
    if constant and (low == high).any():
        which = ", ".join(str(c) for c in np.flatnonzero(low == high))
        raise ValueError(f"Channel {which} of {name} is constant; there is nothing to learn. Leave it out.")


def _need_independent(noise_model: noise_models.NoiseModel, channels: int) -> None:
    """Raise ``ValueError`` unless a noise model is of so many channels, has noise, and none that is correlated."""
    noise_models.need_noise_model(noise_model, channels)
    if reach := int(noise_model.correlation_px.max()):
        raise ValueError(
            f"The noise is correlated over {reach} px, and a variational model would take it for structure; use "
            "members that learn from pairs or repeats instead."
        )
    none = (noise_model.gain == 0) & (noise_model.read_sd == 0) & (noise_model.multiplicative == 0)
    need(
        bool(noise_model.recorded) or not none.any(),
        "noise_model",
        "one without noise",
        "one with noise in each channel",
    )


def _notes(noise_model: noise_models.NoiseModel, kl: Sequence[float]) -> tuple[Note, ...]:
    """Return notes on latent variables that say nothing, and on a noise model of single images."""
    notes = []
    if sum(kl) < _UNUSED:
        notes.append(
            Note(
                "amber",
                f"The latent variables say {sum(kl):.1g} nats per value about the image, so draws are nearly alike; "
                "train for more steps, with a longer warm-up, or on more images.",
            )
        )
    if noise_model.source == "image":
        notes.append(
            Note(
                "amber",
                "The noise model was measured on the image itself; what it takes for noise is missing in all draws. A "
                "model of repeats or of a calibration of the detector is safer.",
            )
        )
    return tuple(notes)
