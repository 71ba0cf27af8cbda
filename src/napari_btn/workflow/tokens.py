"""Tokens of an image: prediction, if needed, and clustering of latents."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.fingerprint import array_digest_steps
from napari_btn.core.data.image import View, channel_number
from napari_btn.core.data.record import inputs_steps, recipe_step
from napari_btn.core.settings import need
from napari_btn.workflow.evaluate import held_out_inside
from napari_btn.workflow.inputs import over_scenes, seen_by
from napari_btn.workflow.predict import predict_steps

if TYPE_CHECKING:
    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.compute.pool import Compute
    from napari_btn.core.data.image import Image
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import TokenSettings
    from napari_btn.core.tokens.tokens import Tokens
    from napari_btn.model import Model

__all__ = ["tokens_steps"]


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
