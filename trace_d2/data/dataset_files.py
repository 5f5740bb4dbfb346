"""The files of a data set: whether they are on the disk, with one look at each folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

TOLERATED_SHARE = 0.01
"""A data set that lacks fewer of its files is used without them; one that lacks more is not."""


def datasets_root() -> Path:
    """The folder of data sets: ``DETECTRON2_DATASETS``, or ``datasets``, as Detectron2 has it."""
    return Path(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets")))


def folder_names(folder: str | Path, what: str, remedy: str) -> frozenset[str]:
    """The names of what lies in ``folder``, which holds ``what`` ("images")."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"no folder of {what} at {folder}: {remedy}") from None


def keep_present(
    records: Sequence[dict[str, Any]], key: str, what: str, remedy: str
) -> list[dict[str, Any]]:
    """The records whose file ``record[key]``, one of ``what`` ("images"), exists."""
    kept, absent = part_present(records, key, what, remedy)
    tolerate_absent(absent, len(records), f"{what} are missing", remedy)
    return kept


def part_present(
    records: Sequence[dict[str, Any]], key: str, what: str, remedy: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """The records whose file ``record[key]``, one of ``what``, exists; and the absent files."""
    present: dict[str, frozenset[str]] = {}
    kept: list[dict[str, Any]] = []
    absent: list[str] = []
    for record in records:
        folder, _, name = record[key].rpartition("/")
        if folder not in present:
            present[folder] = folder_names(folder or ".", what, remedy)
        if name in present[folder]:
            kept.append(record)
        else:
            absent.append(record[key])
    return kept, absent


def tolerate_absent(absent: Sequence[str], total: int, message: str, remedy: str) -> None:
    """Warn of the ``absent`` files of ``total``, or raise a FileNotFoundError for 1 % or more.

    ``message`` says what is the matter with them.
    """
    if not absent:
        return
    message = f"{len(absent)} of {total} {message}, such as {absent[0]}"
    if len(absent) >= TOLERATED_SHARE * total:
        raise FileNotFoundError(f"{message}: {remedy}")
    logger.warning("%s: they are left out", message)
