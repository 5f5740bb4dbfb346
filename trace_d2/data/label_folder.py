"""Whether what a job left in a folder is ready to train on, and what its categories are."""

from __future__ import annotations

import logging
from pathlib import Path

from trace_d2.io.categories import Category, load_categories, parse_categories
from trace_d2.io.coco_panoptic import load_panoptic_json
from trace_d2.io.listing import list_images
from trace_d2.jobs.folder import JobFolder, open_job_folder
from trace_d2.jobs.folder import UnfinishedLabelsError as UnfinishedLabelsError

logger = logging.getLogger(__name__)


def read_folder_categories(folder: str | Path) -> tuple[Category, ...]:
    """The categories of a folder with ``panoptic.json``, from the smallest file that has them.

    That is ``settings.json`` of the label maker, else ``categories.json``, else the file itself.
    """
    folder = Path(folder)
    job = open_job_folder(folder)
    if job is not None and "categories" in job.settings:
        return parse_categories(job.settings["categories"], str(folder / "settings.json"))
    if (folder / "categories.json").is_file():
        return load_categories(folder / "categories.json")
    path = folder / "panoptic.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"no panoptic.json in {folder}: give a folder that tools/make_pseudo_panoptic.py or "
            "tools/make_scenes.py wrote"
        )
    categories = load_panoptic_json(path).categories
    if not categories:
        raise ValueError(f'{path} has no "categories": add them to the file')
    return categories


def check_labels(job: JobFolder) -> None:
    """Raise an UnfinishedLabelsError unless the label maker is through; warn of failed images."""
    job.check_finished("labels", f"run `python tools/make_pseudo_panoptic.py --merge {job.root}`")
    _warn_of_failed(job, "labels")


def missing_labels(root: str | Path, image_root: str | Path) -> str:
    """What there is to say of images of ``image_root`` that have no label in ``root``; or empty.

    Images that a list of images left out on purpose are not missed.
    """
    try:
        job = open_job_folder(root)
        if job is None or not job.listed:
            return ""
        given = (job.settings.get(key) for key in ("semantic", "edges"))
        names = list_images(image_root, [root, *(p for p in given if isinstance(p, str))])
    except (OSError, ValueError):  # told elsewhere
        return ""
    unnamed = {entry.stem for entry in job.listed if entry.image_id is None}
    wanted = [stem for stem in names if stem not in unnamed]
    lacking = [stem for stem in wanted if stem not in job.done]
    if not lacking:
        return ""
    first = job.records.get(lacking[0])
    why = f": {first.reason.splitlines()[0]}" if first is not None and first.reason else ""
    return (
        f"{root} has labels of {len(wanted) - len(lacking)} of the {len(wanted)} images in "
        f"{image_root}, such as none of {names[lacking[0]]}{why}. Training uses those alone: to "
        "have all, run the command that made them again, without --limit"
    )


def check_done(job: JobFolder, what: str) -> None:
    """Raise an UnfinishedLabelsError if images lack ``what``; warn of those that failed."""
    job.check_done(what)
    _warn_of_failed(job, what)


def _warn_of_failed(job: JobFolder, what: str) -> None:
    if job.failed:
        logger.warning(
            "%s: the %s of %d of %d images failed (%s: %s ...); they are left out. Run the command "
            "that made them again to try once more",
            job.root,
            what,
            len(job.failed),
            len(job.entries),
            job.failed[0].file_name,
            job.failed[0].reason,
        )
