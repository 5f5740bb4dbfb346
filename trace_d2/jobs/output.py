"""An output folder as a place that others use too: what is refused there, and what is ours.

Nothing of ours is a link: a link among our files would lead writing and removing elsewhere. What
is not ours stays where it is.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trace_d2.io.json_files import JsonError, read_json, shown

# What is wrong with the name of one file, and no reason that others cannot be written.
_OF_ONE_NAME = (
    errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EISDIR, errno.ENOTDIR, errno.EEXIST,
)  # fmt: skip


SETTINGS = "settings.json"
"""The file that is written first, and makes a folder ours."""


class SettingsChangedError(ValueError):
    """The folder holds results that were made with other settings."""


class ForeignFolderError(ValueError):
    """The folder, or something in it, belongs to somebody else."""


class DamagedFileError(ValueError):
    """A file of the folder does not hold what we write there."""


class OutputError(RuntimeError):
    """The folder takes no more files: the disk is full, or not ours to write to."""


class NoPlaceError(OutputError):
    """There is no folder yet, and none can be made."""


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Raise an OutputError that says what to do where writing to ``folder`` fails in the block.

    It is a NoPlaceError where nothing is there to go on with, unless the disk is full.
    """
    try:
        yield
    except OSError as error:
        remedy, full = "make it writable", error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full:
            remedy = "the disk is full: make room"
        elif error.errno == errno.ENAMETOOLONG:
            remedy = "choose a shorter name for it"
        what = f"cannot write to {folder} ({error.strerror or error}): {remedy}"
        if not full and not os.path.lexists(folder / SETTINGS):
            raise NoPlaceError(f"{what}, or choose another --output") from error
        raise OutputError(
            f"{what}. Finished images are safe, and the same command continues"
        ) from error


def check_writable(folder: Path) -> None:
    """Raise an OSError unless ``folder`` can be written to, or made, as far as is known."""
    folder = folder.absolute()
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))


def is_of_one_name(error: OSError) -> bool:
    """Whether ``error`` tells that one file cannot have its name; others may be written."""
    return error.errno in _OF_ONE_NAME


def below(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """All that lies below ``folder``, folders before what is in them; links are not followed."""
    with os.scandir(folder) as listing:
        entries = list(listing)
    for entry in entries:
        yield entry
        if entry.is_dir(follow_symlinks=False):
            yield from below(entry.path)


def check_members(files: Iterable[Path], folders: Iterable[Path]) -> None:
    """Check what lies at the places of our files and folders.

    Raises:
        ForeignFolderError: it is a link, or no plain file or folder; so is anything below a folder.
    """
    for path in files:
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
            raise _foreign(path, "file")
    for folder in folders:
        if not os.path.lexists(folder):
            continue
        if folder.is_symlink() or not folder.is_dir():
            raise _foreign(folder, "folder")
        for entry in below(folder):
            if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
                raise _foreign(Path(entry.path), "file")


def check_removable(folders: Iterable[str]) -> None:
    """Raise an OutputError unless files can be removed from all ``folders``."""
    for folder in folders:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(
                f"cannot remove files from {shown(folder)}, and have removed none: make it "
                "writable, or choose another --output"
            )


def remove_empty_folders(folder: Path) -> None:
    """Remove ``folder`` and all folders below it that hold nothing."""
    if not folder.is_dir():
        return
    folders = [Path(e.path) for e in below(folder) if e.is_dir(follow_symlinks=False)]
    for path in (*reversed(folders), folder):
        with contextlib.suppress(OSError):  # something is in it
            path.rmdir()


def read_ours(path: Path, kind: str, remedy: str) -> Any:
    """The JSON of a file in a folder of ``kind``, as ``"labels"``.

    Raises:
        FileNotFoundError: it is not there.
        DamagedFileError: it is no JSON; ``remedy`` says what to do.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}: it is not a folder of {kind}")
    try:
        return read_json(path)
    except JsonError as error:
        raise DamagedFileError(f"{path} is damaged ({error.reason}): {remedy}") from error


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A line for every key that differs, with both values."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, now = (_show(side[key]) if key in side else "absent" for side in (old, new))
        if key not in old or key not in new or old[key] != new[key]:
            lines.append(f"{key}: {before} there, {now} now")
    return lines


def _show(value: Any) -> str:
    """``value`` short enough for a message."""
    if isinstance(value, Mapping):
        text = ", ".join(f"{k} {v}" for k, v in value.items() if not isinstance(v, (list, dict)))
    elif isinstance(value, (list, tuple)) and len(value) > 8:
        text = f"a list of {len(value)}"
    else:
        return shown(value)
    digest = hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]
    return f"{text} (sha256 {digest})"


def _foreign(path: Path, kind: str) -> ForeignFolderError:
    what = "a link" if path.is_symlink() else f"no plain {kind}"
    return ForeignFolderError(
        f"{path} is {what}, and would lead results elsewhere: remove it, or choose another --output"
    )
