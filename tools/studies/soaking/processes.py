"""Commands in processes that are forked off a warm one, and killed at random moments."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import mmap
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from soaking.jobs import Command

PHASES = ("start", "calibration", "images", "joining", "report", "end")
_LOADED = ("jinja2", "make_pseudo_panoptic", "refine_masks", "trace_d2.config")
_KINDS = ("panoptic_labels", "refined_masks")
_TIMEOUT = 300.0  # seconds

_phase = mmap.mmap(-1, 1)  # shared with the processes that are forked off


def warm_up() -> None:
    """Load what commands need, and have processes forked off from now on tell their phase."""
    for name in (*_LOADED, *(f"trace_d2.jobs.kinds.{kind}" for kind in _KINDS)):
        importlib.import_module(name)
    from trace_d2.jobs import engine
    from trace_d2.jobs.kinds.cutting_job import CuttingJob
    from trace_d2.jobs.store import JobStore

    _mark(CuttingJob, "prepare", "calibration", "images")
    _mark(JobStore, "join_journals", "joining")
    _mark(engine, "write_report", "report", "end")


def phase() -> str:
    """Where the process is that was started last."""
    return PHASES[_phase[0]]


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        status: its exit status; None: it was killed.
        said: all that it printed.
        phase: where it was.
        seconds: how long it took to each phase.
    """

    status: int | None
    said: str
    phase: str
    seconds: dict[str, float]


class Process:
    """``command`` on ``output`` in a process of its own, its prints going to ``log``.

    Args:
        prepare: called in it first.
    """

    def __init__(
        self, command: Command, output: Path, log: Path, prepare: Callable[[], Any] | None = None
    ) -> None:
        self.log = log
        self.seconds: dict[str, float] = {}
        self._start = time.monotonic()
        _phase[0] = 0
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os._exit(_be(command, output, log, prepare))

    def reach(self, moment: str) -> Ended | None:
        """Wait until the phase ``moment``; returns how it ended if it does before that."""
        while (ended := self._poll()) is None and PHASES.index(phase()) < PHASES.index(moment):
            time.sleep(2e-4)
        return ended

    def kill_at(self, moment: str, delay: float, everything: bool) -> Ended:
        """Kill it ``delay`` seconds after phase ``moment`` began, unless it has ended by then.

        Args:
            everything: its workers too, as a power cut does.
        """
        ended = self.reach(moment)
        deadline = time.monotonic() + delay
        while ended is None and time.monotonic() < deadline:
            time.sleep(2e-4)
            ended = self._poll()
        if ended is None:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if everything else os.kill)(self.pid, signal.SIGKILL)
        return ended or self.wait()

    def wait(self) -> Ended:
        """Wait for its end."""
        while (ended := self._poll()) is None:
            time.sleep(2e-4)
            if time.monotonic() - self._start > _TIMEOUT:
                os.killpg(self.pid, signal.SIGKILL)
                raise TimeoutError(f"a command did not end: see {self.log}")
        return ended

    def _poll(self) -> Ended | None:
        self.seconds.setdefault(phase(), time.monotonic() - self._start)
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        said = self.log.read_text(errors="replace")
        killed = os.WIFSIGNALED(status)
        code = None if killed else os.waitstatus_to_exitcode(status)
        self.seconds["end"] = time.monotonic() - self._start
        return Ended(code, said, phase(), self.seconds)


def _be(command: Command, output: Path, log: Path, prepare: Callable[[], Any] | None) -> int:
    """Be the command; returns its exit status."""
    os.setpgid(0, 0)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        if prepare:
            prepare()
        status = command(output)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 70
    except BaseException:
        traceback.print_exc()
        status = 70
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _mark(owner: Any, name: str, before: str, after: str = "") -> None:
    plain = getattr(owner, name)

    def marked(*inputs: Any, **more: Any) -> Any:
        _phase[0] = PHASES.index(before)
        result = plain(*inputs, **more)
        if after:
            _phase[0] = PHASES.index(after)
        return result

    setattr(owner, name, marked)


def random_moment(rng: np.random.Generator, seconds: dict[str, float]) -> tuple[str, float]:
    """A phase of those that an undisturbed run had, and a moment within it.

    Args:
        seconds: when each phase began, of an undisturbed run.
    """
    begun = [name for name in PHASES if name in seconds]
    lengths = {
        name: seconds[following] - seconds[name] for name, following in itertools.pairwise(begun)
    }
    weights = np.array([1 if name == "start" else 3 for name in lengths], float)
    chosen = str(rng.choice(list(lengths), p=weights / weights.sum()))
    return chosen, float(rng.uniform(0, lengths[chosen]))
