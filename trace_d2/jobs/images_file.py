"""``images.json``: the images of a job, and how many of them are to be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from trace_d2.io.atomic import write_json
from trace_d2.io.json_files import FieldError, json_list, json_object, whole_number
from trace_d2.jobs.journal import ImageEntry
from trace_d2.jobs.output import DamagedFileError, read_ours

_REMEDY = "run the job again, which writes it anew"


def write_images(path: Path, entries: Sequence[ImageEntry], limit: int) -> None:
    """Note the images of a job, the first ``limit`` of which are to be done."""
    names = [own.name for own in fields(ImageEntry)]  # what a subclass adds stays out
    images = [{name: getattr(entry, name) for name in names} for entry in entries]
    write_json(path, {"limit": limit, "images": images})


def read_images(path: Path, kind: str) -> tuple[list[ImageEntry], int]:
    """What ``write_images`` noted: all images, and how many of them are to be done.

    Args:
        kind: of the results of the folder, in words.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: the file is damaged, or names lead out of the folder.
    """
    content = read_ours(path, kind, _REMEDY)
    try:
        entries = list(map(ImageEntry.from_json, json_list(json_object(content)["images"])))
        limit = whole_number(content["limit"])
        for own in ("stem", "image_id"):
            known = [getattr(e, own) for e in entries if getattr(e, own) is not None]
            if len(set(known)) < len(known):
                raise ValueError(f"images share the {own} that should be their own")
    except (KeyError, ValueError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else error
        if isinstance(error, FieldError):
            what = f"a part of it {error}"
        raise DamagedFileError(f"{path} is damaged ({what}): {_REMEDY}") from error
    return entries, limit
