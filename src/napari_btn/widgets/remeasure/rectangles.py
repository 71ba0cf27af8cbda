"""Conversion of regions to rectangles of a Shapes layer, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.remeasure.regions import Region
from napari_btn.widgets.shared.layers import KEY
from napari_btn.widgets.shared.overlays import our_layer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari.layers import Shapes
    from numpy.typing import NDArray

    from napari_btn.widgets.shared.placement import Placement

__all__ = ["Frame", "Measured", "Place", "add_rectangles", "features_of", "keep_before", "place_of"]

Place = tuple[tuple[int, ...], tuple[int, ...]]
"""First pixel and size of a window along (Z,) Y, X."""
Measured = dict[Place, "NDArray[np.float32]"]
"""New measurements (C, *size) by the place of their window."""

_COLOUR = "#56b4e9"  # Okabe and Ito's sky blue contrasts with gray and magma
_TEXT_SIZE = 12


def place_of(region: Region) -> Place:
    """Return first pixel and size of a window, so that a moved window doesn't count as measured.

    Parameters
    ----------
    region : Region
        In pixels.

    Returns
    -------
    tuple of tuple of int
        Start and size.
    """
    return region.start, region.size


class Frame:
    """The conversion between rectangles of a layer and regions in pixels.

    Parameters
    ----------
    sizes : mapping of str to int
        Size along each axis of the maps, in their order.
    pixel_size : tuple of float
        Along (Z,) Y, X.
    unit : str
        Of `pixel_size`.
    """

    def __init__(self, sizes: Mapping[str, int], pixel_size: tuple[float, ...], unit: str) -> None:
        self.sizes, self.pixel_size, self.unit = dict(sizes), pixel_size, unit
        # napari aligns layers at their last axis, so only channels in front may be left out.
        self.axes = "".join(sizes).lstrip("C")
        """Axes of the layer."""
        self.space = "".join(a for a in "ZYX" if a in sizes)
        """Axes of the regions."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a score map."""
        return tuple(self.sizes[a] for a in self.space)

    def corners(self, region: Region, at: Mapping[str, int]) -> NDArray[np.float64]:
        """Return the corners of a region's rectangle, in its middle plane; napari shows a shape on one plane.

        Parameters
        ----------
        region : Region
            In pixels.
        at : mapping of str to int
            Index by axis letter of the scene, and of the channel where it isn't in front.

        Returns
        -------
        ndarray of float64, (4, D)
            In pixels of the layer, whose first pixel reaches from -0.5 to 0.5.
        """
        span = {a: (float(at.get(a, 0)),) * 2 for a in "STC"}
        for a, start, size in zip(self.space, region.start, region.size, strict=True):
            middle = float(start + size // 2)
            span[a] = (middle, middle) if a == "Z" else (start - 0.5, start + size - 0.5)
        order = {"X": (0, 1, 1, 0)}
        columns = [[span[a][k] for k in order.get(a, (0, 0, 1, 1))] for a in self.axes]
        return np.array(columns, dtype=float).T

    def region(self, corners: NDArray[np.float64], depth: int = 1) -> tuple[Region, bool]:
        """Return the region of a shape inside the image, and True if all of the shape is inside.

        Parameters
        ----------
        corners : ndarray of float, (N, D)
            Of a shape of any kind; its bounding box counts, at whole pixels.
        depth : int
            Number of its planes, in a volume.

        Returns
        -------
        Region
            Without a score.
        bool
            False where a part was cut off.
        """
        start, size, inside = [], [], True
        for a in self.space:
            values = corners[:, self.axes.index(a)]
            if a == "Z":
                first = round(float(values.mean())) - depth // 2
                end = first + depth
            else:
                first = round(float(values.min()) + 0.5)
                end = max(round(float(values.max()) + 0.5), first + 1)
            n = self.sizes[a]
            inside &= first >= 0 and end <= n
            first = min(max(first, 0), n - 1)
            start.append(first)
            size.append(min(max(end, first + 1), n) - first)
        volume = "Z" in self.space
        place = Region(
            y=start[-2],
            x=start[-1],
            height=size[-2],
            width=size[-1],
            pixel_size=self.pixel_size,
            unit=self.unit,
            z=start[0] if volume else None,
            depth=size[0] if volume else None,
        )
        return place, inside

    def scene(self, at: Mapping[str, int]) -> int:
        """Return the number of a scene, from its index by axis letter.

        Parameters
        ----------
        at : mapping of str to int
            Index along S and T.

        Returns
        -------
        int
            From 0, scenes first, times after.
        """
        number = 0
        for a in "ST":
            if a in self.sizes:
                number = number * self.sizes[a] + int(np.clip(at.get(a, 0), 0, self.sizes[a] - 1))
        return number

    def scene_of(self, corners: NDArray[np.float64]) -> int:
        """Return the number of the scene that a shape stands in."""
        return self.scene({a: round(float(corners[0, i])) for i, a in enumerate(self.axes) if a in "ST"})


def features_of(regions: Sequence[Region]) -> dict[str, list[Any]]:
    """Return the features of a layer with one rectangle per region.

    Parameters
    ----------
    regions : sequence of Region
        In the order of the rectangles.

    Returns
    -------
    dict of str to list
        Rank, score, size in pixels and centre in units.
    """
    table: dict[str, list[Any]] = {
        "rank": list(range(1, len(regions) + 1)),
        "score": [float(r.score) for r in regions],
        "mean_score": [float(r.mean_score) for r in regions],
        "height_px": [r.height for r in regions],
        "width_px": [r.width for r in regions],
    }
    if any(r.z is not None for r in regions):
        table |= {"z": [r.z for r in regions], "depth_px": [r.depth for r in regions]}
    names = "zyx" if regions and len(regions[0].size) == 3 else "yx"
    for i, a in enumerate(names):
        table[f"centre_{a}"] = [float(r.centre[i]) for r in regions]
    table["unit"] = [r.unit for r in regions]
    if any(r.dwell is not None for r in regions):
        table["dwell"] = [np.nan if r.dwell is None else r.dwell for r in regions]
    return table


def add_rectangles(
    viewer: Any,
    name: str,
    corners: Sequence[NDArray[np.float64]],
    features: Mapping[str, list[Any]],
    placement: Placement | None,
    record: Mapping[str, Any],
) -> Shapes:
    """Add a layer of rectangles with their ranks beside them.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets the layer.
    name : str
        Name of the layer.
    corners : sequence of ndarray, (4, D)
        One per rectangle.
    features : mapping
        From `features_of`.
    placement : Placement, optional
        Place of the layer.
    record : mapping
        Metadata.

    Returns
    -------
    napari.layers.Shapes
        The layer; the user may move, resize, add and delete.
    """
    axes = str(record["axes"])
    plane = [axes.index("Y"), axes.index("X")]
    sides = [float(np.ptp(c[:, plane], axis=0).min()) for c in corners]
    return viewer.add_shapes(
        list(corners),
        ndim=len(axes),
        shape_type="rectangle",
        name=name,
        edge_color=_COLOUR,
        face_color="transparent",
        edge_width=max(min(sides, default=16.0) / 24, 0.5),
        opacity=1.0,
        features={k: list(v) for k, v in features.items()},
        text={"string": "{rank}", "color": _COLOUR, "size": _TEXT_SIZE, "anchor": "center"},
        metadata={KEY: dict(record)},
        **({} if placement is None else placement.to_layer()),
    )


def keep_before(viewer: Any, layer: Any) -> None:
    """Keep a layer that the user edited as the one hidden backup, at the bottom.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose layers.
    layer : napari.layers.Shapes
        Of ours.
    """
    name = f"{layer.name} (before)"
    old = our_layer(viewer, name, "regions (before)")
    if old is not None:
        viewer.layers.remove(old)
    layer.metadata = {**layer.metadata, KEY: {**layer.metadata[KEY], "map": "regions (before)"}}
    layer.name, layer.visible = name, False
    viewer.layers.move(viewer.layers.index(layer), 0)
