#!/usr/bin/env python3
"""How near sharpening brings masks of tokens to the truth, on any data in COCO panoptic format.

    python tools/studies/sharpening.py --images DIR --truth-json FILE --truth-dir DIR [--crf]

Each thing of the truth becomes a mask of tokens, those of which it covers more than half, as a
perfect method would find it; a share of the tokens along its outline is flipped, as none is
perfect. The masks are brought back to the image's size. Printed is the mean IoU (%) with the truth
over the even and the odd ranks of the sorted file names, and the time of a mask, for each setting.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from label_study import add_data_set

from trace_d2.jobs.arguments import count

if TYPE_CHECKING:
    import numpy as np

    from trace_d2.masks.sharpening import Sharpener

RADII = (0.5, 1.0, 1.5, 2.0)
EPSILONS = (1e-4, 1e-3, 1e-2)


class Scene(NamedTuple):
    """An image uint8 (H, W, 3), and the masks bool (H, W) of its things."""

    image: np.ndarray
    things: list[np.ndarray]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    args = _parser().parse_args(arguments)
    import numpy as np
    from tabulate import tabulate

    settings = _settings(args.crf)
    found: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    seconds: dict[str, float] = defaultdict(float)
    for rank, scene in enumerate(_scenes(args.images, args.truth_json, args.truth_dir, args.limit)):
        rng = np.random.default_rng(rank)
        tokens = [_tokens(thing, args.grid, args.noise, rng) for thing in scene.things]
        for name, sharpener in settings.items():
            start = time.perf_counter()
            sharpen = sharpener.of_image(scene.image, (args.grid, args.grid))
            masks = [sharpen(mask) for mask in tokens]
            seconds[name] += time.perf_counter() - start
            pairs = zip(masks, scene.things, strict=True)
            found[name][rank % 2].extend(_iou(mask, thing) for mask, thing in pairs)
    rows = [
        [name, *(100 * np.mean(own) for own in parts), 1000 * seconds[name] / sum(map(len, parts))]
        for name, parts in found.items()
    ]
    print(f"{sum(map(len, found['none']))} things, {args.grid} x {args.grid} tokens")
    print(tabulate(rows, ["", "even", "odd", "ms a mask"], floatfmt=".1f"))
    return 0


def _settings(crf: bool) -> dict[str, Sharpener]:
    from trace_d2.masks.settings import DiscoverySettings, GuidedSettings
    from trace_d2.masks.sharpening import Sharpener, check_package

    found = {"none": Sharpener(DiscoverySettings(sharpen="none"))}
    every = DiscoverySettings(min_iou=0.0)
    for radius in RADII:
        for epsilon in EPSILONS:
            own = GuidedSettings(radius=radius, epsilon=epsilon)
            found[f"guided, RADIUS {radius:g}, EPSILON {epsilon:g}"] = Sharpener(every, own)
    if crf:
        check_package("crf")
        found["crf"] = Sharpener(DiscoverySettings(sharpen="crf", min_iou=0.0))
    return found


def _scenes(images: Path, truth: Path, folder: Path, limit: int | None) -> Iterator[Scene]:
    """The first ``limit`` images in the order of their names."""
    from trace_d2.io.coco_panoptic import load_panoptic_json, read_panoptic_png
    from trace_d2.io.images import read_image

    content = load_panoptic_json(truth)
    isthing = {category.id: category.isthing for category in content.categories}
    for entry in sorted(content.images, key=lambda one: one["file_name"])[:limit]:
        annotation = content.annotations[entry["id"]]
        image = read_image(images / entry["file_name"]).pixels
        ids = read_panoptic_png(folder / annotation["file_name"], image.shape[:2])
        wanted = (s for s in annotation["segments_info"] if isthing[s["category_id"]])
        yield Scene(image, [ids == s["id"] for s in wanted if not s["iscrowd"]])


def _tokens(thing: np.ndarray, grid: int, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Bool (grid, grid): the tokens that are mostly ``thing``, some flipped along the outline."""
    import cv2
    import numpy as np

    share = cv2.resize(thing.astype(np.float32), (grid, grid), interpolation=cv2.INTER_AREA)
    tokens = share > min(0.5, share.max() / 2)  # of a small thing its best token
    around = np.ones((3, 3), np.uint8)
    pixels = tokens.view(np.uint8)
    outline = cv2.dilate(pixels, around) != cv2.erode(pixels, around)
    flipped: np.ndarray = tokens ^ (outline & (rng.random(tokens.shape) < noise))
    return flipped


def _iou(mask: np.ndarray | None, truth: np.ndarray) -> float:
    return 0.0 if mask is None else float((mask & truth).sum() / (mask | truth).sum())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_set(parser)
    add = parser.add_argument
    add("--grid", type=count, default=60, metavar="N", help="tokens a side; default 60")
    add("--noise", type=float, default=0.2, help="share of outline tokens flipped; default 0.2")
    add("--limit", type=count, metavar="K", help="the first K images only")
    add("--crf", action="store_true", help="the dense CRF as well, a second a mask")
    return parser


if __name__ == "__main__":
    sys.exit(main())
