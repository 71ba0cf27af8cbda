"""Metadata of image files: axes, channels and pixel size in our terms, and in those of the formats."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, Final
from xml.etree import ElementTree

import numpy as np

__all__ = [
    "Meta",
    "first_provenance",
    "from_imagej",
    "from_ngff",
    "from_note",
    "from_ome",
    "guess_axes",
    "ome_notes",
    "plain_axes",
    "read_json",
    "to_json",
    "to_ngff",
    "to_note",
    "to_ome",
]

NAMESPACE: Final = "napari-btn"

# ours: (OME-XML, OME-NGFF)
_UNITS: Final = {
    "pm": ("pm", "picometer"),
    "angstrom": ("Å", "angstrom"),
    "nm": ("nm", "nanometer"),
    "um": ("µm", "micrometer"),
    "mm": ("mm", "millimeter"),
    "cm": ("cm", "centimeter"),
    "m": ("m", "meter"),
    "inch": ("in", "inch"),
    "px": ("pixel", None),
}
_SYMBOLS: Final = {
    **{name: ours for ours, names in _UNITS.items() for name in names if name},
    **{ours: ours for ours in _UNITS},
    "\u03bcm": "um",  # the Greek letter, beside the micro sign above
    "\\u00B5m": "um",
    "micron": "um",
    "microns": "um",
    "A": "angstrom",
    "\u212b": "angstrom",
    "pixels": "px",
}


@dataclass(frozen=True)
class Meta:
    """The metadata of one image.

    Parameters
    ----------
    axes : str, optional
        One letter per dimension; None if unknown.
    channel_names : tuple of str, optional
        One per channel.
    pixel_size : tuple of float, optional
        One per space axis, in the order of ``axes``.
    unit : str, optional
        Unit of the pixel size.
    axes_guessed : bool
        True if the axes come from the shape alone.
    name : str
        Name of the image inside its file.
    """

    axes: str | None = None
    channel_names: tuple[str, ...] | None = None
    pixel_size: tuple[float, ...] | None = None
    unit: str | None = None
    axes_guessed: bool = False
    name: str = ""

    @classmethod
    def given(
        cls,
        axes: str,
        channel_names: Sequence[str] | None = None,
        pixel_size: Sequence[float] | None = None,
        unit: str | None = None,
    ) -> Meta:
        """Return metadata from the arguments of a caller: axes of any case, any sequences."""
        return cls(
            axes=axes.upper(),
            channel_names=tuple(channel_names) if channel_names else None,
            pixel_size=tuple(map(float, pixel_size)) if pixel_size is not None else None,
            unit=_unit_symbol(unit),
        )

    def checked(self, shape: Sequence[int]) -> Meta:
        """Return the metadata without values that contradict the shape, and with missing axes guessed."""
        meta = self
        if meta.axes is None or len(meta.axes) != len(shape):
            meta = replace(meta, axes=guess_axes(shape), axes_guessed=True, pixel_size=None)
        axes = meta.axes or ""
        n_channels = shape[axes.index("C")] if "C" in axes else 1
        if meta.channel_names is not None and len(meta.channel_names) != n_channels:
            meta = replace(meta, channel_names=None)
        space = [letter for letter in axes if letter in "ZYX"]
        size = meta.pixel_size
        if size is not None and (len(size) != len(space) or not all(np.isfinite(v) and v > 0 for v in size)):
            meta = replace(meta, pixel_size=None)
        return meta if meta.pixel_size is not None else replace(meta, unit=None)


def guess_axes(shape: Sequence[int]) -> str | None:
    """Guess the axes of an array from its shape.

    Parameters
    ----------
    shape : sequence of int
        Shape of the array.

    Returns
    -------
    str or None
        One letter per dimension; None for one dimension or more than five. An axis of at
        most ten at the front, or of at most four at the end, is taken as channels.
    """
    ndim = len(shape)
    if ndim < 2 or ndim > 5:
        return None
    if ndim == 2:
        return "YX"
    if shape[-1] <= 4 < min(shape[-3:-1]):
        return {3: "YXC", 4: "ZYXC", 5: "SZYXC"}[ndim]
    small = [axis for axis in range(ndim - 2) if shape[axis] <= 10]
    if ndim == 3:
        return "CYX" if small else "ZYX"
    if ndim == 4:
        return "CZYX" if small == [0] else "SCYX" if small else "SZYX"
    return "SCZYX"


def _unit_symbol(name: str | None) -> str | None:
    """Return our symbol of a unit of length, or the name itself if it is unknown."""
    return None if not name else _SYMBOLS.get(name, _SYMBOLS.get(name.lower(), name))


def plain_axes(axes: str, shape: Sequence[int], *, spare: str = "") -> Meta:
    """Return metadata with the axes of a TIFF series in our letters.

    ``spare`` names letters that mean scenes. Colour samples become channels. One other unknown axis
    gets a free letter; if there are more, all axes are guessed from the shape.
    """
    letters = ["S" if a in spare else "C" if a == "S" else a for a in axes.upper()]
    unknown = [k for k, letter in enumerate(letters) if letter not in "STCZYX"]
    if len(set(letters)) < len(letters) or len(unknown) > 1:
        return Meta(guess_axes(shape), axes_guessed=True)
    for k in unknown:
        free = ("C" if shape[k] <= 10 else "") + "ZSTC"
        letters[k] = next((a for a in free if a not in letters), "?")
    return Meta("".join(letters), axes_guessed=bool(unknown)) if "?" not in letters else Meta()


def from_ome(xml: str, index: int, axes: str, shape: Sequence[int]) -> Meta:
    """Return the metadata of one image of an OME-XML document.

    Parameters
    ----------
    xml : str
        The document.
    index : int
        Which image of the document.
    axes : str
        Axes of the pixels, in the letters of the TIFF reader.
    shape : sequence of int
        Shape of the pixels.

    Returns
    -------
    Meta
        Only the axes if the document cannot be read.
    """
    meta = plain_axes(axes, shape, spare="Q")
    try:
        images = ElementTree.fromstring(xml).findall("{*}Image")
        image = images[index]
    except (ElementTree.ParseError, IndexError):
        return meta
    pixels = image.find("{*}Pixels")
    if pixels is None:
        return meta
    names = [channel.get("Name") or str(k) for k, channel in enumerate(pixels.findall("{*}Channel"))]
    named = any(channel.get("Name") for channel in pixels.findall("{*}Channel"))
    space = [letter for letter in meta.axes or "" if letter in "ZYX"]
    sizes = [pixels.get(f"PhysicalSize{letter}") for letter in space]
    units = {_unit_symbol(pixels.get(f"PhysicalSize{letter}Unit", "µm")) for letter in space}
    known = all(sizes) and len(units) == 1
    return replace(
        meta,
        channel_names=tuple(names) if named else None,
        pixel_size=tuple(float(size or "nan") for size in sizes) if known else None,
        unit=units.pop() if known else None,
    )


def from_imagej(
    properties: Mapping[str, Any],
    resolution: Mapping[str, tuple[int, int]],
    axes: str,
    shape: Sequence[int],
) -> Meta:
    """Return the metadata that ImageJ keeps in a TIFF file.

    Parameters
    ----------
    properties : mapping
        ImageJ's properties, as the TIFF reader returns them.
    resolution : mapping
        Pixels per unit as numerator and denominator, for "X" and "Y" where known.
    axes : str
        Axes of the pixels, in the letters of the TIFF reader.
    shape : sequence of int
        Shape of the pixels.

    Returns
    -------
    Meta
        Axes, and channel names and pixel size where known.
    """
    meta = plain_axes(axes, shape)
    unit = _unit_symbol(str(properties.get("unit") or ""))
    size = {letter: below / above for letter, (above, below) in resolution.items() if above}
    if "spacing" in properties:
        size["Z"] = float(properties["spacing"])
    space = [letter for letter in meta.axes or "" if letter in "ZYX"]
    labels = [str(label) for label in properties.get("Labels") or ()]
    known = unit not in (None, "px") and all(letter in size for letter in space)
    return replace(
        meta,
        channel_names=tuple(labels) if labels else None,
        pixel_size=tuple(size[letter] for letter in space) if known else None,
        unit=unit if known else None,
    )


def from_ngff(attributes: Mapping[str, Any]) -> tuple[Meta, str] | None:
    """Return the metadata of an image group from its OME-NGFF attributes (0.1 to 0.5).

    Parameters
    ----------
    attributes : mapping
        Attributes of the zarr group.

    Returns
    -------
    tuple of (Meta, str), or None
        Metadata and the path of the finest level; None if the group is not an image.
    """
    ngff = attributes.get("ome", attributes)
    try:
        image = ngff["multiscales"][0]
        finest = image["datasets"][0]
    except (KeyError, IndexError, TypeError):
        return None
    entries = [a if isinstance(a, Mapping) else {"name": a} for a in image.get("axes") or ()]
    axes = "".join(_ngff_letter(entry) for entry in entries)
    scale = np.ones(len(entries))
    for step in [*finest.get("coordinateTransformations", ()), *image.get("coordinateTransformations", ())]:
        if step.get("type") == "scale" and len(step.get("scale", ())) == len(entries):
            scale = scale * np.asarray(step["scale"], dtype=float)
    space = [k for k, letter in enumerate(axes) if letter in "ZYX"]
    units = {_unit_symbol(entries[k].get("unit")) for k in space}
    unit = units.pop() if len(units) == 1 else None
    labels = [channel.get("label") for channel in ngff.get("omero", {}).get("channels", ())]
    readable = bool(axes) and "?" not in axes and len(set(axes)) == len(axes)
    meta = Meta(
        axes=axes if readable else None,
        channel_names=tuple(labels) if labels and all(labels) else None,
        pixel_size=tuple(float(scale[k]) for k in space) if readable and unit else None,
        unit=unit,
        name=str(image.get("name") or ""),
    )
    return meta, str(finest["path"])


def to_ome(meta: Meta, note: str) -> dict[str, Any]:
    """Return the keywords of the TIFF writer for one OME image.

    Parameters
    ----------
    meta : Meta
        Axes in the order T, S, C, Z, Y, X.
    note : str
        Text kept as an annotation in our namespace.

    Returns
    -------
    dict
        Scenes are a modulo dimension, which other readers see as time or channels.
    """
    axes = meta.axes or ""
    keywords: dict[str, Any] = {
        "axes": axes.replace("S", "Q"),
        "Name": meta.name,
        "CommentAnnotation": {"Namespace": NAMESPACE, "Value": note},
    }
    if "S" in axes:
        keywords["TypeDescription"] = {"Q": "scene"}
    if meta.channel_names and "C" in axes:
        keywords["Channel"] = {"Name": list(meta.channel_names)}
    if meta.pixel_size and meta.unit in _UNITS:
        for letter, size in zip([a for a in axes if a in "ZYX"], meta.pixel_size, strict=True):
            keywords[f"PhysicalSize{letter}"] = size
            keywords[f"PhysicalSize{letter}Unit"] = _UNITS[meta.unit][0]
    return keywords


def to_ngff(meta: Meta, note: Mapping[str, Any]) -> dict[str, Any]:
    """Return the OME-NGFF 0.5 attributes of an image group whose only level is called "0".

    Parameters
    ----------
    meta : Meta
        Axes in the order T, S, C, Z, Y, X.
    note : mapping
        JSON-ready values kept under our own key.

    Returns
    -------
    dict
        Attributes, JSON-ready.
    """
    axes = meta.axes or ""
    space = [a for a in axes if a in "ZYX"]
    size = dict(zip(space, meta.pixel_size or (1.0,) * len(space), strict=True))
    ngff_unit = _UNITS.get(meta.unit or "", (None, None))[1]
    # the format has room for one time and one other axis beside space
    scene = {"type": "time"} if "C" in axes and "T" not in axes else {}
    kinds = {"T": {"type": "time"}, "S": scene, "C": {"type": "channel"}}
    spatial = {"type": "space", **({"unit": ngff_unit} if ngff_unit else {})}
    entries = [{"name": a.lower(), **kinds.get(a, spatial)} for a in axes]
    scale = [float(size.get(a, 1.0)) for a in axes]
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
    ngff: dict[str, Any] = {
        "version": "0.5",
        "multiscales": [{"name": meta.name, "axes": entries, "datasets": [level]}],
    }
    if meta.channel_names and "C" in axes:
        ngff["omero"] = {"channels": [{"label": name} for name in meta.channel_names]}
    return {"ome": ngff, NAMESPACE: dict(note)}


def to_note(meta: Meta, shape: Sequence[int], provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return a note with all metadata, so that those without a place in the format survive a round trip."""
    return {
        "axes": meta.axes,
        "shape": list(shape),
        "channel_names": meta.channel_names,
        "pixel_size": meta.pixel_size,
        "unit": meta.unit,
        "provenance": provenance,
    }


def to_json(value: Mapping[str, Any]) -> str:
    """Return the JSON of numbers (numpy's too), texts, lists, dicts and paths."""
    return json.dumps(value, default=_plain)


def from_note(note: Mapping[str, Any], name: str) -> Meta:
    """Return the metadata that `to_note` kept."""
    names, size = note.get("channel_names"), note.get("pixel_size")
    return Meta(
        axes=note.get("axes"),
        channel_names=tuple(names) if names else None,
        pixel_size=tuple(map(float, size)) if size else None,
        unit=note.get("unit"),
        name=name,
    )


def ome_notes(xml: str) -> list[dict[str, Any]]:
    """Return the notes of all images in an OME-XML document, in order; empty for an image without one."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return []
    texts: dict[str, str] = {}
    for annotation in root.iterfind(f".//*[@Namespace='{NAMESPACE}']"):
        texts[annotation.get("ID", "")] = annotation.findtext("{*}Value") or ""
    found = []
    for image in root.findall("{*}Image"):
        mine = [texts[r.get("ID", "")] for r in image.findall("{*}AnnotationRef") if r.get("ID", "") in texts]
        found.append(read_json(mine[0]) if mine else {})
    return found


def first_provenance(notes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the provenance of the first note that has one; empty where none has."""
    return next((dict(note["provenance"]) for note in notes if "provenance" in note), {})


def read_json(text: str) -> dict[str, Any]:
    """Parse a JSON object; return an empty one if the text isn't one."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _ngff_letter(entry: Mapping[str, Any]) -> str:
    """Return our letter of an NGFF axis, or "?" if there is none."""
    name = str(entry.get("name", "")).lower()
    if re.fullmatch(r"[stczyx]", name):
        return name.upper()
    by_type = {"time": "T", "channel": "C"}.get(str(entry.get("type")))
    return by_type or {"scene": "S", "sample": "S"}.get(name, "?")


def _plain(value: object) -> object:
    """Return the JSON-ready form of the other types that a provenance may hold."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise ValueError(
        f"The provenance holds {value!r} of type {type(value).__name__}, which JSON has no form for; "
        "give numbers, texts, lists and dicts."
    )
