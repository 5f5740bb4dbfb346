"""COCO files that join the results of single images, as their notes have them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from pycocotools import mask as coco_mask

from trace_d2.io.coco_panoptic import image_entry
from trace_d2.io.mask_rle import text_rle
from trace_d2.jobs.report import Outcome


class CocoStream:
    """Writes a COCO file one annotation a line, so that no list of them need fit into memory.

    Args:
        file: what to write to.
        categories: COCO ``categories``.
        description: of the data set.
    """

    def __init__(
        self, file: BinaryIO, categories: Sequence[Mapping[str, Any]], description: str
    ) -> None:
        self.file = file
        self.count = 0
        info = {"description": description}
        head = {"info": info, "licenses": [], "categories": list(categories)}
        for key, value in head.items():
            opening = "{" if key == "info" else ",\n"
            self._write(f'{opening}"{key}": {json.dumps(value)}')
        self._write(',\n"annotations": [')

    def add(self, annotation: dict[str, Any]) -> None:
        """Write one more annotation."""
        self._write((",\n" if self.count else "\n") + json.dumps(annotation))
        self.count += 1

    def close(self, images: list[dict[str, Any]]) -> None:
        """End the annotations and write ``images``."""
        lines = ",\n".join(map(json.dumps, images))
        self._write(f'\n],\n"images": [\n{lines}\n]}}\n')

    def _write(self, text: str) -> None:
        self.file.write(text.encode("ascii"))


def write_instances(
    file: BinaryIO, outcome: Outcome, categories: Sequence[Mapping[str, Any]], description: str
) -> None:
    """Write the ``instances`` of all notes, their ids counted from 1, as one COCO file."""
    images = []
    stream = CocoStream(file, categories, description)
    for entry in outcome.done:
        note = outcome.store.read_note(entry.stem)
        image_id = int(entry.image_id)  # type: ignore[arg-type]  # finished ones have one
        images.append(image_entry(image_id, entry.file_name, note["height"], note["width"]))
        for annotation in note["instances"]:
            stream.add({"id": stream.count + 1, "image_id": image_id, **annotation})
    stream.close(images)


def mask_annotations(
    masks: np.ndarray, categories: Sequence[int], scores: Sequence[float] | None
) -> list[dict[str, Any]]:
    """COCO annotations of masks, without id and image_id: compressed RLE, as text.

    Args:
        masks: (N, H, W) bool.
        categories: (N,) category ids.
        scores: (N,) confidences; None if there are none.
    """
    encoded = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    boxes, areas = coco_mask.toBbox(encoded).tolist(), coco_mask.area(encoded).tolist()
    annotations = []
    for rank, rle in enumerate(encoded):
        annotation = {
            "category_id": categories[rank],
            "bbox": boxes[rank],
            "area": areas[rank],
            "iscrowd": 0,
            "segmentation": text_rle(rle),
        }
        if scores is not None:
            annotation["score"] = scores[rank]
        annotations.append(annotation)
    return annotations
