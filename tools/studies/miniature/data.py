"""Public data sets in their official layouts, of a few procedural scenes each.

Things of the scenes become persons, dogs, cats and cars; stuff becomes sky and dirt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

from trace_d2.io.atomic import write_json
from trace_d2.io.categories import Category, load_categories
from trace_d2.io.coco_panoptic import (
    coco_dataset,
    image_entry,
    instance_annotations,
    panoptic_annotation,
    segments_info,
    write_panoptic_png,
)
from trace_d2.scenes.oracle import boundaries
from trace_d2.scenes.procedural import Scene, make_scene

SIZE = (48, 64)
VOC = {1: 15, 2: 12, 3: 8, 4: 7, 5: 0, 6: 0}
"""Category ids of the scenes to VOC's."""
COCO = {1: 1, 2: 18, 3: 17, 4: 3, 5: 187, 6: 194}
"""The same to those of COCO panoptic."""


def write_data_sets(root: Path) -> None:
    """Write all of them below ``root``, and masks of tags as DHR and MARS write them."""
    write_voc(root)
    write_coco(root)
    write_imagenet(root)
    write_lvis(root)
    write_sa1b(root)
    write_kitti(root)
    write_objects365(root)
    write_detected_edges(root.parent / "edges")


def scene(index: int) -> Scene:
    """Scene ``index`` of ``SIZE``."""
    return make_scene(21, index, SIZE)


def save(path: Path, pixels: np.ndarray) -> None:
    """An image file of any format; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def classes(one: Scene, categories: Mapping[int, int]) -> np.ndarray:
    """(H, W) uint8: the class of each pixel, numbered by ``categories``."""
    table = np.zeros(256, np.uint8)
    table[list(categories)] = list(categories.values())
    return table[one.semantic()]


def write_voc(root: Path) -> None:
    """Two images of train, of which one is of SBD alone, and two of val."""
    voc, sbd = root / "VOC2012", root / "sbd"
    stems = ["2007_000001", "2008_000002", "2007_000033", "2007_000042"]
    for folder, lists in (
        (voc / "ImageSets/Segmentation", {"train": stems[:1], "val": stems[2:]}),
        (sbd, {"train": stems[:2], "val": stems[2:]}),
    ):
        folder.mkdir(parents=True)
        for name, listed in lists.items():
            (folder / f"{name}.txt").write_text("".join(f"{stem}\n" for stem in listed))
    (sbd / "inst").mkdir()
    for index, stem in enumerate(stems):
        one = scene(index)
        kinds, objects = classes(one, VOC), one.segment_ids.astype(np.uint8)
        objects[kinds == 0] = 0
        save(voc / f"JPEGImages/{stem}.jpg", one.image)
        save(voc / f"SegmentationClass/{stem}.png", kinds)
        save(voc / f"SegmentationObject/{stem}.png", objects)
        save(root / f"tag_masks/voc_2012_train_aug/{stem}.png", kinds)
    _write_sbd(sbd / f"inst/{stems[1]}.mat", scene(1))


def _write_sbd(path: Path, one: Scene) -> None:
    things = [number for number, kind in enumerate(one.category_ids, 1) if VOC[kind]]
    segmentation = np.zeros(SIZE, np.uint8)
    for rank, number in enumerate(things, start=1):
        segmentation[one.segment_ids == number] = rank
    kinds = np.array([[VOC[one.category_ids[number - 1]]] for number in things], np.uint8)
    savemat(path, {"GTinst": {"Segmentation": segmentation, "Categories": kinds}})


def write_coco(root: Path) -> None:
    """Four images, two in each half of 2017, of which each gives one to a half of 2014."""
    coco = root / "coco"
    halves = {"train2017": (1, 2), "val2017": (3, 4), "train2014": (1, 3), "val2014": (2, 4)}
    for half, numbers in halves.items():
        prefix = f"COCO_{half}_" if half.endswith("2014") else ""
        scenes = {f"{prefix}{number:012d}.jpg": scene(number) for number in numbers}
        for name, one in scenes.items():
            save(coco / half / name, one.image)
            tags = f"tag_masks/coco_{half[-4:]}_{half[:-4]}/{Path(name).stem}.png"
            save(root / tags, classes(one, COCO))
        panoptic, instances = coco_files(scenes, numbers, load_categories("coco-panoptic"), COCO)
        write(coco / f"annotations/instances_{half}.json", instances)
        if half.endswith("2017"):
            write(coco / f"annotations/panoptic_{half}.json", panoptic)
            for name, one in scenes.items():
                path = coco / f"panoptic_{half}/{Path(name).stem}.png"
                path.parent.mkdir(exist_ok=True)
                write_panoptic_png(path, one.segment_ids)


def write(path: Path, content: Any) -> None:
    """A JSON file; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)


def coco_files(
    scenes: Mapping[str, Scene],
    ids: Sequence[int],
    categories: Sequence[Category],
    numbers: Mapping[int, int],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """COCO's panoptic and instances files of ``scenes`` by file name, which have these ``ids``."""
    images, panoptic = [], []
    instances: list[dict[str, Any]] = []
    for image_id, (name, one) in zip(ids, scenes.items(), strict=True):
        images.append(image_entry(image_id, name, *one.segment_ids.shape))
        kinds = {rank: numbers[kind] for rank, kind in enumerate(one.category_ids, start=1)}
        segments = segments_info(one.segment_ids, kinds)
        panoptic.append(panoptic_annotation(image_id, f"{Path(name).stem}.png", segments))
        instances += instance_annotations(
            one.segment_ids, segments, categories, image_id, len(instances) + 1
        )
    things = [category for category in categories if category.isthing]
    return coco_dataset(images, panoptic, categories), coco_dataset(images, instances, things)


def write_imagenet(root: Path) -> None:
    """Two photographs of one class."""
    for number in (1, 2):
        name = f"n01440764/n01440764_{number}.JPEG"
        save(root / "imagenet/train" / name, scene(number).image)


def write_lvis(root: Path) -> None:
    """LVIS v1 val: images of both halves of COCO 2017, by their address."""
    names = ("train2017/000000000002.jpg", "val2017/000000000004.jpg")
    scenes = dict(zip(names, map(scene, (2, 4)), strict=True))
    content = coco_files(scenes, (2, 4), load_categories("coco-panoptic"), COCO)[1]
    for image in content["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/{image.pop('file_name')}"
    content["categories"] = [{"id": n, "name": f"class {n}"} for n in range(1, 1204)]
    write(root / "coco/annotations/lvis_v1_val.json", content)


def write_sa1b(root: Path) -> None:
    """Two photographs of SA-1B, each with its file."""
    for number in (1, 2):
        name = f"sa_{number}.jpg"
        one = scene(number)
        save(root / "sa1b/images" / name, one.image)
        _, content = coco_files({name: one}, (number,), load_categories("coco-panoptic"), COCO)
        image = {**content["images"][0], "image_id": number}
        rows = [{k: v for k, v in a.items() if k != "image_id"} for a in content["annotations"]]
        write(root / f"sa1b/images/sa_{number}.json", {"image": image, "annotations": rows})


def write_detected_edges(folder: Path) -> None:
    """Edges as other detectors write them, of the images that are evaluated."""
    for detector in ("pidinet", "diffusionedge"):
        for index, stem in ((2, "2007_000033"), (3, "2007_000042")):
            save(folder / detector / f"{stem}.png", boundaries(scene(index).segment_ids))
        for index in (2, 4):
            name = f"COCO_val2014_{index:012d}.png"
            save(folder / detector / name, boundaries(scene(index).segment_ids))


def write_kitti(root: Path) -> None:
    """Two images of training, with KITTI's lines of boxes."""
    for number in (2, 4):
        one, stem = scene(number), f"{number:06d}"
        save(root / f"kitti/training/image_2/{stem}.png", one.image)
        _, content = coco_files({stem: one}, (1,), load_categories("coco-panoptic"), COCO)
        lines = ""
        for x, y, width, height in (row["bbox"] for row in content["annotations"]):
            lines += f"Car 0.00 0 -1.57 {x} {y} {x + width} {y + height} 1 1 1 0 0 9 0\n"
        path = root / f"kitti/training/label_2/{stem}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(lines)


def write_objects365(root: Path) -> None:
    """Two images of val, in a folder of an archive; boxes alone."""
    scenes = {f"images/v2/patch16/objects365_v2_0090872{n}.jpg": scene(n) for n in (2, 4)}
    for name, one in scenes.items():
        save(root / "objects365/val/patch16" / Path(name).name, one.image)
    _, content = coco_files(scenes, (2, 4), load_categories("coco-panoptic"), COCO)
    for row in content["annotations"]:
        del row["segmentation"]
    write(root / "objects365/annotations/zhiyuan_objv2_val.json", content)
