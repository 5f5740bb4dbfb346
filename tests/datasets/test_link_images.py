"""A split's own folder of images, of links."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def link(load_script, tmp_path):
    """``link("a.jpg", ...)``: the exit status of the script for a file that lists these."""

    def run(*names: object, folder: str = "links") -> int:
        listing = tmp_path / "truth.json"
        listing.write_text(json.dumps({"images": [{"id": 1, "file_name": n} for n in names]}))
        options = ["--images", str(tmp_path / "images"), "--output", str(tmp_path / folder)]
        return load_script("link_images").main([str(listing), *options])

    (tmp_path / "images/val").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "val/a.jpg"):
        (tmp_path / "images" / name).write_text(name)
    return run


def test_names_and_folders_stay(link, tmp_path, capsys):
    assert link("a.jpg", "val/a.jpg") == 0
    assert link("a.jpg", "val/a.jpg") == 0  # again
    found = {p.relative_to(tmp_path / "links"): p for p in (tmp_path / "links").rglob("*.jpg")}
    assert {str(name): path.read_text() for name, path in found.items()} == {
        "a.jpg": "a.jpg", "val/a.jpg": "val/a.jpg",
    }  # fmt: skip
    assert f"2 images in {tmp_path / 'links'}" in capsys.readouterr().out


def test_nothing_is_linked_if_an_image_is_missing(link, tmp_path, capsys):
    assert link("a.jpg", "c.jpg") == 2
    assert "1 of the 2 images" in capsys.readouterr().err
    assert not (tmp_path / "links").exists()


@pytest.mark.parametrize("names", [(), ("../a.jpg",), (None,)])
def test_files_that_list_none(link, names, capsys):
    assert link(*names) == 2
    assert "truth.json" in capsys.readouterr().err


def test_another_file_is_left_alone(link, tmp_path, capsys):
    (tmp_path / "links").mkdir()
    (tmp_path / "links/a.jpg").write_text("another")
    assert link("a.jpg") == 2
    assert "no link to" in capsys.readouterr().err
    assert (tmp_path / "links/a.jpg").read_text() == "another"


def test_folders_of_images_get_no_second_one(link, tmp_path, capsys, caplog):
    for folder in ("images", "images/some", "images/val"):
        assert link("b.jpg", folder=folder) == 2
        assert "images, of which jobs would take each image twice: give" in capsys.readouterr().err
    assert not (tmp_path / "images/some").exists()
    assert link("val/a.jpg", folder="images/some") == 0  # as coco/some of coco/val2017
    assert (tmp_path / "images/some/val/a.jpg").read_text() == "val/a.jpg"
    assert "images/some lies in" in caplog.text


def test_images_of_lvis_are_named_by_their_urls(load_script, tmp_path):
    image = tmp_path / "coco/val2017/000000000139.jpg"
    image.parent.mkdir(parents=True)
    image.write_text("139")
    listing = tmp_path / "lvis_v1_val.json"
    url = "http://images.cocodataset.org/val2017/000000000139.jpg"
    listing.write_text(json.dumps({"images": [{"id": 139, "coco_url": url}]}))
    options = ["--images", str(tmp_path / "coco"), "--output", str(tmp_path / "links")]
    assert load_script("link_images").main([str(listing), *options]) == 0
    assert (tmp_path / "links/val2017/000000000139.jpg").resolve() == image


def test_links_that_the_file_does_not_list_are_told(link, tmp_path, caplog):
    assert link("a.jpg", "val/a.jpg") == 0
    assert not caplog.text
    assert link("a.jpg") == 0
    assert "links has 1 files that" in caplog.text
    assert "does not list, such as" in caplog.text
