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
from napari_btn.widgets.shared.side_by_side import stands_side_by_side
from napari_btn.widgets.shared.worker import sentence_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from napari_btn.core.inference.jacobian import EquivalentFilter
    from napari_btn.core.progress import Step
    from napari_btn.session import Session
    from napari_btn.widgets.shared.dock import Lifetime
    from napari_btn.widgets.shared.layers import LayerImage
    from napari_btn.widgets.uncertainty.focus import Focus
    from napari_btn.widgets.uncertainty.view import UncertaintyView

__all__ = ["PixelTab"]

_MARK_COLOUR = "#e66100"  # Okabe and Ito's vermilion contrasts with gray, viridis and magma
_MARK_PX = (15, 30)  # on the canvas


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
        self._labels: tuple[object, NDArray[Any]] | None = None
        view.filter.clicked.connect(self._on_user_filter)
        lifetime.hear_clicks(focus.viewer, self._on_user_click)
        lifetime.at_end(self._unmark)

    def forget(self) -> None:
        """Forget the clicked pixel."""
        self._clicked = None
        self._unmark()

    def _unmark(self) -> None:
        """Remove the mark of the clicked pixel."""
        if self._mark is not None and self._mark in self._focus.viewer.layers:
            self._focus.viewer.layers.remove(self._mark)
        self._mark = None

    def _mark_pixel(self, y: int, x: int) -> None:
        """Mark the clicked pixel in the viewer, unless layers stand side by side, where the mark had a place alone."""
        viewer, name = self._focus.viewer, self._focus.name
        if self._mark is not None and self._mark in viewer.layers:
            self._mark.data = [[y, x]]
            return
        if stands_side_by_side(viewer):
            return
        active, place = viewer.layers.selection.active, placement_of(viewer, name, "YX")
        self._mark = viewer.add_points(
            [[y, x]],
            name=f"{name} pixel",
            symbol="cross",
            size=1.0,
            canvas_size_limits=_MARK_PX,
            face_color=_MARK_COLOUR,
            border_color=_MARK_COLOUR,
            opacity=1.0,
            metadata={KEY: {"map": "pixel", "axes": "YX"}},
            **({} if place is None else place.to_layer()),
        )
        viewer.layers.selection.active = active

    def _on_user_click(self, event: Any) -> None:
        """Show the pixel that was clicked."""
        anchor = self._focus.anchor()
        if anchor is None or not may_click(self._focus.viewer):
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
        self._view.filter_note.say()
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
            text = f"{shown:.2f} ({max(least, 0):.2f} with an unseen block against it)"
            rows.append((f"P(> {threshold:.4g})", text))
            self._view.density.show_pixel(*density(q, prediction.levels), (lower, median, upper), threshold)
        rows += self._more_of_pixel(at)
        name = shown_names(prediction.channel_names)[channel]
        place = ", ".join(f"{a.lower()} {at[a]}" for a in prediction.axes if a != "C")
        body = "".join(f"<tr><td>{a}&nbsp;&nbsp;</td><td><b>{b}</b></td></tr>" for a, b in rows)
        self._view.pixel.setText(f"<div>{name} at {place}</div><table cellspacing='2'>{body}</table>")

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

    def _on_user_filter(self) -> None:
        """Add the equivalent filter of the clicked pixel as a layer."""
        model, source, clicked = self._session.model, self._focus.source, self._clicked
        if (
            model is None
            or source is None
            or not source.axes
            or clicked is None
            or "filter" in self._lifetime.runs
        ):
            return
        at = {**self._focus.at(), "Y": clicked[0], "X": clicked[1]}
        size = dict(zip(source.axes, source.data.shape, strict=True))
        space = "".join(a for a in "ZYX" if a in size)
        name, device = model.channel_names[at["C"]], self._session.device

        def step() -> Step[EquivalentFilter]:
            """Compute the filter over the members; a step."""
            return (
                yield from engine.equivalent_filter_steps(
                    model,
                    engine.image_for(model, source.data, source.axes),
                    [at[a] for a in space],
                    engine.compute_on(device, model.settings),
                    channel=at["C"],
                    scene=at.get("S", 0) * size.get("T", 1) + at.get("T", 0),
                )
            )

        def done(made: EquivalentFilter) -> None:
            """Show it."""
            self._show_filter(made, name, space, stacked="C" in size)

        def failed(error: Exception) -> None:
            """Show the error."""
            self._view.filter_note.say(("red", sentence_of(error)))

        self._view.filter_note.say()
        self._lifetime.start("filter", step, done, failed)

    def _show_filter(self, made: EquivalentFilter, channel: str, space: str, *, stacked: bool) -> None:
        """Add the layer of a filter, and show the sum of its weights."""
        axes = f"C{space}" if stacked else space
        crop = made.crop if stacked else made.crop[0]
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
        map_layer(
            self._focus.viewer,
            "filter",
            self._focus.name,
            crop,
            record,
            start=[0] * (len(axes) - len(space)) + start,
        )
        known = () if self._focus.prediction is None else self._focus.prediction.channel_names
        shown = shown_names(known)[0] if len(known) < 2 else channel
        text = (
            f"{shown}: median {made.value:.4g} = {made.value - made.net_bias:.4g} from the noisy pixels (red adds, "
            f"blue takes away) {'-' if made.net_bias < 0 else '+'} {abs(made.net_bias):.4g} that the networks add "
            f"whatever they see (net bias). Weights add up to {made.total:.3g}; effective width "
            f"{made.effective_width:.3g} px."
        )
        self._view.filter_note.say(("info", text))
