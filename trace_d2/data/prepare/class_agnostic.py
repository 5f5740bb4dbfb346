"""COCO instances of any classes as instances of one class, "object"."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from trace_d2.io.atomic import read_json, write_json
from trace_d2.io.categories import Category
from trace_d2.io.coco_panoptic import coco_dataset

ONE_CLASS = (Category(1, "object", True, (220, 20, 60)),)

_SEE = "datasets/README.md says what to put where"


def prepare_class_agnostic(
    instances: str | Path,
    output: str | Path,
    file_names: Collection[str] | None = None,
    progress: bool = True,
) -> tuple[int, int]:
    """Write the instances of a COCO (or LVIS) file as a file of one class.

    Masks, boxes, areas and crowd flags stay; annotation ids count from 1, as pycocotools takes an
    id of 0 for "no match". Images of LVIS, which have no ``file_name``, get the folder and name of
    their ``coco_url``.

    Args:
        instances: COCO instances file.
        output: file to write.
        file_names: names of the images to keep (folders do not count); None: all.
        progress: show a progress bar.

    Returns:
        how many images and annotations were written.

    Raises:
        FileNotFoundError: there is no file ``instances``.
        ValueError: it is not COCO instances, or lacks some of ``file_names``.
    """
    content = read_json(instances, remedy=_SEE)
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise ValueError(f'{instances} has no "images" and "annotations": give COCO instances')
    images = [_image(image, str(instances)) for image in content["images"]]
    if file_names is not None:
        images = _select(images, file_names, str(instances))
    kept = {image["id"] for image in images}
    annotations: list[dict[str, Any]] = []
    bar = tqdm(content["annotations"], unit="instance", disable=not progress)
    for annotation in bar:
        if annotation["image_id"] in kept:
            annotations.append(_annotation(annotation, len(annotations) + 1))
    description = f"instances of {Path(instances).name} as one class, converted by trace_d2"
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    write_json(output, coco_dataset(images, annotations, ONE_CLASS, description))
    return len(images), len(annotations)


def read_file_names(path: str | Path) -> list[str]:
    """The names of a list of files, one a line; empty lines are passed over.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: it is empty.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no list of images at {path}: {_SEE}")
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    names = [name for name in names if name]
    if not names:
        raise ValueError(f"{path} is empty: give a list of image files")
    return names


def _image(entry: dict[str, Any], origin: str) -> dict[str, Any]:
    name = entry.get("file_name")
    if name is None and "coco_url" in entry:
        name = "/".join(PurePosixPath(urlsplit(entry["coco_url"]).path).parts[-2:])
    if name is None or any(key not in entry for key in ("id", "height", "width")):
        raise ValueError(f"{origin}: an image lacks id, file_name or size: {str(entry)[:80]}")
    return {
        "id": entry["id"],
        "file_name": name,
        "height": entry["height"],
        "width": entry["width"],
    }


def _annotation(entry: dict[str, Any], number: int) -> dict[str, Any]:
    keys = ("segmentation", "area", "bbox")
    return {
        "id": number,
        "image_id": entry["image_id"],
        "category_id": ONE_CLASS[0].id,
        "iscrowd": entry.get("iscrowd", 0),
        **{key: entry[key] for key in keys if key in entry},
    }


def _select(
    images: list[dict[str, Any]], file_names: Collection[str], origin: str
) -> list[dict[str, Any]]:
    """The images that ``file_names`` names."""
    wanted = {PurePosixPath(name).name for name in file_names}
    chosen = [image for image in images if PurePosixPath(image["file_name"]).name in wanted]
    absent = wanted - {PurePosixPath(image["file_name"]).name for image in chosen}
    if absent:
        raise ValueError(
            f"{origin} lacks {len(absent)} of the {len(wanted)} images of the list, such as "
            f"{min(absent)}: give the annotations that the list belongs to"
        )
    return chosen
