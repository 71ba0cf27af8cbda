"""Decisions before training: networks that fit the image, the split, notes, and an estimate."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.image import Box, View, middle_of_space, names_in_text
from napari_btn.core.data.registration import shift_of
from napari_btn.core.data.repetition import repetition_of
from napari_btn.core.data.splits import CALIBRATE, HELD_OUT_PIXELS, TRAIN, Split, split_axis
from napari_btn.core.networks.family import Blueprint, Extent, family_of
from napari_btn.core.progress import Note, counted
from napari_btn.core.settings import NetworkSettings
from napari_btn.core.supervision.patches import patch_sides, patches_for
from napari_btn.core.supervision.registry import supervision_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.data.pairs import Scenes
    from napari_btn.core.data.splits import Split
    from napari_btn.core.settings import EnsembleSettings, TrainSettings

__all__ = ["Estimate", "Plan", "estimate_training", "plan_training", "validation_part"]

_UNKNOWN = 0.01  # least share of held-out pixels with values unknown in training that makes a note

_MANY_CHANNELS, _FEW_PLANES = 32, 4  # beyond these the axes are probably wrong

_REPEATS = 2.5  # repeats of a lattice that networks see to each side


@dataclass(frozen=True)
class Estimate:
    """An estimate of the cost of training on this machine.

    Parameters
    ----------
    seconds : float
        Wall time, to a factor of about two.
    bytes : int
        Memory in bytes, without the images.
    note : str
        The estimate as a sentence.
    """

    seconds: float
    bytes: int
    note: str


@dataclass(frozen=True)
class Plan:
    """A plan of the training.

    Parameters
    ----------
    blueprint : Blueprint
        Networks that fit the image.
    split : Split
        Training and held-out parts.
    shift : tuple of float, optional
        Shift that moves ``clean`` onto ``noisy``, in pixels, one per space axis; None if unknown.
    notes : tuple of Note
        Notes on misalignment, a narrow gap or a shortened network.
    """

    blueprint: Blueprint
    split: Split
    shift: tuple[float, ...] | None
    notes: tuple[Note, ...]

    @property
    def receptive_field(self) -> int:
        """Half-width of the receptive field in pixels."""
        return self.blueprint.receptive_field


def plan_training(scenes: Scenes, settings: EnsembleSettings, regions: NDArray[Any] | None = None) -> Plan:
    """Choose the networks and the split, and look for a shift between the two images.

    Parameters
    ----------
    scenes : Scenes
        Inputs and targets.
    settings : EnsembleSettings
    regions : ndarray of int, (*space), optional
        Painted areas: 1 for training, 2 for calibration, 3 for the report.

    Raises
    ------
    ValueError
        If the images are too small or can't be split.
    """
    network, calibration, seed = settings.network, settings.calibration, settings.seed
    notes = _axes_notes(scenes.noisy)
    shift = shift_of(scenes)
    if shift is not None and max(abs(s) for s in shift) > 0.5:
        size = ", ".join(
            f"{a} {round(s, 1) + 0.0:+.1f}" for a, s in zip(scenes.noisy.space_axes, shift, strict=True)
        )
        notes.append(
            Note(
                "amber",
                f"{scenes.names[0]} must be moved by {size} px to lie on {scenes.names[1]}; the networks "
                "would learn the shift. Align them first.",
            )
        )
    field = _field_of_repeats(scenes.noisy) if network.field_of_view == "repeats" else None
    family, extent = family_of(network.family), Extent(scenes.noisy.ndim, field, z_step=scenes.z_step)
    wanted = Blueprint(
        network,
        family.plan(network, extent),
        scenes.noisy.n_inputs,
        scenes.clean.n_channels,
        scenes.noisy.ndim,
        settings.levels,
        seed,
    )
    in_space = scenes.one_field and calibration.split != "time"
    limit = scenes.noisy.space[split_axis(scenes, calibration)] // 4 if in_space else None
    blueprint = replace(wanted, plan=family.plan(network, replace(extent, limit_px=limit)))
    if blueprint.receptive_field != wanted.receptive_field:
        notes.append(
            Note(
                "amber",
                f"The image is small ({' x '.join(str(n) for n in scenes.noisy.space)} px): networks see "
                f"{blueprint.receptive_field} px to each side instead of {wanted.receptive_field}.",
            )
        )
    parts = supervision_of(settings.supervision).split(
        scenes, blueprint.receptive_field, calibration, seed=seed, regions=regions
    )
    return Plan(blueprint, parts, shift, (*notes, *parts.notes, *_value_notes(scenes, parts, seed)))


def _axes_notes(noisy: View) -> list[Note]:
    """Return a note on axes that are probably wrong: very many channels, or very few planes."""
    shape = " x ".join(str(n) for n in noisy.array.shape)
    if noisy.n_channels > min(_MANY_CHANNELS, *noisy.space):
        text = f"With the axes {noisy.axes}, the image of {shape} has {noisy.n_channels} channels"
    elif noisy.ndim == 3 and noisy.space[0] < _FEW_PLANES:
        text = f"With the axes {noisy.axes}, the image of {shape} is a volume of {counted(noisy.space[0], 'plane')}"
    else:
        return []
    return [
        Note("amber", f"{text}. If that isn't meant, name its axes: C channels, S scenes, T times, Z planes.")
    ]


def _field_of_repeats(noisy: View) -> int | None:
    """Return a receptive field that holds repeats of the noisy image; None if there are none."""
    found = repetition_of(noisy.read(0, middle_of_space(noisy.space)))
    return None if found is None else min(round(_REPEATS * found.period_px), found.reach_px)


def _value_notes(scenes: Scenes, parts: Split, seed: int) -> tuple[Note, ...]:
    """Return notes on constant training parts, and on held-out values unknown in training."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2**31, 3)))
    painted = ((TRAIN, parts.train), (CALIBRATE, parts.held_out))
    sampled = [scenes.within(parts.regions, label).sample(boxes, rng)[1] for label, boxes in painted]
    train, held_out = (np.where(np.isfinite(y), y, np.nan) for y in sampled)
    known = np.isfinite(held_out).sum(1)
    if not np.isfinite(train).any(1).all() or not known.all():
        return ()
    notes = []
    low, high = np.nanquantile(train, (0.001, 0.999), axis=1, keepdims=True)
    flat = np.nanmax(train, 1) == np.nanmin(train, 1)
    if flat.any():
        names = names_in_text(scenes.channel_names, np.flatnonzero(flat).tolist())
        text = (
            f"Clean is constant in {names} in the training part, so there is nothing to learn. Leave this "
            "channel out."
        )
        notes.append(Note("amber", text))
    margin = 0.1 * (high - low)
    beyond = ((held_out > high + margin) | (held_out < low - margin)).sum(1) / known
    worst = int(beyond.argmax())
    if beyond[worst] >= _UNKNOWN:
        text = (
            f"{100 * beyond[worst]:.0f} % of the held-out clean values of "
            f"{names_in_text(scenes.channel_names, [worst])} are outside the range of the training part "
            f"({low[worst, 0]:.3g} to {high[worst, 0]:.3g}). Networks don't know them, and intervals can be "
            "too wide everywhere else. Bring some of them into the training part: by a checkerboard, painted "
            "parts, or another scene."
        )
        notes.append(Note("amber", text))
    return tuple(notes)


def validation_part(boxes: Sequence[Box]) -> tuple[tuple[Box, ...], tuple[Box, ...]]:
    """Divide the training part into boxes for training and for validation, about a tenth of the pixels.

    Of many boxes some validate, of a few boxes a slab.

    Parameters
    ----------
    boxes : sequence of Box
        Training part; held-out blocks are not touched.

    Returns
    -------
    train, validation : tuple of Box
        ``validation`` is empty if the boxes are too small.
    """
    every = 10
    if len(boxes) >= every:
        held = tuple(boxes[every // 2 :: every])
        return tuple(box for i, box in enumerate(boxes) if i % every != every // 2), held
    largest = max(range(len(boxes)), key=lambda i: boxes[i].size)
    box = boxes[largest]
    axis = max(range(len(box.shape)), key=lambda a: box.shape[a])
    whole = box.slices[axis]
    cut = whole.start + max(round(0.1 * sum(b.size for b in boxes) * box.shape[axis] / box.size), 1)
    if cut >= whole.stop:
        return tuple(boxes), ()
    parts = [
        Box(box.scene, (*box.slices[:axis], part, *box.slices[axis + 1 :]))
        for part in (slice(cut, whole.stop), slice(whole.start, cut))
    ]
    return (*boxes[:largest], parts[0], *boxes[largest + 1 :]), (parts[1],)


def estimate_training(
    shape: Sequence[int],
    axes: str,
    network: NetworkSettings,
    train: TrainSettings,
    members: int,
    *,
    device: str = "cpu",
) -> Estimate:
    """Estimate time and memory of training on this machine, to a factor of about two.

    Parameters
    ----------
    shape : sequence of int
        Shape of the noisy image.
    axes : str
        One letter per dimension.
    network, train : settings
    members : int
    device : str
        Name of the device in torch. The estimate for a graphics card assumes a modest one.
    """
    view = View(np.broadcast_to(np.float32(0), tuple(shape)), axes)
    channels = view.n_channels
    drawn = family_of(network.family).plan(network, Extent(view.ndim))
    blueprint = Blueprint(network, drawn, channels, channels, view.ndim, (0.5,), 0)
    boxes = [Box(0, tuple(slice(0, n) for n in view.space))] * view.n_scenes
    count, side = patches_for(train, blueprint, boxes).patches
    pixels = count * math.prod(patch_sides(side, boxes))
    # forward and backward; a core does about 3e10 of these a second
    work = 6 * blueprint.family.multiplications(blueprint) * pixels
    from joblib.externals.loky import cpu_count

    if train.start != "scratch" and network == NetworkSettings():
        # the networks that are pretrained
        train = replace(train, steps=max(round(train.warm_share * train.steps), 1))
    if device != "cpu":
        return _on_card(blueprint, train, members, pixels, device)
    workers = min(members, cpu_count())
    rounds = -(-members // workers)
    held = min(0.4 * float(np.prod(view.space)) * view.n_scenes, HELD_OUT_PIXELS)
    seconds = 4 + rounds * train.steps * work / 3e10 + held * members / workers / 6e5
    memory = workers * (350_000_000 + 4 * pixels * sum(blueprint.widths) * 4)
    minutes = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
    note = f"About {minutes} and {memory / 1e9:.1f} GB on {workers} CPU core{'s' if workers > 1 else ''}"
    return Estimate(seconds, int(memory), note)


def _on_card(blueprint: Blueprint, train: TrainSettings, members: int, pixels: int, device: str) -> Estimate:
    """Estimate training on a graphics card, which is bound by memory bandwidth."""
    per_pixel = blueprint.family.floats(blueprint)
    floats = pixels * (per_pixel + 4 * blueprint.settings.head_units + 80 * blueprint.n_out)
    # each float is written and read a few times, at 2e11 bytes a second; a step takes a millisecond at least
    seconds = 10 + train.steps * max(1e-3, members * floats * 4 * 4 / 2e11)
    memory = 5e8 + members * floats * 4
    minutes = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
    return Estimate(seconds, int(memory), f"About {minutes} and {memory / 1e9:.1f} GB on {device}")
