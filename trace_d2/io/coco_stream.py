"""COCO files that are written as they come."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

_SPOOLED = 2**20  # bytes of images that wait in memory


class CocoStream:
    """Writes a COCO file one annotation a line, so that no list need fit into memory.

    It is a context manager: images, which come last in the file, wait in a temporary one.

    Args:
        file: what to write to.
        categories: COCO ``categories``.
        description: of the data set.
        info: what COCO's ``info`` says besides.
    """

    def __init__(
        self,
        file: BinaryIO,
        categories: Sequence[Mapping[str, Any]],
        description: str,
        **info: str,
    ) -> None:
        self.file = file
        self.count = 0
        info = {"description": description, **info}
        head = {"info": info, "licenses": [], "categories": list(categories)}
        for key, value in head.items():
            opening = "{" if key == "info" else ",\n"
            self._write(f'{opening}"{key}": {json.dumps(value)}')
        self._write(',\n"annotations": [')
        self._images = tempfile.SpooledTemporaryFile(_SPOOLED)  # noqa: SIM115 (see __exit__)

    def __enter__(self) -> CocoStream:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._images.close()

    def add_image(self, image: Mapping[str, Any]) -> None:
        """Take one more of the images."""
        start = ",\n" if self._images.tell() else ""
        self._images.write(f"{start}{json.dumps(image)}".encode("ascii"))

    def add(self, annotation: dict[str, Any]) -> None:
        """Write one more annotation."""
        self._write((",\n" if self.count else "\n") + json.dumps(annotation))
        self.count += 1

    def end(self) -> None:
        """End the annotations and write the images."""
        self._write('\n],\n"images": [\n')
        self._images.seek(0)
        shutil.copyfileobj(self._images, self.file)
        self._write("\n]}\n")

    def _write(self, text: str) -> None:
        self.file.write(text.encode("ascii"))
