"""The images of a job, their ids, and how they are divided."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_d2.jobs.entries import Shard, build_entries


def ids_of(*stems: str) -> list[int | None]:
    return [entry.image_id for entry in build_entries({s: f"{s}.jpg" for s in stems}, None)]


def test_ids_are_numeric_stems_or_else_ranks() -> None:
    assert ids_of("000000000009", "7") == [9, 7]
    assert ids_of("7", "street") == [1, 2]
    assert ids_of("2007_000032", "2007_000039") == [1, 2]  # int() would take the underscore
    assert ids_of("9" * 40, "2") == [1, 2]


def test_numeric_stems_of_one_number_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'01' and '1' are both number 1: .*--images-json"):
        ids_of("01", "1")


def test_ids_of_a_list() -> None:
    ids = {"a": 12, "b": 3}
    entries = build_entries({"a": "a.jpg", "c": "c.jpg"}, ids, ["c"])
    assert [(e.image_id, e.pictured) for e in entries] == [(12, False), (None, True)]
    with pytest.raises(ValueError, match=r"names none of the 1 images \(the first is z\.jpg\)"):
        build_entries({"z": "z.jpg"}, ids)


@given(st.integers(0, 30), st.integers(1, 7))
def test_shards_share_all_images(images: int, shards: int) -> None:
    entries = build_entries({f"s{i:02}": f"s{i:02}.jpg" for i in range(images)}, None)
    parts = [Shard(index, shards).take(entries) for index in range(1, shards + 1)]
    assert sorted(itertools.chain(*parts), key=lambda entry: entry.stem) == entries
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_shard_names() -> None:
    assert Shard.parse("2/4") == Shard(2, 4)
    assert Shard.parse("1/1").whole
    assert Shard(2, 4).name == "2-of-4"
    for text in ("0/4", "5/4", "1", "a/b", "1/", "-1/4"):
        with pytest.raises(ValueError, match="a shard is I/N"):
            Shard.parse(text)
