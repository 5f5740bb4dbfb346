"""Miniatures of data sets in their official layouts, an object of one box in every image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

WIDTH, HEIGHT = 40, 30
BOX = [4, 6, 20, 10]  # x, y, width, height of every object
OUTLINE = [[4.0, 6.0, 24.0, 6.0, 24.0, 16.0, 4.0, 16.0]]
FAR = [28.0, 20.0, 8.0, 6.0]  # of what counts neither way


def save(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / name)


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def listed(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "height": HEIGHT, "width": WIDTH, **more}


def kitti_line(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f"{kind} 0.00 0 -1.58 {x} {y} {x + width} {y + height} 1.6 1.8 3.6 2.8 1.6 8.4 -1.5"


def make_kitti(root: Path) -> None:
    for stem in ("000000", "000007"):
        save(root, f"kitti/training/image_2/{stem}.png")
        lines = [kitti_line("Car", *BOX), kitti_line("DontCare", *FAR)]
        write(root / f"kitti/training/label_2/{stem}.txt", "\n".join(lines) + "\n")


def make_kins(root: Path) -> None:
    """As of 2020; one object is hidden wholly."""
    save(root, "kitti/training/image_2/000003.png")
    whole = {"segmentation": OUTLINE, "bbox": BOX, "area": 200}
    seen = [[4.0, 6.0, 14.0, 6.0, 14.0, 16.0, 4.0, 16.0]]
    rows = [
        {**whole, "i_segm": i_segm, "i_bbox": i_box, "i_area": 100, "a_segm": OUTLINE,
         "a_bbox": BOX, "a_area": 200, "id": k, "image_id": 3, "category_id": 4, "iscrowd": 0}
        for k, (i_segm, i_box) in enumerate([(seen, [4, 6, 10, 10]), ([], [-1, -1, 0, 0])])
    ]  # fmt: skip
    images = [listed(3, file_name="000003.png")]
    content = {"images": images, "annotations": rows, "categories": [{"id": 4, "name": "car"}]}
    write(root / "kitti/kins/update_train_2020.json", content)


def make_objects365(root: Path) -> None:
    names = ["v1/patch8/objects365_v1_00420917.jpg", "v2/patch16/objects365_v2_00908726.jpg"]
    save(root, *(f"objects365/val/{name[3:]}" for name in names))
    content = {
        "images": [listed(k, file_name=f"images/{name}") for k, name in enumerate(names)],
        "annotations": [
            {"id": k, "image_id": k, "category_id": 5, "bbox": BOX, "area": 200.0, "iscrowd": 0,
             "isfake": 0, "isreflected": 0} for k in range(2)
        ],
        "categories": [{"id": 5, "name": "Hat"}],
    }  # fmt: skip
    write(root / "objects365/annotations/zhiyuan_objv2_val.json", content)


def make_openimages(root: Path) -> None:
    """One box has two classes; another is around a group."""
    folder = root / "openImages"
    head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated"
    rows = [f"{head},IsGroupOf,IsDepiction,IsInside"]
    for stem in ("000026e7ee790996", "00a159a661a2f5aa"):
        save(folder, f"validation/{stem}.jpg")
        own = f"{4 / WIDTH},{24 / WIDTH},{6 / HEIGHT},{16 / HEIGHT}"
        rows += [f"{stem},xclick,/m/0{k},1,{own},0,0,0,0,0" for k in "ab"]
        rows.append(f"{stem},xclick,/m/0c,1,0.7,0.9,0.7,0.9,0,0,1,0,0")
    write(folder / "annotations/validation-annotations-bbox.csv", "\n".join(rows) + "\n")


def encoded() -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[6:16, 4:24] = 1
    rle = coco_mask.encode(mask)
    return {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}


def make_uvo(root: Path) -> None:
    names = ["LzOXbKzYNVk/0.png", "LzOXbKzYNVk/30.png"]
    save(root / "uvo/all_UVO_frames", *names)
    rows = [{"id": k, "image_id": k, "segmentation": encoded()} for k in range(2)]
    images = [listed(k, file_name=name) for k, name in enumerate(names)]
    content = {"images": images, "annotations": [{**row, "iscrowd": 0} for row in rows]}
    write(root / "uvo/annotations/UVO_frame_val.json", content)


def make_uvo_video(root: Path) -> None:
    """One object in the first and the last of three frames."""
    names = [f"LzOXbKzYNVk/{k}.png" for k in (0, 30, 60)]
    save(root / "uvo/all_UVO_frames", *names)
    row = {"id": 1, "video_id": 4, "iscrowd": 0, "segmentations": [encoded(), None, encoded()]}
    content = {"videos": [listed(4, file_names=names)], "annotations": [row]}
    write(root / "uvo/annotations/UVO_sparse_val_video.json", content)


def voc_xml(*objects: tuple[list[int], int]) -> str:
    """Boxes x, y, width, height and whether they are difficult; VOC counts from 1."""
    text = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    for (x, y, width, height), difficult in objects:
        sides = {"xmin": x + 1, "ymin": y + 1, "xmax": x + width, "ymax": y + height}
        box = "".join(f"<{side}>{value}</{side}>" for side, value in sides.items())
        part = f"<part><name>head</name><bndbox>{box.replace('6', '7')}</bndbox></part>"
        text += f"<object><name>person</name><difficult>{difficult}</difficult>"
        text += f"<bndbox>{box}</bndbox>{part}</object>"
    return f"<annotation>{text}</annotation>"


def make_voc(root: Path, name: str = "voc/VOC2007", first: str = "trainval") -> None:
    for stem, split in (("000005", first), ("000001", "test")):
        save(root, f"{name}/JPEGImages/{stem}.jpg")
        xml = voc_xml((BOX, 0), ([int(side) for side in FAR], 1))
        write(root / f"{name}/Annotations/{stem}.xml", xml)
        write(root / f"{name}/ImageSets/Main/{split}.txt", f"{stem}\n")


def make_clipart(root: Path) -> None:
    make_voc(root, "clipart", "train")


def make_lvis(root: Path) -> None:
    """Images of val lie in both folders of COCO 2017; 81 classes are more than COCO's."""
    names = ["val2017/000000000139.jpg", "train2017/000000000142.jpg"]
    save(root / "coco", *names)
    url = "http://images.cocodataset.org"
    content = {
        "images": [listed(k, coco_url=f"{url}/{name}") for k, name in enumerate(names, 1)],
        "annotations": [
            {"id": k, "image_id": k, "category_id": 7, "segmentation": OUTLINE, "bbox": BOX,
             "area": 200.0} for k in (1, 2)
        ],
        "categories": [{"id": k, "name": str(k)} for k in range(81)],
    }  # fmt: skip
    write(root / "coco/annotations/lvis_v1_val.json", content)
