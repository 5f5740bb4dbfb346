"""Who holds a lock: what its process writes beside it, for those who wait or look on.

The lock itself is the operating system's and ends with its process; a note of a process that was
killed stays, and counts for nothing once the lock is free.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trace_d2.io.json_files import JsonError, json_object, number, read_json, whole_number


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock.

    Attributes:
        host, pid: where it runs.
        since: when it took the lock, seconds since 1970.
    """

    host: str
    pid: int
    since: float

    @property
    def name(self) -> str:
        """``"host:pid"``."""
        return f"{self.host}:{self.pid}"

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, on this machine."""
        return self.host == socket.gethostname()

    @property
    def is_gone(self) -> bool:
        """Whether it is known to have ended; of other machines nothing is known."""
        if not self.is_here:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:  # somebody else's
            return False
        return False

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host}, since {since}"


@contextlib.contextmanager
def named_beside(lock: Path) -> Iterator[None]:
    """Leave our name beside ``lock``, which we hold, within the block."""
    path = lock.with_suffix(".holder")
    content = {"host": socket.gethostname(), "pid": os.getpid(), "since": round(time.time(), 3)}
    path.write_text(json.dumps(content), encoding="utf-8")  # whoever finds a half knows nothing
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a note that stays counts for nothing
            path.unlink()


def read_holder(lock: Path) -> Holder | None:
    """Who left its name beside ``lock``; None where nobody did, or nobody can tell."""
    try:
        content = json_object(read_json(lock.with_suffix(".holder")))
        pid = whole_number(content["pid"])
        return Holder(str(content["host"]), pid, number(content["since"])) if pid > 0 else None
    except (OSError, JsonError, KeyError, ValueError):
        return None
