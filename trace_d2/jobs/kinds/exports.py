"""Labels and predictions in the formats of other programs, images if they are wanted there.

::

    YOLO-seg                 Cityscapes                                CVAT for images 1.1
    OUTPUT/                  OUTPUT/                                   OUTPUT/
      data.yaml                labels.json                               annotations.xml
      train.txt  val.txt       gtFine/<stem>_gtFine_instanceIds.png      labels.json
      labels/<stem>.txt        gtFine/<stem>_gtFine_labelIds.png         images/<file>
      images/<file>            leftImg8bit/<stem>_leftImg8bit.<ending>

"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from trace_d2.io.atomic import atomic_file, write_json, write_png, write_text
from trace_d2.io.categories import Category
from trace_d2.io.exports import cityscapes, cvat, yolo
from trace_d2.io.listing import spread
from trace_d2.jobs.coco_files import read_result, stored_categories
from trace_d2.jobs.kinds.export_job import (
    ExportEntry,
    ExportInputs,
    ExportJob,
)
from trace_d2.jobs.layout import NOTES, Layout
from trace_d2.jobs.outcome import Outcome
from trace_d2.jobs.output import DamagedFileError
from trace_d2.jobs.store import JobStore
from trace_d2.terminal import say

_LINES = "labels/{}.txt"
_INSTANCES, _LABELS = "gtFine/{}_gtFine_instanceIds.png", "gtFine/{}_gtFine_labelIds.png"
_CITY_IMAGE = "_leftImg8bit"  # ends the stems of Cityscapes' images
_MASK = re.compile(r"""<mask label=("[^"<]*"|'[^'<]*')( [a-z_]+="[a-z0-9, ]*")+></mask>""")


class YoloExport(ExportJob):
    """YOLO-seg: a text file an image, and the files that name the data set."""

    layout = Layout(
        kind="YOLO labels",
        fans=False,
        results=(_LINES,),
        facts=("shapes",),
        joined=("data.yaml", "train.txt", "val.txt"),
    )
    files = "data set: {}/data.yaml"
    title = "YOLO-seg labels"
    takes_stuff = False

    @classmethod
    def more_settings(cls, args: argparse.Namespace) -> dict[str, Any]:
        return {"val_share": args.val_share}

    def load(self, entry: ExportEntry) -> ExportInputs:
        yolo.check_image_name(entry.file_name)
        return super().load(entry)

    def make(self, entry: ExportEntry, inputs: ExportInputs) -> tuple[list[str], Counter[str]]:
        classes = {category.id: rank for rank, category in enumerate(self.categories)}
        return yolo.yolo_lines(inputs.shapes, classes, *inputs.size)

    def write(self, entry: ExportEntry, inputs: ExportInputs, result: Any) -> dict[str, Any]:
        lines, _ = result
        write_text(self.store.place(_LINES, entry.stem), "".join(f"{line}\n" for line in lines))
        return super().write(entry, inputs, result)

    @staticmethod
    def lost(result: Any) -> Counter[str]:
        return result[1]

    @classmethod
    def join(cls, outcome: Outcome) -> None:
        images, root = len(outcome.done), outcome.store.root
        share = float(outcome.settings.get("val_share", 0))
        count = min(images - 1, max(1, round(share * images))) if share > 0 else 0
        with atomic_file(root / "train.txt") as train, atomic_file(root / "val.txt") as val:
            chosen = iter(spread(range(images), count) if count > 0 else ())
            wanted = next(chosen, None)
            for rank, entry in enumerate(outcome.done):
                line = f"./images/{entry.file_name}\n".encode()
                (val if rank == wanted else train).write(line)
                if rank == wanted:
                    wanted = next(chosen, None)
        classes = [category.name for category in stored_categories(outcome)]
        write_text(root / "data.yaml", yolo.data_yaml(classes, count > 0))

    @classmethod
    def tell(cls, store: JobStore) -> None:
        super().tell(store)
        lists = [store.root / name for name in ("train.txt", "val.txt")]
        if not all(path.is_file() for path in lists):
            return  # a shard, which joins nothing
        train, val = (len(path.read_text(encoding="utf-8").splitlines()) for path in lists)
        say(f"{train} images to train on, {val} to look at meanwhile (--val-share)")
        if not store.read_settings().get("placing"):
            say(f"note: YOLO looks for the images in {store.root / 'images'}: put them there, or "
                "run again with --copy-images or --link-images and --overwrite")  # fmt: skip


class CityscapesExport(ExportJob):
    """Cityscapes' instance and class PNGs."""

    layout = Layout(
        kind="Cityscapes labels",
        fans=False,
        results=(_INSTANCES, _LABELS),
        facts=("shapes",),
        joined=("labels.json",),
    )
    files = "labels: {}/gtFine"
    title = "Cityscapes labels"
    takes_crowds = True
    image_place = "leftImg8bit/{}" + _CITY_IMAGE + "{}"

    @classmethod
    def stem(cls, file_name: str) -> str:
        return super().stem(file_name).removesuffix(_CITY_IMAGE)

    @classmethod
    def check_categories(cls, categories: Sequence[Category]) -> None:
        cityscapes.class_ids(categories)

    def make(
        self, entry: ExportEntry, inputs: ExportInputs
    ) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
        things = frozenset(category.id for category in self.categories if category.isthing)
        ids = cityscapes.class_ids(self.categories)
        return cityscapes.instance_maps(inputs.shapes, ids, things, *inputs.size)

    def write(self, entry: ExportEntry, inputs: ExportInputs, result: Any) -> dict[str, Any]:
        instances, labels, _ = result
        write_png(self.store.place(_INSTANCES, entry.stem), instances, fast=True)
        write_png(self.store.place(_LABELS, entry.stem), labels, fast=True)
        return super().write(entry, inputs, result)

    @staticmethod
    def lost(result: Any) -> Counter[str]:
        return result[2]

    @classmethod
    def join(cls, outcome: Outcome) -> None:
        categories = stored_categories(outcome)
        table = cityscapes.label_table(categories, cityscapes.class_ids(categories))
        write_json(outcome.store.root / "labels.json", table, indent=1)

    @classmethod
    def tell(cls, store: JobStore) -> None:
        super().tell(store)
        path = store.root / "labels.json"
        if path.is_file():
            say(f"ids of the classes: {path}")


class CvatExport(ExportJob):
    """CVAT for images 1.1."""

    layout = Layout(
        kind="CVAT labels", facts=("shapes",), joined=("annotations.xml", "labels.json")
    )
    files = "annotations: {}/annotations.xml"
    title = "CVAT labels"

    @classmethod
    def check_categories(cls, categories: Sequence[Category]) -> None:
        for category in categories:
            cvat.check_text(category.name, "the category")

    def load(self, entry: ExportEntry) -> ExportInputs:
        cvat.check_text(entry.file_name, "the file name")
        return super().load(entry)

    def make(self, entry: ExportEntry, inputs: ExportInputs) -> list[str]:
        names = {category.id: category.name for category in self.categories}
        return cvat.mask_elements(inputs.shapes, names)

    def write(self, entry: ExportEntry, inputs: ExportInputs, result: Any) -> dict[str, Any]:
        return {**super().write(entry, inputs, result), "masks": result}

    @staticmethod
    def lost(result: Any) -> Counter[str]:
        return Counter()

    @classmethod
    def join(cls, outcome: Outcome) -> None:
        store, categories = outcome.store, stored_categories(outcome)
        with atomic_file(store.root / "annotations.xml") as file:
            file.write(cvat.opening(categories, len(outcome.done)).encode("utf-8"))
            for rank, (entry, _) in enumerate(outcome.noted()):
                note = read_result(store, entry.stem)
                masks = note.get("masks")
                if not isinstance(masks, list) or not all(map(_is_mask, masks)):
                    raise DamagedFileError(
                        f"{store.path(NOTES, entry.stem)} is damaged (its masks are none): "
                        "remove it, and run the same command again"
                    )
                size = note["height"], note["width"]
                element = cvat.image_element(rank, entry.file_name, *size, masks)
                file.write(element.encode("utf-8"))
            file.write(b"</annotations>\n")
        write_json(store.root / "labels.json", cvat.label_entries(categories), indent=1)


def _is_mask(text: Any) -> bool:
    return isinstance(text, str) and _MASK.fullmatch(text) is not None


EXPORTS: dict[str, type[ExportJob]] = {
    "yolo": YoloExport,
    "cityscapes": CityscapesExport,
    "cvat": CvatExport,
}
"""Formats by the names that the command line has for them."""
