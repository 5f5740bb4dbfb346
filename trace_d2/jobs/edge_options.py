"""Where a command line says that edges come from: options, and keys of ``MODEL.TRACE.EDGES``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from functools import reduce
from operator import getitem
from typing import TYPE_CHECKING

from trace_d2.complaints import Complaints
from trace_d2.io.json_files import shown
from trace_d2.jobs.command_line import FILES, NONE, STUDENT, asked_keys, given_folder
from trace_d2.terminal import say

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

SOURCE = "MODEL.TRACE.EDGES.SOURCE"
_DIR = "MODEL.TRACE.EDGES.DIR"
_SHORT = {
    "sam": "MODEL.TRACE.SAM.WEIGHTS",
    "weights": "MODEL.TRACE.STUDENT.WEIGHTS",
    "method": "MODEL.TRACE.DISCOVERY.METHOD",
}
"""Options that stand for a key."""
_PLACES = (_DIR, _SHORT["sam"], _SHORT["weights"])
"""Keys whose values are paths, or may be."""
_OF_SOURCES = {
    _DIR: FILES,
    "MODEL.TRACE.STUDENT.WEIGHTS": STUDENT,
    "MODEL.TRACE.EDGES.HED_WEIGHTS": "hed",
    "MODEL.TRACE.EDGES.CANNY": "canny",
}
"""Keys that mean something to one source alone."""


def named_by_file(args: argparse.Namespace, key: str) -> bool:
    """Whether the config file itself, or its ``_BASE_``, names ``key``."""
    from trace_d2.config import read_config

    node: object = Complaints().of(read_config, args.config_file) if args.config_file else None
    for name in key.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node is not None


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
    asked = asked_keys(args)
    for name, key in _SHORT.items():
        if value := getattr(args, name, None):
            _set(wrong, cfg, asked, f"--{name} is {shown(value)}", key, value)
    node, option = cfg.MODEL.TRACE.EDGES, _DIR
    if getattr(args, "no_edges", False):
        _set(wrong, cfg, asked, "--no-edges is given", SOURCE, NONE)
    elif given := getattr(args, "edges", None):
        option = "--edges"
        _set(wrong, cfg, asked, f"--edges {given} are given", SOURCE, FILES)
        _set(wrong, cfg, asked, f"--edges are {given}", _DIR, given)
    cfg.freeze()
    for key, source in _OF_SOURCES.items():
        if not wrong and asked.get(key) and source != node.SOURCE:
            say(f"note: {key} means nothing, as {SOURCE} is {shown(node.SOURCE)}", error=True)
    if node.SOURCE == FILES:
        wrong.of(given_folder, node.DIR, option)
    elif node.SOURCE != NONE:
        wrong.of(check_edges, cfg)
        return wrong.of(with_tile_scale, cfg) or cfg
    return cfg


def _set(
    wrong: Complaints, cfg: CfgNode, asked: Mapping[str, str], what: str, key: str, value: str
) -> None:
    """Set ``key`` as an option says, ``what`` in words; complain if the command line differs."""
    path, _, name = key.rpartition(".")
    node = reduce(getitem, path.split("."), cfg)
    if key in asked and not _is_same(key, node[name], value):
        wrong.say(f"{what}, but {key} is {shown(node[name])}: leave out one")
    node[name] = value


def _is_same(key: str, one: str, other: str) -> bool:
    """Whether both values of ``key`` say the same; paths may be written in several ways."""
    return one == other or (
        key in _PLACES
        and "" not in (one, other)
        and os.path.realpath(one) == os.path.realpath(other)
    )
