#!/usr/bin/env python3
"""Draw the pictures of README.md and docs/tutorial.md: rows with names, an image a column.

python tools/demo.py && python tools/studies/doc_pictures.py scenes --work DIR
python tools/studies/doc_pictures.py tutorial --work DIR    # after write_tutorial.py --work DIR
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trace_d2.io.atomic import atomic_file
from trace_d2.io.categories import load_categories
from trace_d2.io.coco_panoptic import read_panoptic_png
from trace_d2.io.edge_maps import read_edges
from trace_d2.io.images import read_image, read_semantic
from trace_d2.jobs.pictures import nearest, paint_edges, paint_segments
from trace_d2.terminal import say

DOCS = Path(__file__).resolve().parents[2] / "docs"
_TILE = (256, 192)  # width and height in pixels
_MARGIN, _GAP = 118, 4  # of the names on the left; between tiles

Row = tuple[str, list[np.ndarray]]


def sheet(rows: Sequence[Row], heads: Sequence[tuple[str, int]] = ()) -> Image.Image:
    """A picture of ``rows``, their names on the left.

    Args:
        rows: name, which may have line ends, and uint8 images (H, W, 3).
        heads: titles of columns, and of how many each.
    """
    width, height = _TILE[0] + _GAP, _TILE[1] + _GAP
    top = 24 if heads else 0
    columns = max(len(images) for _, images in rows)
    canvas = Image.new("RGB", (_MARGIN + columns * width, top + len(rows) * height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(15)
    for number, (name, images) in enumerate(rows):
        middle = top + number * height + _TILE[1] // 2
        draw.multiline_text((6, middle), name, "black", font, anchor="lm", spacing=3)
        for column, image in enumerate(images):
            tile = Image.fromarray(image).resize(_TILE, Image.Resampling.BICUBIC)
            canvas.paste(tile, (_MARGIN + column * width, top + number * height))
    column = 0
    for title, several in heads:
        draw.text((_MARGIN + column * width + 2, 3), title, "black", font)
        column += several
    return canvas


def semantic(path: Path, categories: Path) -> np.ndarray:
    """A semantic mask in the colours of its categories."""
    mask, palette = read_semantic(path), np.full((256, 3), 255, np.uint8)
    for category in load_categories(categories):
        palette[category.id] = (225, 225, 225) if not category.isthing else category.color
    return _large(palette[mask])


def _large(image: np.ndarray) -> np.ndarray:
    return nearest(image, _TILE)


def segments(image: Path, folder: Path) -> np.ndarray:
    """The segments of a panoptic folder over the photograph; background stays pale."""
    content = json.loads((folder / "panoptic.json").read_text())
    things = {c["id"] for c in content["categories"] if c["isthing"]}
    names = {one["id"]: one["file_name"] for one in content["images"]}
    row = next(r for r in content["annotations"] if Path(names[r["image_id"]]).stem == image.stem)
    ids = read_panoptic_png(folder / "panoptic" / row["file_name"])
    kept = [one["id"] for one in row["segments_info"] if one["category_id"] in things]
    numbers = np.searchsorted(sorted([0, *kept]), np.where(np.isin(ids, kept), ids, 0))
    pixels = np.asarray(Image.fromarray(read_image(image).pixels).resize(_TILE))
    return paint_segments(pixels, _large(numbers))


def scenes_picture(work: Path) -> Image.Image:
    """Procedural scenes and still lifes, from photograph to label."""
    shown = (("textures", 3), ("textures", 6), ("fruits", 3), ("fruits", 11))
    columns = [
        (work / name, f"scene_{number:06d}", work / name / "labels") for name, number in shown
    ]
    images = [folder / "images" / f"{stem}.png" for folder, stem, _ in columns]
    edges = [labels / "edges" / f"{stem}.png" for _, stem, labels in columns]
    masks = [
        semantic(folder / "semantic" / f"{stem}.png", folder / "categories.json")
        for folder, stem, _ in columns
    ]
    rows = [
        ("image", [read_image(path).pixels for path in images]),
        ("semantic mask\n(given)", masks),
        ("edges of\ntrace-tiny's\nstudent", [paint_edges(read_edges(e), _TILE) for e in edges]),
        (
            "instance\nlabels",
            [segments(i, labels) for i, (_, _, labels) in zip(images, columns, strict=True)],
        ),
    ]
    return sheet(rows, [("procedural scenes", 2), ("still lifes, like photographs", 2)])


def tutorial_pictures(work: Path) -> dict[str, Image.Image]:
    """What the tutorial made, step by step."""
    fruits, predicted = work / "fruits", work / "output" / "fruits" / "predictions"
    images = [fruits / "images" / f"scene_{number:06d}.png" for number in (0, 1, 6, 7)]
    masks = [fruits / "semantic" / path.name for path in images]
    photographs = [read_image(path).pixels for path in images]
    new = sorted((work / "new" / "images").glob("*.png"))[:4]
    return {
        "tutorial_labels": sheet(
            [
                ("photograph", photographs),
                ("mask", [semantic(path, fruits / "classes.txt") for path in masks]),
                ("label", [segments(path, fruits / "labels") for path in images]),
                ("truth", [segments(path, fruits) for path in images]),
            ]
        ),
        "tutorial_predictions": sheet(
            [
                ("photograph,\nnot trained on", [read_image(path).pixels for path in new]),
                ("prediction", [segments(path, predicted) for path in new]),
                ("truth", [segments(path, work / "new") for path in new]),
            ]
        ),
    }


def main(arguments: list[str] | None = None) -> int:
    """Draw; 0 when done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="where the data lie")
    args = parser.parse_args(arguments)
    drawn = {"scenes": scenes_picture(args.work), **tutorial_pictures(args.work)}
    for name, picture in drawn.items():
        with atomic_file(DOCS / f"{name}.jpg") as file:
            picture.save(file, "JPEG", quality=88)
        say(f"{DOCS / name}.jpg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
