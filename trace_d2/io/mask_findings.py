"""What is peculiar about a file of masks: counted, with an example of each kind."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

# Annotations that cannot be used, by reason.
_LEFT_OUT = {
    "entry": "annotations are no JSON objects",
    "dangling": "annotations point to an image_id that images[] lacks",
    "ambiguous": "annotations point to an image_id that two images have",
    "missing": "annotations have no mask",
    "broken RLE": "annotations have a broken RLE",
    "broken polygon": "annotations have a broken polygon",
    "size": "annotations have a mask of another size than their image",
    "empty": "annotations have an empty mask",
    "crowd": "annotations are crowd regions",
    "score": "annotations have a score that is no finite number",
    "category": "annotations have a category_id that categories lack",
}
# What is used, but worth knowing.
_NOTED = {
    "swapped": "images have width and height swapped in images[]: swapped back",
    "resized": "images have another size in images[] than their masks: the masks' is taken",
    "unsized": "images have no size in images[]: their masks' is taken",
    "bad image": "entries of images[] have no id or file_name: left out",
    "same image": "images are listed twice: joined",
    "image ids": "image ids are not integers: numbered anew",
    "folders": "file names have folders",
    "basenames": "file names differ from another one in their folder only",
    "no masks": "images have no mask",
    "annotation ids": "annotation ids are missing or occur twice: numbered anew",
    "uncompressed": "masks are uncompressed RLE",
    "polygons": "masks are polygons",
    "one pixel": "masks are one pixel",
    "full": "masks cover the whole image",
    "unscored": "annotations have no score where others have one: 1 is taken",
    "no category": "annotations have no category_id: the only category is taken",
}


@dataclass(frozen=True)
class LeftOut:
    """An annotation that cannot be used.

    Attributes:
        number: its place in the file, from 0.
        annotation_id: its id, if it has one.
        image_id: the image it points to, as the file has it.
        reason: why it cannot be used.
    """

    number: int
    annotation_id: Any
    image_id: Any
    reason: str


class Findings:
    """What is peculiar about a file of masks.

    Attributes:
        counts: how often each kind occurs.
        left_out: every annotation that cannot be used.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.left_out: list[LeftOut] = []
        self._examples: dict[str, str] = {}

    def note(self, kind: str, example: str) -> None:
        """Count one occurrence of ``kind``."""
        self.counts[kind] += 1
        self._examples.setdefault(kind, example)

    def lines(self) -> list[str]:
        """One line for every kind that occurs, with its first example; what is left out first."""
        return [
            f"{self.counts[kind]} {text}{' (left out)' if table is _LEFT_OUT else ''}; "
            f"first: {self._examples[kind]}"
            for table in (_LEFT_OUT, _NOTED)
            for kind, text in table.items()
            if self.counts[kind]
        ]
