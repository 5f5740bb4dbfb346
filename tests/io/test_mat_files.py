"""MATLAB's files of version 5, against what scipy writes; damaged ones."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from trace_d2.io.mat_files import read_structure

OBJECTS = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.fixture
def mat(tmp_path: Path) -> Path:
    return tmp_path / "a.mat"


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i4", "f8", "u2"])
def test_arrays_of_a_structure(mat: Path, compressed: bool, dtype: str) -> None:
    cell = np.empty((1, 1), object)
    cell[0, 0] = np.eye(2)
    truth = {"Segmentation": OBJECTS.astype(dtype), "Boundaries": cell, "Categories": [[7], [12]]}
    content = {"other": 3, "GTinst": truth, "text": "x"}
    savemat(mat, content, do_compression=compressed)
    found = read_structure(mat, "GTinst")
    assert list(found) == ["Segmentation", "Categories"]
    assert np.array_equal(found["Segmentation"], OBJECTS)
    assert found["Categories"].tolist() == [[7], [12]]


def test_another_structure(mat: Path) -> None:
    savemat(mat, {"GTcls": {"a": 1}})
    with pytest.raises(ValueError, match="no structure GTinst"):
        read_structure(mat, "GTinst")


def test_damaged_files_are_told_and_no_process_ends(mat: Path) -> None:
    savemat(mat, {"GTinst": {"Segmentation": OBJECTS, "Categories": [[7]]}})
    sound = mat.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(2000):
        data = bytearray(sound)
        for at in rng.integers(120, len(data), rng.integers(1, 6)):
            data[at] = rng.integers(256)
        mat.write_bytes(bytes(data[: rng.integers(100, len(data) + 1)]))
        try:
            found = read_structure(mat, "GTinst")
        except ValueError:
            continue
        assert all(isinstance(array, np.ndarray) for array in found.values())


def test_a_part_that_would_fill_the_memory_is_not_unpacked(mat: Path) -> None:
    packed = zlib.compress(bytes(2**27))
    head = b"MATLAB".ljust(124) + struct.pack("<H2s", 0x100, b"IM")
    mat.write_bytes(head + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(ValueError, match="far larger"):
        read_structure(mat, "GTinst")
