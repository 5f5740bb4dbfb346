"""Inputs by address: folders and files of an object store, or of whatever else fsspec reads.

``input_folder`` and ``input_file`` give readers a path of this machine, or a ``RemoteFolder`` and
``RemoteFile``, which have what readers use of a path. A folder is listed once, in as few requests
as its store allows; all else (which files there are, whether one has changed) is answered from
that list, also in the workers that it is pickled to. Messages name the address.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import time
import unicodedata
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from .addresses import BUCKETS, client_options, tell_of_waiting
from .hints import nearest_path

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # a letter alone is a drive
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
# What tells that a file is another one, the best first; stores have one or the other.
_STAMPS = (
    *("ETag", "etag", "md5Hash", "md5", "checksum", "sha", "blob_id", "CRC", "generation"),
    *("LastModified", "last_modified", "updated", "mtime", "modified", "created"),
)
_WAITS = (5, 20, 60)  # seconds, between tries that fail for want of the store, after its own
_NEVER = float("inf")
_CREDENTIALS = (
    "give credentials that may read it as the store's own tools take them (AWS_PROFILE, gcloud "
    "auth); of a public bucket say so by FSSPEC_S3='{\"anon\": true}'"
)


class StoreError(RuntimeError):
    """The store cannot be reached any more, which is no fault of the file that was to be read."""


def is_address(path: object) -> bool:
    """Whether ``path`` is an address, as ``s3://bucket/folder``, and no path of this machine."""
    return isinstance(path, str) and bool(_ADDRESS.match(path))


def input_folder(path: str | InputFolder) -> InputFolder:
    """The folder at a path or an address. Nothing is asked of any store yet.

    Raises:
        ValueError: the address has a password in it, or is of no kind that fsspec knows.
        ImportError: what reads its store is not installed.
    """
    if isinstance(path, str) and is_address(path):
        return _of_this_machine(path) or RemoteFolder(path)
    return path if isinstance(path, RemoteFolder) else Path(path)


def input_file(path: str | InputFile) -> InputFile:
    """As ``input_folder``, of a file."""
    if isinstance(path, str) and is_address(path):
        return _of_this_machine(path) or RemoteFile(path)
    return path if isinstance(path, (Path, RemoteFile)) else Path(path)


def open_store(address: str, **options: Any) -> tuple[Any, str]:
    """The file system of fsspec that ``address`` is of, and the path there.

    Args:
        options: of the file system.

    Raises:
        ValueError: the address has a password in it, or is of no kind that fsspec knows.
        ImportError: what reads its store is not installed.
    """
    import fsspec  # takes a moment, and only addresses need it

    protocol = address.partition("://")[0]
    if re.match(r"[^/]*:[^/]*@", address.partition("://")[2]):
        raise ValueError(
            f"an address of {protocol}:// has a password in it, which would be written into the "
            f"results: leave it out, and {_CREDENTIALS}"
        )
    try:
        # Lists are not kept: they would be old by the next time, and are large.
        fs, path = fsspec.core.url_to_fs(
            address, use_listings_cache=False, **client_options(protocol), **options
        )
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        remedy = f"pip install 'trace_d2[{extra}]'" if extra else str(error)
        raise ImportError(f"{address} needs a package that is not installed: {remedy}") from error
    except ValueError as error:
        raise ValueError(f"{address} cannot be read ({error}): correct the address") from error
    return fs, path.rstrip("/")


@contextlib.contextmanager
def reading(address: str, what: str = "file") -> Iterator[None]:
    """Let what fails in the block name the address, what was looked for there, and the remedy.

    Raises:
        FileNotFoundError: nothing is there.
        PermissionError: it may not be read.
        ConnectionError: the store does not answer, or not as it should, or asks who we are.
    """
    try:
        yield
    except FileNotFoundError as error:
        said = "" if str(error) in address else f" ({error})"
        raise FileNotFoundError(f"no {what} at {address}{said}: correct the address") from error
    except PermissionError as error:
        raise PermissionError(f"{address} may not be read ({error}): {_CREDENTIALS}") from error
    except MemoryError:
        raise
    except Exception as error:  # of each store its own
        reason = f"{type(error).__name__}: {error}"
        remedy = "look whether its store can be reached from here"
        raise ConnectionError(
            f"{address} cannot be read ({reason}): "
            + (_CREDENTIALS if "redential" in reason or "oken" in reason else remedy)
        ) from error


class RemoteFolder:
    """A folder by address, and what it held when it was listed.

    Args:
        address: as ``s3://bucket/folder``.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/") if not address.endswith("://") else address
        open_store(self.address)
        self._names: array[int] | None = None  # hashes, sorted
        self._stamps = array("Q")

    def __str__(self) -> str:
        return self.address

    def __repr__(self) -> str:
        return f"RemoteFolder({self.address!r})"

    def __truediv__(self, name: str) -> RemoteFile:
        """The file of this path below the folder, which need not be there."""
        return RemoteFile(f"{self.address.rstrip('/')}/{name}", self, name)

    def __getstate__(self) -> dict[str, Any]:
        """With what it held, so that workers need not ask."""
        self._listed()
        return vars(self)

    def resolve(self) -> RemoteFolder:
        """An address is whole as it is."""
        return self

    def is_dir(self) -> bool:
        """Whether anything is there. Raises OSError if that cannot be told."""
        fs, path = open_store(self.address)
        try:
            with reading(self.address, "folder"):
                # "isdir" of some stores lists all of it.
                return bool(fs.info(path)["type"] == "directory")
        except FileNotFoundError:  # nor its bucket
            return False

    def lost_bucket(self) -> str:
        """`` (there is no bucket ...)`` where there is none; else empty. May raise OSError."""
        protocol, (fs, path) = self.address.partition("://")[0], open_store(self.address)
        bucket = path.partition("/")[0]
        with reading(self.address):
            there = protocol not in BUCKETS or fs.exists(bucket)
        return "" if there else f" (there is no bucket {protocol}://{bucket})"

    def answers(self) -> bool:
        """Whether its store tells us of it, now."""
        try:
            return self.is_dir()
        except OSError:
            return False

    def folders(self) -> dict[str, list[str]]:
        """The names of the files of every folder from this one down, as they are now.

        Folders are named by their paths below this one, with ``/`` at their end, "" for this one.

        Raises:
            OSError: it cannot be listed.
            ValueError: its store does not tell what would show that a file has changed.
        """
        fs, root = open_store(self.address)
        with reading(self.address, "folder"):
            found = fs.find(root, detail=True)
        held: dict[str, list[str]] = defaultdict(list)
        stamps = dict[int, int]()
        while found:
            path, info = found.popitem()
            name = path[len(root) + 1 :]
            # What ends so stands for a folder, as consoles make them.
            if not name or name.endswith("/") or info.get("type") != "file":
                continue
            folder, slash, last = name.rpartition("/")
            held[folder + slash].append(last)
            stamps[name_hash(name)] = _stamp(info, f"{self.address}/{name}")
        for folder in held:
            while folder:
                stamps[name_hash(folder)] = 0
                folder = folder[: folder[:-1].rfind("/") + 1]
        self._names = array("Q", sorted(stamps))
        self._stamps = array("Q", (stamps[key] for key in self._names))
        return {folder: sorted(held[folder]) for folder in sorted(held)}

    def stamp(self, name: str) -> int | None:
        """A number that changes when the file of this path does; None if it was not there.

        Of a folder, whose path ends with ``/``, it is 0.
        """
        names, key = self._listed(), name_hash(name)
        place = bisect_left(names, key)
        there = place < len(names) and names[place] == key
        return self._stamps[place] if there else None

    def spelled(self, name: str) -> str:
        """``name`` in the form of accents (Unicode NFC or NFD) that the folder has."""
        if name.isascii():
            return name
        forms = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
        there = (own for own in (name, *forms) if self.stamp(own) is not None)
        return next(there, name)

    def _listed(self) -> array[int]:
        if self._names is None:
            self.folders()
        assert self._names is not None
        return self._names


class RemoteFile:
    """A file by address, with what readers use of a path.

    Args:
        address: of the file.
        folder: what listed it, where it is of one. Its content is then kept once it is read, as
            long as this object lives, since readers look at the header first.
        name: its path below the folder.
    """

    def __init__(self, address: str, folder: RemoteFolder | None = None, name: str = "") -> None:
        if folder is None:
            open_store(address)
        self.address, self._folder, self._name = address, folder, name
        self._content: bytes | None = None

    def __str__(self) -> str:
        return self.address

    def __repr__(self) -> str:
        return f"RemoteFile({self.address!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_content": None}

    @property
    def name(self) -> str:
        """The last part of its address."""
        return PurePosixPath(self.address).name

    @property
    def stem(self) -> str:
        """Its name without ending."""
        return PurePosixPath(self.address).stem

    @property
    def suffix(self) -> str:
        """The ending of its name, with the dot."""
        return PurePosixPath(self.address).suffix

    @property
    def stamp(self) -> int | None:
        """As ``RemoteFolder.stamp``."""
        return self._folder.stamp(self._name) if self._folder else None

    def resolve(self) -> RemoteFile:
        """An address is whole as it is."""
        return self

    def is_file(self) -> bool:
        """Whether it is there, of a folder: when that was listed. Raises OSError."""
        if self._folder is not None:
            return self.stamp is not None
        fs, path = open_store(self.address)
        try:
            with reading(self.address):
                return bool(fs.isfile(path))
        except FileNotFoundError:
            return False

    def open(self, mode: str = "rb") -> BinaryIO:
        """Its content as a file, to be read as bytes."""
        return io.BytesIO(self.read_bytes())

    def read_text(self, encoding: str) -> str:
        """Its content as a text. Raises UnicodeDecodeError."""
        return self.read_bytes().decode(encoding)

    def read_bytes(self) -> bytes:
        """Its content.

        Raises:
            OSError: it is gone, or cannot or may not be read.
            StoreError: nor does its folder, which did before, answer any more.
        """
        if self._content is not None:
            return self._content
        if self._folder is None:
            return self._fetch()
        self._content = self._fetch_patiently(self._folder)
        return self._content

    @property
    def is_wanted(self) -> bool:
        """Whether it is of a folder, which has it, and not read yet."""
        return self._content is None and self.stamp is not None

    def try_to_fetch(self) -> None:
        """Read it, if that can be done now."""
        with contextlib.suppress(OSError):
            self._content = self._fetch()

    def _fetch(self) -> bytes:
        fs, path = open_store(self.address)
        with reading(self.address):
            content: bytes = fs.cat_file(path)
            return content

    def _fetch_patiently(self, folder: RemoteFolder) -> bytes:
        for wait in (*_WAITS, _NEVER):
            try:
                return self._fetch()
            except (ConnectionError, PermissionError) as error:
                if wait == _NEVER or isinstance(error, PermissionError):
                    lost = not folder.answers()  # else it is this file alone
                    if wait == _NEVER and lost:
                        raise StoreError(str(error)) from error
                    if not lost:
                        raise
            tell_of_waiting(self.address, wait)
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")


def fetch_together(files: Iterable[InputFile]) -> None:
    """Fetch those by address at the same time, so that they are there when they are read.

    What cannot be fetched is left to its reader, which says so.
    """
    wanted = [one for one in files if isinstance(one, RemoteFile) and one.is_wanted]
    if len(wanted) > 1:
        with ThreadPoolExecutor(len(wanted)) as pool:
            list(pool.map(RemoteFile.try_to_fetch, wanted))


InputFile = Path | RemoteFile
"""A file of this machine, or one by address."""

InputFolder = Path | RemoteFolder
"""So of folders."""


def absent(folder: InputFolder) -> str:
    """What there is to say beside that ``folder`` is not there, as `` (did you mean ...?)``."""
    return folder.lost_bucket() if isinstance(folder, RemoteFolder) else nearest_path(folder)


def _of_this_machine(address: str) -> Path | None:
    """The path that an address of ``file://`` is; None of others."""
    return Path(address.removeprefix("file://")) if address.startswith("file://") else None


def name_hash(text: str) -> int:
    """64 bits of it. Of ten million names, two have the same in one of 400,000 cases."""
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def _stamp(info: dict[str, Any], address: str) -> int:
    """A number of what a list says of the file at ``address``."""
    told = next((str(info[key]) for key in _STAMPS if info.get(key)), None)
    if told is None:
        raise ValueError(
            f"the list that has {address} tells neither checksums nor times, so that nobody would "
            "see it change: copy the files to this machine, or to an object store"
        )
    return name_hash(f"{info.get('size')} {told}")
