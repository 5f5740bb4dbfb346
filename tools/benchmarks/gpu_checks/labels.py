"""trace-tiny from end to end: labels a second, and the edges of the device against the CPU's."""

from __future__ import annotations

import runpy
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpu_checks.common import CONFIGS, ROOT, Check
from trace_d2.config import load_trace_cfg
from trace_d2.edges import EdgeDetector, StudentDetector
from trace_d2.scenes.dataset import SceneSettings, write_scenes
from trace_d2.scenes.procedural import make_scene

_CONFIG = CONFIGS / "trace_tiny.yaml"


def run(check: Check) -> None:
    """Measure."""
    for dtype in ("float32", "bfloat16"):
        check.measure(f"edges against the CPU's, {dtype}", partial(_agreement, check, dtype))
    with tempfile.TemporaryDirectory() as folder:
        scenes = Path(folder) / "scenes"
        count = check.size(96, 2)
        write_scenes(scenes, count, SceneSettings(series=0, size=(128, 128)), progress=False)
        for source in ("student", "teacher"):
            check.measure(
                f"labels by the {source}",
                partial(_make_labels, check, scenes, Path(folder) / source, source, count),
            )


def _keys(check: Check, device: str, dtype: str) -> list[str]:
    keys = ["MODEL.TRACE.DEVICE", device, "MODEL.TRACE.BACKBONE.DTYPE", dtype]
    return keys + check.size([], ["MODEL.TRACE.BACKBONE.RESOLUTION", "64"])


def _agreement(check: Check, dtype: str) -> dict[str, Any]:
    """Largest difference of edges (0..1) from the CPU's in float32, and equal emergence points."""
    images = {f"scene_{i}": make_scene(0, i).image for i in range(check.size(10, 1))}
    found: dict[str, dict[str, Any]] = {}
    for device, own in (("cpu", "float32"), (str(check.device), dtype)):
        cfg = load_trace_cfg(_CONFIG, _keys(check, device, own))
        teacher, student = EdgeDetector.from_config(cfg), StudentDetector.from_config(cfg)
        found[device] = {k: (teacher(image, k), student(image, k)) for k, image in images.items()}
    here, there = found["cpu"], found[str(check.device)]
    same = [key for key in images if here[key][0].timestep == there[key][0].timestep]

    def largest(place: int, keys: Any) -> float:
        return max(
            (float(np.abs(here[k][place].edges - there[k][place].edges).max()) for k in keys),
            default=-1.0,
        )

    return {
        "same emergence point": f"{len(same)} of {len(images)}",
        "teacher": largest(0, same),
        "student": largest(1, images),
    }


def _make_labels(
    check: Check, scenes: Path, output: Path, source: str, count: int
) -> dict[str, float]:
    """By tools/make_pseudo_panoptic.py: seconds in all, and images a second of them.

    Raises:
        RuntimeError: the tool failed, or the labels are not all there.
    """
    tool = runpy.run_path(str(ROOT / "tools" / "make_pseudo_panoptic.py"))["main"]
    start = time.perf_counter()
    status = tool([
        "--config-file", str(_CONFIG), "--images", str(scenes / "images"),
        "--semantic", str(scenes / "semantic"), "--categories", str(scenes / "categories.json"),
        "--output", str(output), "--quiet", *check.size([], ["--workers", "1"]), 
        "MODEL.TRACE.EDGES.SOURCE", source, *_keys(check, str(check.device), "auto"),
    ])  # fmt: skip
    seconds = time.perf_counter() - start
    made = len(list((output / "panoptic").glob("*.png")))
    if status or made != count:
        raise RuntimeError(f"status {status}, {made} labels of {count}")
    if check.cuda:
        torch.cuda.empty_cache()
    return {"seconds": round(seconds, 2), "images a second": round(count / seconds, 2)}
