"""Which images a file of masks is about, and where they lie."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from trace_d2.io.coco_masks import GivenMask, MaskFile, MaskImage
from trace_d2.io.listing import IMAGE_SUFFIXES
from trace_d2.jobs.entries import ImageEntry

_MOST_REMARKS = 20  # of one image in the journal; the list of what is left out has them all


@dataclass(frozen=True)
class MaskEntry(ImageEntry):
    """One image of a job that refines masks, with all that its worker needs of the file.

    ``stem`` is the path of the image below the folder of images, without its ending;
    ``file_name`` is that path with it.

    Attributes:
        masks: its annotations.
        size: (H, W) that the masks are of; None: that of the photograph.
        skipped: why there is nothing to refine; empty if there is.
        remarks: for the journal.
        edge_stems: names that its edge file may have, the first that exists counts.
    """

    masks: tuple[GivenMask, ...] = ()
    size: tuple[int, int] | None = None
    skipped: str = ""
    remarks: tuple[str, ...] = ()
    edge_stems: tuple[str, ...] = ()


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


def mask_entries(file: MaskFile, images: str | Path) -> list[MaskEntry]:
    """The images of ``file``, in sorted order of stems, with where they lie below ``images``.

    Raises:
        NotADirectoryError: there is no such folder.
        ValueError: none of the images with masks is there.
    """
    finder = ImageFinder(images)
    paths: dict[int, str] = {}
    absent: dict[int, str] = {}
    owners: dict[str, list[MaskImage]] = defaultdict(list)
    for image in file.images:
        try:
            paths[image.image_id] = finder.find(image.file_name)
            owners[paths[image.image_id]].append(image)
        except (FileNotFoundError, ValueError) as error:
            absent[image.image_id] = str(error)
    if not any(image.masks and image.image_id in paths for image in file.images):
        first = next(image.file_name for image in file.images if image.masks)
        raise ValueError(
            f"none of the {len(file.images)} images of {file.path} is in {images} (the first is "
            f"{first}): correct --images"
        )
    absent.update(_contested(owners))
    present = [paths[image.image_id] for image in file.images if image.image_id not in absent]
    stems = _unique_stems(present)
    basenames = Counter(PurePosixPath(path).stem for path in present)
    entries = [
        _present(image, paths[image.image_id], stems[paths[image.image_id]], basenames)
        if image.image_id not in absent
        else _absent(image, absent[image.image_id])
        for image in file.images
    ]
    return sorted(entries, key=lambda entry: entry.stem)


def _present(image: MaskImage, path: str, stem: str, basenames: Mapping[str, int]) -> MaskEntry:
    remarks = tuple(image.left_out[:_MOST_REMARKS])
    more = len(image.left_out) - len(remarks)
    if more:
        remarks += (f"and {more} more are left out",)
    skipped = ""
    if not image.masks:
        skipped = "\n".join(("no mask to refine", *remarks))
    edge_stems = [str(PurePosixPath(path).with_suffix(""))]
    basename = PurePosixPath(path).stem
    if basenames[basename] == 1 and basename not in edge_stems:
        edge_stems.append(basename)
    return MaskEntry(
        stem=stem,
        file_name=path,
        image_id=image.image_id,
        masks=tuple(image.masks),
        size=image.size,
        skipped=skipped,
        remarks=remarks,
        edge_stems=tuple(edge_stems),
    )


def _absent(image: MaskImage, reason: str) -> MaskEntry:
    return MaskEntry(image.file_name, image.file_name, image.image_id, skipped=reason)


def _contested(owners: Mapping[str, Sequence[MaskImage]]) -> dict[int, str]:
    """Images that were found as a file that is another's as well; an exact name wins."""
    losers = {}
    for path, images in owners.items():
        exact = [image for image in images if image.file_name == path]
        if len(images) == 1:
            continue
        for image in images:
            if image not in exact:
                other = next(i.file_name for i in images if i is not image)
                losers[image.image_id] = (
                    f"{image.file_name} and {other} would both be {path}: the folders of one of "
                    "them are missing"
                )
    return losers


def _unique_stems(paths: Sequence[str]) -> dict[str, str]:
    """Path to its name in the store: without ending, unless another image has that stem too."""
    counts = Counter(str(PurePosixPath(path).with_suffix("")) for path in paths)
    stems = {}
    for path in paths:
        stem = str(PurePosixPath(path).with_suffix(""))
        stems[path] = stem if counts[stem] == 1 else path
    return stems
