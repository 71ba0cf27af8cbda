from __future__ import annotations

import numpy as np
import pytest

from napari_btn import samples


def test_more_blob_scenes_never_change_the_earlier_ones() -> None:
    few, many = samples.blobs(seed=3, n=4), samples.blobs(seed=3, n=7)
    np.testing.assert_array_equal(few.noisy, many.noisy[:4])
    np.testing.assert_array_equal(few.clean, many.clean[:4])
    assert (samples.blobs(seed=4, n=4).noisy != few.noisy).any()


def test_blobs_follow_the_published_law() -> None:
    pair = samples.blobs(n=150)
    assert pair.axes == "SYX"
    assert pair.noisy.shape == pair.clean.shape == (150, 64, 64)
    assert pair.noisy.dtype == pair.clean.dtype == np.float32
    assert pair.clean.min() >= 0
    assert pair.clean.max() <= 4
    error = pair.noisy - pair.clean
    # what the noisy images score in the published comparison: PSNR 13.0 (range 4), correlation 0.632
    assert 10 * np.log10(16 / (error**2).mean()) == pytest.approx(13.0, abs=0.15)
    assert np.corrcoef(pair.noisy.ravel(), pair.clean.ravel())[0, 1] == pytest.approx(0.632, abs=0.02)
    standard = error / (0.8 + 0.15 * pair.clean)
    assert standard.mean() == pytest.approx(0, abs=0.01)
    assert standard.var() == pytest.approx(1, abs=0.02)
    assert (standard**3).mean() == pytest.approx(2 * 0.7**1.5, abs=0.05)


def test_blobs_of_another_size_are_as_dense() -> None:
    small = samples.blobs(n=150).clean[:, 16:48, 16:48].mean()
    large = samples.blobs(n=10, size=200).clean[:, 30:170, 30:170].mean()
    assert large == pytest.approx(small, rel=0.15)


def test_edx_is_starved_of_photons_as_a_seven_second_scan_is() -> None:
    empty = np.mean([(samples.edx(seed=k).noisy == 0).mean((1, 2)) for k in range(4)], axis=0)
    np.testing.assert_allclose(empty, [0.50, 0.80, 0.97], atol=0.05)


def test_edx_counts_are_poisson_around_the_clean_rate() -> None:
    pair = samples.edx(seed=1)
    assert pair.axes == "CYX"
    assert pair.channel_names == ("Si", "Al", "Fe")
    assert pair.pixel_size == (0.5, 0.5)
    assert pair.unit == "um"
    assert pair.noisy.shape == pair.clean.shape == (3, 256, 512)
    assert np.array_equal(pair.noisy, np.round(pair.noisy))
    for counts, rate in zip(pair.noisy, pair.clean, strict=True):
        dose = counts.sum() / rate.sum()
        expected = dose * rate
        dispersion = ((counts - expected) ** 2 / expected).mean()
        assert dispersion == pytest.approx(1, abs=0.05)


def test_edx_minerals_differ_in_their_elements() -> None:
    pair, phase = samples.edx(), samples.edx_phases()
    assert phase.shape == pair.clean.shape[1:]
    share = np.bincount(phase.ravel(), minlength=len(samples.EDX_PHASES)) / phase.size
    assert (share > 0.002).all()
    assert 0.005 < share[samples.EDX_PHASES.index("iron oxide")] < 0.08
    mean = np.array([pair.clean[:, phase == k].mean(1) for k in range(len(samples.EDX_PHASES))])
    assert mean[:, 0].argmax() == samples.EDX_PHASES.index("quartz")
    assert mean[:, 1].argmax() == samples.EDX_PHASES.index("aluminous")
    assert mean[:, 2].argmax() == samples.EDX_PHASES.index("iron oxide")
    assert pair.clean.min() >= 0
    assert pair.clean.max() <= 1


@pytest.mark.parametrize("seed", range(3))
def test_both_sides_of_an_edx_field_hold_every_mineral(seed: int) -> None:
    phase = samples.edx_phases(seed)
    for part in (phase[:, :341], phase[:, 341:]):
        assert set(np.unique(part)) == set(range(len(samples.EDX_PHASES)))


def test_edx_is_smooth_within_grains_and_sharp_between_them() -> None:
    pair, phase = samples.edx(seed=2), samples.edx_phases(seed=2)
    step = np.abs(np.diff(pair.clean[0], axis=1))
    quartz = phase == samples.EDX_PHASES.index("quartz")
    inside = quartz[:, 1:] & quartz[:, :-1]
    edge = quartz[:, 1:] ^ quartz[:, :-1]
    assert np.median(step[edge]) > 10 * np.median(step[inside])


def test_xct_is_blurred_grainy_and_ringed() -> None:
    pair, phase = samples.xct(), samples.xct_phases()
    assert pair.axes == "ZYX"
    assert pair.noisy.shape == pair.clean.shape == phase.shape == (32, 128, 128)
    assert len(pair.pixel_size or ()) == 3
    share = np.bincount(phase.ravel(), minlength=len(samples.XCT_PHASES)) / phase.size
    assert (share > 0.005).all()
    error = pair.noisy - pair.clean
    assert 0.3 < error.std() / pair.clean.std() < 1
    near = (error[:, :, 1:] * error[:, :, :-1]).mean() / error.var()
    assert 0.3 < near < 0.7
    y, x = np.mgrid[:128, :128]
    ring = np.hypot(y - 63.5, x - 63.5).astype(int)
    seen = np.bincount(ring.ravel(), error[16].ravel()) / np.bincount(ring.ravel())
    rest = error[16] - seen[ring]
    pixels_per_ring = np.bincount(ring.ravel())[20:60].mean()
    # without rings the means over about 250 pixels would vary far less
    assert seen[20:60].std() > 2 * rest.std() / np.sqrt(pixels_per_ring)


def test_xct_cracks_and_voids_are_darker_than_grains() -> None:
    pair, phase = samples.xct(seed=1), samples.xct_phases(seed=1)
    mean = {name: pair.clean[phase == k].mean() for k, name in enumerate(samples.XCT_PHASES)}
    assert mean["void"] < mean["matrix"] < mean["quartz"] < mean["feldspar"] < mean["dense"]
    assert mean["crack"] < mean["matrix"]


@pytest.mark.parametrize(
    ("make", "size"), [(samples.edx, (37, 151)), (samples.edx, (400, 33)), (samples.xct, (9, 40, 27))]
)
def test_samples_have_any_shape_and_depend_on_the_seed(make, size: tuple[int, ...]) -> None:  # type: ignore[no-untyped-def]
    first, again, other = make(5, size), make(5, size), make(6, size)
    assert first.clean.shape[-len(size) :] == size
    assert np.isfinite(first.noisy).all()
    np.testing.assert_array_equal(first.noisy, again.noisy)
    np.testing.assert_array_equal(first.clean, again.clean)
    assert (first.noisy != other.noisy).any()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: samples.blobs(n=0), "n is 0; it must be at least 1"),
        (lambda: samples.blobs(size=3), "size is 3; it must be at least 8"),
        (lambda: samples.edx(size=(10, 300)), r"size is \(10, 300\); it must be at least 32"),
        (lambda: samples.xct(size=(4, 64, 64)), "at least 8"),
    ],
)
def test_too_small_sizes_raise_one_sentence(make, sentence: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=sentence):
        make()


def test_a_lattice_repeats_itself_in_two_grains_below_a_surface() -> None:
    pair = samples.lattice(seed=0)
    assert pair.axes == "YX"
    assert pair.unit == "nm"
    assert pair.pixel_size == pytest.approx((0.02, 0.02))
    assert pair.noisy.shape == pair.clean.shape == (256, 512)
    assert pair.noisy.dtype == pair.clean.dtype == np.float32
    # nothing above the surface
    assert pair.clean[:5].max() == pytest.approx(0.1, abs=1e-6)
    turns = []
    for part in (pair.clean[100:, :180], pair.clean[100:, -180:]):
        power = np.abs(np.fft.fft2(part - part.mean(), (512, 512)))
        power[:8, :8] = power[-8:, :8] = power[:8, -8:] = power[-8:, -8:] = 0
        y, x = np.unravel_index(power.argmax(), power.shape)
        fy, fx = (f if f < 256 else f - 512 for f in (y, x))
        # planes of a hexagonal lattice lie sqrt(3/4) of a period apart
        assert 512 / np.hypot(fy, fx) == pytest.approx(10 * np.sqrt(0.75), rel=0.08)
        turns.append(np.arctan2(fy, fx) % (np.pi / 3))
    assert abs(turns[0] - turns[1]) > 0.1


def test_lattice_counts_are_poisson_around_the_clean_rate() -> None:
    pair = samples.lattice(seed=2, dose=0.5)
    expected = 0.5 * pair.clean
    assert ((pair.noisy - expected) ** 2 / expected).mean() == pytest.approx(1, abs=0.03)
    assert (samples.lattice(seed=2, dose=0.5).noisy == pair.noisy).all()
    assert (samples.lattice(seed=3, dose=0.5).noisy != pair.noisy).any()


@pytest.mark.parametrize(
    ("given", "words"), [({"size": (16, 64)}, "size"), ({"period_px": 3}, "period_px"), ({"dose": 0}, "dose")]
)
def test_an_impossible_lattice_is_refused(given, words) -> None:
    with pytest.raises(ValueError, match=words):
        samples.lattice(**given)


@pytest.mark.parametrize("name", ["counts", "repeats", "movie", "defects"])
def test_samples_without_a_clean_image_have_the_noise_that_they_state(name: str) -> None:
    pair = getattr(samples, name)(seed=1)
    again = getattr(samples, name)(seed=1)
    np.testing.assert_array_equal(pair.noisy, again.noisy)
    assert pair.noisy.dtype == pair.clean.dtype == np.float32
    assert len(pair.axes) == pair.noisy.ndim
    rest = (pair.noisy - pair.clean)[..., pair.clean < 4000] if name == "defects" else pair.noisy - pair.clean
    if name == "counts":
        assert (rest**2).mean() == pytest.approx(pair.clean.mean(), rel=0.05)
        assert 1 < pair.clean.mean() < 4
    elif name == "defects":
        assert (pair.noisy == 4095).mean() == pytest.approx(0.03, abs=0.01)
        assert np.median(rest) == pytest.approx(0, abs=20)
    else:
        law = 2.2 * (pair.clean - 100) + 9 + 1 / 12
        assert (rest**2 / law).mean() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("seed", range(4))
def test_stripes_run_along_the_angles_and_the_inspector_says_which_mask_hides_them(seed: int) -> None:
    from napari_btn.core.data.noise_findings import find_noise_steps
    from napari_btn.core.progress import drain

    pair = samples.stripes(seed=seed)
    np.testing.assert_array_equal(pair.noisy, samples.stripes(seed=seed).noisy)
    assert pair.clean.max() == pytest.approx(300)
    error = pair.noisy - pair.clean
    assert (error**2 / (pair.clean + (0.08**2) * (pair.clean**2 + pair.clean))).mean() == pytest.approx(
        1, abs=0.06
    )
    ratio = error / pair.clean
    assert np.corrcoef(ratio[1:].ravel(), ratio[:-1].ravel())[0, 1] > 0.3
    assert abs(np.corrcoef(ratio[:, 1:].ravel(), ratio[:, :-1].ravel())[0, 1]) < 0.03
    found = drain(find_noise_steps(pair.noisy, "YX"))
    assert set(found.mask_spans) == {"Y"}
    assert "Noise2Void with a mask along y is allowed" in found.sentence
    with pytest.raises(ValueError, match="size"):
        samples.stripes(size=(16, 64))


def test_more_repeats_never_change_the_earlier_ones() -> None:
    few, many = samples.repeats(n=2, size=(40, 50)), samples.repeats(n=4, size=(40, 50))
    np.testing.assert_array_equal(few.noisy, many.noisy[:2])
    np.testing.assert_array_equal(few.clean, many.clean)


def test_the_movie_moves() -> None:
    clean = samples.movie(n=6, size=(64, 72)).clean
    assert (np.abs(np.diff(clean, axis=0)).mean((1, 2)) > 0.05).all()
