"""What is removed from a folder of results: leftovers, files of a while, all that is ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from trace_d2.io.atomic import is_temporary, remove_temporaries
from trace_d2.io.fans import unfanned
from trace_d2.jobs.layout import SHARDS, Layout, is_shard_journal
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


def files_of_ours(
    root: Path, layout: Layout, is_known: Callable[[str], bool]
) -> Iterator[tuple[str, bool]]:
    """The files in our folders, and whether we wrote them: others may lie there.

    Args:
        is_known: whether we know the stem of an image.
    """
    start = len(f"{root}/")
    for folder in layout.folders:
        entries = below(root / folder) if (root / folder).is_dir() else ()
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                yield entry.path, is_ours(entry.path[start:], layout, is_known)


def is_ours(path: str, layout: Layout, is_known: Callable[[str], bool]) -> bool:
    """Whether we wrote the file ``path``, below the folder of results; see ``files_of_ours``."""
    folder, _, name = path.partition("/")
    if is_temporary(name.rpartition("/")[2]):
        return True
    if folder == SHARDS:
        return is_shard_journal(name)
    return (folder == layout.scratch and is_scratch(name)) or any(
        map(is_known, _stems(path, layout))
    )


def _stems(path: str, layout: Layout) -> Iterator[str]:
    """The stems that a file may have, with its part and without."""
    for pattern in layout.patterns:
        before, _, after = pattern.partition("{}")
        if path.startswith(before) and path.endswith(after):
            stem = path.removeprefix(before).removesuffix(after)
            yield from {stem, unfanned(stem)}
