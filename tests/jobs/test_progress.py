"""Bars become whole lines where they would be garbled."""

from __future__ import annotations

import io
import re
import sys

import pytest

from trace_d2.jobs.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, enabled: bool = True) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(2000, "shard 1/4", enabled) as bar:
        for done in range(3):
            bar.set_postfix(failed=done, skipped=0, refresh=False)
            bar.update(1000 * (done < 2))
    return stream.getvalue()


def test_a_log_gets_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, io.StringIO())
    assert "\r" not in text
    first, *_, last = text.splitlines()
    assert first.startswith("shard 1/4: 0 of 2000 images, ")
    wanted = r"shard 1/4: 2000 of 2000 images, .*images/s, 00:00 left, failed=2, skipped=0"
    assert re.fullmatch(wanted, last)
    assert len(text.splitlines()) == 2  # one now and then, not one an image


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_WORLD_SIZE", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert "\rshard 1/4:" in shown(monkeypatch, Terminal())


def test_tasks_that_share_a_terminal_get_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert "\r" not in shown(monkeypatch, Terminal())


def test_nothing_is_shown_unless_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, io.StringIO(), enabled=False) == ""
