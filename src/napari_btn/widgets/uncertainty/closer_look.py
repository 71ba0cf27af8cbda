"""A closer look at a prediction: along a line, at a pixel, and at the coverage that was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.distribution import density
from napari_btn.core.evaluation.line import along, points_between, to_scale
from napari_btn.core.progress import Progress
from napari_btn.session import Threshold
from napari_btn.widgets.shared.layers import read_layer
from napari_btn.widgets.shared.overlays import line_layer, map_layer, our_layer, placement_of, plane_of
from napari_btn.widgets.shared.worker import run_step, sentence_of
from napari_btn.widgets.uncertainty.view import UncertaintyView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.data.image import Image
    from napari_btn.core.inference.jacobian import EquivalentFilter
    from napari_btn.core.progress import Step
    from napari_btn.widgets.shared.panels import NoteLabel
    from napari_btn.widgets.uncertainty.live_maps import LiveMaps

__all__ = ["CloserLook", "point_of"]

_ALPHAS = (0.5, 0.32, 0.2, 0.1, 0.05)
_TABS = ("line", "pixel", "coverage")


class CloserLook(UncertaintyView):
    """The tabs of the Uncertainty dock at work.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Viewer to work in.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.live: LiveMaps | None = None
        self._prediction: Prediction | None = None
        self._source: Image | None = None
        self._asked = Threshold((0.0,))
        self._clicked: tuple[int, int] | None = None
        self._curve: tuple[object, NDArray[np.float64]] | None = None
        self._scale: tuple[object, tuple[float, float]] | None = None
        self._labels: tuple[object, NDArray[Any]] | None = None
        self._line: Any = None

    def _later(self, value: object = None) -> None:
        """Draw soon."""
        raise NotImplementedError

    # ---------------------------------------------------------------- where the viewer stands

    def _anchor(self) -> Any:
        """Any layer in the axes of the prediction."""
        if self._source is None or self._prediction is None:
            return None
        name = self._source.name
        found = [our_layer(self.viewer, f"{name} {kind}", kind) for kind in ("median", "lower", "width")]
        found += [self.live.layer(kind) for kind in ("exceedance", "claim")] if self.live is not None else []
        found += [self.viewer.layers[name]] if name in self.viewer.layers else []
        ndim = len(self._prediction.axes)
        return next((layer for layer in found if layer is not None and layer.ndim == ndim), None)

    def _at(self) -> dict[str, int]:
        """Index by axis letter of the plane in sight, with the channel of the list."""
        prediction = self._prediction
        if prediction is None:
            return {}
        anchor = self._anchor()
        point = np.zeros(len(prediction.axes)) if anchor is None else point_of(anchor, self.viewer)
        size = prediction.median.shape
        at = {
            a: int(np.clip(round(float(v)), 0, n - 1))
            for a, v, n in zip(prediction.axes, point, size, strict=True)
            if a not in "YX"
        }
        return {**at, "C": self._asked.channel}

    def _run(
        self,
        name: str,
        step: Callable[[], Step[Any]],
        done: Callable[[Any], None],
        told: NoteLabel | None = None,
    ) -> None:
        """Run a step; what goes wrong is said on top, or beside the control that asked."""

        def failed(error: Exception) -> None:
            """Say what went wrong."""
            self._runs.pop(name, None)
            (told or self.hint).say(("red", sentence_of(error)))

        self._runs[name] = run_step(step, title=f"napari-btn: {name}", on_result=done, on_error=failed)

    # ---------------------------------------------------------------- along a line

    def _on_user_line(self) -> None:
        """Add a line, or go on with the one that is there."""
        prediction, source = self._prediction, self._source
        if prediction is None or source is None:
            return
        size = dict(zip(prediction.axes, prediction.median.shape, strict=True))
        place = placement_of(self.viewer, source.name, "YX")
        layer = line_layer(self.viewer, f"{source.name} line cut", (size["Y"], size["X"]), place)
        layer.visible = True
        self._watch_line()
        self.viewer.layers.selection.active = layer
        layer.mode = "add_line"
        self.tabs.setCurrentIndex(0)
        self._later()

    def _watch_line(self) -> None:
        """Hear of the line's changes, if there is a line."""
        name = "" if self._source is None else f"{self._source.name} line cut"
        layer = our_layer(self.viewer, name, "line cut")
        if layer is self._line:
            return
        self._leave_line()
        self._line = layer
        if layer is not None:
            layer.events.data.connect(self._on_line_changed)
            layer.events.set_data.connect(self._later)

    def _leave_line(self) -> None:
        """Hear of the line no more."""
        if self._line is not None:
            self._line.events.data.disconnect(self._on_line_changed)
            self._line.events.set_data.disconnect(self._later)
        self._line = None

    def _on_line_changed(self, event: Any) -> None:
        """The line was moved, or another drawn: the last one counts, and the ones before go."""
        layer = self._line
        if layer is not None and str(getattr(event, "action", "")).endswith("added") and layer.nshapes > 1:
            layer.selected_data = set(range(layer.nshapes - 1))
            layer.remove_selected()
        self._later()

    def _draw_line(self) -> None:
        """Draw what lies along the line."""
        prediction, source = self._prediction, self._source
        drawn = self._line is not None and self._line in self.viewer.layers and self._line.nshapes > 0
        self.line_chart.setVisible(drawn and prediction is not None)
        if prediction is None or source is None or not drawn:
            self.line_note.say()
            return
        ends = np.asarray(self._line.data[-1], dtype=float)[[0, -1], -2:]
        points = points_between(*ends)
        at = self._at()
        names = ("lower", "median", "upper")
        planes: dict[str, NDArray[Any]] = {
            name: plane_of(getattr(prediction, name), prediction.axes, at) for name in names
        }
        notes: list[tuple[str, str]] = []
        try:
            observed = self._observed(at, planes["median"])
            if observed is not None:
                planes["observed"] = observed
            truth = self._truth_plane(at, planes["median"].shape)
            if truth is not None:
                planes["truth"] = truth
        except ValueError as error:
            notes.append(("amber", str(error)))
        size = dict(
            zip([a for a in prediction.axes if a in "ZYX"], prediction.pixel_size or (), strict=False)
        )
        step = np.array([size.get("Y", 1.0), size.get("X", 1.0)])
        distance = np.hypot(*((points - points[0]) * step).T)
        curves = {name: along(plane, points) for name, plane in planes.items()}
        threshold = self._asked.value if self.toggles["exceedance"].isChecked() else None
        unit = prediction.unit if prediction.pixel_size else "px"
        self.line_chart.show_curves(distance, curves, unit=unit, threshold=threshold)
        if "truth" in curves:
            known = np.isfinite(curves["truth"]) & np.isfinite(curves["median"])
            inside = (curves["lower"] <= curves["truth"]) & (curves["truth"] <= curves["upper"])
            share = float(np.mean(inside[known])) if known.any() else float("nan")
            aim = 100 * (1 - prediction.alpha)
            text = (
                f"{100 * share:.0f} % of the truth along the line is inside; {aim:.4g} % is right on average."
            )
            notes.append(("info", text))
        self.line_note.say(*notes)

    def _observed(self, at: dict[str, int], median: NDArray[np.float32]) -> NDArray[np.float64] | None:
        """Noisy plane at the median's scale, by gain and offset over the whole plane."""
        source, prediction = self._source, self._prediction
        assert source is not None
        assert prediction is not None
        axes = source.axes or prediction.axes
        size = dict(zip(axes, source.data.shape, strict=True))
        if size.get("C", 1) != len(prediction.channel_names):
            return None
        plane = plane_of(source.data, axes, at)
        if plane.shape != median.shape:
            return None
        key = (id(prediction), tuple(sorted(at.items())))
        if self._scale is None or self._scale[0] != key:
            self._scale = (key, to_scale(plane, median))
        gain, offset = self._scale[1]
        return np.asarray(gain * plane + offset, dtype=np.float64)

    def _truth_plane(self, at: dict[str, int], shape: tuple[int, ...]) -> NDArray[np.float32] | None:
        """Plane of the layer picked as the truth."""
        name = self.truth.currentText()
        if self.truth.currentIndex() < 1 or name not in self.viewer.layers:
            return None
        image = read_layer(self.viewer.layers[name])
        plane = plane_of(image.data, image.axes, at)
        return plane if plane.shape == shape else None

    # ---------------------------------------------------------------- at a pixel

    def _on_mouse(self, viewer: Any, event: Any) -> Iterator[None]:
        """Show the pixel that was clicked, unless the mouse was dragged or draws."""
        active = self.viewer.layers.selection.active
        del viewer
        start = tuple(event.pos) if getattr(event, "pos", None) is not None else None
        yield
        while event.type == "mouse_move":
            moved = start is not None and np.hypot(*(np.asarray(event.pos) - start)) > 3
            if moved:
                return
            yield
        free = active is not None and str(active.mode) in ("pan_zoom", "Mode.PAN_ZOOM")
        anchor = self._anchor()
        if self._left or anchor is None or not (active is None or free):
            return
        where = np.asarray(anchor.world_to_data(event.position), dtype=float)
        self.show_pixel(*(round(float(where[anchor_axis])) for anchor_axis in self._yx()))

    def _yx(self) -> tuple[int, int]:
        """Axes of rows and columns."""
        assert self._prediction is not None
        return self._prediction.axes.index("Y"), self._prediction.axes.index("X")

    def show_pixel(self, y: int, x: int) -> None:
        """Show what is known of a pixel of the plane in sight.

        Parameters
        ----------
        y, x : int
            Row and column; nothing happens outside the image.
        """
        prediction = self._prediction
        if prediction is None:
            return
        rows, columns = (prediction.median.shape[i] for i in self._yx())
        if not (0 <= y < rows and 0 <= x < columns):
            return
        self._clicked = (y, x)
        self.filter_note.say()
        self.tabs.setCurrentIndex(1)
        self._draw_pixel()

    def _draw_pixel(self) -> None:
        """Show the clicked pixel, in the plane in sight."""
        prediction, clicked = self._prediction, self._clicked
        self.density.setVisible(self.live is not None and clicked is not None)
        readable = self._source is not None and bool(self._source.axes)
        self.filter.setVisible(clicked is not None and readable and self.session.denoiser is not None)
        if prediction is None or clicked is None:
            self.filter_note.say()
            self.pixel.setText("Click a pixel in the viewer." if prediction is not None else "")
            return
        at = {**self._at(), "Y": clicked[0], "X": clicked[1]}
        index = tuple(at.get(a, 0) for a in prediction.axes)
        names = ("lower", "median", "upper")
        lower, median, upper = (float(getattr(prediction, name)[index]) for name in names)
        channel, threshold = at["C"], self._asked.value
        rows = [
            ("median", f"{median:.4g}"),
            (f"{100 * (1 - prediction.alpha):.4g} % interval", f"{lower:.4g} to {upper:.4g}"),
            ("spread of the members", f"{float(prediction.spread[index]):.3g}"),
        ]
        if self.live is not None and prediction.distribution is not None:
            q = np.asarray(prediction.quantiles[(slice(None), *index)], dtype=np.float32)
            sides = [
                float(
                    prediction.distribution.probability(q[:, None], threshold, channel=channel, side=side)[0]
                )
                for side in ("middle", "conservative")
            ]
            text = f"{sides[0]:.2f} (at least {max(sides[1], 0):.2f}, counted conservatively)"
            rows.append((f"P(> {threshold:.4g})", text))
            self.density.show_pixel(*density(q, prediction.levels), (lower, median, upper), threshold)
        rows += self._more_of_pixel(at)
        name = prediction.channel_names[channel] if prediction.channel_names else ""
        place = ", ".join(f"{a.lower()} {at[a]}" for a in prediction.axes if a != "C")
        body = "".join(f"<tr><td>{a}&nbsp;&nbsp;</td><td><b>{b}</b></td></tr>" for a, b in rows)
        self.pixel.setText(f"<div>{name} at {place}</div><table cellspacing='2'>{body}</table>")

    def _more_of_pixel(self, at: dict[str, int]) -> list[tuple[str, str]]:
        """The observed value, the truth and the token, where they are known."""
        source, rows = self._source, []
        if source is not None and source.axes and set(source.axes) <= {*at, "C"}:
            size = dict(zip(source.axes, source.data.shape, strict=True))
            if size.get("C", 1) > at["C"]:
                value = np.asarray(source.data[tuple(at[a] for a in source.axes)])
                rows.append(("observed", f"{float(value):.4g}"))
        name = self.truth.currentText()
        if self.truth.currentIndex() >= 1 and name in self.viewer.layers:
            image = read_layer(self.viewer.layers[name])
            value = np.asarray(image.data[tuple(at.get(a, 0) for a in image.axes)])
            rows.append(("truth", f"{float(value):.4g}"))
        groups = None if self._prediction is None else getattr(self._prediction, "groups", None)
        if groups is not None and self._prediction is not None:
            name = str(self._prediction.provenance.get("grouped_by", "token"))
            number = int(groups[tuple(at[a] for a in self._prediction.axes if a != "C")])
            rows.append(("calibrated with", f"{name} {number}" if number else "all pixels"))
        tokens = getattr(self.session, "tokens", None)
        if tokens is not None and self._prediction is not None:
            # Labels are looked up anew on every call, for the whole image.
            if self._labels is None or self._labels[0] is not tokens:
                self._labels = (tokens, np.asarray(tokens.labels))
            labels = self._labels[1]
            if len(tokens.axes) == labels.ndim and set(tokens.axes) <= set(at):
                rows.append(("token", str(int(labels[tuple(at[a] for a in tokens.axes)]))))
        return rows

    def _on_user_filter(self) -> None:
        """Add the equivalent filter of the clicked pixel as a layer."""
        denoiser, source, clicked = self.session.denoiser, self._source, self._clicked
        if denoiser is None or source is None or not source.axes or clicked is None or "filter" in self._runs:
            return
        at = {**self._at(), "Y": clicked[0], "X": clicked[1]}
        size = dict(zip(source.axes, source.data.shape, strict=True))
        space = "".join(a for a in "ZYX" if a in size)
        name = denoiser.channel_names[at["C"]]

        def step() -> Step[EquivalentFilter]:
            """Look through the members, as a step."""
            made: EquivalentFilter = yield from denoiser.equivalent_filter_steps(
                source.data,
                [at[a] for a in space],
                source.axes,
                channel=at["C"],
                scene=at.get("S", 0) * size.get("T", 1) + at.get("T", 0),
            )
            return made

        def done(made: EquivalentFilter) -> None:
            """Add the layer, and say what it comes to."""
            self._runs.pop("filter", None)
            axes = f"C{space}" if "C" in size else space
            crop = made.crop if "C" in size else made.crop[0]
            start = [s.start for s in made.box.slices]
            place = placement_of(self.viewer, source.name, axes)
            place = None if place is None else place.cropped([0] * (len(axes) - len(space)) + start)
            record = {
                "map": "filter",
                "axes": axes,
                "at": list(made.at),
                "channel": name,
                "median": made.value,
                "net_bias": made.net_bias,
                "caption": "Weight of each noisy pixel in the median of one, per unit of the noisy image.",
            }
            top = float(np.abs(crop).max()) or 1.0
            layer = map_layer(self.viewer, f"{source.name} filter", crop, place, record, (-top, top))
            layer.contrast_limits_range = layer.contrast_limits = (-top, top)
            if place is not None:
                layer.translate = place.translate
            text = (
                f"{name}: median {made.value:.4g} = {made.value - made.net_bias:.4g} from the noisy pixels (red adds, "
                f"blue takes away) + {made.net_bias:.4g} that the networks add whatever they see (net bias)."
            )
            self.filter_note.say(("info", text))

        self.filter_note.say()
        self._run("filter", step, done, self.filter_note)

    # ---------------------------------------------------------------- coverage

    def _on_user_tab(self, index: int = 0) -> None:
        """Measure the reliability when it is looked at."""
        del index
        denoiser = self.session.denoiser
        if self.tabs.currentIndex() == _TABS.index("pixel") and self._line is not None:
            # Who looks at pixels clicks them, and no longer draws.
            self._line.mode = "pan_zoom"
        looked_at = self.tabs.currentIndex() == _TABS.index("coverage")
        self.missed.setEnabled(denoiser is not None and self._prediction is not None)
        if not looked_at or denoiser is None or "reliability" in self._runs:
            self._show_reliability()
            return
        if self._curve is not None and self._curve[0] is denoiser.calibration:
            return
        calibration = denoiser.calibration

        def step() -> Step[Any]:
            """Measure, as a step."""
            yield Progress(0, 1, "Measuring the coverage at several levels")
            return denoiser.coverage_curve(_ALPHAS)

        def done(curve: Any) -> None:
            """Keep and draw it."""
            self._runs.pop("reliability", None)
            self._curve = (calibration, curve)
            self._show_reliability()

        self._run("reliability", step, done)

    def _show_reliability(self) -> None:
        """Draw the reliability of the channel."""
        denoiser, c = self.session.denoiser, self._asked.channel
        report = None if denoiser is None else denoiser.report
        known = self._curve is not None and report is not None and c < len(self._curve[1])
        self.reliability.setVisible(known)
        if known and self._curve is not None and report is not None:
            at = (1 - report.alpha, float(report.coverage_low[c]), float(report.coverage_high[c]))
            self.reliability.show_coverage(1 - np.asarray(_ALPHAS), self._curve[1][c], at)

    def _on_user_missed(self) -> None:
        """Add the map of missed blocks."""
        denoiser, prediction, source = self.session.denoiser, self._prediction, self._source
        if denoiser is None or prediction is None or source is None or "missed" in self._runs:
            return
        size = dict(zip(prediction.axes, prediction.median.shape, strict=True))
        # scenes with targets of their own are blocks of their own
        apart = denoiser.report is not None and denoiser.report.block_px == 0
        letters = [a for a in (source.axes if apart and source.axes else "ZYX") if a != "C" and a in size]

        def step() -> Step[Any]:
            """Paint, as a step."""
            yield Progress(0, 1, "Painting missed blocks")
            return denoiser.miscoverage([int(size[a]) for a in letters], noisy=source.data, axes=source.axes)

        def done(painted: Any) -> None:
            """Add the layer."""
            self._runs.pop("missed", None)
            axes = "".join(["C", *letters])
            if "C" not in prediction.axes:
                painted, axes = painted[0], axes[1:]
            record = {
                "map": "miscoverage",
                "axes": axes,
                "channel_names": list(prediction.channel_names),
                "covers": prediction.covers,
                "alpha": prediction.alpha,
                "caption": "Share of missed pixels of each held-out block of the field that was calibrated on.",
                "provenance": prediction.provenance,
            }
            place = placement_of(self.viewer, source.name, axes)
            top = max(3 * prediction.alpha, 0.05)
            map_layer(self.viewer, f"{source.name} miscoverage", painted, place, record, (0.0, top))
            text = (
                f"Blocks of the field that was calibrated on: dark where few pixels are missed, "
                f"bright from {100 * top:.3g} %; {100 * prediction.alpha:.3g} % is right on average."
            )
            self.missed_note.say(("info", text))

        self.missed_note.say()
        self._run("missed", step, done, self.missed_note)


def point_of(layer: Any, viewer: Any) -> NDArray[np.float64]:
    """Where the sliders stand, in pixels of a layer.

    Parameters
    ----------
    layer : napari.layers.Layer
        Any layer.
    viewer : napari.Viewer
        Whose sliders.

    Returns
    -------
    ndarray of float64
        One number per axis of the layer.
    """
    return np.asarray(layer.world_to_data(viewer.dims.point), dtype=np.float64)
