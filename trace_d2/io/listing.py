"""Which images a job has, their ids, and how shards and the report page divide them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

IMAGE_SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff",
    ".webp",
)  # fmt: skip
"""Files of a folder with these endings, in either case, are its images."""

_MAX_NUMERIC_STEM = 2**53  # larger integers do not survive every JSON reader


@dataclass(frozen=True)
class ImageEntry:
    """One image of a job.

    Attributes:
        stem: its file name without the ending; names its mask, edges and labels.
        file_name: its file name.
        image_id: its id in COCO files; None: the given list of ids does not name it.
        pictured: whether the report page shows it.
    """

    stem: str
    file_name: str
    image_id: int | None
    pictured: bool = False


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count``, counted from 1; 1/1 is the whole job."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``"I/N"`` with 1 <= I <= N; raises ValueError otherwise."""
        first, slash, second = text.partition("/")
        if slash and first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second):
            return cls(int(first), int(second))
        raise ValueError(f"a shard is I/N with I in 1..N, such as 1/4; got {text!r}")

    @property
    def whole(self) -> bool:
        """Whether this is not a part at all."""
        return self.count == 1

    @property
    def name(self) -> str:
        """``"I-of-N"``, for file names."""
        return f"{self.index}-of-{self.count}"

    def take(self, entries: Sequence[ImageEntry]) -> list[ImageEntry]:
        """Every ``count``-th entry, so that shards see alike images and take alike long."""
        return list(entries[self.index - 1 :: self.count])


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


def build_entries(
    names: Mapping[str, str], ids: Mapping[str, int] | None, pictured: Sequence[str] = ()
) -> list[ImageEntry]:
    """Entries of ``names`` (stem to file name), in their order.

    Args:
        names: as ``list_images`` returns them.
        ids: image id of each stem as ``read_image_ids`` returns them; None: numeric stems are the
            ids if all stems are numeric, else the ranks in the sorted list, from 1.
        pictured: stems that the report page shows.

    Raises:
        ValueError: two numeric stems are one number, or ``ids`` names none of the images.
    """
    if ids is None:
        ids = _ids_of_stems(list(names))
    elif not any(stem in ids for stem in names):
        raise ValueError(
            f"the list of images names none of the {len(names)} images (the first is "
            f"{next(iter(names.values()))}): give the list that belongs to them"
        )
    shown = frozenset(pictured)
    return [ImageEntry(stem, name, ids.get(stem), stem in shown) for stem, name in names.items()]


def read_image_ids(path: str | Path) -> dict[str, int]:
    """Stem to id from the ``images`` of a COCO file (or a bare list of ``{id, file_name}``).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such list, or two entries share a stem or an id.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no list of images at {path}: correct the path")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
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


def entries_to_json(entries: Sequence[ImageEntry]) -> list[dict[str, Any]]:
    """The entries as plain lists and dicts; ``entries_from_json`` undoes it.

    What a subclass of ``ImageEntry`` adds stays out.
    """
    names = [field.name for field in fields(ImageEntry)]
    return [{name: getattr(entry, name) for name in names} for entry in entries]


def entries_from_json(content: Sequence[Mapping[str, Any]]) -> list[ImageEntry]:
    """Entries that ``entries_to_json`` wrote."""
    return [ImageEntry(**entry) for entry in content]


def _ids_of_stems(stems: list[str]) -> dict[str, int]:
    """All numeric stems are ids; else all ids are ranks, as a mixture could collide."""
    numeric = all(s.isascii() and s.isdecimal() and int(s) < _MAX_NUMERIC_STEM for s in stems)
    if not numeric:
        return {stem: rank for rank, stem in enumerate(stems, start=1)}
    owners: dict[int, str] = {}
    for stem in stems:
        other = owners.setdefault(int(stem), stem)
        if other != stem:
            raise ValueError(
                f"the images {other!r} and {stem!r} are both number {int(stem)}: rename one, or "
                "give ids by --images-json"
            )
    return {stem: int(stem) for stem in stems}


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
