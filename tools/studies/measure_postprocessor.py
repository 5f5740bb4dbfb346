#!/usr/bin/env python
"""What the post-processor makes of masks that merge touching instances.

    python tools/make_scenes.py --output scenes --count 200
    python tools/studies/measure_postprocessor.py --scenes scenes --edges student=DIR \
        [--json F] [KEY VALUE ...]

The masks are made from the truth: the connected parts of all things together, those of each class,
and the things themselves, which no cut should change. A model predicts them, without the
post-processor and with it, the edges being those of the folders of --edges.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commands import named_folder

MERGES = {
    "things": "connected parts of all things",
    "classes": "connected parts of each class",
    "none": "the things themselves",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit status: 0 done, 2 bad input."""
    args = _parser().parse_intermixed_args(arguments)
    from trace_d2.io.atomic import write_json  # --help loads nothing

    try:
        masks = _make_masks(args.scenes, args.count)
        results = {merge: _measure(args, merge, masks) for merge in MERGES}
        if args.json:
            write_json(args.json, results, indent=1)
    except (ValueError, OSError, KeyError) as error:
        print(f"measure_postprocessor: {error}", file=sys.stderr)
        return 2
    print(_table(results))
    return 0


def _make_masks(scenes: Path, count: int | None) -> dict[str, dict[str, Any]]:
    """The masks of each kind of the first ``count`` images, as COCO instances."""
    from trace_d2.scenes.oracle import write_instances, write_merged_masks

    truth = scenes / "panoptic.json", scenes / "panoptic"
    masks = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {merge: Path(folder) / f"{merge}.json" for merge in MERGES}
        write_merged_masks(*truth, files["things"], progress=False)
        write_merged_masks(*truth, files["classes"], progress=False, per_class=True)
        write_instances(*truth, files["none"], progress=False)
        for merge, file in files.items():
            content = json.loads(file.read_text())
            images = content["images"][:count]
            wanted = {image["id"] for image in images}
            found = [one for one in content["annotations"] if one["image_id"] in wanted]
            masks[merge] = {"images": images, "annotations": found}
    # All have score 1: the order of ties, and so AP, is that of the things of each class.
    rank: dict[tuple[int, int], int] = {}
    for thing in masks["none"]["annotations"]:
        rank.setdefault((thing["image_id"], thing["category_id"]), len(rank))
    masks["classes"]["annotations"].sort(key=lambda one: rank[one["image_id"], one["category_id"]])
    return masks


def _measure(args: argparse.Namespace, merge: str, masks: dict[str, Any]) -> dict[str, Any]:
    """Scores by the name of the edges; "before" is without the post-processor."""
    edges = args.edges or [("oracle", args.scenes / "edges_oracle")]
    results = {}
    for name, folder in [("before", None), *edges]:
        model = _model(folder, args.options)
        results[name] = _score(model, args.scenes / "images", masks[merge], masks["none"])
        print(f"{merge}, {name}: AP {100 * results[name]['AP']:.1f}", file=sys.stderr)
    return results


def _model(edges: Path | None, options: Sequence[str]) -> Any:
    """Predicts the ``given`` instances of its input, cut along the edges of a folder."""
    from detectron2.config import get_cfg
    from torch import nn

    from trace_d2 import add_trace_config, with_postprocessor
    from trace_d2.config import merge_pairs

    class GivenMasks(nn.Module):
        def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [{"instances": record["given"]} for record in batched_inputs]

    cfg = get_cfg()
    add_trace_config(cfg)
    files = ["MODEL.TRACE.EDGES.SOURCE", "files", "MODEL.TRACE.EDGES.DIR", str(edges or "")]
    merge_pairs(cfg, [*options, *files])
    model = GivenMasks().eval()
    return with_postprocessor(model, cfg) if edges else model


def _score(
    model: Any, images: Path, given: dict[str, Any], truth: dict[str, Any]
) -> dict[str, Any]:
    from trace_d2.evaluation import class_agnostic_ap
    from trace_d2.io.coco_panoptic import encode_mask

    rows: list[dict[str, Any]] = []
    taken = 0.0
    for image in given["images"]:
        masks = [one for one in given["annotations"] if one["image_id"] == image["id"]]
        record = _record(images / image["file_name"], masks)
        start = time.perf_counter()
        found = model([record])[0]["instances"]
        taken += time.perf_counter() - start
        rows += [
            {"image_id": image["id"], "score": score, "segmentation": encode_mask(mask)}
            for mask, score in zip(found.pred_masks.numpy(), found.scores.tolist(), strict=True)
        ]
    score = class_agnostic_ap(truth, rows, ["segm"])
    milliseconds = 1000 * taken / score.images
    return {**score.to_dict()["segm"], "predictions": len(rows), "ms_per_image": milliseconds}


def _record(path: Path, annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """The input of a model for an image, with the instances that it is to predict at score 1."""
    import torch
    from detectron2.data.detection_utils import read_image
    from detectron2.structures import Instances
    from pycocotools import mask as coco_mask

    image = read_image(str(path), "BGR")
    height, width = image.shape[:2]
    given = Instances((height, width))
    masks = [torch.from_numpy(coco_mask.decode(one["segmentation"])) for one in annotations]
    given.pred_masks = torch.stack(masks).bool() if masks else torch.zeros(0, height, width).bool()
    given.pred_classes = torch.tensor([one["category_id"] for one in annotations]).long()
    given.scores = torch.ones(len(annotations))
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())
    size = {"height": height, "width": width}
    return {"image": pixels, "file_name": str(path), **size, "given": given}


def _table(results: dict[str, Any]) -> str:
    from tabulate import tabulate

    rows = [
        [
            MERGES[merge],
            name,
            *(f"{100 * scores[key]:.1f}" for key in ("AP", "AP50", "AR_100")),
            scores["predictions"],
            f"{scores['ms_per_image']:.1f}",
        ]
        for merge, by_name in results.items()
        for name, scores in by_name.items()
    ]
    headers = ["masks", "edges", "AP^mk", "AP50", "AR^mk_100", "predictions", "ms an image"]
    return tabulate(rows, headers, disable_numparse=True, stralign="right")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Class-agnostic AP of merged masks before and after the post-processor."
    )
    add = parser.add_argument
    add("--scenes", type=Path, required=True, help="folder of make_scenes.py")
    add(
        "--edges", type=named_folder("before"), action="append", metavar="NAME=DIR",
        help="edge files by image, repeatable; default oracle=SCENES/edges_oracle",
    )  # fmt: skip
    add("--count", type=int, help="use the first COUNT images")
    add("--json", type=Path, help="write the numbers (0..1) to this file")
    add("options", nargs="*", default=[], metavar="KEY VALUE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
