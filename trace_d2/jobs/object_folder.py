"""A folder of an object store (``s3://``, ``gs://``, any that fsspec knows) beside one of the disk.

Objects are written whole or not at all, in any order and by anybody: there are no locks. Files are
made in the folder of the disk, and uploaded from there; what is to be read is downloaded to there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import secrets
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from trace_d2.io.addresses import BUCKETS, tell_of_waiting
from trace_d2.io.remote import name_hash, open_store
from trace_d2.jobs.output import NoPlaceError, OutputError

T = TypeVar("T")

_THREADS = 16  # objects that travel at once
_PAUSES = (1.0, 4.0, 16.0)  # seconds before another try
_SAFE = ". Finished images are safe, and the same command continues"
_LONGEST_KEY = 1024  # bytes, of S3 and Google Cloud Storage
# Whose errors are no OSErrors.
_LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "azure", "fsspec", "asyncio")
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError)
_NEVER = (errno.ENAMETOOLONG, errno.EINVAL, errno.ENOSYS)  # right at the next try


@contextlib.contextmanager
def nothing_begun() -> Iterator[None]:
    """Make an OutputError in the block a NoPlaceError: there is nothing yet to go on with."""
    try:
        yield
    except OutputError as error:
        raise _not_begun(error) from error


class ObjectFolder:
    """The objects below ``url``, and the same files below ``local``.

    Names are paths below both, with ``/`` between their parts. What the store refuses or does not
    answer, several times over, is raised as an OutputError.
    """

    def __init__(self, url: str, local: Path) -> None:
        self.url = url.rstrip("/")
        self.local = local
        self._opened: tuple[Any, str] | None = None
        self._answered = False
        self._given_up = False

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None}  # connections do not travel

    def name_of(self, path: Path) -> str:
        """The name of a file below ``local``; empty for ``local`` itself."""
        name = path.relative_to(self.local).as_posix()
        return "" if name == "." else name

    def url_of(self, path: Path) -> str:
        """Where the file ``path`` below ``local`` lies in the store."""
        name = self.name_of(path)
        return f"{self.url}/{name}" if name else self.url

    def upload(self, paths: Sequence[Path]) -> None:
        """Put files of ``local`` into the store; returns once all of them are safe there."""

        def put(path: Path) -> None:
            key, url = self._key(self.name_of(path)), self.url_of(path)
            try:
                self._tried("write", url, lambda fs: fs.put_file(str(path), key))
            except FileNotFoundError as error:
                raise _stopped("write", url, error, 1) from error

        for _ in self._each(put, paths):
            pass

    def create(self, path: Path) -> bool:
        """``upload``, unless there is one of its name; returns whether there was none.

        Of several that create it at once one does, where the store can tell (S3, Google Cloud).
        """
        key, content = self._key(self.name_of(path)), path.read_bytes()

        def put(fs: Any) -> bool:
            if fs.exists(key):
                return False
            try:
                fs.pipe_file(key, content, mode="create")
            except OSError as error:
                if error.errno == errno.ENOSYS:  # a store that cannot tell
                    fs.pipe_file(key, content)
                elif not fs.exists(key):
                    raise
                else:
                    return fs.cat_file(key) == content  # by us, if an answer was lost
            return True

        try:
            return self._tried("write", self.url_of(path), put)
        except FileNotFoundError as error:
            raise _stopped("write", self.url_of(path), error, 1) from error

    def download(self, paths: Sequence[Path]) -> list[Path]:
        """Get files of ``local`` from the store; returns those that there are."""

        def get(path: Path) -> Path | None:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = self.read(self.name_of(path))
            if content is None:
                return None
            # Others of this machine may read it at this moment.
            part = path.with_name(f".{secrets.token_hex(8)}.part")
            part.write_bytes(content)
            os.replace(part, path)
            return path

        return [path for path in self._each(get, paths) if path is not None]

    def read(self, name: str) -> bytes | None:
        """The object ``name``; None where there is none."""
        key = self._key(name)
        try:
            content: bytes = self._tried("read", f"{self.url}/{name}", lambda fs: fs.cat_file(key))
        except FileNotFoundError:
            return None
        return content

    def exists(self, name: str) -> bool:
        """Whether there is an object ``name``."""
        key = self._key(name)
        return self._tried("read", f"{self.url}/{name}", lambda fs: bool(fs.exists(key)))

    def read_ahead(self, names: Iterable[str]) -> Iterator[bytes | None]:
        """What ``read`` gives of each; some are read ahead, and no more than these."""
        waiting = deque[Future[bytes | None]]()
        with ThreadPoolExecutor(_THREADS) as pool:
            try:
                for name in names:
                    waiting.append(pool.submit(self.read, name))
                    if len(waiting) >= 4 * _THREADS:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    def entries(self, folder: str = "") -> dict[str, bool]:
        """What lies right in ``folder``, by name without it; whether it is a folder."""
        key = self._key(folder)

        def listed(fs: Any) -> dict[str, bool]:
            fs.invalidate_cache()
            try:
                found = fs.ls(key, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return {}
            own = {one["name"].strip("/"): one["type"] == "directory" for one in found}
            # A store lists an object of the folder's own name, and an empty one ends on "/".
            own.pop(key.strip("/"), None)
            return {posixpath.basename(name): isfolder for name, isfolder in own.items()}

        return self._tried("list", f"{self.url}/{folder}".rstrip("/"), listed)

    def names(self, folder: str) -> Iterator[list[str]]:
        """All objects below ``folder``, those of one folder after the other."""
        with ThreadPoolExecutor(_THREADS) as pool:
            pending = {pool.submit(self.entries, folder): folder}
            while pending:
                ended, _ = wait(pending, return_when="FIRST_COMPLETED")
                for future in ended:
                    place = pending.pop(future)
                    found = {f"{place}/{name}": kind for name, kind in future.result().items()}
                    pending |= {
                        pool.submit(self.entries, name): name
                        for name, kind in found.items()
                        if kind
                    }
                    yield [name for name, isfolder in found.items() if not isfolder]

    def index(self, folders: Iterable[str]) -> ObjectIndex:
        """Which objects there are below ``folders`` now."""
        return ObjectIndex(part for folder in folders for part in self.names(folder))

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects, those that there are."""

        def drop(name: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                key = self._key(name)
                self._tried("remove", f"{self.url}/{name}", lambda fs: fs.rm_file(key))

        for _ in self._each(drop, names):
            pass

    def check(self) -> None:
        """Raise a NoPlaceError unless the store answers, and has the bucket."""
        if self.entries():
            return
        fs, key = self._open()
        bucket = key.strip("/").partition("/")[0]
        if not bucket:
            raise NoPlaceError(f"{self.url} names no bucket: correct --output")
        if self.url.partition("://")[0] in BUCKETS and not fs.exists(bucket):
            raise NoPlaceError(self._no_bucket())

    def check_name(self, name: str) -> None:
        """Raise an OSError if no object can have this name."""
        try:
            length = len(self._key(name).partition("/")[2].encode())
        except UnicodeEncodeError as error:
            raise OSError(errno.EILSEQ, os.strerror(errno.EILSEQ)) from error
        if length > _LONGEST_KEY:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))

    def _no_bucket(self) -> str:
        scheme, _, rest = self.url.partition("://")
        return (
            f"there is no bucket {scheme}://{rest.partition('/')[0]}: make it, or correct --output"
        )

    def _each(self, work: Callable[[Any], T], items: Iterable[Any]) -> Iterator[T]:
        """What ``work`` gives of ``items``, many at once; the first that fails ends all."""
        items = list(items)
        if len(items) < 2:
            yield from map(work, items)
            return
        with ThreadPoolExecutor(min(_THREADS, len(items))) as pool:
            try:
                yield from pool.map(work, items)
            finally:
                pool.shutdown(cancel_futures=True)

    def _key(self, name: str) -> str:
        """What fsspec calls the object ``name``."""
        root = self._open()[1].rstrip("/")
        return f"{root}/{name}" if name else root

    def _open(self) -> tuple[Any, str]:
        if self._opened is None:
            self._opened = open_store(self.url)
        return self._opened

    def _tried(self, doing: str, url: str, work: Callable[[Any], T]) -> T:
        """What ``work`` gives of the file system, tried again where another try may help.

        A store that has never answered is asked once: there is nothing yet to go on with. So is
        one that was given up before, for what a job that stops would still have there.
        """
        fs, _ = self._open()
        pauses = _PAUSES if self._answered and not self._given_up else ()
        for tries, pause in enumerate((*pauses, None), start=1):
            try:
                found = work(fs)
                self._answered, self._given_up = True, False
                return found
            except (FileNotFoundError, FileExistsError):
                self._answered = True
                raise
            except Exception as error:
                if not (isinstance(error, OSError) or _is_of_library(error)):
                    raise
                if pause is None or isinstance(error, _FINAL) or _is_final(error):
                    self._given_up = pause is None
                    stopped = _stopped(doing, url, error, tries)
                    raise (stopped if self._answered else _not_begun(stopped)) from error
                tell_of_waiting(url, pause)
                time.sleep(pause)
        raise AssertionError("unreachable")


def _stopped(doing: str, url: str, error: Exception, tries: int) -> OutputError:
    """What there is to say once another try does not help."""
    remedy = "see whether the store can be reached"
    if "redential" in type(error).__name__:
        remedy = (
            "log in, as by the variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or by gcloud "
            "auth application-default login"
        )
    elif isinstance(error, PermissionError):
        remedy = "have it allowed, or log in as somebody who may"
    elif isinstance(error, FileNotFoundError):
        remedy = "its bucket is gone: make it again, or choose another --output"
    often = f", {tries} times over" if tries > 1 else ""
    reason = str(error) or type(error).__name__
    return OutputError(f"cannot {doing} {url} ({reason}{often}): {remedy}{_SAFE}")


def _not_begun(error: OutputError) -> NoPlaceError:
    return NoPlaceError(str(error).removesuffix(_SAFE))


class ObjectIndex:
    """Which names there are, eight bytes a name.

    Args:
        parts: of the names.
    """

    def __init__(self, parts: Iterable[Sequence[str]]) -> None:
        found = array("Q")
        for part in parts:
            found.extend(map(name_hash, part))
        self._hashes = np.sort(np.frombuffer(found, np.uint64)) if found else np.zeros(0, np.uint64)

    def __contains__(self, name: str) -> bool:
        wanted = np.uint64(name_hash(name))
        rank = int(np.searchsorted(self._hashes, wanted))
        return rank < len(self._hashes) and bool(self._hashes[rank] == wanted)


def _is_of_library(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in _LIBRARIES


def _is_final(error: Exception) -> bool:
    return (
        getattr(error, "errno", None) in _NEVER
        or "Credentials" in type(error).__name__
        or type(error).__name__ == "ParamValidationError"
    )
