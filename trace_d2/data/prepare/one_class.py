"""COCO instances of any classes as instances of one class, "object"."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from pycocotools import mask as coco_mask
from tqdm import tqdm

from trace_d2.complaints import tell_all
from trace_d2.data.dataset_files import TOLERATED_SHARE, tolerate_absent
from trace_d2.data.prepare.image_sizes import of_own_size
from trace_d2.io.atomic import write_json
from trace_d2.io.categories import Category
from trace_d2.io.coco_boxes import check_places
from trace_d2.io.coco_instances import InstanceFile, read_truth
from trace_d2.io.coco_panoptic import coco_dataset, image_entry
from trace_d2.io.coco_rows import annotation_name
from trace_d2.io.json_files import number as number_of
from trace_d2.io.json_files import read_json, shown
from trace_d2.io.listing import locate_images
from trace_d2.io.paths import is_same_file, name_keys, relative_name

logger = logging.getLogger(__name__)

ONE_CLASS = (Category(1, "object", True, (220, 20, 60)),)
"""The categories of such files."""

_CLASSES_OF_COCO = 80
SLACK = 1.0
"""Pixels by which boxes may reach beyond their image before it is told."""
SEE = "datasets/README.md says what to put where"
"""The remedy where a file is missing."""


def prepare_class_agnostic(
    instances: str | Path | Mapping[str, Any],
    output: str | Path,
    file_names: Collection[str] | None = None,
    progress: bool = True,
    *,
    folder: str | Path | None = None,
    wanted: Callable[[str], bool] = lambda name: True,
    name: str = "",
    leave_out: bool = False,
    what: str = "instances",
) -> tuple[int, int]:
    """Write the ``instances`` of a COCO (or LVIS) file as a file of one class, ``output``.

    Masks, boxes, areas and crowd flags stay; annotation ids count from 1, as pycocotools takes an
    id of 0 for "no match". Images of LVIS, which have no ``file_name``, get the folder and name of
    their ``coco_url``. Boxes without a pixel of their image, and annotations without a mask where
    others have one, are left out and told if they are fewer than 1 %. Returns how many images and
    annotations were written.

    Args:
        instances: the file, or its content, which messages call ``name``.
        file_names: take these images alone; folders do not count. None: all.
        folder: of the images, whose names become those of the files in it and its sub-folders; a
            few that are not there, or of another size, are left out. None: names stay, and nothing
            is looked at.
        wanted: which images are taken, by such a name.
        leave_out: leave out annotations that cannot be used, and count them in a warning; else
            they are errors.
        what: what they are, for the description in the file.

    Raises:
        ValueError: the file is no COCO file or damaged, or no image is left; boxes are two corners
            or shares of the image, see ``check_places``; 1 % of them or more have no pixel.
        FileNotFoundError: there is no such file, or ``folder`` lacks 1 % of the images or more.
        ConfigError: 1 % of the images in ``folder`` or more are of another size than their entries.
    """
    content: Any = instances
    if not isinstance(instances, Mapping):
        name = str(instances)
    if name and is_same_file(name, output):
        raise ValueError(
            f"{output} is what it would be made from, and be lost: give the output another name"
        )
    if not isinstance(instances, Mapping):
        content = read_json(instances, remedy=SEE)
    if not leave_out:
        content = _without_empty(content, name)
    truth = read_truth(content, None, leave_out=leave_out, remedy=SEE, name=name)
    images = [listed_image(image, truth.name) for image in truth.images.values()]
    if file_names is not None:
        images = _select(images, file_names, name)
    if folder is not None:
        images = of_own_size(_locate(images, folder, wanted, name), folder, name, progress)
    kept = {image["id"] for image in images}
    bar = tqdm(truth.annotations, unit="instance", disable=not progress)
    rows = [as_object(truth, row) for row in bar if row["image_id"] in kept]
    description = f"{what} of {Path(name).name} as one class, converted by trace_d2"
    rows = _cut_boxes(rows, images, truth.name)
    return write_one_class(output, images, rows, description)


def prepare_lvis(
    source: str | Path, folder: str | Path, progress: bool = True
) -> tuple[Path, int, int]:
    """Write LVIS v1 val, ``source``, as one class into ``folder``.

    With all its classes it is ``lvis_v1_val_cls_agnostic.json``, with COCO's alone ("cocofied") the
    file that CutLER evaluates on. Returns it, and how many images and annotations it has.
    """
    content = read_json(source, "annotations of LVIS", SEE)
    classes = content.get("categories") if isinstance(content, dict) else None
    if not isinstance(classes, list) or not classes:
        raise ValueError(f"{source} has no categories, as LVIS has: download it again")
    name = "lvis_v1_val" if len(classes) > _CLASSES_OF_COCO else "lvis1.0_cocofied_val"
    output = Path(folder) / f"{name}_cls_agnostic.json"
    return output, *prepare_class_agnostic(content, output, progress=progress, name=str(source))


def number(annotations: Collection[dict[str, Any]]) -> None:
    """Give ``annotations`` their ids, from 1."""
    for position, annotation in enumerate(annotations, start=1):
        annotation["id"] = position


def listed_name(entry: Mapping[str, Any]) -> Any:
    """The name of an entry of ``images``, whatever it is; of LVIS folder and name of the URL."""
    name = entry.get("file_name")
    if name is None and isinstance(entry.get("coco_url"), str):
        name = "/".join(PurePosixPath(urlsplit(entry["coco_url"]).path).parts[-2:])
    return name


def listed_image(entry: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """An entry of ``images`` of a file ``origin``, with a name below some folder.

    Raises:
        ValueError: its name is none, or leads out of any folder.
    """
    try:
        name = relative_name(listed_name(entry))
    except ValueError as error:
        raise ValueError(f"{origin}: image {shown(entry['id'])}: {error}") from error
    return image_entry(entry["id"], name, entry["height"], entry["width"])


def as_object(truth: InstanceFile, entry: dict[str, Any]) -> dict[str, Any]:
    """The annotation of one class; area and box are the mask's where the file has none."""
    if "segmentation" in entry and not {"area", "bbox"} <= entry.keys():
        rle = truth.rle(entry)
        own = {"area": float(coco_mask.area(rle)), "bbox": coco_mask.toBbox(rle).tolist()}
        entry = {**own, **entry}
    keys = ("segmentation", "area", "bbox")
    return {
        "id": 0,  # until they are numbered
        "image_id": entry["image_id"],
        "category_id": ONE_CLASS[0].id,
        "iscrowd": entry["iscrowd"],
        **{key: entry[key] for key in keys if key in entry},
    }


def cut_box(
    left: float, top: float, right: float, bottom: float, size: tuple[int, int]
) -> tuple[tuple[float, float, float, float], float] | None:
    """What a box has of an image of ``size`` (width, height): left, top, right and bottom.

    With it, by how many pixels it reaches beyond the image. None: it has no pixel of it.
    """
    x, y, end, below = max(left, 0.0), max(top, 0.0), min(right, size[0]), min(bottom, size[1])
    if not (end > x and below > y):  # nor are they where one is no number
        return None
    return (x, y, end, below), max(x - left, y - top, right - end, bottom - below)


def tolerate_empty(faults: Sequence[str], total: int, origin: str) -> None:
    """Tell that of ``total`` boxes those of ``faults``, which have no pixel, are left out.

    Raises:
        ConfigError: they are 1 % or more.
    """
    if len(faults) >= TOLERATED_SHARE * total:
        again = "correct it, or put image and annotations there again"
        tell_all([f"{fault}: {again}" for fault in faults], "boxes")
    if faults:
        logger.warning(
            "%s: %d of %d boxes have no pixel of their image: left out; first: %s",
            origin, len(faults), total, faults[0],
        )  # fmt: skip


def _without_empty(content: Any, origin: str) -> Any:
    """The file without the few annotations that have neither a mask nor a box above 0 x 0.

    Where 1 % or more are so, and whatever else is wrong with it, it is left to its reader.
    """
    rows = content.get("annotations") if isinstance(content, Mapping) else None
    if not isinstance(rows, list):
        return content
    masks = any(isinstance(row, Mapping) and row.get("segmentation") for row in rows)
    empty = {
        rank: row
        for rank, row in enumerate(rows)
        if isinstance(row, Mapping)
        and not row.get("segmentation")
        and (masks or _is_flat(row.get("bbox")))
    }
    if not empty or len(empty) >= TOLERATED_SHARE * len(rows):
        return content
    logger.warning(
        "%s: %d of %d annotations have no %s: left out; first: %s",
        origin, len(empty), len(rows), "mask" if masks else "box with sides above 0",
        annotation_name(*next(iter(empty.items()))),
    )  # fmt: skip
    return {**content, "annotations": [r for k, r in enumerate(rows) if k not in empty]}


def _is_flat(box: Any) -> bool:
    """Whether a COCO box has a side of 0 or less."""
    try:
        _, _, wide, high = map(number_of, box)
    except (TypeError, ValueError):
        return False
    return not wide > 0 < high


def _cut_boxes(
    rows: list[dict[str, Any]], images: list[dict[str, Any]], origin: str
) -> list[dict[str, Any]]:
    """``rows`` with boxes without masks cut at the border of their image, if they lie in it."""
    listed = {image["id"]: image for image in images}
    check_places([row for row in rows if "segmentation" not in row], listed, origin)
    kept, empty, cut, total = list[dict[str, Any]](), list[str](), list[str](), 0
    for row in rows:
        if "segmentation" in row:
            kept.append(row)
            continue
        x, y, wide, high = row["bbox"]
        image = listed[row["image_id"]]
        size, name = (image["width"], image["height"]), image["file_name"]
        found = cut_box(x, y, x + wide, y + high, size)
        box = f"the box {x:g}, {y:g}, {wide:g}, {high:g} (x, y, width, height)"
        total += 1
        if found is None:
            empty.append(f"{origin}: {box} has no pixel of {name}, which is {size[0]}x{size[1]}")
            continue
        kept.append(row)
        if found[1] > 0:
            left, top, right, bottom = found[0]
            row["bbox"] = [left, top, right - left, bottom - top]
            row["area"] = (right - left) * (bottom - top)
            cut += [f"{box} of {name}"] if found[1] > SLACK else []
    tolerate_empty(empty, total, origin)
    if cut:
        logger.warning(
            "%s: %d boxes of images reach beyond it: cut; first: %s", origin, len(cut), cut[0]
        )
    return kept


def _select(
    images: list[dict[str, Any]], file_names: Collection[str], origin: str
) -> list[dict[str, Any]]:
    """The images that ``file_names`` names, by their folders where names alone do not tell."""
    wanted = {name_keys(name)[2] for name in file_names}
    by_name: dict[str, list[str]] = {}
    for image in images:
        path = name_keys(image["file_name"])[2]
        by_name.setdefault(path.rpartition("/")[2], []).append(path)
    chosen: set[str] = set()
    absent: list[str] = []
    for name in sorted(wanted):
        paths = by_name.get(name.rpartition("/")[2], [])
        if len(paths) > 1:
            paths = [path for path in paths if f"/{path}".endswith(f"/{name}")]
        if len(paths) > 1:
            raise ValueError(
                f"{shown(name)} of the list could be {shown(paths[0])} or {shown(paths[1])} in "
                f"{origin}: give its folder in the list"
            )
        chosen.update(paths)
        absent += [] if paths else [name.rpartition("/")[2]]
    if absent:
        raise ValueError(
            f"{origin} lacks {len(absent)} of the {len(wanted)} images of the list, such as "
            f"{shown(absent[0])}: give the annotations that the list belongs to"
        )
    return [image for image in images if name_keys(image["file_name"])[2] in chosen]


def _locate(
    images: list[dict[str, Any]], folder: str | Path, wanted: Callable[[str], bool], origin: str
) -> list[dict[str, Any]]:
    """The images that are ``wanted``, with their names below ``folder``."""
    found, absent = locate_images({image["id"]: image["file_name"] for image in images}, folder)
    names = {image["id"]: found.get(image["id"], image["file_name"]) for image in images}
    chosen = [image | {"file_name": names[image["id"]]} for image in images]
    chosen = [image for image in chosen if wanted(image["file_name"])]
    if not chosen:
        raise ValueError(f"{origin} has none of the images that are asked for: ask for others")
    lost = [absent[image["id"]] for image in chosen if image["id"] in absent]
    tolerate_absent(lost, len(chosen), f"images of {origin} are not below {folder}", SEE)
    return [image for image in chosen if image["id"] not in absent]


def write_one_class(
    output: str | Path,
    images: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
    description: str,
) -> tuple[int, int]:
    """Write a COCO file of one class, whose ``annotations`` are numbered from 1.

    Returns how many images and annotations it has.
    """
    number(annotations)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    write_json(output, coco_dataset(images, annotations, ONE_CLASS, description))
    return len(images), len(annotations)
