"""Bundles: what goes in comes out, whole or not at all, and nothing foreign comes in."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from safetensors import safe_open
from safetensors.numpy import save_file

from napari_btn.io.bundle import BUNDLE_VERSION, Bundle, read_bundle, write_bundle

VALUES = {"settings": {"alpha": 0.1, "levels": [0.05, 0.5, 0.95]}, "unit": "µm", "none": None, "inf": "inf"}
ARRAYS = {
    "weights": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "block": np.array([0, 0, 1]),
    "turned": np.arange(6.0).reshape(2, 3).T,
}


@pytest.fixture
def path(tmp_path):
    """A bundle on disk."""
    path = tmp_path / "soil.btn"
    write_bundle(Bundle(VALUES, ARRAYS), path)
    return path


def test_a_bundle_survives_a_round_trip(path):
    made = read_bundle(path)
    assert {k: made.values[k] for k in VALUES} == VALUES
    assert made.arrays.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(made.arrays[name], value)
        assert made.arrays[name].dtype == value.dtype
    assert list(path.parent.iterdir()) == [path]


@given(
    st.dictionaries(
        st.text("abcé.019", min_size=1, max_size=8),
        st_numpy.arrays(
            st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_]),
            st_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        ),
        max_size=4,
    )
)
def test_any_arrays_survive(arrays):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.btn"
        write_bundle(Bundle({}, arrays), path)
        made = read_bundle(path).arrays
    assert made.keys() == arrays.keys()
    for name, value in arrays.items():
        assert made[name].dtype == value.dtype
        np.testing.assert_array_equal(made[name], value)


def test_the_same_content_is_the_same_file(path):
    turned = Bundle(dict(reversed(VALUES.items())), dict(reversed(ARRAYS.items())))
    write_bundle(turned, path.with_name("again.btn"))
    assert path.read_bytes() == path.with_name("again.btn").read_bytes()


def test_all_but_arrays_is_json(path):
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert json.loads(header["__metadata__"]["napari-btn"])["version"] == BUNDLE_VERSION


def refused(path, words):
    with pytest.raises(ValueError, match=words) as caught:
        read_bundle(path)
    assert path.name in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_truncated_file_is_refused(path):
    data = path.read_bytes()
    for keep in (0, 3, 8, 60, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:keep])
        refused(path, "not a whole napari-btn bundle")


def test_a_single_wrong_byte_is_found(path):
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for at in (start, start + 50, len(data) - 1):
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        refused(path, "damaged")


def test_no_changed_bit_of_the_header_goes_unnoticed(path):
    # what the file says may stay the same where a bit only changes how JSON is written
    data, rng = path.read_bytes(), np.random.default_rng(0)
    end = 8 + int.from_bytes(data[:8], "little")
    found = 0
    for at, bit in zip(rng.integers(0, end, 400), rng.integers(0, 8, 400), strict=True):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
        try:
            made = read_bundle(path)
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017
            found += 1
            continue
        assert made.values == VALUES
        assert {k: v.tobytes() for k, v in made.arrays.items()} == {k: v.tobytes() for k, v in ARRAYS.items()}
    assert found > 350


def rewritten(path, change):
    """Change the metadata of a bundle and write it as a whole safetensors file."""
    with safe_open(str(path), framework="numpy") as file:
        metadata = file.metadata()
        arrays = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    change(metadata, arrays)
    save_file(arrays, path, metadata=metadata)


def test_a_changed_value_or_a_missing_checksum_is_damage(path):
    def other_value(metadata, _):
        metadata["napari-btn"] = metadata["napari-btn"].replace("0.05", "0.06")

    def no_checksum(metadata, _):
        values = json.loads(metadata["napari-btn"])
        del values["sha256"]
        metadata["napari-btn"] = json.dumps(values)

    def older(metadata, _):
        metadata["napari-btn"] = json.dumps({**json.loads(metadata["napari-btn"]), "version": 1})

    def other_shape(_, arrays):
        arrays["weights"] = arrays["weights"].reshape(4, 3, 2)

    def other_type(_, arrays):
        arrays["weights"] = arrays["weights"].view(np.int32)

    whole = path.read_bytes()
    for change in (other_value, no_checksum, older, other_shape, other_type):
        path.write_bytes(whole)
        rewritten(path, change)
        refused(path, "damaged")


def test_deep_json_and_foreign_number_types_are_damage(path):
    save_file({}, path, metadata={"napari-btn": "[" * 200_000})
    refused(path, "not a whole napari-btn bundle")
    for name, size in (("BF16", 2), ("F8_E5M2", 1), ("F8_E4M3", 1)):
        tensor = {"dtype": name, "shape": [2], "data_offsets": [0, 2 * size]}
        header = json.dumps({"a": tensor, "__metadata__": {"napari-btn": '{"version": 2}'}}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(2 * size))
        refused(path, "damaged")


@pytest.mark.parametrize("version", range(1, BUNDLE_VERSION + 1))
def test_bundles_of_every_version_stay_readable(version):
    import napari_btn as btn

    denoiser = btn.load(Path(__file__).parents[1] / "bundles" / f"version_{version}.btn")
    assert (denoiser.members, denoiser.channel_names, denoiser.unit) == (2, ("Si",), "um")
    np.testing.assert_allclose(denoiser.report.coverage, 0.92592593)
    np.testing.assert_allclose(denoiser.calibration.offset_lower, -0.03813696, rtol=1e-6)
    image = (np.arange(12.0)[:, None] * np.arange(14.0) % 7 / 7)[None].astype(np.float32)
    made = denoiser.predict(image, axes="CYX")
    np.testing.assert_allclose(made.median[0, 3, 5:8], [0.28743738, 0.33414957, 0.27835292], rtol=1e-4)
    np.testing.assert_allclose(made.width[0, 3, 5:8], [0.72986555, 0.7645931, 0.73812246], rtol=1e-4)
    if version > 1:
        assert [step["do"] for step in denoiser.recipe["steps"]] == ["fit"]


def test_a_changed_weight_of_version_1_is_found(tmp_path):
    data = (Path(__file__).parents[1] / "bundles" / "version_1.btn").read_bytes()
    path = tmp_path / "old.btn"
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused(path, "damaged")


def test_other_files_are_refused(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    refused(path, "not a whole napari-btn bundle")
    path.write_text("PK not a zip either" * 10)
    refused(path, "not a whole napari-btn bundle")
    save_file({"a": np.zeros(3)}, path)
    refused(path, "another program")
    save_file({"a": np.zeros(3)}, path, metadata={"format": "pt"})
    refused(path, "another program")
    for text in ("[]", "{}", '"version"', '{"version": "x"}'):
        save_file({"a": np.zeros(3)}, path, metadata={"napari-btn": text})
        refused(path, "another program")
    save_file({"a": np.zeros(3)}, path, metadata={"napari-btn": "{not json"})
    refused(path, "not a whole napari-btn bundle")


def test_a_newer_bundle_says_what_to_do(path):
    write_bundle(Bundle({"version": 99}, {}), path)
    refused(path, "version 99; this napari-btn reads up to 2. Update napari-btn")


def test_a_missing_bundle_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "nothing.btn", tmp_path):
        with pytest.raises(FileNotFoundError, match="There is no bundle"):
            read_bundle(path)


# ---------------------------------------------------------------- writing


def failing(monkeypatch, number):
    def write(self, data):
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(number, "it failed")

    monkeypatch.setattr(Path, "write_bytes", write)


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EIO, "it failed")],
)
def test_a_full_disk_keeps_the_old_bundle(path, monkeypatch, number, words):
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        failing(patch, number)
        with pytest.raises(OSError, match=words) as caught:
            write_bundle(Bundle({}, ARRAYS), path)
    assert "Nothing was written." in str(caught.value)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_real_full_disk(path):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")
    with pytest.raises(OSError, match="No space") as caught:
        full.write_bytes(path.read_bytes())
    assert caught.value.errno == errno.ENOSPC  # what the simulated ones raise is what a disk raises


def test_a_read_only_folder_is_an_error_with_a_sentence(tmp_path, monkeypatch):
    # by hand, as nothing is read-only for root
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(OSError, match="read-only for you; choose another folder"):
        write_bundle(Bundle({}, ARRAYS), tmp_path / "a.btn")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_an_error_with_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="There is no folder"):
        write_bundle(Bundle({}, {}), tmp_path / "nowhere" / "a.btn")


def test_other_users_may_read_a_bundle(path):
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
