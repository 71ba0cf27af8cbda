"""The Labels layer of an image's tokens, with edits that can be undone."""

from __future__ import annotations

from colorsys import hsv_to_rgb, rgb_to_hsv
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np

from napari_btn.core.tokens.naming import VIEWPOINTS, Naming
from napari_btn.widgets.shared.layers import KEY
from napari_btn.widgets.shared.overlays import our_layer, placement_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    from napari_btn.core.tokens.tokens import Tokens

__all__ = ["TokenLayer"]

_KIND = "tokens"
_FAINT = 0.12
_KEPT_EDITS = 20
_OTHER = (0.5, 0.5, 0.5, 1.0)


@dataclass(frozen=True)
class _Edit:
    """An edit that can be undone."""

    what: str
    take_back: Callable[[], None]


class TokenLayer:
    """The Labels layer of an image's tokens, their names, and the last edits.

    The labels in the layer count: they may be painted with napari's own tools.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets the layer, or has it.
    tokens : Tokens
        Of the source.
    source : str
        Name of the source.
    """

    def __init__(self, viewer: Any, tokens: Tokens, source: str) -> None:
        self.viewer, self.source = viewer, source
        self.tokens = tokens
        """The cut that the labels come from."""
        self.names: dict[int, str] = {}
        """Given names by number."""
        self.groups: dict[str, dict[int, str]] = {v: {} for v in VIEWPOINTS}
        """Group by number, from each point of view."""
        self.edited = False
        """True if labels were merged or painted since the cut."""
        self._of_leaf: dict[int, str] = {}
        self._namings = {v: Naming(v) for v in VIEWPOINTS}
        self._edits: list[_Edit] = []
        self._view: Tokens | None = None
        layer = our_layer(viewer, f"{source} tokens", _KIND)
        if layer is not None and self._fits(layer):
            self._adopt(layer)
        else:
            layer = self._put(layer)
        self._layer = ref(layer)

    @property
    def layer(self) -> Any:
        """The layer; None once it was removed."""
        layer = self._layer()
        return layer if layer is not None and layer in self.viewer.layers else None

    @property
    def labels(self) -> NDArray[Any]:
        """Labels in the layer."""
        layer = self.layer
        return self.tokens.labels if layer is None else np.asarray(layer.data)

    @property
    def view(self) -> Tokens:
        """Tokens with the labels as they are in the layer."""
        if self._view is None:
            self._view = self.tokens.painted(self.labels) if self.edited else self.tokens
        return self._view

    @property
    def undoable(self) -> str:
        """The last edit in words; empty without one."""
        return self._edits[-1].what if self._edits else ""

    # ---------------------------------------------------------------- the layer

    def _fits(self, layer: Any) -> bool:
        """Return True if a layer holds these tokens, perhaps edited."""
        record = layer.metadata[KEY]
        same = record.get("provenance") == self.tokens.provenance and record.get("k") == self.tokens.k
        return same and np.shape(layer.data) == self.tokens.labels.shape

    def _adopt(self, layer: Any) -> None:
        """Take names, groups and labels from an existing layer."""
        features = layer.features
        if {"index", "name"} <= set(features):
            self.names = {
                int(i): str(n) for i, n in zip(features["index"], features["name"], strict=True) if n
            }
        self.edited = not np.array_equal(layer.data, self.tokens.labels)
        self._keep_names()
        for viewpoint in VIEWPOINTS:
            # features without this column have no groups
            rows = zip(features.get("index", ()), features.get(viewpoint, ()), strict=False)
            for i, group in rows:
                if group:
                    self._assign(viewpoint, [int(i)], str(group))

    def _put(self, old: Any) -> Any:
        """Make or update the layer; one that was edited by hand stays as a hidden backup."""
        from napari.utils.colormaps import DirectLabelColormap

        tokens, name = self.tokens, f"{self.source} tokens"
        if old is not None and (old.metadata[KEY].get("edited") or old.data.shape != tokens.labels.shape):
            if f"{name} (before)" in self.viewer.layers:
                self.viewer.layers.remove(f"{name} (before)")
            old.name, old.visible = f"{name} (before)", False
            old.metadata = {**old.metadata, KEY: {**old.metadata[KEY], "map": "tokens (before)"}}
            old = None
        data = tokens.labels.copy()
        if old is not None:
            old.data = data
            old.metadata = {**old.metadata, KEY: self._record()}
            return old
        place = placement_of(self.viewer, self.source, tokens.axes)
        empty = DirectLabelColormap(color_dict={0: (0.0, 0.0, 0.0, 0.0), None: _OTHER})
        return self.viewer.add_labels(
            data,
            name=name,
            colormap=empty,
            metadata={KEY: self._record()},
            **({} if place is None else place.to_layer()),
        )

    def _record(self) -> dict[str, Any]:
        """Return the metadata of the layer."""
        tokens = self.tokens
        return {
            "map": _KIND,
            "axes": tokens.axes,
            "channel_names": list(tokens.channel_names),
            "k": tokens.k,
            "stability": tokens.stability,
            "edited": self.edited,
            "provenance": tokens.provenance,
        }

    def colour(self, colours: NDArray[np.float32], picked: Iterable[int], *, alone: bool) -> None:
        """Colour the labels; where some are picked, the others are faint, or not shown.

        Parameters
        ----------
        colours : ndarray of float32, (k + 1, 4)
            By number.
        picked : iterable of int
            Numbers that stand out; none for all alike.
        alone : bool
            Show nothing but the picked.
        """
        from napari.utils.colormaps import DirectLabelColormap

        layer = self.layer
        if layer is None:
            return
        strong = set(picked)
        shown: dict[int | None, tuple[float, ...]] = {0: (0.0, 0.0, 0.0, 0.0)}
        for number, rgba in enumerate(colours[1:], start=1):
            alpha = 1.0 if not strong or number in strong else 0.0 if alone else _FAINT
            red, green, blue = (float(v) for v in rgba[:3])
            shown[number] = (*(_vivid(red, green, blue) if number in strong else (red, green, blue)), alpha)
        # a newly painted number must be visible before the table has it
        shown[None] = _OTHER
        layer.colormap = DirectLabelColormap(color_dict=shown)

    def describe(self) -> dict[str, NDArray[Any]]:
        """Return the table of the present labels with their names, without empty numbers."""
        table = dict(self.view.table)
        there = table["pixels"] > 0
        index = table.pop("index")[there]
        words = {"name": self.names, **{v: groups for v, groups in self.groups.items() if groups}}
        made = {n: np.array([w.get(int(i), "") for i in index], dtype=object) for n, w in words.items()}
        return {"index": index, **made, **{name: column[there] for name, column in table.items()}}

    def set_features(self, table: Mapping[str, NDArray[Any]]) -> None:
        """Set the layer's metadata, and the columns that napari shows at the mouse."""
        layer = self.layer
        if layer is None:
            return
        plain = ("index", "name", *VIEWPOINTS, "pixels", "share")
        wanted = [n for n in table if n in plain or n.endswith((" median", " width", " coverage"))]
        features = {n: table[n] for n in wanted}
        for name, column in features.items():
            if column.dtype.kind == "f":
                features[name] = np.array([float(f"{v:.3g}") for v in column])
        layer.features = features
        layer.metadata = {**layer.metadata, KEY: self._record()}

    # ---------------------------------------------------------------- edits

    def look(self) -> bool:
        """Return True if the layer was painted since the last look."""
        layer = self.layer
        if layer is None or np.array_equal(layer.data, self.view.labels):
            return False
        self.edited, self._view = True, None
        return True

    def cut(self, k: int) -> None:
        """Cut the palette into another number of tokens; merged and painted labels can be restored."""
        layer = self.layer
        if layer is None or k == self.tokens.k:
            return
        if self.edited:
            self._keep_edited()
        self.tokens, self.edited, self._view = self.tokens.cut(k), False, None
        layer.data = self.tokens.labels.copy()
        number = {int(leaf): i for i, leaf in enumerate(self.tokens.lineages, start=1)}
        self.names = {number[leaf]: name for leaf, name in self._of_leaf.items() if leaf in number}
        self.groups = {v: naming.names(self.tokens) for v, naming in self._namings.items()}

    def _keep_edited(self) -> None:
        """Keep the present labels for an undo."""
        labels = self.labels
        kept = labels.astype(np.min_scalar_type(int(labels.max(initial=0))))
        tokens, names, groups = self.tokens, dict(self.names), dict(self.groups)

        def back() -> None:
            """Restore the labels."""
            self.tokens, self.names, self.groups, self.edited = tokens, names, groups, True
            self.layer.data = kept.astype(tokens.labels.dtype)

        self._push("the new number of tokens", back)

    def merge(self, numbers: Iterable[int]) -> int:
        """Merge tokens into the largest of them, and return its number."""
        layer = self.layer
        labels = self.labels
        counts = np.bincount(labels.ravel())
        chosen = sorted({n for n in numbers if 0 < n < len(counts)}, key=lambda n: -counts[n])
        if layer is None or len(chosen) < 2:
            raise ValueError("To merge tokens, pick two or more of them in the table.")
        target, *others = chosen
        gone = np.zeros(len(counts), dtype=bool)
        gone[others] = True
        mask = gone[labels]
        old, names, groups, edited = labels[mask], dict(self.names), dict(self.groups), self.edited
        labels[mask] = target
        named = [self.names[n] for n in chosen if n in self.names]
        self.names = {n: name for n, name in self.names.items() if n not in others}
        if named:
            self.names[target] = named[0]
        for viewpoint, known in self.groups.items():
            first = next((known[n] for n in chosen if n in known), "")
            left = {n: group for n, group in known.items() if n not in chosen}
            self.groups[viewpoint] = left | ({target: first} if first else {})
        self.edited, self._view = True, None
        layer.refresh()

        def back() -> None:
            """Restore the labels that were not painted over since."""
            now = self.layer.data
            before = now.copy()
            before[mask] = old
            again = mask & (now == target)
            now[again] = before[again]
            self.names, self.groups = names, groups
            self.edited = edited or not np.array_equal(now, self.tokens.labels)
            self.layer.refresh()

        self._push(f"merging {', '.join(map(str, sorted(chosen)))}", back)
        return target

    def rename(self, number: int, name: str) -> None:
        """Name a token, or remove its name."""
        names, of_leaf = dict(self.names), dict(self._of_leaf)
        if self.names.get(number, "") == name:
            return
        self.names[number] = name
        self.names = {n: text for n, text in self.names.items() if text}
        self._keep_names(number)

        def back() -> None:
            """Restore the names."""
            self.names, self._of_leaf = names, of_leaf

        self._push(f"naming token {number}", back)

    def group(self, viewpoint: str, numbers: Iterable[int], group: str) -> None:
        """Put tokens into a group of a point of view, or out of their group.

        Parameters
        ----------
        viewpoint : str
            One of `VIEWPOINTS`.
        numbers : iterable of int
            Of the tokens.
        group : str
            Its name; empty for none.
        """
        chosen = sorted(set(numbers))
        groups, namings = dict(self.groups), dict(self._namings)
        self._assign(viewpoint, chosen, group)
        if self.groups == groups:
            return

        def back() -> None:
            """Restore the groups."""
            self.groups, self._namings = groups, namings

        self._push(f"grouping {', '.join(map(str, chosen))} by {viewpoint}", back)

    def _assign(self, viewpoint: str, numbers: Iterable[int], group: str) -> None:
        """Put tokens into a group; unedited ones keep it in other cuts."""
        chosen = sorted(set(numbers))
        known = {n: name for n, name in self.groups[viewpoint].items() if n not in chosen}
        self.groups[viewpoint] = known | (dict.fromkeys(chosen, group) if group else {})
        if not self.edited:
            naming = self._namings[viewpoint]
            self._namings[viewpoint] = naming.assigned(self.tokens, chosen, group)

    def _keep_names(self, *numbers: int) -> None:
        """Store names with the leading leaves of tokens, so that they follow their tokens from cut to cut."""
        if self.edited:
            return
        for number in numbers or tuple(self.names):
            if 0 < number <= self.tokens.k:
                self._of_leaf[int(self.tokens.lineages[number - 1])] = self.names.get(number, "")
        self._of_leaf = {leaf: name for leaf, name in self._of_leaf.items() if name}

    def undo(self) -> str:
        """Undo the last edit, and return it in words."""
        if not self._edits or self.layer is None:
            return ""
        edit = self._edits.pop()
        edit.take_back()
        self._view = None
        return edit.what

    def _push(self, what: str, take_back: Callable[[], None]) -> None:
        """Store an edit."""
        self._edits = [*self._edits[1 - _KEPT_EDITS :], _Edit(what, take_back)]


def _vivid(red: float, green: float, blue: float) -> tuple[float, float, float]:
    """Return a colour of the same hue that stands out from a gray image."""
    hue, saturation, value = rgb_to_hsv(red, green, blue)
    return hsv_to_rgb(hue, max(saturation, 0.65), max(value, 0.85))
