"""Where a command line says that edges come from: options, and keys of ``MODEL.TRACE.EDGES``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from trace_d2.complaints import Complaints
from trace_d2.io.json_files import shown
from trace_d2.jobs.command_line import FILES, NONE, given_folder
from trace_d2.terminal import say

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

SOURCE = "MODEL.TRACE.EDGES.SOURCE"
_CANNY = "MODEL.TRACE.EDGES.CANNY"


def asked_keys(args: argparse.Namespace) -> dict[str, str]:
    """Config keys that the command line itself names, with their values as they are written."""
    return dict(zip(args.opts[::2], args.opts[1::2], strict=False))


def edge_cfg(wrong: Complaints, args: argparse.Namespace, *opts: str) -> CfgNode:
    """The config of a command line, ``MODEL.TRACE.EDGES`` as the options say where they do.

    What is known to be wrong with it, or with the teacher or student that it names, is complained
    of; what is left is a config all the same, so that other things can be looked at, too.

    Args:
        wrong: is told.
        args: of a ``job_parser``, with ``add_edge_options`` and ``add_sam_option`` or not.
        opts: config keys and values that win over those of the command line.
    """
    from trace_d2.config import usable_trace_cfg
    from trace_d2.edges.preflight import check_edges
    from trace_d2.edges.sources import with_tile_scale

    cfg = usable_trace_cfg(wrong, args.config_file, [*args.opts, *opts])
    cfg.defrost()
    sam = getattr(args, "sam", None)
    if sam is not None:
        if not sam.strip():
            wrong.say("--sam is empty: name a hub id or a folder, or leave it out")
        cfg.MODEL.TRACE.SAM.WEIGHTS = sam
    node, option, asked = cfg.MODEL.TRACE.EDGES, "MODEL.TRACE.EDGES.DIR", asked_keys(args)
    if getattr(args, "no_edges", False):
        node.SOURCE = NONE
    elif given := getattr(args, "edges", None):
        if SOURCE in asked and node.SOURCE != FILES:
            wrong.say(f"--edges {given} are given, but {SOURCE} is {node.SOURCE}: leave out one")
        node.SOURCE, node.DIR, option = FILES, given, "--edges"
    cfg.freeze()
    if _CANNY in asked and node.SOURCE != "canny":
        say(f"note: {_CANNY} means nothing, as {SOURCE} is {shown(node.SOURCE)}", error=True)
    if node.SOURCE == FILES:
        wrong.of(given_folder, node.DIR, option)
    elif node.SOURCE != NONE:
        wrong.of(check_edges, cfg)
        return wrong.of(with_tile_scale, cfg) or cfg
    return cfg
