"""What there is to know of labels before one trains on them: their images, sizes and classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from trace_d2.data.label_folder import check_labels, read_folder_categories
from trace_d2.io.categories import Category
from trace_d2.io.coco_instances import read_truth
from trace_d2.io.coco_panoptic import load_panoptic_json
from trace_d2.io.json_files import read_json, shown
from trace_d2.io.paths import file_below
from trace_d2.jobs.folder import open_job_folder


@dataclass(frozen=True)
class Labels:
    """Labels to train on, or to evaluate on.

    Attributes:
        path: a folder with ``panoptic.json``, or a COCO instances file.
        images: folder of their images.
        categories: empty for instances, which are of one class, "object".
        count: labelled images.
        size: median (height, width) of the images in pixels.
        most: the greatest number of segments that an image has.
        absent: categories without a segment.
        corrected: whether masks may miss objects, as those of training-free methods do.
        merged: names of the classes of instances that all become "object".
    """

    path: Path
    images: Path
    categories: tuple[Category, ...]
    count: int
    size: tuple[int, int]
    most: int
    absent: tuple[Category, ...] = ()
    corrected: bool = False
    merged: tuple[str, ...] = ()


def read_labels(
    path: str | Path, images: str | Path | None, option: str = "--images", masks: bool = True
) -> Labels:
    """What there is to know of a label folder, or of a COCO instances file.

    Args:
        images: folder of the images; None: the one that the labels were made from.
        option: what gives it, for messages.
        masks: demand masks of instances; else boxes alone will do.

    Raises:
        FileNotFoundError, NotADirectoryError: there are no such labels or images.
        UnfinishedLabelsError: they are still being made.
        ValueError: the files are damaged, or nobody knows where the images are.
    """
    path = Path(path)
    if path.is_dir():
        return _read_panoptic(path, images, option)
    if not path.is_file():
        raise FileNotFoundError(
            f"no labels at {path}: give the output of tools/make_pseudo_panoptic.py (a folder), "
            "tools/refine_masks.py or tools/make_self_training.py (a JSON file)"
        )
    return _read_instances(path, images, option, masks)


def alike(labels: Labels, others: Labels) -> bool:
    """Whether both have the same classes in the same order."""
    first, second = ([(c.name, c.isthing) for c in one.categories] for one in (labels, others))
    return first == second


def _read_panoptic(folder: Path, images: str | Path | None, option: str) -> Labels:
    job = open_job_folder(folder)
    if job is not None:
        check_labels(job)
    categories = read_folder_categories(folder)
    content = load_panoptic_json(folder / "panoptic.json")
    if not content.annotations:
        raise ValueError(f"{content.path} has no annotations: there is nothing to train on")
    segments = [one["segments_info"] for one in content.annotations.values()]
    seen = Counter(segment["category_id"] for several in segments for segment in several)
    made_from = job.settings.get("images") if job is not None else folder / "images"
    images = _image_folder(images, made_from, folder, option)
    labelled = [image for image in content.images if image["id"] in content.annotations]
    _check_first(labelled, images, option)
    return Labels(
        folder.resolve(),
        images,
        categories,
        len(segments),
        _median_size(labelled),
        max(map(len, segments)),
        tuple(category for category in categories if not seen[category.id]),
    )


def _read_instances(path: Path, images: str | Path | None, option: str, masks: bool) -> Labels:
    content = read_json(path)
    file = read_truth(content, masks=masks or None, leave_out=True, name=str(path))
    if not file.annotations:
        raise ValueError(f"{path} has no annotations: there is nothing to train on")
    job = open_job_folder(f"{path}.work")  # of tools/refine_masks.py
    made_from = job.settings.get("images") if job is not None else None
    images = _image_folder(images, made_from, path, option)
    records = list(file.images.values())
    _check_first(records, images, option)
    objects = Counter(row["image_id"] for row in file.annotations)
    return Labels(
        path.resolve(),
        images,
        (),
        len(records),
        _median_size(records),
        max(objects.values()),
        corrected=job is not None,
        merged=_names(content),
    )


def _names(content: Mapping[str, Any]) -> tuple[str, ...]:
    """What the categories of a COCO file are called but "object"; whatever is no name is none."""
    listed = content.get("categories")
    entries = listed if isinstance(listed, list) else ()
    names = [one.get("name") for one in entries if isinstance(one, Mapping)]
    return tuple(shown(name) for name in names if isinstance(name, str) and name != "object")


def _image_folder(
    given: str | Path | None, made_from: str | Path | None, labels: Path, option: str
) -> Path:
    if given is None and made_from is None:
        raise ValueError(f"{labels} does not say where its images are: give {option} DIR")
    folder = Path(given or made_from or "")
    if not folder.is_dir():
        raise NotADirectoryError(f"no folder of images at {folder}: give {option} DIR")
    return folder.resolve()


def _check_first(images: Sequence[dict[str, Any]], folder: Path, option: str) -> None:
    """Raise unless the first image is there; all are looked for when a training starts."""
    name = images[0].get("file_name") if images else None
    if name and not file_below(folder, name).is_file():
        raise FileNotFoundError(f"no image {shown(name)} in {folder}: correct {option}")


def _median_size(images: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Median height and width; 640 x 480 where the file says nothing."""
    known = [(i["height"], i["width"]) for i in images if i.get("height") and i.get("width")]
    heights, widths = zip(*(known or [(480, 640)]), strict=True)
    return round(median(heights)), round(median(widths))
