"""Switches that hold for the whole process, of which threads make use at the same time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any


class ProcessWide:
    """A context that the first of several threads enters and the last one leaves.

    If each entered it, one that leaves would put back what it had found, while others need it, and
    the last one what the first had changed.

    Args:
        switch: gives the context.
    """

    def __init__(self, switch: Callable[[], AbstractContextManager[Any]]) -> None:
        self._switch = switch
        self._lock = threading.Lock()
        self._holders = 0
        self._stack = contextlib.ExitStack()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside of the context, with whoever else holds it."""
        with self._lock:
            if self._holders == 0:
                self._stack.enter_context(self._switch())
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if self._holders == 0:
                    self._stack.close()
