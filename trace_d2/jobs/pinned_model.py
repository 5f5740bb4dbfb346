"""Which commit of a hub's model the results of a folder are of: it stays the same to the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trace_d2.edges.sources import BASELINES
from trace_d2.jobs.command_line import STUDENT
from trace_d2.jobs.job import UsageError
from trace_d2.jobs.locks import LOCKS, hold_lock
from trace_d2.jobs.output import writing_to
from trace_d2.jobs.store import COMMIT, SAM_COMMIT, JobStore

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode


@dataclass(frozen=True)
class Pin:
    """A model whose commit is noted.

    Attributes:
        node: of ``MODEL.TRACE``, whose ``REVISION`` chooses the commit.
        setting: what it is noted as.
        kind: of model, for messages.
    """

    node: str
    setting: str
    kind: str

    def named(self, cfg: CfgNode) -> str:
        """What of ``cfg`` is built, for messages: the student where it is asked for."""
        trace = cfg.MODEL.TRACE
        if self.node == "SAM":
            return f"SAM ({trace.SAM.WEIGHTS})"
        if trace.EDGES.SOURCE == STUDENT:
            return f"the student {trace.STUDENT.WEIGHTS or f'of {trace.BACKBONE.NAME}'}"
        if trace.EDGES.SOURCE in BASELINES and self.node == "BACKBONE":
            return f"the edge source {trace.EDGES.SOURCE}"
        return f"the backbone {trace.BACKBONE.NAME}"


BACKBONE, SAM = Pin("BACKBONE", COMMIT, "the backbone"), Pin("SAM", SAM_COMMIT, "SAM")


def build_pinned(
    build: Callable[[CfgNode], Any], cfg: CfgNode, store: JobStore, pin: Pin = BACKBONE
) -> Any:
    """What ``build`` makes of ``cfg``, its model of the commit that the settings note.

    Where they note none, the commit is noted.

    Raises:
        UsageError: it cannot be built, or ``REVISION`` leads to another commit by now.
    """
    begun = store.has_settings()
    noted = store.read_settings().get(pin.setting) if begun else None
    if noted and not cfg.MODEL.TRACE[pin.node].REVISION:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.TRACE[pin.node].REVISION = noted
    try:
        built = build(cfg)
    except (ValueError, KeyError, OSError, ImportError) as error:
        raise UsageError(f"{pin.named(cfg)} cannot be loaded: {error}") from error
    used = getattr(getattr(built, "backbone", built), "commit", None)
    if used and noted and used != noted:
        raise UsageError(
            f"{store.address} was begun with commit {noted} of {pin.kind}, and "
            f"MODEL.TRACE.{pin.node}.REVISION {cfg.MODEL.TRACE[pin.node].REVISION} is {used} by "
            f"now: set it to {noted}, or choose another --output"
        )
    if used and begun and not noted and _note(store, pin, used) != used:
        return build_pinned(build, cfg, store, pin)  # the hub moved on between two processes
    return built


def _note(store: JobStore, pin: Pin, used: str) -> str:
    """The commit that ``store`` notes from now on: ``used``, unless another process was first."""
    lock = store.root / LOCKS / "commit.lock"
    with contextlib.ExitStack() as stack:
        if store.has_locks:
            stack.enter_context(writing_to(store.root))
            lock.parent.mkdir(exist_ok=True)
            stack.enter_context(hold_lock(lock, timeout=-1))
        settings = store.read_settings()
        if not settings.get(pin.setting):
            settings[pin.setting] = used
            store.write_settings(settings)
        return str(settings[pin.setting])
