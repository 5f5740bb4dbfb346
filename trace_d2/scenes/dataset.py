"""Procedural scenes written as a COCO panoptic data set with tag-supervised semantic masks."""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from trace_d2.io.atomic import write_json, write_png
from trace_d2.io.categories import Category, category_entries, parse_categories
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
from .procedural import CATEGORY_IDS, THING_CLASSES, make_scene

_FOLDERS = ("images", "panoptic", "semantic", "edges_oracle")


@dataclass(frozen=True)
class SceneSettings:
    """A data set is a function of these.

    Attributes:
        series: which scenes; no scene of one series stands in another.
        size: (height, width) in pixels.
        semantic_noise: 0 (perfect masks) to 1, see ``degrade_semantic``.
    """

    series: int = 0
    size: tuple[int, int] = (128, 128)
    semantic_noise: float = 0.0


def scene_categories() -> tuple[Category, ...]:
    """The categories of the scenes: four textures as things, sky and ground as stuff."""
    entries = [
        {"id": number, "name": name, "isthing": int(name in THING_CLASSES)}
        for name, number in CATEGORY_IDS.items()
    ]
    return parse_categories(entries, "the scenes' categories")


def write_scenes(
    output: Path, count: int, settings: SceneSettings, workers: int = 1, progress: bool = True
) -> None:
    """Write scenes 0 to ``count`` - 1.

    ``output`` receives images/, panoptic/ and panoptic.json (truth), instances.json (the things of
    the truth), semantic/ (8 bit, pixel = category id), edges_oracle/ (boundaries of the truth) and
    categories.json. Stems are ``scene_000000`` on, image ids 1 on.
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
    categories = scene_categories()
    for name, truth in (("panoptic", panoptic), ("instances", instances)):
        content = coco_dataset(images, truth, categories, "procedural scenes of trace_d2")
        write_json(output / f"{name}.json", content)
    write_json(output / "categories.json", category_entries(categories), indent=1)


def _write_scene(
    output: Path, settings: SceneSettings, index: int
) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    scene = make_scene(settings.series, index, settings.size)
    name = f"scene_{index:06d}.png"
    semantic = degrade_semantic(
        scene.semantic(),
        scene_categories(),
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
        instance_annotations(scene.segment_ids, segments, scene_categories(), image_id),
    )
