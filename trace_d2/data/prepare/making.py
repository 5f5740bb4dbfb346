"""What preparations share: every image is tried, and all that is wrong is told at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from trace_d2.complaints import tell_all
from trace_d2.data.dataset_files import folder_names
from trace_d2.data.prepare.one_class import ONE_CLASS, number
from trace_d2.io.atomic import DiskFullError, write_json
from trace_d2.io.categories import Category, category_entries
from trace_d2.io.coco_panoptic import coco_dataset
from trace_d2.parallel import ordered_map

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

ImageEntries = tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]
"""Of one image: that of ``images``, its panoptic annotation, its instances."""


def make_each(
    job: Callable[[T], R], items: Sequence[T], workers: int, description: str, progress: bool
) -> list[R]:
    """``job(item)`` of each, see ``ordered_map``.

    Raises:
        ConfigError, ValueError, OSError: some of ``items`` cannot be used; all have been tried, and
            the message tells what is wrong with up to ten.
        DiskFullError: at once.
    """
    made, wrong = list[R](), list[str]()
    tried = partial(_attempt, job)
    results = ordered_map(tried, items, workers, description=description, progress=progress)
    for result, complaint in results:
        wrong += [complaint] if complaint else []
        made += [] if complaint else [result]
    tell_all(wrong)
    return made


def tell_strangers(folder: Path, names: Collection[str]) -> None:
    """Warn where ``folder`` has files beside ``names``, as of an earlier run on other images."""
    there = folder_names(folder, "files", "run it again").difference(names)
    warn_of_strangers(folder, sorted(name for name in there if name[0] != "."))


def warn_of_strangers(folder: Path, strangers: Sequence[str]) -> None:
    """Warn of files of ``folder`` that do not belong there, if there are any."""
    if strangers:
        logger.warning(
            "%s has %d files that are not of this data set, such as %s: remove them",
            folder, len(strangers), strangers[0],
        )  # fmt: skip


def _attempt(job: Callable[[T], R], item: T) -> tuple[Any, str]:
    try:
        return job(item), ""
    except DiskFullError:
        raise
    except (ValueError, OSError) as error:
        return None, str(error)


def write_json_files(
    output: Path,
    description: str,
    categories: tuple[Category, ...],
    written: Sequence[ImageEntries],
) -> None:
    """Write ``instances.json``, ``class_agnostic.json``, ``panoptic.json``, ``categories.json``.

    Args:
        output: folder whose ``panoptic/`` holds the PNGs.
        description: of the data set, without a full stop.
        categories: of the annotations.
        written: what was written of each image; instances are numbered here.
    """
    images = [image for image, _, _ in written]
    instances = [one for _, _, several in written for one in several]
    number(instances)
    one_class = [{**annotation, "category_id": ONE_CLASS[0].id} for annotation in instances]
    things = tuple(category for category in categories if category.isthing)
    write_json(output / "categories.json", category_entries(categories), indent=1)
    for name, entries, classes in (
        ("instances.json", instances, things),
        ("class_agnostic.json", one_class, ONE_CLASS),
        # Last: with it the data set counts as prepared.
        ("panoptic.json", [annotation for _, annotation, _ in written], categories),
    ):
        write_json(output / name, coco_dataset(images, entries, classes, description))
