"""An S3 server of this machine, and what a test puts into a bucket of it and finds there."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """The address of a server that holds its objects in memory; the environment leads to it.

    What a test starts in another process finds it as well.
    """
    moto = pytest.importorskip("moto.server", reason="needs the package moto[server]")
    pytest.importorskip("s3fs", reason="needs the package s3fs")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield f"http://{host}:{port}"
    server.stop()


class Bucket:
    """A bucket, or any other place of fsspec, with whatever a test puts into it.

    Args:
        url: as ``s3://bucket``.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url
        self.fs, self.root = url_to_fs(url, use_listings_cache=False)

    def put(self, name: str, content: bytes) -> str:
        """Write an object; returns its address."""
        self.fs.pipe_file(f"{self.root}/{name}", content)
        return f"{self.url}/{name}"

    def put_folder(self, folder: Path, name: str) -> str:
        """Write all files below a folder; returns the address of what they are below."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"{self.url}/{name}"

    def get(self, name: str) -> bytes:
        """The content of an object."""
        return self.fs.cat_file(f"{self.root}/{name}")

    def remove(self, name: str) -> None:
        """Remove an object."""
        self.fs.rm_file(f"{self.root}/{name}")

    def contents(self, name: str = "") -> dict[str, bytes]:
        """All objects below ``name``, by their names below it."""
        start = f"{self.root}/{name}".rstrip("/")
        found: dict[str, Any] = self.fs.find(start)
        return {path[len(start) + 1 :]: self.fs.cat_file(path) for path in sorted(found)}
