"""Procedural scenes written as a COCO panoptic data set with tag-supervised semantic masks."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from trace_d2.io.atomic import write_bytes, write_json, write_png
from trace_d2.io.categories import (
    Category,
    category_entries,
    parse_categories,
    parse_category_lines,
)
from trace_d2.io.coco_panoptic import (
    coco_dataset,
    image_entry,
    instance_annotations,
    panoptic_annotation,
    segments_info,
    write_panoptic_png,
)
from trace_d2.parallel import ordered_map

from .noise import degrade_semantic
from .oracle import boundaries
from .procedural import CATEGORY_IDS, THING_CLASSES, Scene, make_scene
from .still_life import STILL_LIFE_IDS, make_still_life

_FOLDERS = ("images", "panoptic", "semantic", "edges_oracle")


@dataclass(frozen=True)
class SceneSettings:
    """A data set is a function of these.

    Attributes:
        series: which scenes; no scene of one series stands in another.
        size: (height, width) in pixels.
        semantic_noise: 0 (perfect masks) to 1, see ``degrade_semantic``.
        style: one of ``STYLES``.
        object_area: of ``make_scene``, for the style "textures" alone.

    Raises:
        ValueError: another style has ``object_area``.
    """

    series: int = 0
    size: tuple[int, int] = (128, 128)
    semantic_noise: float = 0.0
    style: str = "textures"
    object_area: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.object_area is not None and self.style != "textures":
            raise ValueError(
                f"the area of objects is chosen in scenes of textures: {self.style} has its own"
            )


def scene_categories() -> tuple[Category, ...]:
    """The categories of the scenes: four textures as things, sky and ground as stuff."""
    entries = [
        {"id": number, "name": name, "isthing": int(name in THING_CLASSES)}
        for name, number in CATEGORY_IDS.items()
    ]
    return parse_categories(entries, "the scenes' categories")


def still_life_categories() -> tuple[Category, ...]:
    """The categories of still lifes: fruits as things, the rest as background."""
    return parse_category_lines(list(STILL_LIFE_IDS), "the categories of still lifes")


STYLES: dict[str, tuple[Callable[..., Scene], Callable[[], tuple[Category, ...]]]] = {
    "textures": (make_scene, scene_categories),
    "still-life": (make_still_life, still_life_categories),
}
"""What makes a scene of (series, index, size), and its categories."""


def write_scenes(
    output: Path, count: int, settings: SceneSettings, workers: int = 1, progress: bool = True
) -> None:
    """Write scenes 0 to ``count`` - 1.

    ``output`` receives images/, panoptic/ and panoptic.json (truth), instances.json (the things of
    the truth), semantic/ (8 bit, pixel = category id), edges_oracle/ (boundaries of the truth) and
    categories.json; of still lifes, too, classes.txt, which says the same in a name a line. Stems
    are ``scene_000000`` on, image ids 1 on.
    """
    if count < 1:
        raise ValueError(f"a data set has at least one scene, not {count}")
    for folder in _FOLDERS:
        (output / folder).mkdir(parents=True, exist_ok=True)
    write = partial(_write_scene, output, settings)
    written = ordered_map(
        write, range(count), workers, description="scenes", unit="scene", progress=progress
    )
    images, panoptic, several = zip(*written, strict=True)
    instances = list(itertools.chain.from_iterable(several))
    for number, annotation in enumerate(instances, start=1):
        annotation["id"] = number
    categories = STYLES[settings.style][1]()
    for name, truth in (("panoptic", panoptic), ("instances", instances)):
        content = coco_dataset(images, truth, categories, "procedural scenes of trace_d2")
        write_json(output / f"{name}.json", content)
    if settings.style == "still-life":  # their ids are ranks
        names = "".join(f"{category.name}\n" for category in categories)
        write_bytes(output / "classes.txt", names.encode())
    write_json(output / "categories.json", category_entries(categories), indent=1)


def _write_scene(
    output: Path, settings: SceneSettings, index: int
) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    make, make_categories = STYLES[settings.style]
    chosen = {} if settings.object_area is None else {"object_area": settings.object_area}
    scene, categories = make(settings.series, index, settings.size, **chosen), make_categories()
    name = f"scene_{index:06d}.png"
    semantic = degrade_semantic(
        scene.semantic(),
        categories,
        settings.semantic_noise,
        zlib.crc32(f"{settings.series} {index}".encode()),
    )
    write_png(output / "images" / name, scene.image)
    write_png(output / "semantic" / name, semantic)
    write_png(output / "edges_oracle" / name, boundaries(scene.segment_ids))
    write_panoptic_png(output / "panoptic" / name, scene.segment_ids)
    category_of = dict(enumerate(scene.category_ids, start=1))
    segments = segments_info(scene.segment_ids, category_of)
    image_id = index + 1
    return (
        image_entry(image_id, name, *scene.segment_ids.shape),
        panoptic_annotation(image_id, name, segments),
        instance_annotations(scene.segment_ids, segments, categories, image_id),
    )
