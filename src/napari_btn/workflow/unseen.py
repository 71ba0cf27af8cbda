"""Recognition of images that members were trained on: as they were given, and as a detector repairs them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_btn.core.data.copies import copied_steps, patches_steps, remembered_steps
from napari_btn.core.data.fingerprint import fingerprint_steps
from napari_btn.core.data.splits import TRAIN
from napari_btn.workflow.inputs import scenes_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_btn.core.data.image import Box, View
    from napari_btn.core.data.pairs import Pair, Scenes
    from napari_btn.core.data.splits import Split
    from napari_btn.core.progress import Step
    from napari_btn.model import Model

__all__ = [
    "as_given",
    "copies_in_steps",
    "marks_steps",
    "need_no_copies_steps",
    "need_unseen_steps",
    "was_trained_on_steps",
]


def as_given(model: Model, pair: Pair) -> View | None:
    """Return the noisy image of a pair before a detector repairs it; None if none does.

    Parameters
    ----------
    model : Model
        May have a detector.
    pair : Pair
        May have a detector, which is used instead.
    """
    if (pair.detector or model.learned.detector) is None:
        return None
    return scenes_of(replace(pair, detector=None), model.settings).noisy


def marks_steps(scenes: Scenes, split: Split, given: View | None) -> Step[dict[str, Any]]:
    """Return the fingerprints and patches by which training images are recognised, JSON-ready; a step.

    Parameters
    ----------
    scenes : Scenes
        Images as members see them.
    split : Split
        Split of the scenes.
    given : View, optional
        The noisy image before it was repaired.
    """
    prints = yield from fingerprint_steps(scenes.noisy)
    targets = yield from fingerprint_steps(scenes.clean)
    remembered = [(yield from remembered_steps(scenes, split))]
    marks: dict[str, Any] = {"images": prints, "targets": targets, "remembered": remembered}
    if given is None:
        return marks
    before = yield from fingerprint_steps(given)
    within = None if split.regions is None else split.regions == TRAIN
    remembered.append({"noisy": (yield from patches_steps(given, split.train, within))})
    return {**marks, "given_images": sorted(before.values())}


def was_trained_on_steps(model: Model, scenes: Scenes, also: View | None = None) -> Step[bool]:
    """Return True if a fingerprint of an image, noisy or clean, is that of a training image; a step.

    Parameters
    ----------
    model : Model
    scenes : Scenes
    also : View, optional
        The noisy image in its other form: as it was given, or as it is repaired.
    """
    provenance = model.learned.provenance
    noisy = {*provenance.get("images", {}).values(), *provenance.get("given_images", ())}
    clean = set(provenance.get("targets", {}).values())
    for known, image in ((noisy, scenes.noisy), (noisy, also), (clean, scenes.clean)):
        if image is not None and known & set((yield from fingerprint_steps(image)).values()):
            return True
    return False


def need_unseen_steps(model: Model, scenes: Scenes, also: View | None = None) -> Step[None]:
    """Check that no member was trained on these images, noisy or clean, or on copies of parts of them; a step.

    Parameters
    ----------
    model : Model
    scenes : Scenes
        Images, compared by their fingerprints, and by patches with crops, flips and quarter turns.
    also : View, optional
        The noisy image in its other form: as it was given, or as it is repaired.

    Raises
    ------
    ValueError
        If a fingerprint is that of a training image, or patches of one are found.
    """
    if (yield from was_trained_on_steps(model, scenes, also)):
        raise ValueError(
            "The members were trained on these images; coverage measured on them would be too good. "
            "Give other images, or calibrate without images, which uses the held-out part."
        )
    yield from need_no_copies_steps(model, scenes, also=also)


def need_no_copies_steps(
    model: Model, scenes: Scenes, boxes: Sequence[Box] | None = None, *, also: View | None = None
) -> Step[None]:
    """Check that images hold no crops, flips or quarter turns of pixels that were trained on; a step.

    Parameters
    ----------
    model : Model
    scenes : Scenes
    boxes : sequence of Box, optional
        Part of the images; all of them by default.
    also : View, optional
        The noisy image in its other form: as it was given, or as it is repaired.

    Raises
    ------
    ValueError
        If such pixels are found.
    """
    if found := (yield from copies_in_steps(model, scenes, boxes, also=also)):
        raise ValueError(
            f"{found} Coverage measured there would be too good. Give images of other fields, or only parts that were "
            "held out."
        )


def copies_in_steps(
    model: Model, scenes: Scenes, boxes: Sequence[Box] | None = None, *, also: View | None = None
) -> Step[str]:
    """Return a sentence on copies of training pixels in images; empty if there are none; a step.

    Parameters
    ----------
    model : Model
        Models of earlier versions remember no patches; nothing is found then.
    scenes : Scenes
    boxes : sequence of Box, optional
        Part of the images; all of them by default.
    also : View, optional
        The noisy image in its other form: as it was given, or as it is repaired.
    """
    for record in model.learned.provenance.get("remembered", ()):
        for name, image in (("noisy", scenes.noisy), ("noisy", also), ("clean", scenes.clean)):
            if name not in record or image is None:
                continue
            found, known = yield from copied_steps(image, record[name], boxes)
            if found:
                return (
                    f"These images hold pixels that the members were trained on: {found} of {known} patches of the "
                    f"{name} training images, cropped, flipped or turned."
                )
    return ""
