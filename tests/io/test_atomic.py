from __future__ import annotations

import errno
import json
import os
import stat

import numpy as np
import pytest
from PIL import Image

from trace_d2.io import atomic


def test_json_round_trip_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    atomic.write_json(path, {"name": "café", "values": [1, 2.5]})
    atomic.write_json(path, [1])
    assert json.loads(path.read_text(encoding="utf-8")) == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_permissions_follow_the_umask(tmp_path):
    previous = os.umask(0o022)
    try:
        atomic.write_bytes(tmp_path / "a", b"x")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    "pixels",
    [
        np.arange(6, dtype=np.uint8).reshape(2, 3),
        np.array([[0, 65535], [256, 1]], dtype=np.uint16),
        np.arange(18, dtype=np.uint8).reshape(2, 3, 3)[:, ::-1],
    ],
)
def test_png_round_trip(tmp_path, pixels):
    atomic.write_png(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), pixels)


@pytest.mark.parametrize("pixels", [np.zeros((2, 2), np.int32), np.zeros((2, 2, 4), np.uint8)])
def test_png_refuses_what_it_cannot_hold(tmp_path, pixels):
    with pytest.raises(ValueError, match=r"a\.png"):
        atomic.write_png(tmp_path / "a.png", pixels)
    assert not list(tmp_path.iterdir())


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(tmp_path / "a.json", float("nan"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_an_interrupted_write_keeps_the_old_content(tmp_path, error):
    path = tmp_path / "a.txt"
    atomic.write_text(path, "old")

    def write() -> None:
        with atomic.atomic_file(path) as file:
            file.write(b"half of the n")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named(tmp_path, monkeypatch, code):
    path = tmp_path / "a.txt"
    atomic.write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(code, "full")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(atomic.DiskFullError, match=r"no space left to write a\.txt") as caught:
        atomic.write_text(path, "new")
    assert caught.value.errno == code
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_really_full_device(tmp_path, monkeypatch):
    def open_full(path, mode):
        return open("/dev/full", "wb")

    monkeypatch.setattr(atomic, "open", open_full, raising=False)
    with pytest.raises(atomic.DiskFullError):
        atomic.write_bytes(tmp_path / "a", b"x" * 100_000)


def test_a_missing_folder_is_not_called_full(tmp_path):
    with pytest.raises(FileNotFoundError):
        atomic.write_bytes(tmp_path / "no" / "a", b"x")


def killed_writer(path):
    """Start writing ``path`` and leave the temporary file as a kill would; returns it."""
    before = set(path.parent.iterdir())
    writer = atomic.atomic_file(path)
    writer.__enter__().write(b"half")
    (temporary,) = set(path.parent.iterdir()) - before
    temporary.rename(path.with_name("kept"))  # out of the reach of the writer's own cleaning
    assert not writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    path.with_name("kept").rename(temporary)
    return temporary


def test_temporaries_of_killed_writers_are_swept_and_no_others(tmp_path):
    foreign = [tmp_path / name for name in (".notes.tmp", ".a.png.12-34abcdef.tmp", "a.png")]
    for path in foreign:
        path.write_bytes(b"theirs")
    target = tmp_path / "elsewhere"
    target.write_bytes(b"theirs")
    left = [killed_writer(tmp_path / name) for name in ("a.png", "b.png")]
    link = tmp_path / left[0].name.replace(str(os.getpid()), "1")
    link.symlink_to(target)
    assert atomic.remove_temporaries(tmp_path, of="b.png") == 1
    assert [path.exists() for path in left] == [True, False]
    assert atomic.remove_temporaries(tmp_path) == 1
    assert sorted(tmp_path.iterdir()) == sorted([*foreign, target, link])


def test_the_longest_names_can_be_written(tmp_path):
    path = tmp_path / f"{'n' * 251}.png"
    atomic.write_bytes(path, b"x")
    assert path.read_bytes() == b"x"
