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


def test_temporaries_of_killed_writers_are_swept(tmp_path):
    (tmp_path / ".a.png.12-34ab.tmp").write_bytes(b"half")
    (tmp_path / "a.png").write_bytes(b"whole")
    assert atomic.remove_temporaries(tmp_path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
