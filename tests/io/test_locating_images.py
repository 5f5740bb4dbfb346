"""Images are found with more folders than there are, with fewer, by stem or by number."""

from __future__ import annotations

from pathlib import Path

import pytest

from trace_d2.io.listing import ImageFinder


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def test_names_are_found_wherever_they_lie(tmp_path: Path) -> None:
    finder = ImageFinder(make(tmp_path, "n01/x.JPEG", "n02/y.JPEG", "z.png", "deep/00042.jpg"))
    for name, path in {
        "n01/x.JPEG": "n01/x.JPEG",
        "x.JPEG": "n01/x.JPEG",
        "train/n02/y.JPEG": "n02/y.JPEG",
        "any/z.png": "z.png",
        "/data/z.png": "z.png",
        "../z.png": "z.png",
        "a\\z.png": "z.png",
        "./z.png": "z.png",
        "z": "z.png",
        "n01/x": "n01/x.JPEG",
        "42": "deep/00042.jpg",
    }.items():
        assert finder.find(name) == path
    for name in ("w.png", "w", "43", "", "n01", "z.txt"):
        with pytest.raises(FileNotFoundError, match="no image"):
            finder.find(name)


def test_a_name_that_could_be_two_is_refused(tmp_path: Path) -> None:
    finder = ImageFinder(make(tmp_path, "n01/x.JPEG", "n02/x.JPEG"))
    assert finder.find("n02/x.JPEG") == "n02/x.JPEG"
    with pytest.raises(ValueError, match=r"n01/x\.JPEG or n02/x\.JPEG .*give the folder"):
        finder.find("x.JPEG")
