"""A report as one self-contained HTML page: numbers, notes and figures, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.conformal import NOISY_TARGETS, covered
from napari_btn.core.calibration.rules import aim_of
from napari_btn.core.data.image import shown_names
from napari_btn.core.evaluation.by_value import BIN_NAMES
from napari_btn.core.evaluation.diagnostics import block_shares
from napari_btn.plots import figures, reports

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.evaluation.report import Report

__all__ = ["report_page"]

_BLOCK_PX = 16
_SAMPLED = 200_000
_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse } td, th { padding: .2rem .8rem .2rem 0; text-align: right }
td:first-child, th:first-child { text-align: left } tr { border-bottom: 1px solid #8884 }
.red, .amber { border-left: .35rem solid; padding-left: .6rem; margin: .4rem 0 }
.red { border-color: #d33 } .amber { border-color: #e90 }
figure { margin: 1.5rem 0 } figcaption { font-size: .9em; opacity: .8 } img { max-width: 100%; background: white }
"""
_HEAD = (
    "channel",
    "inside",
    "95 % interval",
    "SD of fields",
    "fields",
    "below",
    "above",
    "width",
    "interval score",
    "CRPS",
    "corr.",
    "PSNR (dB)",
)


def report_page(
    report: Report,
    *,
    title: str,
    prediction: Prediction | None = None,
    clean: Any = None,
    about: Mapping[str, str] | None = None,
) -> str:
    """Return a coverage report as HTML.

    Parameters
    ----------
    report : Report
        Measured on held-out blocks or on an image with a truth.
    title : str
        Title of the page.
    prediction : Prediction, optional
        The prediction of the report: adds maps, missed blocks, and width against spread.
    clean : array, optional
        The truth, in the axes of the prediction or without S and T; the first scene and the middle plane
        are drawn.
    about : mapping of str to str, optional
        Rows of the table at the end: files, version, settings.

    Returns
    -------
    str
        A whole document, figures embedded.
    """
    parts = [f"<h1>{escape(title)}</h1>", _summary(report)]
    parts += [f"<p class='{n.level}'><b>{_sign(n.level)}</b> {escape(n.text)}</p>" for n in report.warnings]
    parts.append(
        _figure(
            reports.coverage(report),
            f"Measured coverage with its 95 % interval, of {report.scope}; reliability of the quantiles.",
        )
    )
    if report.bin_coverage.size:
        worst = "; ".join(
            f"{n}: {w}" for n, w in zip(shown_names(report.channel_names), report.worst, strict=False) if w
        )
        parts.append(
            _figure(
                reports.coverage_by_width(report),
                f"Coverage of narrow and of wide intervals, a tenth of the pixels each. Least covered: {worst}.",
            )
        )
    if report.by_predicted.coverage.size:
        parts.append(_by_value(report))
    if report.group_coverage.size:
        parts.append(_groups(report))
    if report.pit.size and not np.isnan(report.pit).all():
        text = "Where the target falls in the predicted distribution, before calibration. Flat is right; a hump in "
        text += "the middle means too wide, high ends mean too narrow, and a slope means a bias."
        parts.append(_figure(reports.places(report), text))
    if prediction is not None:
        parts += _of_image(prediction, clean, report)
    rows = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in (about or {}).items())
    parts.append(f"<h2>About</h2><table>{rows}</table>" if rows else "")
    body = "\n".join(parts)
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>"
        f"<style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )


def _sign(level: str) -> str:
    """Return the word for a level, for readers who can't see its colour."""
    return {"red": "Warning:", "amber": "Note:"}[level]


def _summary(report: Report) -> str:
    """Return the table of the channels, with a sentence on its meaning."""
    aim = aim_of(report.rule, report.alpha, covered(report.covers))
    blocks = int(report.n_blocks[0]) if len(report.n_blocks) else 0
    rows = [
        (name, *(f"{v[c]:{form}}" for v, form in _columns(report)))
        for c, name in enumerate(shown_names(report.channel_names))
    ]
    head = "".join(f"<th>{h}</th>" for h in _HEAD)
    lines = "".join("<tr>" + "".join(f"<td>{escape(v)}</td>" for v in row) + "</tr>" for row in rows)
    table = lines.replace("<td>nan</td>", "<td>-</td>")
    return (
        f"<p>Aimed at: {escape(aim)}; this says nothing about a single pixel. Measured on {blocks} "
        f"{escape(report.blocks)}; the 95 % interval is that of {report.scope}{report.beyond}.</p>"
        "<p>Below, above: shares of the pixels under the lower and over the upper bound. Width, interval score and "
        "CRPS are in the unit of the image; of the two scores, lower is better.</p>"
        f"<table><tr>{head}</tr>{table}</table>"
    )


def _by_value(report: Report) -> str:
    """Return the table of the coverage by predicted and by true value."""
    bins = (("predicted", report.by_predicted), ("true", report.by_true))
    columns = [
        (f"{name}, {kind}", made, c)
        for c, name in enumerate(shown_names(report.channel_names))
        for kind, made in bins
        if made.coverage.size
    ]
    head = "".join(f"<th>{escape(h)}</th>" for h in ("by value", *(title for title, _, _ in columns)))
    lines = []
    for at, name in enumerate(BIN_NAMES):
        cells = (
            f"{made.coverage[c, at]:.3f} (over {made.edge[c, at]:.3g}; {made.blocks[c, at]:.2g} blocks)"
            if made.share[c, at]
            else "-"
            for _, made, c in columns
        )
        row = "".join(f"<td>{escape(cell)}</td>" for cell in (name, *cells))
        lines.append(f"<tr>{row}</tr>")
    text = (
        "Share inside, the value from which a bin starts, and the number of blocks that its pixels are worth. By "
        "true value this is a description, not a promise: the stated coverage is aimed at over all pixels, and "
        "no method can hold it for pixels chosen by their true value."
    )
    return f"<h2>Inside, by value</h2><p>{text}</p><table><tr>{head}</tr>{''.join(lines)}</table>"


def _groups(report: Report) -> str:
    """Return the table of the groups that are calibrated separately."""
    name = report.group_name
    head = "".join(f"<th>{escape(h)}</th>" for h in (name, "share", *shown_names(report.channel_names)))
    lines = []
    for g, share in enumerate(report.group_share):
        bounds = zip(
            report.group_coverage[:, g], report.group_low[:, g], report.group_high[:, g], strict=True
        )
        cells = (f"{v:.3f} ({a:.3f} to {b:.3f})" if v == v else "-" for v, a, b in bounds)
        row = "".join(f"<td>{cell}</td>" for cell in (str(g + 1), f"{100 * share:.1f} %", *cells))
        lines.append(f"<tr>{row}</tr>")
    return f"<h2>Inside, by {name}</h2><table><tr>{head}</tr>{''.join(lines)}</table>"


def _columns(report: Report) -> list[tuple[Any, str]]:
    """Return values and formats of the columns, each by channel."""
    low, high = report.coverage_low, report.coverage_high
    ends = np.array([f"{a:.3f} to {b:.3f}" if a == a else "-" for a, b in zip(low, high, strict=True)])
    spread, least, most = report.between_fields.T
    fields = np.array([f"{a:.3f} to {b:.3f}" if a == a else "-" for a, b in zip(least, most, strict=True)])
    return [
        (report.coverage, ".3f"),
        (ends, ""),
        (spread, ".3f"),
        (fields, ""),
        (report.below, ".3f"),
        (report.above, ".3f"),
        (report.width, ".4g"),
        (report.winkler, ".4g"),
        (report.crps, ".4g"),
        (report.correlation, ".3f"),
        (report.psnr, ".1f"),
    ]


def _of_image(prediction: Prediction, clean: Any, report: Report) -> list[str]:
    """Return the figures of the image itself."""
    names = shown_names(prediction.channel_names)
    made = []
    planes = {
        key: [_plane(getattr(prediction, key), prediction.axes, c) for c in range(len(names))]
        for key in ("lower", "median", "upper", "spread")
    }
    if clean is not None:
        array = np.asarray(clean)
        axes = prediction.axes
        if array.ndim < len(axes):
            axes = axes.replace("S", "").replace("T", "")
        truth = [_plane(array, axes, c) for c in range(len(names))]
        side = report.block_px or _BLOCK_PX
        shares = {
            name: block_shares((t < planes["lower"][c]) | (t > planes["upper"][c]), side, np.isfinite(t))
            for c, (name, t) in enumerate(zip(names, truth, strict=True))
        }
        text = f"Share of pixels outside their intervals, in squares of {side} px: red where larger than asked for."
        figure = reports.missed_blocks(shares, alpha=report.alpha, block_px=side)
        made.append(_figure(figure, text))
    rng = np.random.default_rng(0)
    width, spread = {}, {}
    for c, name in enumerate(names):
        wide = planes["upper"][c] - planes["lower"][c]
        take = rng.choice(wide.size, min(wide.size, _SAMPLED), replace=False)
        width[name], spread[name] = wide.ravel()[take], planes["spread"][c].ravel()[take]
    text = "Width of the interval against the spread of the members: the spread says where networks disagree, the "
    text += "width where the signal is uncertain."
    made.append(_figure(reports.width_and_spread(width, spread), text))
    for c, name in enumerate(names):
        images = {key: planes[key][c] for key in ("lower", "median", "upper")}
        images["width"] = planes["upper"][c] - planes["lower"][c]
        if clean is not None:
            images["target" if report.covers in NOISY_TARGETS else "clean"] = truth[c]
        made.append(_figure(figures.maps(images, title=name), f"Maps of {name}."))
    return made


def _plane(array: Any, axes: str, channel: int) -> NDArray[np.float32]:
    """Return the first scene and middle plane of a channel, rows first."""
    size = dict(zip(axes, array.shape, strict=True))
    at: dict[str, Any] = {"S": 0, "T": 0, "C": channel, "Z": size.get("Z", 1) // 2}
    plane = np.asarray(array[tuple(at.get(a, slice(None)) for a in axes)], dtype=np.float32)
    return plane.T if axes.index("X") < axes.index("Y") else plane


def _figure(figure: Figure, caption: str) -> str:
    """Return a figure as an embedded picture with its caption."""
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    text = escape(caption)
    return (
        f"<figure><img alt='{escape(caption, quote=True)}' src='data:image/png;base64,{data}'>"
        f"<figcaption>{text}</figcaption></figure>"
    )
