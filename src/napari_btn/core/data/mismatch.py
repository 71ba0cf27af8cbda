"""Checks that noisy and clean belong together: swapped, unrelated, both noisy, or one contained in the other.

All figures come from pixels next to each other (second differences along Y and X, in which noise dominates) and
from smoothed images, so that neither needs the units of the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import fft, ndimage

from napari_btn.core.data.image import middle_of_space
from napari_btn.core.progress import Note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.data.pairs import Scenes

    _One = tuple[
        NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]
    ]  # noisy, clean, pixels that count

__all__ = ["match_of", "mismatch_notes", "same_field_notes"]

_SCENES, _CHANNELS, _PLANES = 8, 4, 16  # most that are compared
_COMPARED = 1_000_000  # pixels of each image, about
_SIGMA_PX = 2.0  # smoothing before images are compared
_COARSE_PX = 12.0  # coarser structure, such as uneven light, is alike in many images
_REACH_PX = 24  # images that are farther apart are not one field
_BLOCK_PX = 16
_FLAT = 0.25  # share of the blocks, the flattest, in which noise is compared
_FLAT_NOISE = 0.02  # least share of the detail of noisy in them: without counts there is no noise
_ALIKE, _ABOVE_CHANCE = 0.3, 6.0  # correlation, and peak in standard deviations, of one field
_SWAPPED, _AS_NOISY = 2.0, 0.5  # noise variance of clean relative to that of noisy
_OWN = 0.3  # least share of the finest detail of clean that noisy lacks, if it is noise
_ALL_OWN = 0.8  # the same where a shift by parts of a pixel may hide common detail
_CONTAINED = (0.045, 0.6)  # share of the noise of noisy in clean: a mean of 2 to about 22 frames
_ONE_FIELD = 0.6  # correlation of neighbouring scenes that show one field
_WHITE = 2.0  # most variance at twice the distance, relative to that of neighbours, of detail that is noise


@dataclass(frozen=True)
class _Match:
    """The agreement of a noisy and a clean image.

    Parameters
    ----------
    correlation : float
        Largest correlation of the smoothed images within 24 px, -1 to 1.
    above_chance : float
        The same in standard deviations of the correlation at longer shifts.
    noise : float
        Noise variance of clean relative to that of noisy, in units of the signal; NaN if unknown.
    own : float
        Share of the finest detail of clean that noisy lacks.
    shared : float
        Share of the noise of noisy that clean holds, as they lie or with clean moved; NaN if unknown.
    coarser : float
        Variance of what they share between pixels two apart, relative to that between neighbours: 1 for noise.
    aligned : bool
        True if the images lie on each other to a pixel.
    """

    correlation: float
    above_chance: float
    noise: float
    own: float
    shared: float
    coarser: float
    aligned: bool


def mismatch_notes(scenes: Scenes, *, clean: bool = True) -> tuple[Note, ...]:
    """Return red notes on a clean image that can't be the target of the noisy one.

    Parameters
    ----------
    scenes : Scenes
    clean : bool
        False where targets are noisy by intention: then only another field is noted.
    """
    match = match_of(scenes)
    if match is None:
        return ()
    if abs(match.correlation) < _ALIKE and match.above_chance < _ABOVE_CHANCE:
        text = (
            f"Noisy and clean are no more alike than chance (correlation {match.correlation:.2f} after smoothing): "
            "they show different fields, or one of them holds noise only. Pick two images of one field."
        )
    elif not clean:
        return ()
    elif match.noise > _SWAPPED and match.own > _OWN:
        times = f"about {match.noise:.2g}" if match.noise < 100 else "more than 100"
        text = (
            f"Clean is noisier than noisy ({times} times its noise variance): the two seem to be swapped. "
            "Pick the fast, noisy image as noisy and the slow, clean one as clean."
        )
    elif match.noise > _AS_NOISY and match.own > (_OWN if match.aligned else _ALL_OWN):
        text = (
            f"Clean is about as noisy as noisy ({match.noise:.1f} times its noise variance), like another noisy "
            "frame: intervals would be those of noisy values, and far too wide for the clean signal. Give a slower "
            "image, or the mean of other repeats."
        )
    elif _CONTAINED[0] < match.shared < _CONTAINED[1] and match.coarser < _WHITE:
        text = (
            f"Clean holds {100 * match.shared:.0f} % of the noise of noisy, as the mean of about "
            f"{1 / match.shared:.0f} repeats that contains this one does: intervals would be too narrow. Leave this "
            "repeat out of the mean."
        )
    else:
        return ()
    return (Note("red", text),)


def same_field_notes(scenes: Scenes) -> tuple[Note, ...]:
    """Return an amber note if neighbouring scenes show one field, as the frames of a series do.

    At most 8 pairs of neighbours, one channel, and the middle of large images are compared, within shifts of 24 px.

    Parameters
    ----------
    scenes : Scenes
        Of several fields, as they were given.
    """
    count = scenes.clean.n_scenes
    if (
        scenes.one_field
        or count < 3
        or scenes.noisy.n_frames > 1
        or min(scenes.clean.space[-2:]) < 2 * _BLOCK_PX
    ):
        return ()
    box = middle_of_space(scenes.clean.space)
    alike = []
    for scene in _some(count - 1, _SCENES):
        first, second = (scenes.read_clean(s, box)[0] for s in (scene, scene + 1))
        bands = [_band(image, np.isfinite(image)) for image in (first, second)]
        power = float(np.sqrt(np.prod([np.square(band).sum() for band in bands])))
        if power == 0:
            return ()
        near, far, _ = _peak([(bands[0], bands[1])])
        alike.append(near / power if near > _ABOVE_CHANCE * far else 0.0)
    middle = float(np.median(alike))
    if middle < _ONE_FIELD:
        return ()
    text = (
        f"Neighbouring scenes look like one field (correlation {middle:.2f} after smoothing), as frames of a series "
        "do. They count as independent fields, so that the reported coverage looks surer than it is, and other fields "
        "may be covered less. If they are frames of one field, name its axes with T instead of S."
    )
    return (Note("amber", text),)


def match_of(scenes: Scenes) -> _Match | None:
    """Return how well noisy and clean go together; None for images that are too small to say.

    At most 8 scenes and 4 channels, and the middle of large images, are compared; the channel in which they are
    most alike is returned.

    Parameters
    ----------
    scenes : Scenes
    """
    if min(scenes.noisy.space[-2:]) < 2 * _BLOCK_PX or scenes.noisy.n_channels != scenes.clean.n_channels:
        return None
    *planes, rows, columns = middle_of_space(scenes.noisy.space)
    middle = [slice((p.start + p.stop - n) // 2, (p.start + p.stop + n) // 2)
              for p in planes if (n := min(_PLANES, p.stop - p.start))]  # fmt: skip
    box = (*middle, rows, columns)
    channels = _some(scenes.noisy.n_channels, _CHANNELS)
    each = len(channels) * int(np.prod([b.stop - b.start for b in box]))
    shown = _some(scenes.noisy.n_scenes, min(max(_COMPARED // each, 1), _SCENES))
    read = [(scenes.read_noisy(s, box), scenes.read_clean(s, box)) for s in shown]
    known = [np.asarray(np.isfinite(y).all(0) & np.isfinite(x).all(0)) for x, y in read]
    found = []
    for c in channels:
        match = _compared([(x[c], y[c], k) for (x, y), k in zip(read, known, strict=True)])
        if match is not None:
            found.append(match)
    return max(found, key=lambda m: m.above_chance, default=None)


def _some(count: int, most: int) -> list[int]:
    """Return evenly spread indices below a count, at most ``most`` of them."""
    return [int(n) for n in np.unique(np.linspace(0, count - 1, most).round())]


def _compared(pairs: Sequence[_One]) -> _Match | None:
    """Compare one channel of several scenes; None if there is nothing to compare."""
    bands = [(_band(x, known), _band(y, known)) for x, y, known in pairs]
    power = np.sum([[np.square(x).sum(), np.square(y).sum()] for x, y in bands], axis=0)
    if not power.all():
        return None
    near, far, shift = _peak(bands)
    blocks = _all_blocks(pairs, shift)
    if not len(blocks) or not blocks[:, :2].any(0).all():
        return None
    total = blocks.mean(0)
    # white noise that is left in the smoothed images is no signal
    variance = power / sum(known.size for *_, known in pairs)
    signal = np.maximum(variance - _left(pairs[0][0].ndim) * total[:2], 0.1 * variance)
    gain = float(np.sqrt(signal[0] / signal[1]))
    noisy, clean, shared = total[0], gain**2 * total[1], gain * total[2]
    # sparse counts may look moved by a pixel, but a frame lies in its mean without a move
    at = [blocks] if not any(shift) else [blocks, _all_blocks(pairs, (0,) * len(shift))]
    flat = max((_flattest(b) for b in at if len(b)), key=lambda found: found[2])
    return _Match(
        correlation=near / float(np.sqrt(power.prod())),
        above_chance=abs(near) / max(far, 1e-30),
        noise=float((clean - shared) / max(noisy - shared, 1e-3 * noisy)),
        own=float(1 - shared / clean),
        shared=float(gain * flat[2] / flat[0]) if flat[0] > 0 else np.nan,
        coarser=float(flat[3] / flat[2]) if flat[2] > 0 else np.inf,
        aligned=not any(shift),
    )


def _band(image: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the structure of 2 to 12 px, zero where a pixel doesn't count."""
    filled = np.where(known, image, image[known].mean() if known.any() else 0).astype(np.float64)
    made = ndimage.gaussian_filter(filled, _SIGMA_PX) - ndimage.gaussian_filter(filled, _COARSE_PX)
    return np.asarray(np.where(known, made, 0))


def _peak(
    bands: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> tuple[float, float, tuple[int, ...]]:
    """Return the largest cross-correlation of nearby shifts, the spread at long shifts, and the shift."""
    shape = bands[0][0].shape
    product = np.sum([fft.rfftn(x) * np.conj(fft.rfftn(y)) for x, y in bands], axis=0)
    made = fft.fftshift(fft.irfftn(product, shape))
    middle = [n // 2 for n in shape]
    reach = [min(_REACH_PX, n // 4) for n in shape]
    window = tuple(slice(m - r, m + r + 1) for m, r in zip(middle, reach, strict=True))
    inside = made[window]
    place = np.unravel_index(int(np.abs(inside).argmax()), inside.shape)
    outside = np.ones(shape, bool)
    outside[window] = False
    shift = tuple(int(p) - r for p, r in zip(place, reach, strict=True))
    return float(inside[place]), float(np.sqrt(np.square(made[outside]).mean())), shift


def _moved(
    image: NDArray[np.float32], known: NDArray[np.bool_], shift: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return an image and its mask, moved by whole pixels; pixels from beyond the border don't count."""
    axes = tuple(range(image.ndim))
    counts = np.roll(known, shift, axes)
    for axis, by in enumerate(shift):
        np.moveaxis(counts, axis, 0)[slice(0, by) if by >= 0 else slice(by, None)] = False
    return np.roll(image, shift, axes), counts


def _blocks(
    noisy: NDArray[np.float32], clean: NDArray[np.float32], known: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return variances of both, and covariances at one and two pixels, of the finest detail in each block, (n, 4)."""
    x, y, x2, y2 = (_detail(image, step) for step in (1, 2) for image in (noisy, clean))
    inside = ndimage.binary_erosion(known, np.ones((1,) * (known.ndim - 2) + (5, 5), bool))
    products = np.stack([x * x, y * y, x * y, x2 * y2, inside], axis=-1)
    *planes, height, width = known.shape
    rows, columns = height // _BLOCK_PX, width // _BLOCK_PX
    cut = products[..., : rows * _BLOCK_PX, : columns * _BLOCK_PX, :]
    means = cut.reshape(*planes, rows, _BLOCK_PX, columns, _BLOCK_PX, 5).mean((-4, -2)).reshape(-1, 5)
    return np.asarray(means[means[:, 4] >= 0.7, :4])  # the border of the image doesn't count


def _all_blocks(pairs: Sequence[_One], shift: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the blocks of several scenes, with clean moved."""
    return np.concatenate([_blocks(x, *_moved(y, known, shift)) for x, y, known in pairs])


def _flattest(blocks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of the blocks with the least detail of clean, which hold enough of the noise."""
    ordered = blocks[np.argsort(blocks[:, 1], kind="stable")]
    held = np.cumsum(ordered[:, 0])
    enough = int(np.searchsorted(held, _FLAT_NOISE * held[-1])) + 1
    return np.asarray(ordered[: max(int(_FLAT * len(blocks)), enough, 1)].sum(0))


def _detail(image: NDArray[np.float32], step: int) -> NDArray[np.float64]:
    """Return second differences along Y and X: lines and slopes vanish, noise stays."""
    made = np.nan_to_num(image.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    for axis in (-2, -1):
        made = 2 * made - np.roll(made, step, axis) - np.roll(made, -step, axis)
    return made


def _left(ndim: int) -> float:
    """Return the variance of white noise in `_band`, relative to that in `_detail`."""
    impulse = np.zeros((97,) * ndim if ndim < 3 else (65,) * ndim)
    impulse[tuple(n // 2 for n in impulse.shape)] = 1
    made = ndimage.gaussian_filter(impulse, _SIGMA_PX) - ndimage.gaussian_filter(impulse, _COARSE_PX)
    return float(np.square(made).sum() / 36)
