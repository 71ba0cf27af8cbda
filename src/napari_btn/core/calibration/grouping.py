"""Groups of pixels that are calibrated apart: tokens of the noisy image, or a mask; never the target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.image import Box, View, values_at, whole_boxes
from napari_btn.core.settings import TokenSettings
from napari_btn.core.tokens.learn import fit_steps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_btn.core.inference.latents import LatentSource
    from napari_btn.core.progress import Step
    from napari_btn.core.tokens.learn import TokenModel

__all__ = ["Grouping", "leaf_map_steps", "leaves_at_steps", "mask_grouping", "model_steps"]

NO_LEAF = 255
_CELL = {2: 256, 3: 64}


@dataclass(frozen=True, eq=False)
class Grouping:
    """Groups of held-out pixels that are calibrated apart.

    Parameters
    ----------
    count : int
        Number of groups: tokens that the palette is cut into, or the largest number in the mask.
    held_out : ndarray of int64, shape (n,)
        Leaf of the palette at each held-out pixel; or its number in the mask less one, -1 for none.
    model : TokenModel, optional
        Gives any pixel its leaf; None where the groups are those of a mask.
    reported : ndarray of int64, shape (m,), optional
        The same for the pixels that the report is measured on, where those differ.
    """

    count: int
    held_out: NDArray[np.int64]
    model: TokenModel | None = None
    reported: NDArray[np.int64] | None = None

    @property
    def name(self) -> str:
        """Word for a group: "token" or "group"."""
        return "group" if self.model is None else "token"

    @property
    def parents(self) -> list[int] | None:
        """Parent of each node of the tree whose first nodes are the groups, for `calibrate_groups`."""
        if self.model is None:
            return None
        palette, count = self.model.palette, self.count
        number = palette.numbers(count, self.model.base)
        place = {int(node): int(number[node]) - 1 for node in palette.cut(count)}
        parents = [-1] * (2 * count - 1)
        for made, pair in enumerate(palette.merges[palette.size - count :]):
            node = 2 * palette.size - count + made
            place[node] = count + made
            for child in pair:
                parents[place[int(child)]] = place[node]
        return parents

    def groups(self, member: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
        """Return the group of each pixel.

        Parameters
        ----------
        member : ndarray of int
            Leaves, or numbers in the mask less one.

        Returns
        -------
        ndarray of int
            0 to ``count - 1``, in the order of the tokens' numbers; -1 for none.
        """
        if self.model is None:
            return np.asarray(member)
        palette = self.model.palette
        number = palette.numbers(self.count, self.model.base)
        nodes = np.flatnonzero(number)
        table = np.full(NO_LEAF + 1, -1, dtype=np.int16)
        table[: palette.size] = number[nodes] @ palette.leaves[nodes] - 1
        return np.asarray(table[member])


def mask_grouping(
    mask: View, held_out: NDArray[np.int64], reported: NDArray[np.int64] | None = None
) -> Grouping:
    """Return groups from a painted mask.

    Parameters
    ----------
    mask : View
        Group of each pixel from 1, 0 for none; one scene counts for all.
    held_out : ndarray of int64, shape (n, 1 + ndim)
        Scene and index of each held-out pixel.
    reported : ndarray of int64, shape (m, 1 + ndim), optional
        The same for the pixels that the report is measured on.

    Returns
    -------
    Grouping
        Without a tree.

    Raises
    ------
    ValueError
        If the mask doesn't reach as far as the held-out pixels, or holds none of them.
    """

    def member(position: NDArray[np.int64]) -> NDArray[np.int64]:
        if position.shape[1] != 1 + mask.ndim or (position[:, 1:].max(axis=0) >= mask.space).any():
            raise ValueError(
                f"The groups have shape {mask.space}; held-out pixels lie at up to {position[:, 1:].max(axis=0)}. "
                "Give a mask over the field that was calibrated on."
            )
        at = (
            position
            if mask.n_scenes > 1
            else np.column_stack([np.zeros_like(position[:, 0]), position[:, 1:]])
        )
        return np.asarray(values_at(mask, at)[0], dtype=np.int64) - 1

    found = member(held_out)
    if found.max(initial=-1) < 0:
        raise ValueError("No held-out pixel lies in a group; paint groups (from 1) over held-out pixels too.")
    other = None if reported is None else member(reported)
    return Grouping(int(found.max()) + 1, found, None, other)


def model_steps(source: LatentSource, noisy: View, count: int, *, seed: int = 0) -> Step[TokenModel]:
    """Learn tokens from a noisy image alone; a step.

    Parameters
    ----------
    source : LatentSource
        The image's latents.
    noisy : View
        The image; its values order the tokens.
    count : int
        Tokens that will be asked for.
    seed : int
        Seed of the learning.

    Returns
    -------
    TokenModel
        It does not depend on a target, as conditional coverage requires.
    """

    def values(position: NDArray[np.intp]) -> NDArray[np.float32]:
        return np.asarray(np.nan_to_num(values_at(noisy, position)))

    model = yield from fit_steps(source, values, TokenSettings(n_tokens=count), seed=seed)
    return model


def leaves_at_steps(
    source: LatentSource, model: TokenModel, position: NDArray[np.int64]
) -> Step[NDArray[np.int64]]:
    """Return the leaf of the palette at given pixels; a step.

    Parameters
    ----------
    source : LatentSource
        The image's latents, of the members that the model was learned from.
    model : TokenModel
        Projection and palette.
    position : ndarray of int64, shape (n, 1 + ndim)
        Scene and index of each pixel.

    Returns
    -------
    ndarray of int64, shape (n,)
        The same as `leaf_map_steps` returns there.
    """
    found = np.empty(len(position), dtype=np.int64)
    side = _CELL[len(source.space)]
    cell = np.column_stack([position[:, :1], position[:, 1:] // side])
    _, cells = np.unique(cell, axis=0, return_inverse=True)
    order = np.argsort(cells.reshape(-1), kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(cells.reshape(-1)))[:-1])
    for rows in parts:
        here = position[rows]
        low, high = here[:, 1:].min(axis=0), here[:, 1:].max(axis=0) + 1
        box = Box(int(here[0, 0]), tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)))
        leaves = np.empty(box.shape, dtype=np.uint8)
        for progress, tile in source.project(list(model.projection.weights), [box], model.projection.margin):
            if tile is not None:
                at = tuple(
                    slice(w.start - int(a), w.stop - int(a)) for w, a in zip(tile.write, low, strict=True)
                )
                leaves[at] = _leaves(model, model.projection.components(tile))
            yield replace(progress, note="Grouping the held-out pixels by token")
        found[rows] = leaves[tuple((here[:, 1:] - low).T)]
    return found


def leaf_map_steps(source: LatentSource, model: TokenModel) -> Step[NDArray[np.uint8]]:
    """Return the leaf of the palette of every pixel of an image; a step.

    Parameters
    ----------
    source : LatentSource
        The image's latents, of the members that the model was learned from.
    model : TokenModel
        Projection and palette.

    Returns
    -------
    ndarray of uint8, shape (S, *space)
        One byte per pixel.
    """
    out = np.full((source.scenes, *source.space), NO_LEAF, dtype=np.uint8)
    whole = whole_boxes(source.space, source.scenes)
    for progress, tile in source.project(list(model.projection.weights), whole, model.projection.margin):
        if tile is not None:
            out[tile.scene][tile.write] = _leaves(model, model.projection.components(tile))
        yield replace(progress, note="Grouping pixels by token")
    return out


def _leaves(model: TokenModel, points: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the leaf nearest to each point (D, *space)."""
    flat = points.reshape(len(points), -1).T
    return model.palette.finest(flat).reshape(points.shape[1:])
