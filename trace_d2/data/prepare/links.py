"""A folder with the images of a split alone, where the split is a part of a folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from pathlib import Path

from trace_d2.data.prepare.one_class import SEE, listed_name
from trace_d2.io.json_files import quoted, read_json
from trace_d2.io.paths import file_below

logger = logging.getLogger(__name__)


def link_images(listing: str | Path, images: str | Path, output: str | Path) -> int:
    """Link the images that a COCO file lists, below ``images``, into ``output``.

    Names stay, sub-folders included, so that what is found in ``output`` has the names of
    ``listing``. Links that are there already stay, others are told of; returns how many images are
    listed.

    Raises:
        FileNotFoundError: images are missing, of which nothing is linked then.
        FileExistsError: ``output`` has another file of the name of an image.
        ValueError: ``listing`` lists no images, a name leads out of the folder, or ``output`` is
            in a folder of images.
    """
    content = read_json(listing, remedy=SEE)
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f'{listing} has no "images": make or download it again')
    wanted: dict[Path, Path] = {}
    for entry in entries:
        name = listed_name(entry) if isinstance(entry, dict) else entry
        try:
            wanted[file_below(output, name)] = file_below(images, name).absolute()
        except ValueError as error:
            raise ValueError(f"{listing}: image {quoted(entry)}: {error}") from error
    absent = [path for path in wanted.values() if not path.is_file()]
    if absent:
        raise FileNotFoundError(
            f"{len(absent)} of the {len(wanted)} images of {listing} are missing, such as "
            f"{absent[0]}: {SEE}"
        )
    _check_outside(Path(output), Path(images), {path.parent for path in wanted.values()})
    for link, path in wanted.items():
        _link(link, path)
    strangers = sorted(p for p in Path(output).rglob("*") if p not in wanted and not p.is_dir())
    if strangers:
        logger.warning(
            "%s has %d files that %s does not list, such as %s: remove them",
            output, len(strangers), listing, strangers[0],
        )  # fmt: skip
    return len(wanted)


def _check_outside(output: Path, images: Path, holding: Collection[Path]) -> None:
    """Refuse an ``output`` within folders ``holding`` images; tell of one within ``images``."""
    around = {output.resolve(), *output.resolve().parents}
    inside = next((folder for folder in sorted(holding) if folder.resolve() in around), None)
    if inside:
        raise ValueError(
            f"{output} lies in {inside}, of which jobs would take each image twice: give a folder "
            "outside it"
        )
    if images.resolve() in around:
        logger.warning("%s lies in %s: jobs on all of it take each image twice", output, images)


def _link(link: Path, path: Path) -> None:
    if os.path.lexists(link):
        if link.resolve() == path.resolve():
            return
        raise FileExistsError(f"{link} is there, and no link to {path}: give another output")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(path)
