#!/usr/bin/env python3
"""Time the cuts of mask discovery against their plain definitions, side by side in one run.

    python tools/benchmarks/benchmark_cuts.py [--side 60] [--threads 2]

Features are drawn: objects on a ground, each with a direction of its own, and what varies slowly
and at random across the image. The plain way solves (D - W) y = lambda D y for all eigenvectors by
scipy's eigh, as the published methods do: a minute or more for the 60 x 60 tokens that MaskCut's
images have, three times that for its masks. "Apart" is the share of tokens that are on the other
side of the cut, or in another mask. Networks that make features are not in it. Needs 2 GiB.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Row = list[str]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--side", type=int, default=60, help="tokens across and down; default %(default)s")
    add("--repeats", type=int, default=1, help="turns of both ways; default %(default)s")
    add("--threads", type=int, default=2, help="of ours; scipy takes all; default %(default)s")
    add("--device", default="cpu", help="of ours; default %(default)s")
    add("--seed", type=int, default=0, help="of the features; default %(default)s")
    add("--json", type=Path, help="write the table to this file as well")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run all rows and print the table."""
    args = parse_arguments(arguments)
    import torch  # --help loads nothing
    from tabulate import tabulate

    from trace_d2.io.atomic import write_json

    torch.set_num_threads(args.threads)
    features = drawn_features(args.side, args.seed)
    rows = [
        eigenvector_row(features, args.repeats, args.device),
        mask_cut_row(features, args.side, args.repeats, args.device),
    ]
    headers = ["", "ours", "plain", "plain / ours", "apart"]
    print(tabulate(rows, headers, disable_numparse=True))
    if args.json:
        write_json(args.json, [dict(zip(headers, row, strict=True)) for row in rows], indent=1)
    return 0


def drawn_features(side: int, seed: int, width: int = 768) -> np.ndarray:
    """(side^2, width) float32 of length 1."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:side, :side] / side
    kind = np.zeros((side, side), int)
    for k in range(1, 7):
        centre, radius = rng.random(2), 0.08 + 0.12 * rng.random()
        kind[(row - centre[0]) ** 2 + (column - centre[1]) ** 2 < radius**2] = k
    directions = rng.standard_normal((7, width))
    coarse = rng.standard_normal((8, 8, 16)).astype(np.float32)
    slow = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC).reshape(-1, 16)
    noise = rng.standard_normal((side * side, width))
    rows = directions[kind.ravel()] + 0.3 * slow @ rng.standard_normal((16, width)) + noise
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def eigenvector_row(features: np.ndarray, repeats: int, device: str) -> Row:
    """The second eigenvector of one graph, its weights given."""
    import torch
    from measuring import in_turns
    from plain.cuts import binary_weights, second_eigenvector_plainly

    from trace_d2.masks.eigen import Graph, second_eigenvectors

    weights = binary_weights(features, 0.15, 1e-5)
    graph = Graph(torch.from_numpy(weights)[None].to(device))
    second_eigenvectors(Graph(graph.weights[:, :8, :8]))  # compiles once
    turns = in_turns(
        lambda: second_eigenvectors(graph)[0],
        lambda: second_eigenvector_plainly(weights)[1],
        repeats,
    )
    found, y = turns.results
    own = found.vector.cpu().numpy()
    other = ((own > own.mean()) != (y > y.mean())).mean()
    title = f"second eigenvector, {len(y)} tokens, {(weights == 1).mean():.0%} tied"
    return turns.row(f"{title}, {found.steps} steps", min(other, 1 - other))


def mask_cut_row(features: np.ndarray, side: int, repeats: int, device: str) -> Row:
    """The masks of MaskCut, from features on."""
    import numpy as np
    import torch
    from measuring import in_turns
    from plain.cuts import mask_cut_plainly

    from trace_d2.masks import MaskCutSettings, TokenFeatures, mask_cut

    grid, settings = (side, side), MaskCutSettings()
    image = TokenFeatures(grid, torch.from_numpy(features).to(device))
    list(mask_cut(image, settings))  # compiles once
    turns = in_turns(
        lambda: list(mask_cut(image, settings)),
        lambda: mask_cut_plainly(features, grid, settings.tau, settings.epsilon),
        repeats,
    )
    maps = [np.zeros(grid, int), np.zeros(grid, int)]
    for number, masks in zip(maps, turns.results, strict=True):
        for k, (mask, _) in enumerate(masks, start=1):
            number[mask] = k
    title = f"MaskCut, {settings.masks} rounds, {len(turns.results[0])} masks"
    return turns.row(title, (maps[0] != maps[1]).mean())


if __name__ == "__main__":
    sys.exit(main())
