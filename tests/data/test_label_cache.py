"""The label cache: a hit equals what was made, and nothing damaged or stale comes out of it."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_d2.data import label_cache
from trace_d2.data.label_cache import LabelCache

ARRAYS = {
    "map": np.arange(12, dtype=np.uint16).reshape(3, 4),
    "classes": np.array([5, 0], np.int64),
    "things": np.array([True, False]),
}


def refuse() -> dict[str, np.ndarray]:
    raise AssertionError("the cache should have had this entry")


def check(found: dict[str, np.ndarray], expected: dict[str, np.ndarray] = ARRAYS) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.fixture
def inputs(tmp_path):
    paths = [tmp_path / "image.png", tmp_path / "mask.png"]
    for path in paths:
        path.write_bytes(path.name.encode())
    return paths


def test_a_hit_equals_what_was_made(tmp_path, inputs):
    check(LabelCache(tmp_path / "cache", {"a": 1}).get(inputs, lambda: ARRAYS))
    check(LabelCache(tmp_path / "cache", {"a": 1}).get(inputs, refuse))
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("other", [{"a": 2}, {"a": 1, "b": 0}, {}])
def test_other_settings_are_another_entry(tmp_path, inputs, other):
    LabelCache(tmp_path / "cache", {"a": 1}).get(inputs, lambda: ARRAYS)
    second = {"map": np.zeros((1, 1), np.uint8)}
    check(LabelCache(tmp_path / "cache", other).get(inputs, lambda: second), second)
    check(LabelCache(tmp_path / "cache", {"a": 1}).get(inputs, refuse))


@pytest.mark.parametrize("change", ["size", "time", "gone"])
def test_changed_inputs_are_made_again(tmp_path, inputs, change):
    cache = LabelCache(tmp_path / "cache", {})
    cache.get(inputs, lambda: ARRAYS)
    if change == "size":
        status = inputs[1].stat()
        inputs[1].write_bytes(b"longer than before")
        os.utime(inputs[1], ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "time":
        os.utime(inputs[1], ns=(1, 1))
    else:
        inputs[1].unlink()
    second = {"map": np.ones((2, 2), np.uint8)}
    check(cache.get(inputs, lambda: second), second)
    check(cache.get(inputs, refuse), second)
    assert sum(path.is_file() for path in cache.folder.rglob("*")) == 1


def test_the_same_stem_in_another_folder_is_another_entry(tmp_path, inputs):
    cache = LabelCache(tmp_path / "cache", {})
    others = [tmp_path / "other" / path.name for path in inputs]
    assert cache.path(inputs) != cache.path(others)
    assert cache.path(inputs) != cache.path(inputs[:1])


@settings(max_examples=20, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_damage_never_comes_out(tmp_path_factory, position, bit, cut):
    folder = tmp_path_factory.mktemp("damage")
    source = folder / "mask.png"
    source.write_bytes(b"mask")
    cache = LabelCache(folder, {})
    cache.get([source], lambda: ARRAYS)
    path = cache.path([source])
    content = bytearray(path.read_bytes())
    place = int(position * len(content))
    if cut:
        del content[place:]
    else:
        content[place] ^= 1 << bit
    path.write_bytes(content)
    calls = []
    check(cache.get([source], lambda: calls.append(1) or ARRAYS))
    assert calls == [1]
    check(cache.get([source], refuse))


def test_a_full_disk_is_reported_once(tmp_path, inputs, monkeypatch, caplog):
    cache = LabelCache(tmp_path / "cache", {})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with caplog.at_level(logging.WARNING, label_cache.__name__):
        check(cache.get(inputs, lambda: ARRAYS))
        check(cache.get(inputs, lambda: ARRAYS))
    assert len(caplog.records) == 1
    assert "INPUT.TRACE.CACHE_DIR" in caplog.text
    assert "no space left" in caplog.text
    assert not [path for path in cache.folder.rglob("*") if path.is_file()]


def test_errors_of_making_are_the_callers(tmp_path, inputs):
    cache = LabelCache(tmp_path / "cache", {})

    def fail() -> dict[str, np.ndarray]:
        raise RuntimeError("no label")

    with pytest.raises(RuntimeError, match="no label"):
        cache.get(inputs, fail)
    check(cache.get(inputs, lambda: ARRAYS))


def test_many_writers_leave_one_whole_entry(tmp_path, inputs):
    def work(make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return LabelCache(tmp_path / "cache", {}).get(inputs, make)

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(work, [lambda: ARRAYS] * 32):
            check(found)
    assert sum(path.is_file() for path in (tmp_path / "cache").rglob("*")) == 1


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file cannot be made .*CACHE_DIR"):
        LabelCache(tmp_path / "file", {})
