"""Data sets known by name, at their usual places below ``DETECTRON2_DATASETS``.

``builtin_datasets.yaml`` is the table. Importing this module registers them, as importing
``detectron2.data`` registers Detectron2's own. Nothing is read for that but the categories of label
folders that exist; what is missing is said when a data set is loaded. ``datasets/README.md`` shows
the folders.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from trace_d2.data.dataset_files import datasets_root
from trace_d2.data.known import TABLE, rooted
from trace_d2.data.label_folder import read_folder_categories
from trace_d2.data.registration import (
    Categories,
    is_registered_elsewhere,
    register_instances,
    register_panoptic_files,
    register_sem_seg,
    register_trace_semantic,
)
from trace_d2.jobs.folder import open_job_folder

logger = logging.getLogger(__name__)

_SEE = "datasets/README.md shows what belongs where below DETECTRON2_DATASETS"


def _register_labels(
    name: str, output_dir: Path, image_root: Path, categories: Categories, remedy: str
) -> None:
    """A folder of labels, with its own categories if there is one whose can be read."""
    try:
        if open_job_folder(output_dir) is not None:
            categories = read_folder_categories(output_dir)
    except (OSError, ValueError) as error:  # no reason to fail where it is not asked for
        logger.warning("%s: its categories cannot be read (%s)", output_dir, error)
    json_file = output_dir / "panoptic.json"
    register_panoptic_files(name, image_root, json_file, categories, remedy=remedy)


KINDS: dict[str, Callable[..., None]] = {
    "panoptic": register_panoptic_files,
    "labels": _register_labels,
    "semantic": register_trace_semantic,
    "sem_seg": register_sem_seg,
    "instances": register_instances,
}
"""What registers the rows of a kind: name, paths, categories (if any) and remedy."""

NAMES = tuple(name for kind in KINDS for name in TABLE[kind])
"""The built-in names."""


def register_builtin_datasets(root: str | Path | None = None) -> None:
    """Register all of the table; a second call with the same root changes nothing.

    Names that somebody else has registered before, as CutLER does with the class-agnostic ones,
    are left as they are, with a line in the log.

    Args:
        root: the folder of data sets; None: ``datasets_root()``.

    Raises:
        ValueError: called before with another root.
    """
    root = datasets_root() if root is None else Path(root)
    taken = [name for name in NAMES if is_registered_elsewhere(name)]
    if taken:
        logger.warning(
            "another project has registered %s before: left as they are", ", ".join(taken)
        )
    for kind, register in KINDS.items():
        for name, row in TABLE[kind].items():
            if name not in taken:
                paths = {key: text for key, text in row.items() if key != "remedy"}
                remedy = TABLE["remedies"][row["remedy"]]
                remedy = remedy.format(**paths, root=root, folder=name.removeprefix("trace_"))
                register(name, **rooted(paths, root), remedy=f"{remedy}; {_SEE}")


register_builtin_datasets()
