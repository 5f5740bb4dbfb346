"""Weights are read out of pickles; nothing else of them is run."""

from __future__ import annotations

import builtins
import contextlib
import os
import pickle
import shutil
import subprocess
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from trace_d2.io.safe_pickle import read_pickle


class _Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def write(path: Path, content: object, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_any_kind_come_back(tmp_path, protocol):
    rng = np.random.default_rng(0)
    arrays = {
        "float": rng.normal(size=(2, 3, 4)).astype(np.float32),
        "fortran": np.asfortranarray(rng.normal(size=(3, 5))),
        "strided": rng.normal(size=(6, 4))[::2, ::-1],
        "big_endian": np.arange(5, dtype=">i4"),
        "half": np.arange(3, dtype=np.float16),
        "truth": np.array([True, False]),
        "empty": np.zeros((0, 4), np.float32),
        "single": np.array(3.5),
    }
    content = {"model": arrays, "__author__": "someone", "number": np.float32(1.5), "k": [1, "x"]}
    loaded = read_pickle(write(tmp_path / "a.pkl", content, protocol))
    assert (loaded["__author__"], loaded["number"], loaded["k"]) == ("someone", 1.5, [1, "x"])
    for name, array in arrays.items():
        found = loaded["model"][name]
        assert type(found) is np.ndarray
        assert found.dtype == array.dtype.newbyteorder("=")
        assert found.flags.writeable
        np.testing.assert_array_equal(found, array)


def test_pickles_of_numpy_1_and_python_2_are_read(tmp_path):
    # {"blobs": {"conv1_w": numpy.arange(3, dtype="f4").reshape(1, 3)}} as Python 2 wrote it.
    text = (
        b"(dp0\nS'blobs'\np1\n(dp2\nS'conv1_w'\np3\n"
        b"cnumpy.core.multiarray\n_reconstruct\np4\n(cnumpy\nndarray\np5\n(I0\ntp6\nS'b'\np7\n"
        b"tp8\nRp9\n(I1\n(I1\nI3\ntp10\ncnumpy\ndtype\np11\n(S'f4'\np12\nI0\nI1\ntp13\nRp14\n"
        b"(I3\nS'<'\np15\nNNNI-1\nI-1\nI0\ntp16\nbI00\n"
        b"S'\\x00\\x00\\x00\\x00\\x00\\x00\\x80?\\x00\\x00\\x00@'\np17\ntp18\nbss."
    )
    (tmp_path / "old.pkl").write_bytes(text)
    found = read_pickle(tmp_path / "old.pkl")["blobs"]["conv1_w"]
    assert found.tolist() == [[0.0, 1.0, 2.0]]
    modern = pickle.dumps({"a": np.ones(2)}, 2)
    assert b"numpy._core.multiarray" in modern
    former = modern.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "former.pkl").write_bytes(former)
    assert read_pickle(tmp_path / "former.pkl")["a"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("protocol", [2, 4])
def test_torch_tensors_are_read(tmp_path, protocol):
    whole = torch.arange(12.0).reshape(3, 4)
    content = {
        "model": OrderedDict(a=whole, part=whole[1:, ::2], half=torch.ones(2).half()),
        "parameter": torch.nn.Parameter(torch.full((2,), 7.0)),
    }
    loaded = read_pickle(write(tmp_path / "a.pkl", content, protocol))
    for name, tensor in content["model"].items():
        assert torch.equal(loaded["model"][name], tensor), name
    assert torch.equal(loaded["parameter"], torch.full((2,), 7.0))


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    "call",
    [
        (os.system, "touch {}"),
        (builtins.eval, "open({!r}, 'w')"),
        (builtins.exec, "open({!r}, 'w')"),
        (builtins.open, "{}", "w"),
        (subprocess.call, ["touch", "{}"]),
        (shutil.copy, __file__, "{}"),
        (builtins.getattr, "{}", "upper"),
        (torch.load, "{}"),
        (np.load, "{}", None, True),
        (np.memmap, "{}", "u1", "w+", 0, (4,)),
        (builtins.bytearray, 10),
    ],
    ids=lambda call: getattr(call[0], "__qualname__", str(call[0])),
)
def test_code_in_a_pickle_is_not_run(tmp_path, call, protocol):
    trace = tmp_path / "trace"
    function, *arguments = call
    filled = [
        [part.format(trace) for part in a]
        if isinstance(a, list)
        else a.format(str(trace))
        if isinstance(a, str)
        else a
        for a in arguments
    ]
    content = {"model": {"w": np.ones(2)}, "more": _Call(function, *filled)}
    path = write(tmp_path / "evil.pkl", content, protocol)
    with pytest.raises(ValueError, match=r"evil\.pkl is no file of weights alone: .* call .*code"):
        read_pickle(path)
    assert not trace.exists()


def test_code_in_the_storage_of_a_tensor_is_not_run(tmp_path):
    inner = pickle.dumps(_Call(os.system, f"touch {tmp_path / 'trace'}"))
    tensor = _Call(torch.storage._load_from_bytes, inner)
    with pytest.raises(ValueError, match="evil"):
        read_pickle(write(tmp_path / "evil.pkl", {"model": tensor}))
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("dtype", ["O", "V8", "U3", "f4,i4", "(100,100)f4"])
def test_arrays_of_no_numbers_are_refused(tmp_path, dtype):
    with pytest.raises(ValueError, match="no file of weights alone"):
        read_pickle(write(tmp_path / "a.pkl", _Call(np.dtype, dtype, False, True)))


def test_what_is_no_pickle_is_named(tmp_path):
    whole = pickle.dumps({"a": np.arange(1000.0)})
    for number, data in enumerate([b"", b"PK\x03\x04", whole[:-500], b"\x80\x04.", b"hello"]):
        path = tmp_path / f"{number}.pkl"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"{number}\.pkl is no whole pickle .*: copy or"):
            read_pickle(path)
    with pytest.raises(FileNotFoundError):
        read_pickle(tmp_path / "absent.pkl")


def test_a_shape_that_its_data_does_not_fill_is_refused(tmp_path):
    array = np.zeros(4, np.float32)
    rebuild, arguments, (version, _, dtype, order, data) = array.__reduce__()

    class Huge:
        def __reduce__(self):
            return rebuild, arguments, (version, (10**12,), dtype, order, data)

    with pytest.raises(ValueError, match="no whole pickle"):
        read_pickle(write(tmp_path / "a.pkl", {"w": Huge()}))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # the object's number is 2 ** 31
        b"\x80\x05\x96" + (10**12).to_bytes(8, "little") + b"abc.",  # a bytearray of a terabyte
        b"\x80\x04\x8e" + (10**12).to_bytes(8, "little") + b"abc.",  # bytes
        b"\x80\x04\x8d" + (10**12).to_bytes(8, "little") + b"abc.",  # text
        b"\x80\x04\x95" + (10**12).to_bytes(8, "little") + b"N.",  # a frame
        pickle.dumps(_Call(bytes, 10**12)),
        pickle.dumps(_Call(list, range(10**12))),
    ],
)
def test_a_few_bytes_fill_no_memory(tmp_path, data):
    resource = pytest.importorskip("resource")
    (tmp_path / "bomb.pkl").write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(ValueError):
        assert read_pickle(tmp_path / "bomb.pkl") is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
