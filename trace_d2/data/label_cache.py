"""Labels that the dataset mapper made, kept on disk so that each is made once.

Any number of workers and jobs may share a folder: an entry appears whole or not at all, and two
that make the same label write the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trace_d2.io.atomic import write_bytes
from trace_d2.settings import fingerprint

logger = logging.getLogger(__name__)

_DIGEST_BYTES = hashlib.sha256().digest_size


class LabelCache:
    """Arrays by the files that they were made from.

    An entry is a SHA-256 digest and a compressed ``.npz``. The digest covers the content and the
    size and time of every input, so a damaged entry, and one of inputs that changed since, are
    both made again. Entries of other settings lie in another folder.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any]) -> None:
        """
        Args:
            folder: of the cache; made if it is missing.
            settings: all that decides the content besides the input files; JSON types.
        """
        self.folder = Path(folder) / fingerprint(settings)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"the label cache {folder} cannot be made ({error}): name a folder that can by "
                "INPUT.TRACE.CACHE_DIR, or 'none'"
            ) from error
        self._writable = True

    def get(
        self, inputs: Sequence[Path], make: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """The entry of ``inputs``, from the cache or else by ``make``, which is then kept.

        A cache that takes no more files (a full disk, no permission) is reported once, and the
        work goes on without it. What ``make`` raises is the caller's.
        """
        # Taken before the files are read: what changes on the way gives a stale stamp.
        stamp = _stamp(inputs)
        path = self.path(inputs)
        arrays = _decode(path, stamp)
        if arrays is None:
            arrays = make()
            self._write(path, _encode(arrays, stamp))
        return arrays

    def path(self, inputs: Sequence[Path]) -> Path:
        """The file of the entry of ``inputs``; it need not exist."""
        names = "\0".join(str(path.absolute()) for path in inputs)
        name = hashlib.sha256(names.encode()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}.label"

    def _write(self, path: Path, content: bytes) -> None:
        if not self._writable:
            return
        try:
            path.parent.mkdir(exist_ok=True)
            write_bytes(path, content)
        except OSError as error:
            self._writable = False
            logger.warning(
                "the label cache %s takes no more files (%s): labels are made anew each time; "
                "free space, or set INPUT.TRACE.CACHE_DIR to another folder",
                self.folder,
                error,
            )


def _stamp(inputs: Sequence[Path]) -> bytes:
    """Bytes that change when one of the files does, by its size or its time."""
    states = [path.stat() if path.exists() else None for path in inputs]
    return repr([state and (state.st_size, state.st_mtime_ns) for state in states]).encode()


def _encode(arrays: Mapping[str, np.ndarray], stamp: bytes) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # names are the caller's
    body = buffer.getvalue()
    return hashlib.sha256(stamp + body).digest() + body


def _decode(path: Path, stamp: bytes) -> dict[str, np.ndarray] | None:
    """The arrays of an entry; None if there is none, or not of these inputs, or it is damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(stamp + body).digest() != digest:
        return None
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
