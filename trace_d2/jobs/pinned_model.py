"""Which commit of a hub's model the results of a folder are of: it stays the same to the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trace_d2.io.atomic import write_json
from trace_d2.jobs.command_line import detector_errors
from trace_d2.jobs.job import UsageError
from trace_d2.jobs.store import COMMIT, JobStore

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode


def build_pinned(build: Callable[[CfgNode], Any], cfg: CfgNode, store: JobStore) -> Any:
    """What ``build`` makes of ``cfg``, its backbone of the commit that the settings note.

    Where they note none, the commit is noted.

    Raises:
        UsageError: it cannot be built, or ``BACKBONE.REVISION`` leads to another commit by now.
    """
    begun = store.settings_path.exists()
    noted = store.read_settings().get(COMMIT) if begun else None
    if noted and not cfg.MODEL.TRACE.BACKBONE.REVISION:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.TRACE.BACKBONE.REVISION = noted
    with detector_errors(cfg):
        detector = build(cfg)
    used = getattr(getattr(detector, "backbone", None), "commit", None)
    if used and noted and used != noted:
        raise UsageError(
            f"{store.root} was begun with commit {noted} of the backbone, and "
            f"MODEL.TRACE.BACKBONE.REVISION {cfg.MODEL.TRACE.BACKBONE.REVISION} is {used} by now: "
            f"set it to {noted}, or choose another --output"
        )
    if used and begun and not noted:
        write_json(store.settings_path, {**store.read_settings(), COMMIT: used}, indent=1)
    return detector
