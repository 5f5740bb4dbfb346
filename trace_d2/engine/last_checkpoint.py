"""The checkpoint that a training goes on from."""

from __future__ import annotations

from pathlib import Path

from trace_d2.io.json_files import shown
from trace_d2.io.paths import file_below


class UnfitCheckpointError(ValueError):
    """A checkpoint that belongs to another model, or is no file of weights."""


def last_checkpoint(folder: str | Path) -> Path:
    """The file that ``last_checkpoint`` in ``folder`` names.

    Raises:
        UnfitCheckpointError: it names none, or one outside of the folder.
    """
    note = Path(folder) / "last_checkpoint"
    name = note.read_text(encoding="utf-8", errors="replace").strip()
    remedy = (
        "write the name of a checkpoint there (model_0004999.pth) to go on from it, or start over"
        " with --fresh"
    )
    try:
        path = file_below(folder, name)
    except ValueError as error:
        raise UnfitCheckpointError(f"{shown(str(note))}: {error}: {remedy}") from error
    if not path.is_file():
        raise UnfitCheckpointError(f"{shown(str(note))}: {shown(name)} is absent: {remedy}")
    return path
