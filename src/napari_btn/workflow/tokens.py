"""Tokens of an image: prediction, if needed, clustering of latents, and the record of edits by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.fingerprint import array_digest_steps
from napari_btn.core.data.image import View, channel_number
from napari_btn.core.data.record import inputs_steps, packed, recipe_step, unpacked
from napari_btn.core.settings import need
from napari_btn.workflow.evaluate import held_out_inside
from napari_btn.workflow.inputs import over_scenes, seen_by
from napari_btn.workflow.predict import predict_steps
from napari_btn.workflow.recipe import MOST_TOKEN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.compute.pool import Compute
    from napari_btn.core.data.image import Image
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import TokenSettings
    from napari_btn.core.tokens.tokens import Tokens
    from napari_btn.model import Model

__all__ = ["edited_again_steps", "edited_steps", "tokens_steps"]


def tokens_steps(
    model: Model,
    image: Image,
    compute: Compute,
    settings: TokenSettings,
    *,
    refit: bool = False,
    valid: Any = None,
    prediction: Prediction | None = None,
) -> Step[tuple[Model, Tokens]]:
    """Return the model with its palette, and the tokens of an image; a step.

    Parameters
    ----------
    model : Model
        Model; its palette is used if it has one.
    image : Image
        Result of `inputs.image_for`.
    compute : Compute
    settings : TokenSettings
    refit : bool
        Learn the palette again from this image.
    valid : array of bool, optional
        True where a pixel counts; the rest gets label 0.
    prediction : Prediction, optional
        Prediction of the same image, if there is one.

    Raises
    ------
    ValueError
        If there are too many tokens, the prediction doesn't fit, or HDBSCAN finds fewer than two groups.
    """
    from napari_btn.core.inference.latents import EnsembleLatents
    from napari_btn.core.tokens.learn import tokens_steps as cluster_steps

    view = seen_by(model, image)
    names = model.channel_names
    order = settings.order_by
    if order is not None:
        known = order in names if isinstance(order, str) else 0 <= order < len(names)
        need(known, "order_by", order, f"a channel: {', '.join(names)}, or its number from 0")
        order = channel_number(order, names)
    if prediction is None:
        prediction = yield from predict_steps(model, image, compute, quantiles=False, valid=valid)
    elif tuple(prediction.median.shape) != tuple(view.array.shape) or prediction.axes != image.view.axes:
        raise ValueError(
            f"The prediction has axes {prediction.axes} {tuple(prediction.median.shape)}, the image {image.view.axes} "
            f"{tuple(view.array.shape)}; they must match. Predict this image, or leave prediction out."
        )
    palette, tokens = yield from cluster_steps(
        EnsembleLatents(view, model.networks, compute),
        View(np.asarray(prediction.median[...], np.float32), view.axes, "median"),
        replace(settings, order_by=order),
        width=prediction.width,
        model=None if refit else model.tokens,
        seed=model.settings.seed,
        valid=over_scenes(valid, view),
    )
    inputs = yield from inputs_steps({"image": image.data, "valid": valid})
    step = recipe_step(
        "tokens",
        inputs,
        labels=(yield from array_digest_steps(tokens.labels)),
        tokens=replace(settings, order_by=order).to_dict(),
        refit=refit,
        axes=image.view.axes,
    )
    model = replace(model, tokens=palette)
    recipe = [*model.learned.provenance.get("recipe", ()), step]
    described = {
        "n_tokens": tokens.k,
        "method": palette.palette.method,
        "palette": palette.palette.size,
        "smooth_px": palette.projection.smooth_px,
        "stability": tokens.stability,
    }
    return model, replace(
        tokens,
        inside=held_out_inside(model, view, tokens.labels.shape, tokens.axes),
        axes=image.view.axes.replace("C", ""),
        channel_names=names,
        pixel_size=image.pixel_size,
        unit=image.unit or "px",
        provenance={**model.caption, "recipe": recipe, "tokens": described},
    )


def edited_steps(tokens: Tokens, labels: NDArray[Any], names: Mapping[int, str]) -> Step[Tokens]:
    """Return tokens as they were edited by hand, with the edits as a step of their recipe; a step.

    The recipe gets no step if nothing was edited since the tokens were found, or if it is missing.

    Parameters
    ----------
    tokens : Tokens
        In the cut that was edited, without the edits.
    labels : ndarray of int, (*image)
        Labels that were merged or painted.
    names : mapping of int to str
        Given names by number.

    Raises
    ------
    ValueError
        If a label is above 65,535, or the labels don't fit.
    """
    largest = int(np.max(labels, initial=0))
    need(largest <= MOST_TOKEN, "the largest label", largest, f"{MOST_TOKEN:,} or less; relabel it")
    made, steps = tokens.painted(labels), tokens.provenance.get("recipe", ())
    digest = yield from array_digest_steps(made.labels)
    if not steps or (digest == steps[-1].get("labels") and not names):
        return made
    merged, painted = _edits(tokens.labels, made.labels)
    known = {str(number): name for number, name in sorted(names.items())}
    step = recipe_step(
        "edit", {}, labels=digest, n_tokens=tokens.k, merged=merged, painted=painted, names=known
    )
    return replace(tokens, provenance={**tokens.provenance, "recipe": [*steps, step]}).painted(labels)


def edited_again_steps(tokens: Tokens, step: Mapping[str, Any]) -> Step[Tokens]:
    """Return tokens with the edits that `edited_steps` recorded; a step.

    Parameters
    ----------
    tokens : Tokens
        Without the edits, in any cut.
    step : mapping
        The record of the edits.

    Raises
    ------
    ValueError
        If there can't be so many tokens, or a painted area is damaged or of another image.
    """
    cut = tokens.cut(step["n_tokens"])
    number = np.arange(MOST_TOKEN + 1)
    for old, new in step["merged"].items():
        number[int(old)] = new
    labels = number[cut.labels]
    for new, area in step["painted"].items():
        labels[unpacked(area, labels.shape)] = int(new)
    return (yield from edited_steps(cut, labels, {int(n): name for n, name in step["names"].items()}))


def _edits(before: NDArray[np.int32], after: NDArray[np.int32]) -> tuple[dict[str, int], dict[str, str]]:
    """Return what most pixels of each token became, if it is another one, and the areas of the others.

    Areas are packed masks by number.
    """
    pairs, counts = np.unique(np.stack([before.ravel(), after.ravel()]), axis=1, return_counts=True)
    number = np.arange(int(before.max(initial=0)) + 1)
    for column in np.argsort(counts, kind="stable"):
        number[pairs[0, column]] = pairs[1, column]
    merged = {str(old): int(new) for old, new in enumerate(number) if old != new}
    rest = number[before] != after
    return merged, {str(n): packed(rest & (after == n)) for n in np.unique(after[rest])}
