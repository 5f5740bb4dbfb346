"""Which images there are, their ids, and how they are divided."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_d2.io.listing import ImageFinder, ids_of_stems, list_images, read_image_ids, spread


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch()


def test_images_are_found_by_ending_in_order_of_stems(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a.png", "c.TiFF", "d.txt", ".hidden.png")
    (tmp_path / "deeper").mkdir()
    touch(tmp_path / "deeper", "z.png")
    assert list_images(tmp_path) == {
        **{"a": "a.png", "b": "b.JPG", "c": "c.TiFF"},
        "deeper/z": "deeper/z.png",
    }


def test_two_images_of_one_stem_are_both_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "a.png")
    with pytest.raises(ValueError, match=r"a\.jpg and .*a\.png share the stem 'a'.*rename"):
        list_images(tmp_path)
    (tmp_path / "a.png").unlink()
    (tmp_path / "b").mkdir()
    touch(tmp_path / "b", "a.png", "c.png")
    assert list(list_images(tmp_path)) == ["a", "b/a", "b/c"]
    touch(tmp_path / "b", "c.gif")
    with pytest.raises(ValueError, match=r"b/c\.gif and .*b/c\.png share the stem 'b/c'"):
        list_images(tmp_path)


def test_no_folder_and_no_images(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match=r"no folder of images at .*nowhere"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no images in .*endings known: .* \.jpg"):
        list_images(tmp_path)


def test_ids_are_numeric_stems_or_else_ranks() -> None:
    def ids_of(*stems: str) -> list[int]:
        return list(ids_of_stems(stems).values())

    assert ids_of("000000000009", "7") == [9, 7]
    assert ids_of("7", "street") == [1, 2]
    assert ids_of("2007_000032", "2007_000039") == [1, 2]  # int() would take the underscore
    assert ids_of("9" * 40, "2") == [1, 2]
    assert ids_of("9", "a/10", "a/b/011") == [9, 10, 11]
    assert ids_of("a/1", "b/1") == [1, 2]  # not their own
    for twins in (("01", "1"), ("a/01", "a/1")):
        with pytest.raises(ValueError, match=r"01' and .*1' are both number 1: .*--images-json"):
            ids_of(*twins)


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_ids_of_a_coco_file(tmp_path: Path) -> None:
    images = [{"id": 12, "file_name": "train/a.jpg"}, {"id": 3, "file_name": "b.png"}]
    for content in ({"images": images}, images):
        path = write(tmp_path / "i.json", content)
        assert read_image_ids(path, ["a", "b", "c"]) == {"a": 12, "b": 3}
        assert read_image_ids(path, ["train/a", "val/b"]) == {"train/a": 12, "val/b": 3}
        assert read_image_ids(path, ["coco/train/a", "x/a"]) == {"coco/train/a": 12}
        assert read_image_ids(path, ["x/a", "y/a"]) == {}  # of which is it?


def test_names_of_a_list_that_are_clear_with_their_folders_alone(tmp_path: Path) -> None:
    names = ("a.jpg", "x/a.jpg", "y/a.jpg", "/data/b.jpg", "../c.jpg", "C:\\e\\d.jpg", "/e/d.gif")
    images = [{"id": rank, "file_name": name} for rank, name in enumerate(names)]
    path = write(tmp_path / "i.json", images)
    assert read_image_ids(path, ["a", "x/a", "y/a"]) == {"a": 0, "x/a": 1, "y/a": 2}
    assert read_image_ids(path, ["x/a", "y/a"]) == {"x/a": 1, "y/a": 2}
    assert read_image_ids(path, ["b", "c", "d"]) == {"b": 3, "c": 4}
    assert read_image_ids(path, ["data/b", "C:/e/d"]) == {"data/b": 3, "C:/e/d": 5}
    with pytest.raises(ValueError, match=r"names the stem 'a' twice, as [xy]/a too: give the list"):
        read_image_ids(path, ["a", "b"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"annotations": []}, "has no list of images"),
        ([{"id": "1", "file_name": "a.jpg"}], "an image is {id: integer"),
        ([{"id": 1}], "an image is {id: integer"),
        ([{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b/a.png"}], "stem 'a' twice"),
        ([{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "./a.png"}], "stem 'a' twice"),
        ([{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}], "to 'a' and 'b'"),
    ],
)
def test_bad_lists_of_images(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_image_ids(write(tmp_path / "i.json", content), ["a"])


def test_missing_and_damaged_lists_of_images(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no list of images at"):
        read_image_ids(tmp_path / "i.json", ["a"])
    (tmp_path / "i.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        read_image_ids(tmp_path / "i.json", ["a"])


@given(st.integers(0, 40), st.integers(0, 40))
def test_spread_takes_even_steps(items: int, count: int) -> None:
    chosen = spread([str(i) for i in range(items)], count)
    assert len(chosen) == len(set(chosen)) == min(items, count)
    steps = {int(b) - int(a) for a, b in itertools.pairwise(chosen)}
    assert len(steps) <= 2


def test_links_are_followed_and_loops_end(tmp_path):
    real = tmp_path / "real"
    (real / "sub").mkdir(parents=True)
    touch(real, "a.jpg")
    touch(real / "sub", "b.jpg")
    (real / "sub/loop").symlink_to(real, target_is_directory=True)
    images = tmp_path / "images"
    images.mkdir()
    (images / "linked").symlink_to(real, target_is_directory=True)
    (images / "c.jpg").symlink_to(real / "a.jpg")
    finder = ImageFinder(images)
    assert finder.find("b.jpg") == "linked/sub/b.jpg"
    assert finder.find("a") == "linked/a.jpg"
    assert list(list_images(images)) == ["c", "linked/a", "linked/sub/b"]
    (tmp_path / "link").symlink_to(images, target_is_directory=True)
    assert ImageFinder(tmp_path / "link").find("b") == "linked/sub/b.jpg"


def test_folders_named_like_images_are_none(tmp_path):
    (tmp_path / "b.jpg").mkdir()
    touch(tmp_path, "a.jpg")
    assert list_images(tmp_path) == {"a": "a.jpg"}


def test_names_are_one_however_accents_are_written(tmp_path):
    composed, apart = "caf\u00e9", "cafe\u0301"
    (tmp_path / apart).mkdir()
    touch(tmp_path / apart, f"{apart}.jpg")
    assert list_images(tmp_path / apart) == {composed: f"{apart}.jpg"}
    for name in (f"{composed}/{composed}.jpg", f"x\\{composed}\\{composed}.jpg", composed):
        assert ImageFinder(tmp_path).find(name) == f"{apart}/{apart}.jpg"
    touch(tmp_path / apart, f"{composed}.png")
    with pytest.raises(ValueError, match="share the stem"):
        list_images(tmp_path / apart)


def test_lists_of_images_of_windows_macos_and_pandas(tmp_path):
    content = [{"id": 7.0, "file_name": "train\\cafe\u0301.jpg"}]
    (tmp_path / "i.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    ids = read_image_ids(tmp_path / "i.json", ["caf\u00e9"])
    assert ids == {"caf\u00e9": 7}
    assert type(ids["caf\u00e9"]) is int
