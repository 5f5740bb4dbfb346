"""Folders of results whose files lie in parts are read as if they did not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from trace_d2.io.edge_maps import (
    edge_stem,
    edge_stems,
    find_edges,
    has_edges,
    read_edges,
    write_edges,
)
from trace_d2.io.fans import FOLDER_FILES, digits_for, fanned, file_of, has_parts, unfanned
from trace_d2.io.remote import input_folder
from trace_d2.io.subfolders import counterparts

STEMS = ("0001", "a/0001", "a/b/0002", "e\u0301e\u0301")  # the last is to be composed


def names(count: int, folder: str = "") -> list[str]:
    return [f"{folder}{rank:012d}" for rank in range(count)]


@pytest.mark.parametrize(("count", "digits"), [(0, 0), (FOLDER_FILES, 0), (FOLDER_FILES + 1, 1)])
def test_few_images_need_no_parts(count: int, digits: int) -> None:
    assert digits_for(names(count)) == digits


def test_what_counts_is_the_fullest_folder_of_images() -> None:
    assert digits_for(names(FOLDER_FILES) + names(FOLDER_FILES, "a/")) == 0
    assert digits_for(names(5) + names(FOLDER_FILES + 1, "a/")) == 1


def test_no_part_of_many_images_is_too_full() -> None:
    stems = names(128_000)  # as many as one digit is taken for
    assert digits_for(stems) == 1
    parts = Counter(fanned(stem, 1).partition("/")[0] for stem in stems)
    assert len(parts) == 16
    assert max(parts.values()) <= FOLDER_FILES


def test_a_part_is_told_by_what_lies_in_it() -> None:
    for stem in STEMS:
        for digits in (1, 2, 4):
            part, _, rest = fanned(stem, digits).partition("/")
            assert (len(part), rest) == (len("part-") + digits, stem)
            assert unfanned(fanned(stem, digits)) == stem
        assert fanned(stem, 0) == unfanned(stem) == stem
    own = next(f"part-{digit:x}/x" for digit in range(16) if fanned("x", 1) != f"part-{digit:x}/x")
    for path in (own, "part-/x", "part-z/x", "part-12345/x", "other/x"):  # somebody's folders
        assert unfanned(path) == path


def test_edges_in_parts_are_found_by_the_stem_of_their_image(tmp_path: Path) -> None:
    for rank, stem in enumerate(STEMS):
        path = tmp_path / f"{fanned(stem, 2)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_edges(path, np.full((1, 2), rank / 4, np.float32))
    assert has_parts(tmp_path)
    found = edge_stems(tmp_path)
    composed = ["0001", "a/0001", "a/b/0002", "\u00e9\u00e9"]
    assert sorted(found) == composed
    assert counterparts(composed, found) == {stem: stem for stem in composed}
    for stem in STEMS:
        assert find_edges(tmp_path, stem) == tmp_path / f"{fanned(stem, 2)}.png"
    assert not has_edges(tmp_path, "0002")
    assert edge_stem(tmp_path, "/data/train/a/b/0002.jpg") == "a/b/0002"
    assert edge_stem(tmp_path, "0001.jpg") == "0001"
    assert edge_stem(tmp_path, "absent.jpg") == "absent"


def test_a_file_outside_the_parts_comes_first(tmp_path: Path) -> None:
    (tmp_path / "part-0").mkdir()
    assert file_of(tmp_path, "x.png") == tmp_path / f"{fanned('x', 1)}.png"
    (tmp_path / "x.png").touch()
    assert file_of(tmp_path, "x.png") == tmp_path / "x.png"


def test_parts_by_address() -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    for stem in ("0001", "a/0001"):
        store.pipe_file(f"/fans/edges/{fanned(stem, 1)}.png", b"x")
    folder = input_folder("memory://fans/edges")
    assert sorted(edge_stems(folder)) == ["0001", "a/0001"]
    assert str(file_of(folder, "a/0001.png")).endswith(f"edges/{fanned('a/0001', 1)}.png")
    assert edge_stem(folder, "/data/a/0001.jpg") == "a/0001"
    store.rm("/fans", recursive=True)


@pytest.mark.parametrize("ending", ["PNG", "Png", "pNg"])
def test_an_ending_of_any_case_is_found_where_there_is_no_other(
    tmp_path: Path, ending: str
) -> None:
    for name in (f"x.{ending}", f"{fanned('x', 1)}.{ending}"):
        path = tmp_path / Path(name).parts[0] / name
        path.parent.mkdir(parents=True)
        path.touch()
    for folder in tmp_path.iterdir():
        assert file_of(folder, "x.png") == folder / edge_stems(folder)["x"][0]
        assert file_of(folder, "x.png").name == f"x.{ending}"
        (folder / "x.png").touch()
        assert file_of(folder, "x.png") == folder / "x.png"


def test_arrays_of_an_ending_of_any_case_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.full((2, 3), 0.5, np.float32))
    for name in ("y.NPY", "y.Npy"):
        next(tmp_path.iterdir()).rename(tmp_path / name)
        found = find_edges(tmp_path, "y")
        assert found.name == name
        assert read_edges(found).tolist() == [[0.5] * 3] * 2
