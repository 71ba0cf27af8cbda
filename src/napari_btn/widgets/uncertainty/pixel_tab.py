"""A single pixel in the Uncertainty dock: its interval, its distribution and its equivalent filter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.distribution import density
from napari_btn.core.data.image import shown_names
from napari_btn.widgets.shared import engine
from napari_btn.widgets.shared.dock import may_click
from napari_btn.widgets.shared.layers import KEY
from napari_btn.widgets.shared.overlays import map_layer, placement_of
from napari_btn.widgets.shared.side_by_side import mark_row, stands_side_by_side, unmark_row
from napari_btn.widgets.shared.worker import sentence_of
from napari_btn.widgets.uncertainty.charts import Weights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.inference.jacobian import EquivalentFilter
    from napari_btn.core.progress import Step
    from napari_btn.session import Session
    from napari_btn.widgets.shared.layers import LayerImage
    from napari_btn.widgets.shared.lifetime import Lifetime
    from napari_btn.widgets.uncertainty.focus import Focus
    from napari_btn.widgets.uncertainty.view import UncertaintyView

__all__ = ["PixelTab"]

_MARK_COLOUR = "#e66100"  # Okabe and Ito's vermilion contrasts with gray, viridis and magma
_MARK_PX = (15, 30)  # on the canvas
_MORE_NOISE = 2.0  # factor on the noise of the second picture


class PixelTab:
    """The tab about the pixel that was clicked.

    Parameters
    ----------
    view : UncertaintyView
        Form with the controls.
    focus : Focus
        Prediction and plane in sight.
    session : Session
        Holds the model and the tokens.
    lifetime : Lifetime
        Of the dock.
    truth : callable
        Returns the image that was picked as the truth, or None.
    """

    def __init__(
        self,
        view: UncertaintyView,
        focus: Focus,
        session: Session,
        lifetime: Lifetime,
        truth: Callable[[], LayerImage | None],
    ) -> None:
        self._view, self._focus, self._session = view, focus, session
        self._lifetime, self._truth = lifetime, truth
        self._clicked: tuple[int, int] | None = None
        self._mark: Any = None
        self._hidden = False  # behind another dock
        self._labels: tuple[object, NDArray[Any]] | None = None
        self._filtered: dict[str, int] | None = None
        view.filter.toggled.connect(self._on_user_filter)
        lifetime.hear_drags(focus.viewer, self._on_user_click)
        lifetime.hear_clicks(focus.viewer, self._on_user_click)
        lifetime.at_end(self._unmark)

    def forget(self) -> None:
        """Forget the clicked pixel and its filter."""
        self._clicked = None
        self._view.filter.setChecked(False)
        self._unmark()

    def _unmark(self) -> None:
        """Remove the mark of the clicked pixel."""
        unmark_row(self._focus.viewer)
        if self._mark is not None and self._mark in self._focus.viewer.layers:
            self._focus.viewer.layers.remove(self._mark)
        self._mark = None

    def _remove_filter(self) -> None:
        """Remove the layer with the filter."""
        layer = self._focus.layer("filter")
        if layer is not None:
            self._focus.viewer.layers.remove(layer)

    def turn(self, in_front: bool) -> None:
        """Take mark and filter out of the viewer while another dock lies over this one, and bring them back.

        Parameters
        ----------
        in_front : bool
            True to bring it back.
        """
        self._hidden = not in_front
        if self._hidden:
            self._lifetime.drop("filter")
            self._filtered = None
            self._unmark()
            self._remove_filter()
        elif self._clicked is not None:
            self._mark_pixel(*self._clicked)
            self._follow()

    def _mark_pixel(self, y: int, x: int) -> None:
        """Mark the clicked pixel in the viewer; of layers side by side, in each."""
        viewer, name = self._focus.viewer, self._focus.name
        active = viewer.layers.selection.active
        if self._mark is not None and self._mark in viewer.layers:
            self._mark.data = [[y, x]]
        if stands_side_by_side(viewer):
            mark_row(viewer, (y, x), lambda layer: self._new_mark(f"{layer.name} pixel", y, x))
        elif self._mark is None or self._mark not in viewer.layers:
            self._mark = self._new_mark(f"{name} pixel", y, x)
        viewer.layers.selection.active = active

    def _new_mark(self, name: str, y: int, x: int) -> Any:
        """Add a layer with a mark."""
        viewer = self._focus.viewer
        place = placement_of(viewer, self._focus.name, "YX")
        return viewer.add_points(
            [[y, x]],
            name=name,
            symbol="cross",
            size=1.0,
            canvas_size_limits=_MARK_PX,
            face_color=_MARK_COLOUR,
            border_color=_MARK_COLOUR,
            opacity=1.0,
            metadata={KEY: {"map": "pixel", "axes": "YX"}},
            **({} if place is None else place.to_layer()),
        )

    def _on_user_click(self, event: Any) -> None:
        """Show the pixel that was clicked."""
        anchor = self._focus.anchor()
        if self._hidden or anchor is None or not may_click(self._focus.viewer):
            return
        where = np.asarray(anchor.world_to_data(event.position), dtype=float)
        self.show_pixel(*(round(float(where[axis])) for axis in self._yx()))

    def _yx(self) -> tuple[int, int]:
        """Return the axes of rows and columns."""
        assert self._focus.prediction is not None
        return self._focus.prediction.axes.index("Y"), self._focus.prediction.axes.index("X")

    def show_pixel(self, y: int, x: int) -> None:
        """Show the values of a pixel of the plane in sight.

        Parameters
        ----------
        y, x : int
            Row and column; nothing happens outside the image.
        """
        prediction = self._focus.prediction
        if prediction is None:
            return
        rows, columns = (prediction.median.shape[i] for i in self._yx())
        if not (0 <= y < rows and 0 <= x < columns):
            return
        self._clicked = (y, x)
        self._mark_pixel(y, x)
        self._view.tabs.setCurrentIndex(1)
        self.draw()

    def draw(self) -> None:
        """Show the clicked pixel, in the plane in sight."""
        prediction, clicked = self._focus.prediction, self._clicked
        self._view.density.setVisible(self._focus.live is not None and clicked is not None)
        readable = self._focus.source is not None and bool(self._focus.source.axes)
        self._view.filter.setVisible(clicked is not None and readable and self._session.model is not None)
        if prediction is None or clicked is None:
            self._view.filter_note.say()
            self._view.pixel.setText("Click a pixel in the viewer." if prediction is not None else "")
            return
        at = {**self._focus.at(), "Y": clicked[0], "X": clicked[1]}
        index = tuple(at.get(a, 0) for a in prediction.axes)
        names = ("lower", "median", "upper")
        lower, median, upper = (float(getattr(prediction, name)[index]) for name in names)
        channel, threshold = at["C"], self._focus.asked.value
        rows = [
            ("median", f"{median:.4g}"),
            (f"{100 * (1 - prediction.alpha):.4g} % interval", f"{lower:.4g} to {upper:.4g}"),
            ("spread of the members", f"{float(prediction.spread[index]):.3g}"),
        ]
        if self._focus.live is not None and prediction.distribution is not None:
            q = np.asarray(prediction.quantiles[(slice(None), *index)], dtype=np.float32)
            shown = float(self._focus.live.probability(at, threshold))
            least = float(prediction.probability(at, threshold, side="conservative"))
            text = f"{shown:.2f} (conservative: {max(least, 0):.2f})"
            rows.append((f"P(> {threshold:.4g})", text))
            self._view.density.show_pixel(*density(q, prediction.levels), (lower, median, upper), threshold)
        rows += self._more_of_pixel(at)
        name = shown_names(prediction.channel_names)[channel]
        place = ", ".join(f"{a.lower()} {at[a]}" for a in prediction.axes if a != "C")
        body = "".join(f"<tr><td>{a}&nbsp;&nbsp;</td><td><b>{b}</b></td></tr>" for a, b in rows)
        self._view.pixel.setText(f"<div>{name} at {place}</div><table cellspacing='2'>{body}</table>")
        self._follow()

    def _place(self) -> dict[str, int] | None:
        """Return the index, by axis letter, of the clicked pixel in the plane and channel in sight."""
        if self._clicked is None:
            return None
        return {**self._focus.at(), "Y": self._clicked[0], "X": self._clicked[1]}

    def _more_of_pixel(self, at: dict[str, int]) -> list[tuple[str, str]]:
        """Return the observed value, the truth and the token, as far as known."""
        source, rows = self._focus.source, []
        if source is not None and source.axes and set(source.axes) <= {*at, "C"}:
            size = dict(zip(source.axes, source.data.shape, strict=True))
            if size.get("C", 1) > at["C"]:
                value = np.asarray(source.data[tuple(at[a] for a in source.axes)])
                rows.append(("observed", f"{float(value):.4g}"))
        image = self._truth()
        if image is not None:
            value = np.asarray(image.data[tuple(at.get(a, 0) for a in image.axes)])
            rows.append(("truth", f"{float(value):.4g}"))
        prediction = self._focus.prediction
        groups = None if prediction is None else getattr(prediction, "groups", None)
        if groups is not None and prediction is not None:
            name = str(prediction.provenance.get("grouped_by", "token"))
            number = int(groups[tuple(at[a] for a in prediction.axes if a != "C")])
            rows.append(("calibrated with", f"{name} {number}" if number else "all pixels"))
        tokens = self._session.tokens
        if tokens is not None and prediction is not None:
            # Each call looks up the labels of the whole image.
            if self._labels is None or self._labels[0] is not tokens:
                self._labels = (tokens, np.asarray(tokens.labels))
            labels = self._labels[1]
            if len(tokens.axes) == labels.ndim and set(tokens.axes) <= set(at):
                rows.append(("token", str(int(labels[tuple(at[a] for a in tokens.axes)]))))
        return rows

    def _on_user_filter(self, shown: bool) -> None:
        """Show the filter of the clicked pixel from now on, or no longer."""
        self._filtered = None
        if shown:
            self._follow()
            return
        self._lifetime.drop("filter")
        self._view.filter_note.say()
        self._view.filter_chart.hide()
        self._remove_filter()

    def _follow(self) -> None:
        """Compute the filter of the clicked pixel if it is asked for, as it is and with more noise."""
        model, source, at = self._session.model, self._focus.source, self._place()
        asked = self._view.filter.isChecked() and not self._hidden
        if not asked or "filter" in self._lifetime.runs or at == self._filtered:
            return
        if model is None or source is None or not source.axes or at is None:
            return
        device = self._session.device
        # networks may see slices as frames
        seen = engine.axes_seen(source.axes, model.settings)
        size = dict(zip(seen, source.data.shape, strict=True))
        place = {s: at[a] for s, a in zip(seen, source.axes, strict=True) if a in at}
        space = "".join(a for a in "ZYX" if a in size)
        scene = place.get("S", 0) * size.get("T", 1) + place.get("T", 0)

        def step() -> Step[list[EquivalentFilter]]:
            """Compute the filters over the members; a step."""
            made = []
            for factor in (1.0, _MORE_NOISE):
                one = yield from engine.equivalent_filter_steps(
                    model,
                    engine.image_for(model, source.data, source.axes),
                    [place[a] for a in space],
                    engine.compute_on(device, model.settings),
                    channel=at["C"],
                    scene=scene,
                    noise_factor=factor,
                )
                made.append(one)
            return made

        def done(made: list[EquivalentFilter]) -> None:
            """Show them, and go on if the pixel is another one by now."""
            self._show_filter(made, model.channel_names[at["C"]], space, stacked="C" in size)
            self._follow()

        def failed(error: Exception) -> None:
            """Show the error."""
            self._view.filter_chart.hide()
            self._view.filter_note.say(("red", sentence_of(error)))

        self._filtered = at
        self._lifetime.start("filter", step, done, failed)

    def _show_filter(
        self, filters: Sequence[EquivalentFilter], channel: str, space: str, *, stacked: bool
    ) -> None:
        """Show filters as pictures, the first as a layer, and what they add up to."""
        made, noisier = filters
        axes = f"C{space}" if stacked else space
        own = made.frames[made.box.scene]
        crop = own if stacked else own[0]
        start = [s.start for s in made.box.slices]
        record = {
            "axes": axes,
            "at": list(made.at),
            "channel": channel,
            "median": made.value,
            "net_bias": made.net_bias,
            "total": made.total,
            "effective_width_px": made.effective_width,
        }
        layers = self._focus.viewer.layers
        active = layers.selection.active
        map_layer(
            self._focus.viewer,
            "filter",
            self._focus.name,
            crop,
            record,
            start=[0] * (len(axes) - len(space)) + start,
        )
        if active is not None and active in layers:
            layers.selection.active = active
        series = len(made.frames) > 1
        self._view.filter_chart.show_filters(
            [
                _pictures(
                    made, lambda later: f"frame {later:+d}" if later else "this" if series else "as it is"
                ),
                # there is no room for the name of the frame as well
                _pictures(noisier, lambda later: "" if later else "twice the noise"),
            ]
        )
        self._view.filter_chart.show()
        known = () if self._focus.prediction is None else self._focus.prediction.channel_names
        shown = shown_names(known)[0] if len(known) < 2 else channel
        text = (
            f"{shown}: median {made.value:.4g} = {made.value - made.net_bias:.4g} from the noisy pixels (red adds, "
            f"blue subtracts) {'-' if made.net_bias < 0 else '+'} {abs(made.net_bias):.4g} from constants of the "
            f"networks (net bias). Weights add up to {made.total:.3g}; effective width "
            f"{made.effective_width:.3g} px. With twice the noise: net bias {noisier.net_bias:.4g}, effective width "
            f"{noisier.effective_width:.3g} px."
        )
        self._view.filter_note.say(("info", f"{text}{_motion(made)} Hold Shift and drag to explore."))


def _pictures(made: EquivalentFilter, title_of: Callable[[int], str]) -> tuple[Weights, ...]:
    """Return the weights of each frame in time's order, of the median's own channel, in the plane of the pixel.

    Titles follow from how many frames later a frame is.
    """
    frames = made.frames
    pictures = []
    for number in sorted(frames):
        part = frames[number][min(made.channel, len(frames[number]) - 1)]
        at = [p - s.start for p, s in zip(made.at, made.box.slices, strict=True)]
        plane = part[(at[0],)] if part.ndim == 3 else part
        # at an image's edge, zeros stand for the pixels beyond it
        pads = [
            (max(n - 1 - 2 * p, 0), max(2 * p - n + 1, 0)) for p, n in zip(at[-2:], plane.shape, strict=True)
        ]
        moved = made.displacements.get(number)
        title = title_of(number - made.box.scene)
        pictures.append(
            Weights(title, np.pad(plane, pads), None if moved is None else (moved[-2], moved[-1]))
        )
    return tuple(pictures)


def _motion(made: EquivalentFilter) -> str:
    """Return how far the weights of neighbouring frames are displaced, as a sentence; empty for single frames."""
    moved = [
        f"{number - made.box.scene:+d}: {', '.join(f'{round(v, 1) + 0.0:+.1f}' for v in by)} px"
        for number, by in sorted(made.displacements.items())
    ]
    letters = ", ".join("zyx"[-len(made.at) :])
    return (
        f" Weights of neighbouring frames are displaced by ({letters}) {'; '.join(moved)}." if moved else ""
    )
