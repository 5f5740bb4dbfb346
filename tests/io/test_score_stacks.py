"""Stacks of scores as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trace_d2.io.photographs import Photograph
from trace_d2.io.score_stacks import fit_scores, labels_of_scores, read_scores


def stack(dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, 4, 6)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_files_are_read_back(tmp_path: Path, dtype: type, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "npy":
        np.save(path, np.asfortranarray(stack(dtype)))
    else:
        np.savez_compressed(path, scores=stack(dtype))
    found = read_scores(path, 3)
    assert found.dtype == (np.float16 if dtype is np.float16 else np.float32)
    assert np.array_equal(found, stack(dtype).astype(found.dtype))


def test_scores_beyond_float32_are_called_that(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", stack(np.float64) * 1e300)
    with pytest.raises(ValueError, match=r"scores as great as .*e\+30., more than float32 holds"):
        read_scores(tmp_path / "a.npy", 3)


def damaged(path: Path, how: str) -> None:
    scores = stack()
    if how == "NaN":
        scores[0, 1, 2] = np.nan
    if how in ("two arrays", "no archive", "cut archive"):
        np.savez(path, scores, **({"more": scores} if how == "two arrays" else {}))
        whole = path.read_bytes()
        if how != "two arrays":
            path.write_bytes(b"nothing" if how == "no archive" else whole[: len(whole) // 2])
        return
    if how == "integers":
        scores = scores.astype(np.int64)
    if how == "flat":
        scores = scores[0]
    np.save(path, scores)
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-5])


BAD = {
    "NaN": ("npy", "NaN or infinite values in 1 of 72 scores: repair"),
    "integers": ("npy", "holds int64 of shape .*: scores are floating point"),
    "flat": ("npy", r"of shape \(4, 6\): scores are floating point"),
    "cut": ("npy", "is not a readable .npy"),
    "two arrays": ("npz", "has 2 arrays .*: save the scores alone"),
    "no archive": ("npz", "is not a readable .npz"),
    "cut archive": ("npz", "is not a readable .npz"),
}


@pytest.mark.parametrize("how", BAD)
def test_bad_files_are_named(tmp_path: Path, how: str) -> None:
    ending, message = BAD[how]
    path = tmp_path / f"a.{ending}"
    damaged(path, how)
    with pytest.raises(ValueError, match=rf"a\.{ending}.*{message}"):
        read_scores(path, 3)


def test_other_classes_and_absent_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", stack())
    with pytest.raises(ValueError, match="scores of 3 classes, but there are 21 categories: list"):
        read_scores(tmp_path / "a.npy", 21)
    for name in ("b.npy", "b.npz"):
        with pytest.raises(FileNotFoundError, match="no stack of scores at"):
            read_scores(tmp_path / name, 3)


def photograph(height: int, width: int, orientation: int = 1) -> Photograph:
    return Photograph(Path("a.jpg"), np.zeros((height, width, 3), np.uint8), orientation)


def test_scores_have_the_aspect_of_the_image() -> None:
    path = Path("a.npy")
    for size in ((80, 120), (427, 640), (85, 130)):  # sides rounded to whole patches as well
        assert fit_scores(stack(), photograph(*size), path)[1] == []
    with pytest.raises(ValueError, match=r"a\.npy has scores of 6x4 cells, .*is 100x100"):
        fit_scores(stack(), photograph(100, 100), path)
    turned, remarks = fit_scores(stack(), photograph(120, 80, 6), path)
    assert np.array_equal(turned[1], np.rot90(stack()[1], 3))
    assert remarks == ["a.npy fits the image as stored: turned by EXIF 6"]


def test_labels_are_the_greatest_scores() -> None:
    scores = np.zeros((2, 1, 2), np.float32)
    scores[1, 0, 1] = 1
    scores[0, 0, 0] = 1
    # Bilinear between the centres at 1.5 and 5.5 of 8 pixels: equal in the middle.
    assert labels_of_scores(scores, (4, 9), (3, 8)).tolist() == [[4] * 4 + [9] * 4] * 3
    full = stack(np.float64)
    assert np.array_equal(labels_of_scores(full, (0, 1, 2), (4, 6)), full.argmax(0))
