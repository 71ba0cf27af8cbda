"""Detection of members that learned nothing about a channel, although there is something to learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Collapse", "pinball_per_channel"]


class Collapse:
    """A test for collapsed members, on training patches.

    A member is compared with a linear fit on smoothed channels, both by their gain over constant quantiles.
    It is not compared with other members, because then more members would change earlier ones.

    Parameters
    ----------
    x, y : ndarray of float32, (B, C, *patch)
        Inputs and targets.
    levels : sequence of float
        Quantile levels.
    """

    def __init__(self, x: NDArray[np.float32], y: NDArray[np.float32], levels: Sequence[float]) -> None:
        # imported here, because workers need `pinball_per_channel` alone and must not wait for scipy
        from scipy import ndimage

        self.x, self.y = x, y
        space = tuple(range(2, x.ndim))
        constant = np.nanquantile(y.swapaxes(0, 1).reshape(y.shape[1], -1), levels, axis=1).T
        constant = constant.reshape(1, *constant.shape, *(1,) * (y.ndim - 2))
        self.constant = pinball_per_channel(constant, y, levels)
        features = [np.ones((x.shape[0], 1, *x.shape[2:]), np.float32)]
        features += [ndimage.gaussian_filter(x, (0, 0, *(s,) * len(space))) for s in (1.0, 2.0, 4.0)]
        design = np.concatenate(features, 1).swapaxes(0, 1)
        design = design.reshape(design.shape[0], -1).T
        fit = np.empty_like(y)
        for c in range(y.shape[1]):
            target = y[:, c].reshape(-1)
            known = np.isfinite(target)
            coefficients = np.linalg.lstsq(design[known], target[known], rcond=None)[0]
            fit[:, c] = (design @ coefficients).reshape(y[:, c].shape)
        residual = np.nanquantile((y - fit).swapaxes(0, 1).reshape(y.shape[1], -1), levels, axis=1).T
        linear = fit[:, :, None] + residual.reshape(1, *residual.shape, *(1,) * len(space))
        skill = 1 - pinball_per_channel(linear, y, levels) / np.maximum(self.constant, 1e-12)
        # a constant channel is fitted exactly, but there is nothing to learn in it
        varies = np.nanmax(y, axis=(0, *space)) > np.nanmin(y, axis=(0, *space))
        self.linear_skill = np.where(varies, skill, 0.0)
        self.sd = np.nanstd(y, axis=(0, *space))
        self.linear_sd = fit.std(axis=(0, *space))

    def channels(self, loss: NDArray[np.float64], sd: NDArray[np.float64], *, end: bool) -> NDArray[np.intp]:
        """Return the channels in which a member has collapsed.

        Parameters
        ----------
        loss : ndarray of float, (C,)
            Pinball loss of the member.
        sd : ndarray of float, (C,)
            Standard deviation of its median.
        end : bool
            True at the end of training, when the median must vary as well.
        """
        skill = 1 - loss / np.maximum(self.constant, 1e-12)
        bad = (self.linear_skill > 0.02) & (skill < 0.5 * self.linear_skill)
        if end:
            bad |= (sd <= 0.1 * self.sd) & (self.linear_sd > 0.2 * self.sd)
        return np.flatnonzero(bad)


def pinball_per_channel(q: NDArray[Any], y: NDArray[Any], levels: Sequence[float]) -> NDArray[np.float64]:
    """Return the mean pinball loss per channel, (C,); NaN targets don't count.

    Parameters
    ----------
    q : ndarray, (B, C, L, *space)
        Quantiles.
    y : ndarray, (B, C, *space)
        Targets.
    levels : sequence of float
        Quantile levels.
    """
    level = np.asarray(levels).reshape(1, 1, -1, *(1,) * (y.ndim - 2))
    diff = y[:, :, None] - q
    loss = np.maximum(level * diff, (level - 1) * diff)
    axes = (0, *range(2, loss.ndim))
    return np.asarray(np.nanmean(loss, axis=axes), float)
