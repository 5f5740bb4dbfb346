"""``settings.json``: what the results of a folder were made with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trace_d2.io.json_files import shown
from trace_d2.jobs.layout import Layout
from trace_d2.jobs.output import DamagedFileError, ForeignFolderError, read_ours

FORMAT = 2  # of settings.json and journal; 1 is read as well
COMMIT, SAM_COMMIT = "commit", "sam_commit"
"""Of the hub's backbone and SAM: in the settings once they are known, and none of them."""

_REMEDY = "restore it, or choose another --output"
_TEXTS = ("images", "edges", "semantic", "masks", COMMIT, SAM_COMMIT)


def read_settings(path: Path, layout: Layout) -> dict[str, Any]:
    """The settings in the words of today.

    Raises:
        FileNotFoundError: the folder holds no results.
        ForeignFolderError: the file is somebody else's.
        DamagedFileError: the file is damaged.
    """
    content = read_ours(path, layout.kind, _REMEDY)
    if not isinstance(content, dict) or "format" not in content:
        raise ForeignFolderError(f"{path} is not of this tool: choose another --output")
    if content["format"] not in (1, FORMAT):
        raise ForeignFolderError(
            f"{path} has format {shown(content['format'])}, which this version does not know: use "
            "the version that wrote it, or choose another --output"
        )
    for name in _TEXTS:
        if not isinstance(content.get(name, ""), str):
            raise DamagedFileError(
                f"{path} is damaged ({name} is {shown(content[name])}, not text): {_REMEDY}"
            )
    return layout.upgrade({**content, "format": FORMAT}) if content["format"] == 1 else content
