"""Records and images on the local disk are what dicts and lists of them would be."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from trace_d2.jobs.images_file import ImagesHead, read_head, read_images, write_images
from trace_d2.jobs.journal import DONE, FAILED, ImageEntry, Record
from trace_d2.jobs.on_disk import Images, Records, chosen
from trace_d2.jobs.output import DamagedFileError, OutputError

RECORD = Record("a", "a.jpg", DONE, "", ("x",), 0.5, finished=1.0, facts={"segments": 3})
STEMS = ["b", "a", "\udcff", "\u00e9", "\U0001f600", "a/b", "B", "\uffee"]


def entries_of(count: int) -> list[ImageEntry]:
    return [
        ImageEntry(f"s{n}", f"s{n}.jpg", 2**70 + n if n else None, n == 1) for n in range(count)
    ]


def test_records_are_a_dict_in_order_of_stems() -> None:
    records = Records(replace(RECORD, stem=stem) for stem in STEMS)
    assert list(records) == sorted(STEMS)
    assert records == {stem: replace(RECORD, stem=stem) for stem in STEMS}
    assert [record.stem for record in records.values()] == sorted(STEMS)
    assert len(records) == len(records.values()) == len(STEMS)
    assert "c" not in records
    assert records.get("c") is None


def test_the_last_record_that_is_put_counts() -> None:
    records = Records([RECORD, replace(RECORD, stem="b")])
    records.put([replace(RECORD, status=FAILED, finished=0.0)])
    failed = records.of_status(FAILED)
    assert [(len(failed), record.stem) for record in failed] == [(1, "a")]
    assert list(failed) == list(failed)  # again and again
    assert not Records().of_status(DONE)


def test_memory_does_not_grow_with_records() -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        records = Records(replace(RECORD, stem=f"{rank:09d}") for rank in range(count))
        assert sum(record.facts["segments"] for record in records.values()) == 3 * count
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert peak(1000) < peak(300) + 20_000


def test_a_full_disk_says_where_room_is_needed() -> None:
    records = Records()
    records._database.execute("PRAGMA max_page_count = 8")
    with pytest.raises(OutputError, match="TMPDIR"):
        records.put(replace(RECORD, stem=str(rank)) for rank in range(5000))


def test_images_are_a_list() -> None:
    entries = entries_of(5)
    images = Images(entry.to_json() for entry in entries)
    assert list(images) == entries
    assert (len(images), images[3], images[-1], images[1:3]) == (
        5, entries[3], entries[4], entries[1:3],
    )  # fmt: skip
    assert list(images.first(2)) == entries[:2]
    assert (len(images.first(9)), images.has_stem("s2"), images.has_stem("t")) == (5, True, False)
    assert list(chosen(images, bytearray([0, 1, 0, 0, 1]))) == [entries[1], entries[4]]
    for own, entry in (("stem", replace(entries[1], image_id=7)), ("image_id", entries[2])):
        twin = {**entry.to_json(), **({"stem": "other"} if own == "image_id" else {})}
        with pytest.raises(ValueError, match=f"images share the {own} "):
            Images([*(one.to_json() for one in entries), twin])


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("head", [ImagesHead(2), ImagesHead(9, fan=2)])
def test_lists_of_images_come_back(tmp_path: Path, count: int, head: ImagesHead) -> None:
    path, entries = tmp_path / "images.json", entries_of(count)
    write_images(path, entries, head)
    assert json.loads(path.read_text())["images"] == [entry.to_json() for entry in entries]
    images, found = read_images(path, "labels")
    assert (list(images), found, read_head(path, "labels")) == (entries, head, head)
    path.write_text(json.dumps(json.loads(path.read_text())))  # in one line, as it used to be
    images, found = read_images(path, "labels")
    assert (list(images), found) == (entries, head)


def test_the_same_list_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "images.json"
    write_images(path, entries_of(3), ImagesHead(3))
    before = path.stat().st_ino
    write_images(path, entries_of(3), ImagesHead(3))
    assert path.stat().st_ino == before
    for entries, head in ((entries_of(3), ImagesHead(2)), (entries_of(2), ImagesHead(2))):
        write_images(path, entries, head)
        images, found = read_images(path, "labels")
        assert (list(images), found) == (entries, head)


def test_damaged_lists_are_told(tmp_path: Path) -> None:
    path = tmp_path / "images.json"
    write_images(path, entries_of(3), ImagesHead(3))
    whole = path.read_text()
    for spoiled in (
        whole[:-3], whole[:80], "{}", "", "[]", whole.replace("s1.jpg", "../s1.jpg"),
        whole.replace('"limit": 3', '"limit": 3, "fan": 5'), whole.replace("s2", "s1"),
        whole.replace("{", "[" * 100_000, 2),
    ):  # fmt: skip
        path.write_text(spoiled)
        with pytest.raises(DamagedFileError, match=r"images\.json is damaged"):
            read_images(path, "labels")
