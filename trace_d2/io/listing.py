"""Which images a folder has, and which ids a list gives them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .atomic import read_json

IMAGE_SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff",
    ".webp",
)  # fmt: skip
"""Files of a folder with these endings, in either case, are its images."""


def list_images(folder: str | Path) -> dict[str, str]:
    """Stem to file name of every image in ``folder`` (not below it), in sorted order of stems.

    Raises:
        NotADirectoryError: there is no such folder.
        ValueError: no image in it, or two images of one stem.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"no folder of images at {folder}: correct the path")
    names = defaultdict(list)
    for path in folder.iterdir():
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            names[path.stem].append(path.name)
    if not names:
        raise ValueError(
            f"no images in {folder} (sub-folders are not searched); endings known: "
            + " ".join(IMAGE_SUFFIXES)
        )
    for stem, twins in sorted(names.items()):
        if len(twins) > 1:
            listed = " and ".join(str(folder / name) for name in sorted(twins))
            raise ValueError(
                f"{listed} share the stem {stem!r}, so their labels would have one name: "
                "rename or remove all but one"
            )
    return {stem: names[stem][0] for stem in sorted(names)}


def read_image_ids(path: str | Path) -> dict[str, int]:
    """Stem to id from the ``images`` of a COCO file (or a bare list of ``{id, file_name}``).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such list, or two entries share a stem or an id.
    """
    path = Path(path)
    content = read_json(path, "list of images")
    entries = content.get("images") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise ValueError(f'{path} has no list of images: give a COCO file with "images"')
    ids: dict[str, int] = {}
    owners: dict[int, str] = {}
    for entry in entries:
        stem, image_id = _stem_and_id(entry, path)
        if stem in ids:
            raise ValueError(f"{path} names the stem {stem!r} twice: every image needs its own")
        if image_id in owners:
            raise ValueError(f"{path} gives id {image_id} to {owners[image_id]!r} and {stem!r}")
        ids[stem] = image_id
        owners[image_id] = stem
    return ids


def spread(items: Sequence[str], count: int) -> list[str]:
    """``count`` items at even distances, or all if there are fewer."""
    if count >= len(items):
        return list(items)
    return [items[rank * len(items) // count] for rank in range(count)]


def _stem_and_id(entry: Any, path: Path) -> tuple[str, int]:
    """Stem and id of one entry of ``images``, or a ValueError."""
    if (
        not isinstance(entry, dict)
        or type(entry.get("id")) is not int
        or not isinstance(entry.get("file_name"), str)
    ):
        raise ValueError(
            f"{path}: an image is {{id: integer, file_name: text}}, not {str(entry)[:80]}"
        )
    return Path(entry["file_name"]).stem, entry["id"]
