"""What tells that the files that join the results are as the last join left them.

A job that runs again with nothing left to do would write the same files again, which takes most of
its time where there are very many images. The mark is of everything that they are made from: the
records, the list of images, the settings and the code; and size and times of every note, and of the
joined files themselves. It is kept with the locks, which nobody but us writes to.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from functools import cache
from pathlib import Path

from trace_d2.io.atomic import write_text
from trace_d2.jobs.journal import DONE, FAILED, SKIPPED, ImageEntry
from trace_d2.jobs.layout import NOTES, PREVIEWS
from trace_d2.jobs.locks import LOCKS
from trace_d2.jobs.on_disk import Records
from trace_d2.jobs.store import JobStore

_CODE = Path(__file__).parent


class JoinMark:
    """The mark of a folder that we hold.

    Args:
        store: the folder, on a file system.
        records: all there are.
        done: the images whose results are joined.
    """

    def __init__(self, store: JobStore, records: Records, done: Collection[ImageEntry]) -> None:
        self._store = store
        self._path = store.root / LOCKS / "joined"
        digest = hashlib.sha256(repr([_code(), store.read_settings()]).encode())
        digest.update(_stamp(store.images_path))
        for line in records.lines(DONE):
            digest.update(line)
        for status in (FAILED, SKIPPED):  # tried again each time: when does not count
            for record in records.of_status(status):
                digest.update(repr((record.file_name, record.reason)).encode())
        for entry in done:
            digest.update(_stamp(store.path(NOTES, entry.stem)))
            if entry.pictured:
                digest.update(_stamp(store.path(PREVIEWS, entry.stem)))
        self._inputs = digest.hexdigest()

    def is_there(self) -> bool:
        """Whether the joined files are those of now."""
        return self._path.is_file() and self._path.read_text("utf-8") == self._text()

    def write(self) -> None:
        """Note that they are."""
        write_text(self._path, self._text())

    def _text(self) -> str:
        digest = hashlib.sha256(self._inputs.encode())
        for path in self._store.joined_files:
            digest.update(_stamp(path))
        return digest.hexdigest()


@cache
def _code() -> str:
    """Of what writes these files."""
    digest = hashlib.sha256()
    for folder, _, names in sorted(os.walk(_CODE)):
        for name in sorted(names):
            if not name.endswith(".pyc"):
                digest.update(_stamp(Path(folder, name)))
    return digest.hexdigest()


def _stamp(path: Path) -> bytes:
    """Changes when the file ``path`` does."""
    try:
        state = os.stat(path)
    except FileNotFoundError:
        return b"none"
    return repr((state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)).encode()
