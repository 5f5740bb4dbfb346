"""Satellite images and tissue in their official layouts, and what other models make of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from miniature.data import classes, coco_files, save, scene, write
from trace_d2.io.categories import Category
from trace_d2.io.coco_panoptic import id2rgb
from trace_d2.scenes.procedural import Scene

SHIP = Category(1, "ship", True, (0, 0, 63))
_THINGS = (1, 2, 3, 4)  # categories of the scenes
_NUCLEI = {**dict.fromkeys(_THINGS, 1), 5: 0, 6: 0}


def write_domains(root: Path) -> None:
    """Write all of them below ``root``; masks of other models below ``predictions`` beside it."""
    write_hrsid(root)
    write_isaid(root)
    write_monuseg(root)
    write_tnbc(root)


def predicted(name: str, scenes: Mapping[str, Scene], root: Path) -> None:
    """Masks of a detector, as its results file lists them: the truth's, each with a score."""
    _, content = coco_files(scenes, range(1, len(scenes) + 1), [SHIP], dict.fromkeys(range(7), 1))
    rows = [{**row, "score": 0.9} for row in content["annotations"]]
    write(root.parent / f"predictions/{name}.json", rows)


def write_hrsid(root: Path) -> None:
    """Two images of test, as one COCO file of ships."""
    scenes = {f"P000{n}_0_800_0_800.jpg": scene(n) for n in (1, 2)}
    folder = root / "HRSID_JPG"
    for name, one in scenes.items():
        save(folder / "JPEGImages" / name, one.image)
    _, content = coco_files(scenes, (1, 2), [SHIP], dict.fromkeys(range(7), 1))
    write(folder / "annotations/test2017.json", content)
    predicted("hrsid", scenes, root)


def write_isaid(root: Path) -> None:
    """Two images of val, each with its maps of instances and classes."""
    scenes = {f"P000{n}.png": scene(n) for n in (3, 4)}
    for name, one in scenes.items():
        stem, things = Path(name).stem, np.isin(one.semantic(), _THINGS)
        colours = np.where(things[..., None], np.array(SHIP.color, np.uint8), np.uint8(0))
        folder = root / "iSAID/val/images"
        save(folder / name, one.image)
        save(folder / f"{stem}_instance_id_RGB.png", id2rgb(np.where(things, one.segment_ids, 0)))
        save(folder / f"{stem}_instance_color_RGB.png", colours)
    predicted("isaid", scenes, root)


def write_monuseg(root: Path) -> None:
    """Two tiles of test, nuclei as outlines."""
    folder = root / "monuseg/MoNuSegTestData"
    for number in (1, 2):
        stem = f"TCGA-{number}"
        save(folder / f"{stem}.tif", scene(number).image)
        (folder / f"{stem}.xml").write_text(_outlines(scene(number)))
        _tags(root, "monuseg", stem, scene(number))


def _outlines(one: Scene) -> str:
    regions = ""
    for rank, kind in enumerate(one.category_ids, start=1):
        mask = (one.segment_ids == rank).astype(np.uint8)
        for line in cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]:
            vertices = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in line[:, 0])
            if kind in _THINGS and len(line) > 8:
                regions += f"<Region><Vertices>{vertices}</Vertices></Region>"
    return f"<Annotations><Annotation><Regions>{regions}</Regions></Annotation></Annotations>"


def write_tnbc(root: Path) -> None:
    """Two slides with a picture each, nuclei painted."""
    for number in (1, 2):
        stem, one = f"0{number}_1", scene(number + 2)
        save(root / f"TNBC_NucleiSegmentation/Slide_0{number}/{stem}.png", one.image)
        painted = classes(one, _NUCLEI) * np.uint8(255)
        save(root / f"TNBC_NucleiSegmentation/GT_0{number}/{stem}.png", painted)
        _tags(root, "tnbc", stem, one)


def _tags(root: Path, name: str, stem: str, one: Scene) -> None:
    """Masks of nucleus and background, as two models predict them."""
    for method in ("ssa", "coin"):
        save(root.parent / f"predictions/{method}_{name}/{stem}.png", classes(one, _NUCLEI))
