"""How the images of a job are divided."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from trace_d2.jobs.journal import ImageEntry
from trace_d2.jobs.locks import Shard


@given(st.integers(0, 30), st.integers(1, 7))
def test_shards_share_all_images(images: int, shards: int) -> None:
    entries = [ImageEntry(f"s{i:02}", f"s{i:02}.jpg", i) for i in range(images)]
    parts = [Shard(index, shards).take(entries) for index in range(1, shards + 1)]
    assert sorted(itertools.chain(*parts), key=lambda entry: entry.stem) == entries
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_shard_names() -> None:
    assert Shard(1, 1).name == ""
    assert Shard(2, 4).name == "2-of-4"
