"""Where images lie that a file names by more folders than there are, by fewer, stem or number."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

from .listing import IMAGE_SUFFIXES

KeyT = TypeVar("KeyT", bound=Hashable)


def locate_images(
    names: Mapping[KeyT, str], folder: str | Path
) -> tuple[dict[KeyT, str], dict[KeyT, str]]:
    """Where images lie below ``folder``, and why some cannot be taken, by key.

    Of several that would be one file, only the one of exactly that name can be taken.

    Args:
        names: names by key, see ``ImageFinder.find``.
        folder: the folder of images.

    Raises:
        NotADirectoryError: there is no such folder.
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
    """Finds images below a folder by the names that files of masks give them.

    Args:
        folder: the folder of images.

    Raises:
        NotADirectoryError: there is no such folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise NotADirectoryError(f"no folder of images at {folder}: correct --images")
        self._listings: dict[str, frozenset[str]] = {}
        self._below: dict[str, list[str]] | None = None

    def find(self, name: str) -> str:
        """The path of the image ``name`` below the folder, with ``/`` between its parts.

        ``name`` may have more folders than there are, or fewer, or be a stem or its number.

        Raises:
            FileNotFoundError: there is no such image.
            ValueError: several images could be meant.
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
