"""Whether a folder of labels is ready to train on, and what its categories are."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from filelock import FileLock, Timeout

from trace_d2.io.categories import Category, load_categories, parse_categories
from trace_d2.io.coco_panoptic import load_panoptic_json
from trace_d2.jobs.journal import FAILED
from trace_d2.jobs.store import LabelStore

logger = logging.getLogger(__name__)

_GATE_SECONDS = 30.0  # jobs hold the gate only while they try the other locks


class UnfinishedLabelsError(RuntimeError):
    """A folder of labels is still being written, or was left half done."""


def is_label_folder(folder: str | Path) -> bool:
    """Whether the label maker wrote ``folder``, so that it has settings and a journal."""
    return (Path(folder) / "settings.json").is_file()


def read_folder_categories(folder: str | Path) -> tuple[Category, ...]:
    """The categories of a folder with ``panoptic.json``, from the smallest file that has them.

    That is ``settings.json`` of the label maker, else ``categories.json``, else the file itself.

    Raises:
        FileNotFoundError: the folder has none of them.
        ValueError: a file is damaged or names no categories.
    """
    folder = Path(folder)
    if is_label_folder(folder):
        path = folder / "settings.json"
        content = LabelStore(folder).read_settings()
        if "categories" in content:
            return parse_categories(content["categories"], str(path))
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


def check_label_folder(folder: str | Path) -> None:
    """Raise unless the label maker is through with ``folder``; warn of images that failed.

    A folder of another origin passes.

    Raises:
        UnfinishedLabelsError: a job writes there, images are yet to be labelled, or the labels of
            shards are yet to be joined.
        ValueError: a file of the folder is damaged.
    """
    store = LabelStore(folder)
    if not is_label_folder(folder) or not store.images_path.is_file():
        return
    if _is_locked(store.root):
        raise UnfinishedLabelsError(
            f"{folder} is still being written by another job: wait until it ends"
        )
    entries, limit = store.read_images()
    records = store.read_records()
    wanted = entries[:limit]
    pending = [entry for entry in wanted if entry.stem not in records]
    if pending:
        raise UnfinishedLabelsError(
            f"{folder} lacks the labels of {len(pending)} of {len(wanted)} images, such as "
            f"{pending[0].file_name}: run the command that made them again, it continues"
        )
    if any((store.root / "shards").glob("journal-*.jsonl")):
        raise UnfinishedLabelsError(
            f"the shards of {folder} are not joined yet: run "
            f"`python tools/make_pseudo_panoptic.py --merge {folder}`"
        )
    failed = [r for e in wanted if (r := records[e.stem]).status == FAILED]
    if failed:
        logger.warning(
            "%s: the labels of %d of %d images failed (%s: %s ...); they are left out. Run the "
            "command that made them again to try once more",
            folder, len(failed), len(wanted), failed[0].file_name, failed[0].reason,
        )  # fmt: skip


def _is_locked(root: Path) -> bool:
    """Whether a job holds a lock of the folder.

    The gate is held meanwhile, so that a job that starts just now waits instead of meeting a lock
    that we hold for a moment. Nobody writes to a folder that cannot be written to.
    """
    locks = root / ".locks"
    jobs = sorted(locks.glob("job*.lock"))
    if not jobs or not os.access(locks, os.W_OK):
        return False
    try:
        with FileLock(locks / "gate.lock").acquire(timeout=_GATE_SECONDS):
            for path in jobs:
                with FileLock(path).acquire(timeout=0):
                    pass
    except Timeout:
        return True
    return False
