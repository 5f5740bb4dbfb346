"""KITTI's boxes (object detection, ``label_2``), and masks of its images, which are KINS'."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trace_d2.data.dataset_files import folder_names, tolerate_absent
from trace_d2.data.prepare.boxes import Box, BoxedImage, numbers, text_lines, write_boxes
from trace_d2.data.prepare.one_class import prepare_class_agnostic
from trace_d2.io.hints import did_you_mean
from trace_d2.io.json_files import json_list, json_object, read_json, shown

TYPES = (
    "Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc", "DontCare",
)  # fmt: skip
"""KITTI's classes, and its mark of regions that nobody drew the objects of."""

SPLITS = ("train", "test")
"""Of KINS: KITTI's training and testing images."""

_COLUMNS = 15  # type, truncated, occluded, alpha, bbox (4), size (3), place (3), rotation
_AGAIN = "unpack data_object_label_2.zip again"
_FILES = {  # of KINS, the newer one first
    "train": ("update_train_2020.json", "instances_train.json"),
    "test": ("update_test_2020.json", "instances_val.json"),
}
# Mask, box and area of what is seen of an object, and of all of it, as the newer files call them
# and as the older ones do.
_VISIBLE = (("i_segm", "i_bbox", "i_area"), ("inmodal_seg", "inmodal_bbox", "inmodal_area"))
_WHOLE = (("a_segm", "a_bbox", "a_area"), ("segmentation", "bbox", "area"))


def prepare_kitti(kitti: str | Path, output: str | Path, progress: bool = True) -> tuple[int, int]:
    """Write the boxes of KITTI's training images as one class, ``output``.

    Boxes of all classes count, truncated and occluded ones too. Within ``DontCare``, where objects
    are too far to be drawn, predictions count neither way, as by KITTI's own rule.

    Args:
        kitti: the folder, with ``training/image_2/*.png`` and ``training/label_2/*.txt``.

    Returns:
        how many images and boxes were written, ``DontCare`` among them.

    Raises:
        ValueError, FileNotFoundError: as ``write_boxes``; lines that KITTI's format has not.
    """
    kitti = Path(kitti)
    labels = kitti / "training/label_2"
    stems = sorted(
        name[: -len(".txt")]
        for name in folder_names(labels, "labels", _AGAIN)
        if name.endswith(".txt") and name[0] != "."
    )
    if not stems:
        raise FileNotFoundError(f"no labels *.txt in {labels}: {_AGAIN}")
    names = folder_names(kitti / "training/image_2", "images", "unpack data_object_image_2.zip")
    bare = sorted({name[:-4] for name in names if _is_image(name)}.difference(stems))
    tolerate_absent(bare, sum(map(_is_image, names)), f"images have no label in {labels}", _AGAIN)
    images = [
        BoxedImage(f"training/image_2/{stem}.png", _boxes(labels / f"{stem}.txt")) for stem in stems
    ]
    description = "boxes of KITTI's training images as one class, converted by trace_d2"
    return write_boxes(output, kitti, images, description, progress)


def _is_image(name: str) -> bool:
    return name.endswith(".png") and name[0] != "."  # as Macs add ._000000.png to archives


def _boxes(path: Path) -> Iterator[Box]:
    for where, line in text_lines(path):
        kind, *rest = line.split()
        if kind not in TYPES:
            raise ValueError(
                f"{where}: {shown(kind)} is none of {', '.join(TYPES)}{did_you_mean(kind, TYPES)}: "
                f"{_AGAIN}"
            )
        if len(rest) != _COLUMNS - 1:
            raise ValueError(
                f"{where} has {len(rest) + 1} columns, and KITTI's labels have {_COLUMNS}: {_AGAIN}"
            )
        yield Box(numbers(rest[3:7], where), where, ignored=kind == "DontCare")


def prepare_kins(
    kitti: str | Path, split: str, output: str | Path, whole: bool = False, progress: bool = True
) -> tuple[int, int]:
    """Write the masks that KINS has of KITTI's images as one class, ``output``.

    Objects without a pixel to be seen, and broken masks, are left out and counted in a warning.

    Args:
        kitti: KITTI's folder; KINS' files lie in its ``kins/``, images in ``training/image_2/`` and
            ``testing/image_2/``.
        split: one of ``SPLITS``.
        whole: all of an object (amodal), also what others hide, rather than what is seen of it.

    Returns:
        how many images and masks were written.

    Raises:
        ValueError: it is no file of KINS.
        FileNotFoundError: there is none, or no images.
    """
    kitti = Path(kitti)
    choices = [kitti / "kins" / name for name in _FILES[split]]
    path = next((choice for choice in choices if choice.is_file()), choices[0])
    content = read_json(path, "annotations", "put those of KINS there")
    folder = kitti / ("training" if split == "train" else "testing") / "image_2"
    folder_names(folder, "images", "unpack data_object_image_2.zip")
    try:
        rows = json_list(json_object(content).get("annotations"))
    except ValueError as error:
        raise ValueError(f"{path} is no file of KINS (it {error}): put it there again") from error
    choices_of_keys = _WHOLE if whole else _VISIBLE
    keys = next((k for k in choices_of_keys if any(_has(row, k[0]) for row in rows)), None)
    if keys is None:
        raise ValueError(
            f"{path} is no file of KINS: no annotation has "
            f"{' or '.join(own[0] for own in choices_of_keys)}: put it there again"
        )
    taken = [_renamed(row, keys) if isinstance(row, dict) else row for row in rows]
    return prepare_class_agnostic(
        {**content, "annotations": taken},
        output,
        progress=progress,
        folder=folder,
        name=str(path),
        leave_out=True,
        what="whole objects (amodal)" if whole else "visible objects",
    )


def _has(row: Any, key: str) -> bool:
    return isinstance(row, dict) and bool(row.get(key))


def _renamed(row: dict[str, Any], keys: tuple[str, str, str]) -> dict[str, Any]:
    """An annotation with the mask, box and area that ``keys`` name, and nothing of the others."""
    named = zip(("segmentation", "bbox", "area"), keys, strict=True)
    taken = {name: row[key] for name, key in named if row.get(key)}
    if "segmentation" not in taken:
        taken.pop("bbox", None)  # of what is not seen
    return {key: row.get(key) for key in ("id", "image_id", "iscrowd")} | taken
