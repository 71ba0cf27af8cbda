"""The fit of one channel of a noise model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_btn.core.data import photon_transfer
from napari_btn.core.data.defects import step_of
from napari_btn.core.data.noise_frames import LEAST_PIXELS
from napari_btn.core.data.recorded_noise import HistogramNoise, MixtureNoise
from napari_btn.core.progress import counted
from napari_btn.core.settings import need

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_btn.core.data.noise_frames import NoiseFrames
    from napari_btn.core.data.recorded_noise import Recorded

__all__ = ["Kind", "fit_channel", "offsets_of", "record_channel", "signal_range"]

Kind = Literal["photon transfer", "histogram", "mixture"]

_RECORDED = 20  # frames that a recorded distribution needs at least
_MOVED = 0.3  # autocorrelation of differences of frames above which something may have moved
_MUCH = 1.5  # more variance between frames than within one: something did move


def offsets_of(offset: float | Sequence[float] | None, channels: int) -> list[float | None]:
    """Return one offset per channel."""
    if offset is None:
        return [None] * channels
    values = np.asarray(offset, np.float64)
    ok = (values.ndim == 0 or values.shape == (channels,)) and bool(np.isfinite(values).all())
    need(ok, "offset", offset, f"one finite number, or one for each of {counted(channels, 'channel')}")
    return [float(v) for v in np.broadcast_to(values, channels)]


def fit_channel(seen: NoiseFrames, c: int, offset: float | None, excess: float) -> dict[str, Any]:
    """Return the fields of one channel of the model."""
    source, frames = seen.source, seen.stack[:, c]
    known = seen.inside & (seen.defects.kinds[c] == 0)
    if known.sum() < LEAST_PIXELS:
        raise ValueError(
            f"{int(known.sum())} pixels of channel {c} are neither saturated nor defect; noise is measured on at "
            f"least {LEAST_PIXELS}. Give a less exposed image."
        )
    if source == "image":
        measured = _pooled([photon_transfer.transfer_of_image(f, known) for f in frames[:8]])
    else:
        measured = photon_transfer.transfer_of_frames(frames, known, moving=source == "frames")
        if source == "frames" and (measured.correlation[-2:, 1] > _MOVED).all():
            # what is left of motion is correlated along both axes; one frame has none
            alone = _pooled([photon_transfer.transfer_of_image(f, known) for f in frames[:8]])
            if _total(measured) > _MUCH * _total(alone):
                measured = alone
    step = step_of(frames[:, known])
    line = photon_transfer.fit_line(
        measured.mean,
        measured.variance,
        measured.count,
        offset=offset,
        curved=5.0 if source == "image" else 3.0,
        counts=step > 0 and float(frames[:, known].min()) >= 0,
    )
    gain = max(line.slope, 0.0)
    curvature = max(line.curvature, 0.0)
    origin = offset
    if origin is None:
        # the point without noise, if it lies at a positive value
        origin = -line.intercept / gain if line.intercept < 0 < gain and not curvature else 0.0
    # of values above the offset: a(x - o)^2 + b(x - o) + c
    gain = max(gain + 2 * curvature * origin, 0.0)
    rest = line.intercept + line.slope * origin + curvature * origin**2
    return {
        "gain": gain / excess,
        "offset": origin,
        "read_sd": float(np.sqrt(max(rest, 0.0))),
        "fano": line.ratio,
        "excess": excess,
        "multiplicative": curvature,
        "step": step,
        "saturation": float(seen.defects.saturation[c]),
        "gain_se": line.slope_se / excess,
        "fano_se": line.ratio_se,
        "correlation": measured.correlation,
        "curve": np.stack([measured.mean, measured.variance]),
    }


def record_channel(seen: NoiseFrames, c: int, kind: Kind) -> Recorded:
    """Return the recorded distribution of a channel."""
    kinds: dict[str, type[Recorded]] = {k.kind: k for k in (HistogramNoise, MixtureNoise)}
    need(kind in kinds, "kind", kind, "photon transfer, histogram or mixture")
    if seen.source == "image" or len(seen.stack) < _RECORDED:
        raise ValueError(
            f"A recorded noise model needs about 100 frames of one static scene, at least {_RECORDED}; "
            f'{len(seen.stack)} came. Give more frames, or use kind="photon transfer".'
        )
    known = seen.inside & (seen.defects.kinds[c] == 0)
    values = seen.stack[:, c][:, known].astype(np.float64)
    return kinds[kind].fit(values.mean(0), values)


def signal_range(one: Recorded) -> tuple[float, float]:
    """Return the smallest and largest signal of a recorded distribution."""
    signal = one.signal_edges if isinstance(one, HistogramNoise) else one.knots
    return float(signal[0]), float(signal[-1])


def _total(measured: photon_transfer.Transfer) -> float:
    """Return the mean variance of the noise, over all pixels."""
    return float(np.average(measured.variance, weights=measured.count))


def _pooled(parts: list[photon_transfer.Transfer]) -> photon_transfer.Transfer:
    """Return the points of several images together."""
    return photon_transfer.Transfer(
        mean=np.concatenate([p.mean for p in parts]),
        variance=np.concatenate([p.variance for p in parts]),
        count=np.concatenate([p.count for p in parts]),
        correlation=np.mean([p.correlation for p in parts], axis=0),
    )
