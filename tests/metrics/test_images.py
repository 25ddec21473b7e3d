"""Grids, ranges of values and files."""

import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skgen.metrics import image_grid, save_images

from .extra import load


def test_grid_of_gray_images():
    X = np.arange(24).reshape(4, 6)
    grid = image_grid(X, (2, 3), n_columns=2, pad=1)
    assert grid.shape == (2 * 2 + 1, 2 * 3 + 1)
    assert_array_equal(grid[:2, :3], X[0].reshape(2, 3))
    assert_array_equal(grid[:2, 4:], X[1].reshape(2, 3))
    assert_array_equal(grid[3:, 4:], X[3].reshape(2, 3))
    assert not grid[2].any() and not grid[:, 3].any()


@pytest.mark.parametrize(
    ("n", "n_columns", "pad", "shape"),
    [
        (9, None, 0, (12, 15)),
        (10, None, 0, (12, 20)),
        (10, 4, 2, (16, 26)),
        (1, None, 3, (4, 5)),
        (2, 5, 0, (4, 25)),
        (3, 1, 1, (14, 5)),
    ],
)
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_layouts(n, n_columns, pad, shape, channels):
    image_shape = (4, 5) if channels is None else (channels, 4, 5)
    X = np.random.RandomState(0).uniform(1, 2, (n, 20 * (channels or 1)))
    grid = image_grid(X, image_shape, n_columns, pad)
    assert grid.shape == (shape if channels in (None, 1) else (*shape, 3))
    # Every value once, and the rest is the smallest.
    rest = np.full(grid.size - X.size, X.min())
    assert_array_equal(np.sort(grid, axis=None), np.sort(np.append(X, rest)))


def test_grid_of_colours_has_channels_last():
    X = np.arange(12, dtype=np.uint8).reshape(1, 12)
    grid = image_grid(X, (3, 2, 2))
    assert grid.dtype == np.uint8
    assert_array_equal(grid[..., 1], [[4, 5], [6, 7]])


def test_grid_of_a_range():
    grid = image_grid([[-1.0, 0.0, 1.0, 7.0]], (1, 4), value_range=(-1, 1))
    assert grid.dtype == np.uint8
    assert_array_equal(grid, [[0, 128, 255, 255]])


def test_grid_for_pillow():
    pillow = load("PIL.Image")
    grid = image_grid(np.zeros((5, 27)), (3, 3, 3), value_range=(0, 1))
    assert pillow.fromarray(grid).size == (11, 7)


@pytest.mark.parametrize("shape", [(2, 3), (1, 2, 3), (3, 2, 3)])
def test_files_keep_bytes(tmp_path, shape):
    pillow = load("PIL.Image")
    X = np.random.RandomState(0).randint(0, 256, (11, np.prod(shape))).astype(np.uint8)
    paths = save_images(X, tmp_path / "new" / "folder", shape)
    assert [path.name for path in paths][::10] == ["00000.png", "00010.png"]
    assert sorted((tmp_path / "new" / "folder").iterdir()) == paths
    for path, row in zip(paths, X, strict=True):
        image = np.asarray(pillow.open(path))
        channels_first = image if image.ndim == 2 else image.transpose(2, 0, 1)
        assert image.dtype == np.uint8
        assert_array_equal(channels_first.ravel(), row)


@pytest.mark.parametrize(
    ("X", "value_range", "expected"),
    [
        ([[0.0, 0.5, 1.0, 2.0]], (0, 1), [0, 128, 255, 255]),
        ([[-1.0, 0.0, 1.0, -9.0]], (-1, 1), [0, 128, 255, 0]),
        ([[0, 8, 16, 4]], (0, 16), [0, 128, 255, 64]),
        (np.array([[0, 1, 2, 4]], np.uint8), (0, 4), [0, 64, 128, 255]),
        (np.array([[0, 1, 128, 255]], np.uint8), None, [0, 1, 128, 255]),
        (np.array([[0, 1, 128, 255]]), (0, 255), [0, 1, 128, 255]),
        (np.array([[False, True, True, False]]), (0, 1), [0, 255, 255, 0]),
    ],
)
def test_ranges(tmp_path, X, value_range, expected):
    pillow = load("PIL.Image")
    [path] = save_images(X, tmp_path, (2, 2), value_range)
    assert_array_equal(np.asarray(pillow.open(path)).ravel(), expected)


def test_interruption_leaves_whole_files_only(tmp_path, monkeypatch):
    pillow = load("PIL.Image")
    X, save, calls = np.zeros((3, 4), np.uint8), pillow.Image.save, []

    def interrupted(self, path, **options):
        calls.append(path)
        save(self, path, **options)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(pillow.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_images(X, tmp_path, (2, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["00000.png"]
    assert len(save_images(X, tmp_path, (2, 2))) == 3  # and a second call completes the folder


def test_files_of_another_set_are_refused(tmp_path):
    load("PIL.Image")
    save_images(np.zeros((3, 4), np.uint8), tmp_path, (2, 2))
    with pytest.raises(FileExistsError, match=r"1 other PNG file\(s\), 00002.png"):
        save_images(np.zeros((2, 4), np.uint8), tmp_path, (2, 2))


def test_without_pillow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"extra 'images': python -m pip install"):
        save_images(np.zeros((2, 4), np.uint8), tmp_path, (2, 2))


def test_range_has_to_be_given():
    with pytest.raises(ValueError, match=r"float64, with values from 0 to 1: .*value_range=\(0, 1"):
        save_images([[0.0, 0.5, 0.5, 1.0]], "never_made", (2, 2))


@pytest.mark.parametrize("value_range", [(1, 0), (0, 0), (0, np.inf), (np.nan, 1)])
def test_bad_range(value_range):
    with pytest.raises(ValueError, match="value_range must be"):
        image_grid(np.zeros((2, 4)), (2, 2), value_range=value_range)


@pytest.mark.parametrize("shape", [(4,), (2, 1, 2), (2, 2, 1, 1), (0, 4), (2.0, 2)])
def test_bad_shape(shape):
    with pytest.raises(ValueError, match="image_shape must be"):
        image_grid(np.zeros((2, 4)), shape)


def test_bad_rows():
    with pytest.raises(ValueError, match=r"shape \(3, 2, 2\) has 12 values; a row of X has 4"):
        image_grid(np.zeros((2, 4)), (3, 2, 2))
    with pytest.raises(ValueError, match="NaN"):
        image_grid([[np.nan] * 4], (2, 2))
    with pytest.raises(ValueError, match="each row must be flat"):
        image_grid(np.zeros((2, 2, 2)), (2, 2))


@pytest.mark.parametrize("option", [{"n_columns": 0}, {"pad": -1}])
def test_bad_layout(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        image_grid(np.zeros((2, 4)), (2, 2), **option)
