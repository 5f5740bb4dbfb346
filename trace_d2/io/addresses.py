"""What addresses must be like, and how patient the clients of their stores are."""

from __future__ import annotations

import logging
import os
import re
from typing import Any

BUCKETS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl"})
_SCHEMES = BUCKETS | {"memory", "http", "https", "hf", "ftp", "sftp", "hdfs"}
_LIKE_ONE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/*)(.*)", re.DOTALL)
# A client asks twice, as s3fs asks its client five times, and we ask s3fs.
_RETRIES = {"mode": "standard", "total_max_attempts": 2}
_told = set[str]()  # of which stores that they are waited for
logger = logging.getLogger(__name__)


def what_is_wrong(path: str, written: bool = False) -> str:
    """What to say of an address that is no whole one, as ``s3:/bucket/x``; else empty.

    Args:
        path: an address, or a path of this machine, of which nothing is said.
        written: whether results are written there, whose names have no empty parts.
    """
    match = _LIKE_ONE.fullmatch(path)
    if match is None or match[1].lower() not in _SCHEMES:
        return ""
    scheme, slashes, rest = match.groups()
    form = f"an address is {scheme}://BUCKET/PATH"
    if len(slashes) < 2:
        return form if slashes or scheme in BUCKETS else ""
    if scheme in BUCKETS and (len(slashes) > 2 or not rest):
        return f"it names no bucket; {form}"
    if written and "//" in rest.rstrip("/"):
        return f"it has // within; {form}"
    return ""


def client_options(protocol: str) -> dict[str, Any]:
    """Options of fsspec's file system for ``protocol``, beside those that users have set."""
    if protocol not in ("s3", "s3a"):
        return {}
    import fsspec.config

    own = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    if "retries" not in own and "AWS_MAX_ATTEMPTS" not in os.environ:
        own = {**own, "retries": _RETRIES}
    # One at a time, else every file is asked for its size before it is read.
    return {"max_concurrency": 1, "config_kwargs": own}


def tell_of_waiting(address: str, seconds: float) -> None:
    """Warn that the store of ``address`` is given time; each process says it once of a store."""
    store = "/".join(address.split("/")[:3])
    if store not in _told:
        _told.add(store)
        logger.warning("%s does not answer: asked again in %g s, and so on", address, seconds)
