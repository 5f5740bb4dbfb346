"""The files of a data set: whether they are on the disk, with one look at each folder."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

TOLERATED_SHARE = 0.01
"""A data set that lacks fewer of its files is used without them; one that lacks more is not."""


def datasets_root() -> Path:
    """The folder of data sets: ``DETECTRON2_DATASETS``, or ``datasets``, as Detectron2 has it."""
    return Path(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets")))


@contextlib.contextmanager
def paused_collector() -> Iterator[None]:
    """Leave Python's garbage collector off within the block (or the function it decorates).

    It looks through all dicts again and again while millions of them are made, none of which is
    garbage: loading takes a third of the time without.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def folder_names(folder: str | Path, what: str, remedy: str) -> frozenset[str]:
    """The names of what lies in ``folder``.

    Args:
        folder: the folder.
        what: what it should hold, for the message, such as "images".
        remedy: what the user is to do if there is no such folder.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"no folder of {what} at {folder}: {remedy}") from None


def keep_present(
    records: Sequence[dict[str, Any]], key: str, what: str, remedy: str
) -> list[dict[str, Any]]:
    """The records whose file ``record[key]`` exists.

    Args:
        records: dicts with the path of a file under ``key``.
        key: which file to look for.
        what: what the files are, for messages, such as "images".
        remedy: what the user is to do about missing ones.

    Returns:
        all records, or, with a warning, those whose file exists if fewer than 1 % lack theirs.

    Raises:
        FileNotFoundError: a folder, or 1 % of the files or more, are missing.
    """
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
    tolerate_absent(absent, len(records), f"{what} are missing", remedy)
    return kept


def tolerate_absent(absent: Sequence[str], total: int, message: str, remedy: str) -> None:
    """Warn of few ``absent`` files; raise for many.

    Args:
        absent: names of what is missing.
        total: how many there should be.
        message: what is the matter with them, such as "images are missing".
        remedy: what the user is to do about it.

    Raises:
        FileNotFoundError: 1 % of ``total`` or more are absent.
    """
    if not absent:
        return
    message = f"{len(absent)} of {total} {message}, such as {absent[0]}"
    if len(absent) >= TOLERATED_SHARE * total:
        raise FileNotFoundError(f"{message}: {remedy}")
    logger.warning("%s: they are left out", message)
