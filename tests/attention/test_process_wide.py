"""A switch of the process that several hold."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from trace_d2.attention.process_wide import ProcessWide


def test_the_first_enters_and_the_last_leaves() -> None:
    told: list[str] = []

    @contextlib.contextmanager
    def switch() -> Iterator[None]:
        told.append("on")
        yield
        told.append("off")

    shared = ProcessWide(switch)
    first, second = shared.held(), shared.held()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)  # as a thread does that comes and goes earlier
    assert told == ["on"]
    second.__exit__(None, None, None)
    assert told == ["on", "off"]
    with pytest.raises(ValueError, match="within"), shared.held():
        raise ValueError("within")
    assert told == ["on", "off", "on", "off"]


def test_a_switch_that_fails_is_held_by_nobody() -> None:
    failures = [OSError("no"), None]

    @contextlib.contextmanager
    def switch() -> Iterator[None]:
        if failure := failures.pop(0):
            raise failure
        yield

    shared = ProcessWide(switch)
    with pytest.raises(OSError, match="no"), shared.held():
        pass
    with shared.held():
        assert failures == []
