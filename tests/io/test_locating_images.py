"""Images are found with more folders than there are, with fewer, by stem or by number."""

from __future__ import annotations

from pathlib import Path

import pytest

from trace_d2.io.listing import ImageFinder, locate_images


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


def test_a_missing_image_is_not_another_folders(tmp_path: Path) -> None:
    finder = ImageFinder(make(tmp_path, "v007/977.png", "deep/v1/1.png", "patch0/x.jpg"))
    for name in ("gone/977.png", "gone/977", "v007/more/977.png", "images/v2/patch1/x.jpg"):
        with pytest.raises(FileNotFoundError, match=r"no image .* is in another folder"):
            finder.find(name)
    assert finder.find("v1/1.png") == "deep/v1/1.png"
    assert finder.find("v1/1") == "deep/v1/1.png"
    assert finder.find("images/v2/patch0/x.jpg") == "patch0/x.jpg"
    assert finder.find("977.png") == "v007/977.png"


def test_a_flat_copy_is_taken_only_for_names_that_differ(tmp_path: Path) -> None:
    folder = make(tmp_path, "977.png", "8.png", "b/977.png", "frames/0.png", "v2/frames/0.png")
    names = ["a/977.png", "b/977.png", "a/8.png", "v1/frames/0.png", "v2/frames/0.png"]
    found, absent = locate_images(dict(enumerate(names)), folder)
    assert found == {1: "b/977.png", 2: "8.png", 4: "v2/frames/0.png"}
    assert "a/977.png and b/977.png would both be 977.png" in absent[0]
    assert absent.keys() == {0, 3}
