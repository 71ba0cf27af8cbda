"""The network of the variational model: a ladder of latent variables, from coarse to fine, over an image.

All that the decoder knows of the noisy image passes through the latent variables: there is no skip around them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from napari_btn.core.networks.trunk import cut

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from napari_btn.core.settings import VariationalSettings

__all__ = [
    "Ladder",
]

_LEAST_SD = 1e-3  # of a latent variable
_UNIT = 0.5413  # softplus of it is one
_RESIDUAL = 0.3  # size of a block's change at the start


@dataclass(frozen=True)
class _Passed:
    """A pass of images through the ladder.

    Parameters
    ----------
    signal : Tensor, (B, C, *space)
        Signal of the drawn latent variables, in the unit of the image.
    kl : tuple of Tensor, (B,)
        Divergence of posterior from prior of each level in nats, finest level first.
    """

    signal: torch.Tensor
    kl: tuple[torch.Tensor, ...]


class Ladder(nn.Module):
    """Encoder and decoder of a hierarchy of latent variables, fully convolutional and without normalisation.

    Level *k* has latent variables at 1/2**(k + 1) of the resolution. The coarsest ones have a standard normal prior,
    that of each finer level depends on the coarser ones.

    Parameters
    ----------
    channels : int
        Channels of the image.
    ndim : int
        Spatial dimensions, 2 or 3.
    settings : VariationalSettings

    References
    ----------
    Prakash, Delbracio, Milanfar and Jug, "Interpretable unsupervised diversity denoising and artefact removal"
    (HDN), ICLR 2022, arXiv 2104.01374; Sønderby et al., "Ladder variational autoencoders", NeurIPS 2016.
    """

    levels: int
    loc: torch.Tensor
    scale: torch.Tensor
    floor: torch.Tensor
    grows: torch.Tensor

    def __init__(self, channels: int, ndim: int, settings: VariationalSettings) -> None:
        super().__init__()
        self.channels, self.ndim, self.levels = channels, ndim, settings.levels
        self.latent = settings.latent
        width, levels = settings.width, range(settings.levels)
        for name in ("loc", "floor", "grows"):
            self.register_buffer(name, torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        self.read = _convolution(channels, width, 3, ndim)
        self.down = nn.ModuleList(_Block(width, width, ndim) for _ in levels)
        top = settings.levels - 1
        self.posterior = nn.ModuleList(
            _convolution(width * (1 + (k < top)), 2 * self.latent, 1, ndim) for k in levels
        )
        self.prior = nn.ModuleList(_convolution(width, 2 * self.latent, 1, ndim) for k in levels if k < top)
        self.up = nn.ModuleList(_Block(self.latent + width * (k < top), width, ndim) for k in levels)
        self.smooth = _Block(width, width, ndim)
        self.write = _convolution(width, channels, 1, ndim)
        # the fastest order of memory on a CPU, which all layers keep
        self.to(memory_format=(torch.channels_last, torch.channels_last_3d)[ndim - 2])  # type: ignore[call-overload]

    @property
    def alignment(self) -> int:
        """Tiles begin at multiples of so many pixels."""
        return 1 << self.levels

    @property
    def reach(self) -> int:
        """Pixels to each side that a pixel of the signal depends on, at most."""
        coarse = sum(1 << (k + 1) for k in range(self.levels))
        # convolutions: one to read, two to write, two of each level down and up; interpolation sees one cell further
        return 3 + 5 * coarse + 2 * (self.alignment - 1)

    @property
    def multiplications(self) -> float:
        """Multiplications per pixel of the image in a pass."""
        total = 0.0
        for name, part in self.named_modules():
            if isinstance(part, nn.Conv2d | nn.Conv3d):
                _, *level = name.split(".")
                coarse = 2 ** (int(level[0]) + 1) if level and level[0].isdigit() else 1
                total += part.weight.numel() / coarse**self.ndim
        return total

    def sizes(self, space: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the shape of the latent variables of each level for an image of so many pixels.

        Parameters
        ----------
        space : sequence of int
        """
        cells = [-(-n // self.alignment) for n in space]
        return [tuple(n * self.alignment // 2 ** (k + 1) for n in cells) for k in range(self.levels)]

    @torch.no_grad()
    def start(
        self, pixels: np.ndarray, floor: np.ndarray, grows: np.ndarray, generator: torch.Generator
    ) -> None:
        """Set scaling by some pixels, and draw all weights.

        Parameters
        ----------
        pixels : ndarray of float32, (C, n)
            Values of the noisy image.
        floor : ndarray of float, (C,)
            Least signal of channels whose noise grows with it.
        grows : ndarray of bool, (C,)
            True for these channels.
        generator : torch.Generator
        """
        self.loc.copy_(torch.as_tensor(pixels.mean(1)))
        self.scale.copy_(torch.as_tensor(pixels.std(1)).clamp_min(1e-12))
        self.floor.copy_(torch.as_tensor(floor))
        self.grows.copy_(torch.as_tensor(grows))
        for part in self.modules():
            if isinstance(part, nn.Conv2d | nn.Conv3d):
                fan = part.weight[0].numel()
                part.weight.normal_(0, fan**-0.5, generator=generator)
                assert part.bias is not None
                part.bias.zero_()
            if isinstance(part, _Block):
                part.second.weight.mul_(_RESIDUAL)
        for head in (*self.posterior, *self.prior, self.write):
            head.weight.mul_(_RESIDUAL)
        # the signal begins near the mean of the image
        above = ((self.loc - self.floor) / self.scale).clamp_min(1e-3)
        bias = torch.where(self.grows > 0, above + torch.log(-torch.expm1(-above)), 0.0)
        assert self.write.bias is not None
        self.write.bias.copy_(bias)

    def forward(self, x: torch.Tensor, noise: Sequence[torch.Tensor]) -> _Passed:
        """Draw latent variables of images, and return their signal.

        Parameters
        ----------
        x : Tensor, (B, C, *space)
            In the unit of the image.
        noise : sequence of Tensor, (B, latent, *cells)
            Standard normal values for each level; see `sizes`.
        """
        return self.decode(self.encode(x), noise, x.shape[2:])

    def decode(
        self, found: Sequence[torch.Tensor], noise: Sequence[torch.Tensor], space: Sequence[int]
    ) -> _Passed:
        """Draw latent variables of encoded images, and return their signal.

        Parameters
        ----------
        found : sequence of Tensor, (B, width, *cells)
            Result of `encode`.
        noise : sequence of Tensor, (B, latent, *cells)
            As in `forward`.
        space : sequence of int
            Shape of the images along their space axes.
        """
        kl: list[torch.Tensor] = []
        state: torch.Tensor | None = None
        for k in reversed(range(self.levels)):
            seen = found[k]
            mean, sd = torch.zeros(()), torch.ones(())
            if state is not None:
                mean, sd = _normal(self.prior[k](state))
                seen = torch.cat([seen, state], 1)
            change, own_sd = _normal(self.posterior[k](seen))
            z = mean + change + own_sd * noise[k]
            apart = torch.log(sd / own_sd) + (own_sd.square() + change.square()) / (2 * sd.square()) - 0.5
            kl.insert(0, apart.flatten(1).sum(1))
            state = self.up[k](z if state is None else torch.cat([z, state], 1))
            # repeated cells would leave their grid in the draws
            state = F.interpolate(state, scale_factor=2, mode=("bilinear", "trilinear")[self.ndim - 2])
        made = self.write(self.smooth(state))
        scale = self._column(self.scale)
        signal = torch.where(
            self._column(self.grows) > 0,
            self._column(self.floor) + scale * F.softplus(made),
            self._column(self.loc) + scale * made,
        )
        return _Passed(cut(signal, [slice(0, n) for n in space]), tuple(kl))

    def encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return what the encoder sees at each level, (B, width, *cells), finest first.

        Parameters
        ----------
        x : Tensor, (B, C, *space)
            In the unit of the image.
        """
        x = (x - self._column(self.loc)) / self._column(self.scale)
        beyond = [-n % self.alignment for n in x.shape[2:]]
        x = F.pad(x, [m for n in reversed(beyond) for m in (0, n)], mode="replicate")
        x = F.silu(self.read(x))
        pool = (F.avg_pool2d, F.avg_pool3d)[self.ndim - 2]
        found = []
        for block in self.down:
            x = block(pool(x, 2))
            found.append(x)
        return found

    def _column(self, values: torch.Tensor) -> torch.Tensor:
        """Return values of each channel in the shape of an image."""
        return values.reshape(1, -1, *(1,) * self.ndim)


class _Block(nn.Module):
    """Two convolutions of 3 pixels a side, added to the input."""

    def __init__(self, n_in: int, n_out: int, ndim: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(n_in, n_out, 3, ndim), _convolution(n_out, n_out, 3, ndim)
        self.past = _convolution(n_in, n_out, 1, ndim) if n_in != n_out else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features (B, n_out, *space)."""
        made: torch.Tensor = self.past(x) + self.second(F.silu(self.first(x)))
        return made


def _convolution(n_in: int, n_out: int, side: int, ndim: int) -> nn.Conv2d | nn.Conv3d:
    """Return a convolution of the same size out as in; its weights are drawn by `Ladder.start`."""
    kind = (nn.Conv2d, nn.Conv3d)[ndim - 2]
    # made without values, so that nothing is drawn from the global state
    with torch.device("meta"):
        made = kind(n_in, n_out, side, padding=side // 2)
    return made.to_empty(device="cpu")


def _normal(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation, of one half of the channels each."""
    mean, raw = values.chunk(2, 1)
    return mean, F.softplus(raw + _UNIT) + _LEAST_SD
