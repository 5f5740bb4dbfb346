"""Which images a folder has, which ids a list gives them, and where those of a list lie.

A list may name images by more folders than there are, by fewer, by stem or number.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

from .hints import nearest_path
from .json_files import FieldError, file_name, quoted, read_json, shown, whole_number
from .paths import composed, file_below, name_keys
from .remote import InputFile, InputFolder, RemoteFolder, absent, input_file, input_folder
from .subfolders import counterparts, files_by_stem, path_ends, walk_folder

KeyT = TypeVar("KeyT", bound=Hashable)
T = TypeVar("T")

IMAGE_SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff",
    ".webp",
)  # fmt: skip
"""Files of a folder with these endings, in either case, are its images."""

_MAX_NUMERIC_STEM = 2**53  # larger integers do not survive every JSON reader


def list_images(
    folder: str | InputFolder,
    leave_out: Iterable[str | InputFolder | None] = (),
    remedy: str = "correct the path",
) -> dict[str, str]:
    """Stem to path below ``folder`` of every image in it and its sub-folders.

    ``subfolders`` tells what stems are and which folders are searched. Images of a folder come
    before those of its sub-folders, in sorted order of stems.

    Args:
        leave_out: folders that are not searched: what the images' masks, edges and results are in.
        remedy: what to do where there is no such folder.

    Raises:
        NotADirectoryError: there is no such folder.
        ValueError: it has no images, or two of one stem.
    """
    folder = input_folder(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"no folder of images at {folder}{absent(folder)}: {remedy}")
    files = files_by_stem(folder, IMAGE_SUFFIXES, leave_out)
    if not files:
        raise ValueError(
            f"no images in {folder} or below it; endings known: {' '.join(IMAGE_SUFFIXES)}"
        )
    for stem, twins in files.items():
        if len(twins) > 1:
            listed = " and ".join(shown(str(folder / name)) for name in twins)
            raise ValueError(
                f"{listed} share the stem {stem!r}, so their labels would have one name: "
                "rename or remove all but one"
            )
    return {stem: names[0] for stem, names in files.items()}


def ids_of_stems(stems: Sequence[str]) -> dict[str, int]:
    """Numeric names are the ids if all are, else ranks from 1, as a mixture could collide.

    So are names that several folders have.

    Raises:
        ValueError: two numeric names in one folder are one number.
    """
    numbers = list(map(_number, stems))
    if None in numbers:
        return {stem: rank for rank, stem in enumerate(stems, start=1)}
    owners: dict[tuple[str, int | None], str] = {}
    for stem, number in zip(stems, numbers, strict=True):
        other = owners.setdefault((stem.rpartition("/")[0], number), stem)
        if other != stem:
            raise ValueError(
                f"the images {other!r} and {stem!r} are both number {number}: rename one, or "
                "give ids by --images-json"
            )
    if len(set(numbers)) < len(numbers):
        return {stem: rank for rank, stem in enumerate(stems, start=1)}
    return dict(zip(stems, numbers, strict=True))  # type: ignore[arg-type]


def _number(stem: str) -> int | None:
    name = stem.rpartition("/")[2]
    numeric = name.isascii() and name.isdecimal() and int(name) < _MAX_NUMERIC_STEM
    return int(name) if numeric else None


def read_image_ids(path: str | InputFile, stems: Collection[str]) -> dict[str, int]:
    """Ids of ``stems`` from the ``images`` of a COCO file (or a bare list of ``{id, file_name}``).

    Names of the list may have more folders than there are, or fewer, where that is clear.
    """
    path = input_file(path)
    content = read_json(path, "list of images", "correct --images-json")
    entries = content.get("images") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise ValueError(f'{path} has no list of images: give a COCO file with "images"')
    ids: dict[str, int] = {}
    owners: dict[int, str] = {}
    for rank, entry in enumerate(entries):
        try:
            stem = name_keys(file_name(entry["file_name"]))[1]
            image_id = whole_number(entry["id"])
        except (TypeError, LookupError, FieldError) as error:
            raise ValueError(
                f"{path}: image {rank} of the list is {quoted(entry)}, but an image is {{id: "
                "integer, file_name: text}: correct it"
            ) from error
        if stem in ids:
            raise ValueError(f"{path} names the stem {stem!r} twice: every image needs its own")
        if image_id in owners:
            raise ValueError(f"{path} gives id {image_id} to {owners[image_id]!r} and {stem!r}")
        ids[stem] = image_id
        owners[image_id] = stem
    _check_clear(path, ids, stems)
    return {stem: ids[other] for stem, other in counterparts(stems, ids).items()}


def _check_clear(path: InputFile, listed: Collection[str], stems: Collection[str]) -> None:
    """Raise where a list has several names for one of ``stems``, and not all of them are images."""
    known = set(stems)
    longer = {end: name for name in listed if name not in known for end in path_ends(name)}
    twice = next((stem for stem in stems if stem in longer and stem in listed), None)
    if twice is not None:
        raise ValueError(
            f"{path} names the stem {twice!r} twice, as {shown(longer[twice])} too: give the list "
            "that belongs to the folder of images"
        )


def locate_images(
    names: Mapping[KeyT, str], folder: str | InputFolder
) -> tuple[dict[KeyT, str], dict[KeyT, str]]:
    """Where images lie below ``folder``, and why the others cannot be taken, by key.

    Of several that would be one file, only the one of exactly that name can be taken; and a file in
    fewer folders than its name has is taken only where no other name has the same end.

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
    ends = _names_by_end(names.values(), {found[k] for k in found if found[k] != names[k]})
    for path, keys in owners.items():
        for key in keys:
            others = [names[other] for other in keys if other != key]
            others += [name for name in ends.get(composed(path), ()) if name != names[key]]
            if others and names[key] != path:
                absent[key] = (
                    f"{names[key]} and {others[0]} would both be {path}: the folders of one of "
                    "them are missing"
                )
    return {key: path for key, path in found.items() if key not in absent}, absent


def _names_by_end(names: Iterable[str], paths: Collection[str]) -> dict[str, set[str]]:
    """Those of ``names`` that end with one of ``paths``, folders included, by it."""
    wanted = {composed(path) for path in paths}
    ends: dict[str, set[str]] = defaultdict(set)
    for name in names if wanted else ():
        path = "/".join(_parts(name))
        for end in (path, *path_ends(path)):
            if end in wanted:
                ends[end].add(name)
    return ends


def _parts(name: str) -> tuple[str, ...]:
    """The parts of a listed name, composed, after what leads out of any folder."""
    parts = PurePosixPath(composed(name).replace("\\", "/")).parts
    while ".." in parts or parts[:1] == ("/",):
        parts = parts[1:]
    return parts


class ImageFinder:
    """Finds images below a folder, which must exist; links to folders are followed."""

    def __init__(self, folder: str | InputFolder) -> None:
        self.folder = input_folder(folder)
        if not self.folder.is_dir():
            raise NotADirectoryError(f"no folder of images at {folder}: correct --images")
        self._listings: dict[str, dict[str, str]] = {}
        self._below: dict[str, list[str]] | None = None

    def find(self, name: str) -> str:
        """The path of the image ``name`` below the folder, with ``/`` between its parts.

        ``name`` may have more folders than there are, or fewer, or be a stem or its number; but the
        end of one is the whole other: ``a/x.jpg`` is never ``b/x.jpg``.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it could be several.
        """
        parts = _parts(name)
        for start in range(len(parts)):
            found = self._present(parts[start:])
            if found is not None:
                return found
        alike = self._search(parts[-1]) if parts else []
        several = [path for path in alike if _one_ends_other(path, parts)]
        if len(several) > 1:
            raise ValueError(
                f"{shown(name)} could be {several[0]} or {several[1]} in {self.folder}: give the "
                "folder in file_name"
            )
        if not several:
            other = f" ({alike[0]} is in another folder)" if alike else ""
            raise FileNotFoundError(f"no image {shown(name)} in {self.folder}{other}")
        return several[0]

    def _present(self, parts: Sequence[str]) -> str | None:
        """The path of the image of exactly these ``parts``, as the folder spells it, if any."""
        if PurePosixPath(parts[-1]).suffix.lower() not in IMAGE_SUFFIXES:
            return None
        if isinstance(self.folder, RemoteFolder):
            name = self.folder.spelled("/".join(parts))
            return None if self.folder.stamp(name) is None else name
        folder = "/".join(parts[:-1])
        if folder not in self._listings:
            path = file_below(self.folder, folder) if folder else self.folder
            names = os.listdir(path) if path.is_dir() else []
            start = path.relative_to(self.folder)
            self._listings[folder] = {composed(name): (start / name).as_posix() for name in names}
        return self._listings[folder].get(composed(parts[-1]))

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
        for folder, names in walk_folder(self.folder):
            for name in names:
                stem, suffix = os.path.splitext(composed(name))
                if suffix.lower() not in IMAGE_SUFFIXES:
                    continue
                keys = [f"{stem}{suffix}", f"/{stem}"]
                if stem.isascii() and stem.isdecimal():
                    keys.append(f"#{int(stem)}")
                for key in keys:
                    below[key].append(f"{folder}{name}")
        return {key: sorted(paths) for key, paths in below.items()}


def _one_ends_other(path: str, parts: Sequence[str]) -> bool:
    """Whether the folders of one are the last folders of the other, as with none they are."""
    folders, listed = composed(path).split("/")[:-1], list(parts[:-1])
    shared = min(len(folders), len(listed))
    return folders[len(folders) - shared :] == listed[len(listed) - shared :]


def read_names(path: str | Path, remedy: str) -> list[str]:
    """The names of a list of images, one a line; empty lines are passed over.

    Raises:
        FileNotFoundError: there is no such file; the message ends with the ``remedy``.
        ValueError: it is no text, or empty.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no list of images at {path}{nearest_path(path)}: {remedy}")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text ({error}): put the list there again") from error
    names = [name for name in map(str.strip, lines) if name]
    if not names:
        raise ValueError(f"{path} is empty: put the list there again")
    return names


def some(names: Sequence[str], count: int = 3) -> str:
    """The first ``count`` of ``names``, with dots where there are more."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def spread(items: Sequence[T], count: int) -> list[T]:
    """``count`` items at even distances, or all if there are fewer."""
    if count >= len(items):
        return list(items)
    return [items[rank * len(items) // count] for rank in range(count)]
