"""The base of trunks: methods that a family must write, and passes by autograd that it may replace."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Trunk", "cut", "orthogonal", "point", "rows_of"]


def cut(x: torch.Tensor, part: Sequence[slice]) -> torch.Tensor:
    """Return a view of a part of the space.

    Parameters
    ----------
    x : Tensor, (B, C, *space)
    part : sequence of slice
        One per space axis.
    """
    view: torch.Tensor = x[(slice(None), slice(None), *part)]
    return view


def rows_of(x: torch.Tensor, members: int) -> torch.Tensor:
    """Return (B, M * C, *space) as (B, *space, M, C), without a copy where channels are last in memory.

    Parameters
    ----------
    x : Tensor, (B, M * C, *space)
    members : int
    """
    rows: torch.Tensor = x.movedim(1, -1).unflatten(-1, (members, -1))
    return rows


def point(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return each member's 1x1 convolution, as a matrix product over the rows.

    Parameters
    ----------
    rows : Tensor, (B, *space, M, in)
    weight : Tensor, (M, out, in)
    bias : Tensor, (M, out), optional
    """
    if len(weight) == 1:
        return F.linear(rows, weight[0], None if bias is None else bias[0])
    made = torch.einsum("...mi,moi->...mo", rows, weight)
    return made if bias is None else made + bias


class Trunk(nn.Module, ABC):
    """Features of some members, which run side by side as the groups of one module.

    A family writes `forward` and `weights`. The other methods have defaults that train any trunk by
    autograd; a family overrides them where it knows a faster way to the same numbers.

    Every parameter has the member as its first axis. Kernels are named ``..._weight`` and have the axes
    (M, out, in, *kernel), because the optimiser treats them as matrices; constants are named ``..._bias``,
    begin at zero, and stay there in bias-free members.
    """

    @abstractmethod
    def forward(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the features (B, M * width, *space), layer by layer.

        Parameters
        ----------
        x : Tensor, (B, M * C, *space)
            The scaled input of each member.
        """

    @abstractmethod
    def weights(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        """Yield (weight, bias) of the layer of each feature."""

    def initialise(self, x: torch.Tensor, rng: np.random.Generator) -> None:
        """Set a lone member's weights: orthogonal, then scaled to features of unit variance on one batch.

        Parameters
        ----------
        x : Tensor, (B, C, *space)
            A scaled batch.
        rng : numpy.random.Generator
            The member's own generator.

        References
        ----------
        Mishkin & Matas, "All you need is a good init", ICLR 2016.
        """
        for weight, _ in self.weights():
            weight.copy_(orthogonal(weight.shape, rng))
        for layer, (weight, _) in enumerate(self.weights()):
            for t, feature in enumerate(self(x)):
                if t == layer:
                    # after a ReLU half of a unit-variance signal's mean square is left
                    weight.mul_(1.0 / feature.square().mean().mul(2.0).sqrt().clamp_min(1e-6))
                    break

    def features(self, x: torch.Tensor, keep: Sequence[slice] | None = None) -> Iterator[torch.Tensor]:
        """Yield the features of a part of the space, (B, M * width, *kept).

        Parameters
        ----------
        x : Tensor, (B, M * C, *space)
        keep : sequence of slice, optional
            The part that is wanted; all of it by default.
        """
        for feature in self(x):
            yield feature if keep is None else cut(feature, keep)

    def hidden(
        self,
        x: torch.Tensor,
        heads: Sequence[torch.Tensor],
        bias: torch.Tensor,
        keep: Sequence[slice] | None = None,
    ) -> torch.Tensor:
        """Return the hidden layer before its ReLU, (B, *kept, M, units), with gradients.

        Parameters
        ----------
        x : Tensor, (B, M * C, *space)
        heads : sequence of Tensor, (M, units, width)
            One per feature.
        bias : Tensor, (M, units)
        keep : sequence of slice, optional
            The part of the space that is wanted; all of it by default.
        """
        # gradients keep every feature anyway, and one wide product is faster than many thin ones
        rows = torch.cat([rows_of(f, len(bias)) for f in self.features(x, keep)], -1)
        return point(rows, torch.cat(list(heads), 2), bias)

    def predicted_hidden(
        self,
        x: torch.Tensor,
        heads: Sequence[torch.Tensor],
        bias: torch.Tensor,
        *,
        keep: Sequence[slice] | None,
        between: Callable[[], None],
    ) -> torch.Tensor:
        """Return the hidden layer before its ReLU, (B, *kept, M, units), without gradients.

        Parameters
        ----------
        x : Tensor, (B, M * C, *space)
        heads : sequence of Tensor, (M, units, width)
            One per feature.
        bias : Tensor, (M, units)
        keep : sequence of slice, optional
            The part of the space that is wanted; None for all of it.
        between : callable
            Called before each feature is added; where it raises, the work ends.
        """
        members = len(bias)
        hidden = x.new_zeros(())
        for t, feature in enumerate(self.features(x, keep)):
            between()
            rows = rows_of(feature, members)
            if t == 0:
                hidden = bias.expand(*rows.shape[:-1], -1).contiguous()
            if members == 1:
                # added in place: at 32 units a pass over the sums costs as much as the product
                hidden.view(-1, hidden.shape[-1]).addmm_(rows.reshape(-1, rows.shape[-1]), heads[t][0].t())
            else:
                hidden += point(rows, heads[t])
        return hidden

    def grouped_hidden(
        self, x: torch.Tensor, heads: Sequence[torch.Tensor], bias: torch.Tensor
    ) -> torch.Tensor:
        """Return the hidden layers before their ReLU, (B, M, units, N), each of a batch of its own, with gradients.

        Parameters
        ----------
        x : Tensor, (B, M, C, *space)
            The scaled inputs; no gradient need go back to them.
        heads : sequence of Tensor, (M, units, width)
            One per feature.
        bias : Tensor, (M, units)
        """
        members = x.shape[1]
        latent = torch.cat([f.unflatten(1, (members, -1)).flatten(3) for f in self(x.flatten(1, 2))], 2)
        return torch.matmul(torch.cat(list(heads), 2), latent) + bias[..., None]


def orthogonal(shape: Sequence[int], rng: np.random.Generator) -> torch.Tensor:
    """Draw rows that are orthonormal over the flattened kernel.

    Parameters
    ----------
    shape : sequence of int
        Shape of the kernel, (1, out, in, *kernel).
    rng : numpy.random.Generator
    """
    rows = int(shape[1])
    columns = math.prod(shape[2:])
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))
    matrix = q if rows >= columns else q.T
    return torch.from_numpy(np.ascontiguousarray(matrix.reshape(tuple(shape))).astype(np.float32))
