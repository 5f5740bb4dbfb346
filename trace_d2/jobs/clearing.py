"""What is removed from a folder of results: leftovers, files of a while, all that is ours."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from trace_d2.io.atomic import is_temporary, remove_temporaries
from trace_d2.jobs.layout import Layout
from trace_d2.jobs.output import below, remove_empty_folders

_SCRATCH = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}\.npz")


def is_scratch(name: str) -> bool:
    """Whether a file of this name is needed only until all images are done."""
    return _SCRATCH.fullmatch(name) is not None


def sweep(root: Path, layout: Layout) -> None:
    """Remove what killed writers left in ``root`` and our folders in it."""
    remove_temporaries(root)
    for name in layout.folders:
        if (root / name).is_dir():
            remove_temporaries(root / name)
            for entry in below(root / name):
                if entry.is_dir(follow_symlinks=False):
                    remove_temporaries(entry.path)


def drop_scratch(root: Path, layout: Layout) -> None:
    """Remove the files that are needed only until all images are done."""
    if layout.scratch:
        scratch = root / layout.scratch
        for path in scratch.glob("*.npz"):
            if is_scratch(path.name):
                path.unlink()
        remove_empty_folders(scratch)


def own_files(root: Path, layout: Layout, own: Collection[str]) -> tuple[list[Path], list[Path]]:
    """Files in our folders, ours and those of others.

    Args:
        own: paths below ``root`` that are ours, besides temporary ones and those of a while.
    """
    found: dict[bool, list[Path]] = {True: [], False: []}
    for folder in layout.folders:
        entries = below(root / folder) if (root / folder).is_dir() else ()
        for entry in entries:
            path = Path(entry.path)
            scratch = folder == layout.scratch and is_scratch(entry.name)
            mine = path.relative_to(root).as_posix() in own or is_temporary(entry.name)
            if not entry.is_dir(follow_symlinks=False):
                found[mine or scratch].append(path)
    return found[True], found[False]
