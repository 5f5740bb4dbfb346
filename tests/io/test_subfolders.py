"""Which sub-folders are searched, and which file of one folder goes with which of another."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trace_d2.io.subfolders import counterparts, files_by_stem, unclear, walk_folder


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_stems_are_paths_and_folders_come_before_their_sub_folders(tmp_path):
    make(tmp_path, "z.png", "a/b/y.png", "a/z.png", "a/c.txt", "a-b/x.png", "B/x.PNG", "a.png")
    assert list(files_by_stem(tmp_path, (".png",))) == ["a", "z", "B/x", "a/z", "a-b/x", "a/b/y"]
    assert files_by_stem(tmp_path, (".png",))["B/x"] == ["B/x.PNG"]
    make(tmp_path, "a/z.npy")
    assert files_by_stem(tmp_path, (".png", ".npy"))["a/z"] == ["a/z.npy", "a/z.png"]


def test_what_is_no_ones_picture_is_left_out(tmp_path):
    make(tmp_path, "a.png", ".hidden.png", ".cache/b.png", "x/.git/c.png", "@eaDir/a.png/t.png")
    make(tmp_path, "lost+found/d.png", "__MACOSX/e.png", "masks/a.png", "x/masks/a.png")
    # The results of a job; one file of its name does not make a folder that.
    make(tmp_path, "x/out/settings.json", "x/out/journal.jsonl", "x/out/panoptic/a.png")
    make(tmp_path, "y/settings.json", "y/a.png")
    options = tmp_path / "masks", tmp_path / "absent", None
    assert list(files_by_stem(tmp_path, (".png",), options)) == ["a", "x/masks/a", "y/a"]
    # The folder that is asked for is searched, whatever it is.
    assert list(files_by_stem(tmp_path / "x/out", (".png",))) == ["panoptic/a"]
    assert list(files_by_stem(tmp_path / ".cache", (".png",), [tmp_path / ".cache"])) == ["b"]


def test_links_of_results_lead_nowhere(tmp_path):
    make(tmp_path, "a.png", "out/settings.json", "out/journal.jsonl", ".photographs/b.png")
    (tmp_path / "out/images").symlink_to(tmp_path / ".photographs")
    assert list(files_by_stem(tmp_path, (".png",))) == ["a"]
    assert list(files_by_stem(tmp_path / "out", (".png",))) == ["images/b"]


def test_links_are_followed_once_and_loops_end(tmp_path):
    make(tmp_path, "images/z/b.png", "outside/c.png")
    images = tmp_path / "images"
    for link, target in {
        "images/a": "images/z",  # would come first
        "images/z/loop": "images",
        "images/other": "outside",
        "outside/back": "images/z",
        "images/gone": "absent",
        "images/self.png": "images/self.png",
    }.items():
        (tmp_path / link).symlink_to(tmp_path / target)
    assert list(files_by_stem(images, (".png",))) == ["self", "other/c", "z/b"]
    assert list(files_by_stem(images, (".png",), [tmp_path / "outside"])) == ["self", "z/b"]


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path, monkeypatch):
    make(tmp_path, "a/b.png")
    plain = os.scandir

    def refuse(path: str):
        if str(path).endswith("a/"):
            raise PermissionError(13, "Permission denied")
        return plain(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match=r"/a/ \(Permission denied\): make it readable"):
        list(walk_folder(tmp_path))


def test_accents_of_folders_are_one_however_they_are_written(tmp_path):
    composed, apart = "caf\u00e9", "cafe\u0301"
    make(tmp_path, f"{apart}/{apart}.png", f"{composed}/x.png")
    assert files_by_stem(tmp_path, (".png",)) == {
        f"{composed}/{composed}": [f"{apart}/{apart}.png"],
        f"{composed}/x": [f"{composed}/x.png"],
    }


@pytest.mark.parametrize(
    ("stems", "others", "found"),
    [
        ("x y", "y z", "y=y"),
        ("a/x b/x", "a/x b/x", "a/x=a/x b/x=b/x"),
        ("b/y a/x", "x y", "b/y=y a/x=x"),  # all in one folder
        ("x y", "train/x y", "x=train/x y=y"),  # in the order of the images
        ("a/x b/x", "x", ""),  # of which?
        ("a/x", "x b/x", ""),
        ("x a/x", "x", "x=x"),  # has its own
        ("a/x", "b/x", ""),  # of another folder
        ("a/b/x", "b/x", "a/b/x=b/x"),
        ("r/a/x r/b/x", "a/x b/x", "r/a/x=a/x r/b/x=b/x"),
        ("a/x b/x", "r/a/x r/b/x r/c/x", "a/x=r/a/x b/x=r/b/x"),
        ("a/x", "r/a/x s/a/x", ""),
        ("r/a/x s/a/x", "a/x", ""),
        ("ab/x", "b/x", ""),  # "b/x" is the end of a text, of no path
    ],
)
def test_what_belongs_together(stems, others, found):
    pairs = counterparts(stems.split(), others.split())
    assert " ".join(f"{stem}={other}" for stem, other in pairs.items()) == found


def test_names_in_other_folders_are_told():
    text = unclear(["a/x", "b/x", "y"], ["x", "y"])
    assert text.startswith("1 have the name of an image in another folder, such as x for a/x")
    assert unclear(["a/x"], ["b/x"]).startswith("1 have the name")
    assert unclear(["a/x", "y"], ["x", "z"]) == ""
