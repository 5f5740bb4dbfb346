"""The images of a file of masks, with where they and their edges lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from trace_d2.io.coco_masks import Findings, GivenMask, MaskFile, MaskImage
from trace_d2.jobs.kinds.mask_entries import MaskEntry, mask_entries


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def entries_of(folder: Path, *names: str) -> dict[str, MaskEntry]:
    """The entries of a file that gives one mask to every name, by that name's id."""
    mask = GivenMask(0, 1, {"size": [1, 1], "counts": [0, 1]}, None)
    images = tuple(MaskImage(n, name, (1, 1), [mask]) for n, name in enumerate(names))
    file = MaskFile(Path("m.json"), images, ({"id": 1, "name": "fg"},), Findings())
    return {names[entry.image_id]: entry for entry in mask_entries(file, folder)}


def test_entries_are_sorted_and_say_where_edges_may_be(tmp_path: Path) -> None:
    folder = make(tmp_path, "n02/y.png", "n01/x.png", "n01/w.png", "n02/w.png")
    found = entries_of(folder, "n02/y.png", "n01/x.png", "n01/w.png", "n02/w.png")
    assert sorted(e.stem for e in found.values()) == ["n01/w", "n01/x", "n02/w", "n02/y"]
    assert found["n01/x.png"].edge_stems == ("n01/x", "x")
    assert found["n01/w.png"].edge_stems == ("n01/w",)  # "w" alone could be another image's


def test_images_of_one_stem_keep_their_endings(tmp_path: Path) -> None:
    found = entries_of(make(tmp_path, "x.png", "x.jpg"), "x.png", "x.jpg")
    assert [found[name].stem for name in ("x.png", "x.jpg")] == ["x.png", "x.jpg"]


def test_two_names_of_one_file_are_not_both_it(tmp_path: Path) -> None:
    folder = make(tmp_path, "x.png", "y.png")
    found = entries_of(folder, "a/x.png", "b/x.png", "y.png", "c/y.png")
    assert "would both be x.png" in found["a/x.png"].skipped
    assert "would both be x.png" in found["b/x.png"].skipped
    assert found["y.png"].skipped == ""
    assert "c/y.png and y.png would both be y.png" in found["c/y.png"].skipped


def test_absent_images_are_skipped_unless_all_are(tmp_path: Path) -> None:
    found = entries_of(make(tmp_path, "x.png"), "x.png", "gone.png")
    assert found["gone.png"].skipped.startswith("no image gone.png in")
    with pytest.raises(ValueError, match=r"none of the 2 images .*correct --images"):
        entries_of(tmp_path, "u.png", "v.png")
    with pytest.raises(NotADirectoryError, match="correct --images"):
        entries_of(tmp_path / "nowhere", "x.png")
