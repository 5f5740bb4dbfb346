"""Which images a folder has, which ids a list gives them, and where those of a list lie.

A list may name images by more folders than there are, by fewer, by stem or number.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

from .json_files import read_json
from .paths import IMAGE_SUFFIXES

KeyT = TypeVar("KeyT", bound=Hashable)

_MAX_NUMERIC_STEM = 2**53  # larger integers do not survive every JSON reader


def list_images(folder: str | Path) -> dict[str, str]:
    """Stem to file name of every image in ``folder`` (not below it), in sorted order of stems."""
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


def ids_of_stems(stems: Sequence[str]) -> dict[str, int]:
    """Numeric stems are the ids if all are, else ranks from 1, as a mixture could collide.

    Raises:
        ValueError: two numeric stems are one number.
    """
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


def read_image_ids(path: str | Path) -> dict[str, int]:
    """Stem to id from the ``images`` of a COCO file (or a bare list of ``{id, file_name}``)."""
    path = Path(path)
    content = read_json(path, "list of images")
    entries = content.get("images") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise ValueError(f'{path} has no list of images: give a COCO file with "images"')
    ids: dict[str, int] = {}
    owners: dict[int, str] = {}
    for entry in entries:
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or type(entry.get("id")) is not int:
            raise ValueError(
                f"{path}: an image is {{id: integer, file_name: text}}, not {str(entry)[:80]}"
            )
        stem, image_id = Path(name).stem, entry["id"]
        if stem in ids:
            raise ValueError(f"{path} names the stem {stem!r} twice: every image needs its own")
        if image_id in owners:
            raise ValueError(f"{path} gives id {image_id} to {owners[image_id]!r} and {stem!r}")
        ids[stem] = image_id
        owners[image_id] = stem
    return ids


def locate_images(
    names: Mapping[KeyT, str], folder: str | Path
) -> tuple[dict[KeyT, str], dict[KeyT, str]]:
    """Where images lie below ``folder``, and why some cannot be taken, by key.

    Of several that would be one file, only the one of exactly that name can be taken.

    ``names`` are as ``ImageFinder.find`` takes them.
    """
    finder = ImageFinder(folder)
    found: dict[KeyT, str] = {}
    absent: dict[KeyT, str] = {}
    owners: dict[str, list[KeyT]] = defaultdict(list)
    for key, name in names.items():
        try:
            found[key] = finder.find(name)
            owners[found[key]].append(key)
        except (FileNotFoundError, ValueError) as error:
            absent[key] = str(error)
    for path, keys in owners.items():
        for key in keys:
            others = [names[other] for other in keys if other != key]
            if others and names[key] != path:
                absent[key] = (
                    f"{names[key]} and {others[0]} would both be {path}: the folders of one of "
                    "them are missing"
                )
    return found, absent


class ImageFinder:
    """Finds images below a folder, which must exist."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise NotADirectoryError(f"no folder of images at {folder}: correct --images")
        self._listings: dict[str, frozenset[str]] = {}
        self._below: dict[str, list[str]] | None = None

    def find(self, name: str) -> str:
        """The path of the image ``name`` below the folder, with ``/`` between its parts.

        ``name`` may have more folders than there are, or fewer, or be a stem or its number.
        """
        parts = PurePosixPath(name.replace("\\", "/")).parts
        while ".." in parts or parts[:1] == ("/",):
            parts = parts[1:]
        for start in range(len(parts)):
            if self._exists(parts[start:]):
                return "/".join(parts[start:])
        found = self._search(parts[-1]) if parts else []
        if len(found) > 1:
            raise ValueError(
                f"{name} could be {found[0]} or {found[1]} in {self.folder}: give the folder in "
                "file_name"
            )
        if not found:
            raise FileNotFoundError(f"no image {name} in {self.folder}")
        return found[0]

    def _exists(self, parts: Sequence[str]) -> bool:
        folder = "/".join(parts[:-1])
        if folder not in self._listings:
            path = self.folder / folder
            names = os.listdir(path) if path.is_dir() else []
            self._listings[folder] = frozenset(names)
        suffix = PurePosixPath(parts[-1]).suffix.lower()
        return suffix in IMAGE_SUFFIXES and parts[-1] in self._listings[folder]

    def _search(self, basename: str) -> list[str]:
        """Images of that name, else of that stem, else of that number, in any folder."""
        if self._below is None:
            self._below = self._index()
        if PurePosixPath(basename).suffix.lower() in IMAGE_SUFFIXES:
            return self._below.get(basename, [])
        number = f"#{int(basename)}" if basename.isascii() and basename.isdecimal() else ""
        return self._below.get(f"/{basename}", []) or self._below.get(number, [])

    def _index(self) -> dict[str, list[str]]:
        """Paths by name, by ``/stem`` and, of numeric stems, by ``#number``."""
        below: dict[str, list[str]] = defaultdict(list)
        for folder, folders, names in os.walk(self.folder):
            folders.sort()
            for name in sorted(names):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() not in IMAGE_SUFFIXES:
                    continue
                path = (Path(folder) / name).relative_to(self.folder).as_posix()
                keys = [name, f"/{stem}"]
                if stem.isascii() and stem.isdecimal():
                    keys.append(f"#{int(stem)}")
                for key in keys:
                    below[key].append(path)
        return dict(below)


def spread(items: Sequence[str], count: int) -> list[str]:
    """``count`` items at even distances, or all if there are fewer."""
    if count >= len(items):
        return list(items)
    return [items[rank * len(items) // count] for rank in range(count)]
