#!/usr/bin/env python3
"""Draw the pictures of README.md and docs/tutorial.md: rows with names, an image a column.

python tools/demo.py && python tools/studies/doc_pictures.py scenes --work DIR
python tools/studies/doc_pictures.py tutorial --work DIR    # after write_tutorial.py --work DIR

In the tutorial's pictures the hue is the class, and the shade the object of the truth that most of
a segment lies on: what is one object has one colour in all rows.
"""

from __future__ import annotations

import argparse
import colorsys
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trace_d2.io.atomic import atomic_file
from trace_d2.io.categories import load_categories
from trace_d2.io.coco_panoptic import read_panoptic_png
from trace_d2.io.edge_maps import read_edges
from trace_d2.io.images import read_image, read_semantic
from trace_d2.jobs.pictures import borders, nearest, paint_edges, paint_segments
from trace_d2.terminal import say

DOCS = Path(__file__).resolve().parents[2] / "docs"
_TILE = (256, 192)  # width and height in pixels
_MARGIN, _GAP = 118, 4  # of the names on the left; between tiles

_PALE = (225, 225, 225)
_HUES = {"apple": 0.98, "orange": 0.075, "lemon": 0.16}  # of 1; as on the photographs
_SHADES = (  # saturation and value; the first is the legend's
    (0.9, 0.95), (0.9, 0.55), (0.5, 1.0), (0.95, 0.75), (0.35, 0.85), (0.9, 0.4), (0.65, 0.65),
)  # fmt: skip

Row = tuple[str, list[np.ndarray]]
Color = tuple[int, int, int]


def sheet(
    rows: Sequence[Row], heads: Sequence[tuple[str, int]] = (), legend: Mapping[str, Color] = {}
) -> Image.Image:
    """A picture of ``rows``, their names on the left.

    Args:
        rows: name, which may have line ends, and uint8 images (H, W, 3).
        heads: titles of columns, and of how many each.
        legend: names of colours, below.
    """
    width, height = _TILE[0] + _GAP, _TILE[1] + _GAP
    top = 24 if heads else 0
    columns = max(len(images) for _, images in rows)
    bottom = top + len(rows) * height
    canvas = Image.new("RGB", (_MARGIN + columns * width, bottom + 26 * bool(legend)), "white")
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
    for number, (name, color) in enumerate(legend.items()):
        left = _MARGIN + number * width // 2
        draw.rectangle((left, bottom + 5, left + 22, bottom + 19), color)
        draw.text((left + 30, bottom + 12), name, "black", font, anchor="lm")
    return canvas


def semantic(path: Path, categories: Path, colors: Mapping[str, Color] = {}) -> np.ndarray:
    """A semantic mask in the colours of its categories, or in ``colors`` by their names."""
    mask, palette = read_semantic(path), np.full((256, 3), 255, np.uint8)
    for category in load_categories(categories):
        own = colors.get(category.name, category.color)
        palette[category.id] = own if category.isthing else _PALE
    return _large(palette[mask])


def _large(image: np.ndarray) -> np.ndarray:
    return nearest(image, _TILE)


def segments(image: Path, folder: Path) -> np.ndarray:
    """The segments of a panoptic folder over the photograph; background stays pale."""
    ids, kept = things(image, folder)
    numbers = np.searchsorted(sorted([0, *kept]), np.where(np.isin(ids, [*kept]), ids, 0))
    pixels = np.asarray(Image.fromarray(read_image(image).pixels).resize(_TILE))
    return paint_segments(pixels, _large(numbers))


def things(image: Path, folder: Path) -> tuple[np.ndarray, dict[int, str]]:
    """The ids (H, W) of the segments of an image in a panoptic folder, and the things' classes."""
    content = json.loads((folder / "panoptic.json").read_text())
    classes = {c["id"]: c["name"] for c in content["categories"] if c["isthing"]}
    names = {one["id"]: one["file_name"] for one in content["images"]}
    row = next(r for r in content["annotations"] if Path(names[r["image_id"]]).stem == image.stem)
    ids = read_panoptic_png(folder / "panoptic" / row["file_name"])
    segments = {one["id"]: one["category_id"] for one in row["segments_info"]}
    return ids, {key: classes[own] for key, own in segments.items() if own in classes}


def shade(name: str, rank: int) -> Color:
    """The colour of the object no. ``rank`` of the class ``name`` in an image."""
    channels = colorsys.hsv_to_rgb(_HUES[name], *_SHADES[rank % len(_SHADES)])
    return tuple(round(255 * channel) for channel in channels)  # type: ignore[return-value]


def matched(image: Path, folder: Path, truth: Path) -> np.ndarray:
    """The things of a panoptic folder, in the colours of those of ``truth`` that they lie on."""
    ids, classes = things(image, folder)
    true_ids, true_classes = things(image, truth)
    lefts = {key: int(np.nonzero((true_ids == key).any(axis=0))[0][0]) for key in true_classes}
    ranks: dict[int, int] = {}
    for name in _HUES:
        own = sorted((key for key in lefts if true_classes[key] == name), key=lefts.__getitem__)
        ranks.update((key, rank) for rank, key in enumerate(own))
    numbers, palette = np.zeros(ids.shape, np.int64), [(60, 60, 60)]
    for number, (key, name) in enumerate(classes.items(), start=1):
        numbers[ids == key] = number
        under, pixels = np.unique(true_ids[ids == key], return_counts=True)
        on = [(count, k) for k, count in zip(under.tolist(), pixels.tolist(), strict=True)
              if true_classes.get(k) == name]  # fmt: skip
        palette.append(shade(name, ranks[max(on)[1]] if on else 0))
    large = _large(numbers)
    grey = np.asarray(Image.fromarray(read_image(image).pixels).convert("L").resize(_TILE))
    painted = (0.8 * np.array(palette)[large] + 0.2 * grey[..., None]).astype(np.uint8)
    painted[borders(large)] = 255
    return painted


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
    legend = {name: shade(name, 0) for name in _HUES}
    return {
        "tutorial_labels": sheet(
            [
                ("photograph", photographs),
                ("mask", [semantic(path, fruits / "classes.txt", legend) for path in masks]),
                ("label", [matched(path, fruits / "labels", fruits) for path in images]),
                ("truth", [matched(path, fruits, fruits) for path in images]),
            ],
            legend=legend,
        ),
        "tutorial_predictions": sheet(
            [
                ("photograph,\nnot trained on", [read_image(path).pixels for path in new]),
                ("prediction", [matched(path, predicted, work / "new") for path in new]),
                ("truth", [matched(path, work / "new", work / "new") for path in new]),
            ],
            legend=legend,
        ),
    }


def main(arguments: list[str] | None = None) -> int:
    """Draw; 0 when done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", choices=("scenes", "tutorial"), help="which")
    parser.add_argument("--work", type=Path, required=True, help="where the data lie")
    args = parser.parse_args(arguments)
    if args.pictures == "scenes":
        drawn = {"scenes": scenes_picture(args.work)}
    else:
        drawn = tutorial_pictures(args.work)
    for name, picture in drawn.items():
        with atomic_file(DOCS / f"{name}.jpg") as file:
            picture.save(file, "JPEG", quality=88)
        say(f"{DOCS / name}.jpg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
