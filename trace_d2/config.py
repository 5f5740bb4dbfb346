"""The ``TRACE`` keys; ``defaults.yaml`` holds each with its meaning, unit and default.

Most live under ``MODEL.TRACE``, so that one file configures a Detectron2 model and the label maker
alike. Nothing here needs Detectron2: its ``CfgNode`` is a subclass of fvcore's.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

DEFAULTS = Path(__file__).with_name("defaults.yaml")

# Taken and passed over with a warning: calibration of the edges took the place of four, and the
# padding changed no result.
_FORMER_KEYS = (
    *(
        f"MODEL.TRACE.{node}.{key}"
        for node in ("LABELS", "BGP")
        for key in ("CONTRAST", "EVIDENCE")
    ),
    "MODEL.TRACE.BGP.IRNET_PADDING",
)


def add_trace_config(cfg: CfgNode) -> None:
    """Add the ``TRACE`` nodes to ``cfg`` in place; call it before ``cfg.merge_from_file``.

    Args:
        cfg: a Detectron2 or fvcore config. ``MODEL``, ``INPUT`` and ``DATASETS`` are made if they
            are missing.
    """
    # Detectron2 merges files only into nodes of its own class.
    kind = type(cfg)
    for name, node in _defaults().items():
        if name not in cfg:
            cfg[name] = kind()
        cfg[name].TRACE = _of_kind(node["TRACE"], kind)
    for key in _FORMER_KEYS:
        cfg.register_deprecated_key(key)


@functools.cache
def _defaults() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(DEFAULTS.read_text(encoding="utf-8"))
    return content


def _of_kind(node: Mapping[str, Any], kind: type[CfgNode]) -> CfgNode:
    """A copy of ``node`` with every mapping in it of the class ``kind``."""
    made = kind(copy.deepcopy(dict(node)))
    for key, value in node.items():
        if isinstance(value, Mapping):
            made[key] = _of_kind(value, kind)
    return made


def get_trace_cfg() -> CfgNode:
    """A config that holds the ``TRACE`` keys at their defaults and nothing else."""
    cfg = CfgNode()
    add_trace_config(cfg)
    return cfg


def load_trace_cfg(config_file: str | Path, overrides: list[str] | None = None) -> CfgNode:
    """Defaults, then ``config_file`` (with its ``_BASE_``), then ``KEY VALUE`` pairs; frozen.

    Of a file for training (it names a META_ARCHITECTURE) only the TRACE keys are taken: the
    others are Detectron2's, which need not be installed.

    Raises:
        FileNotFoundError: there is no such file.
        KeyError: the file or a pair names a key that does not exist.
    """
    if not Path(config_file).is_file():
        raise FileNotFoundError(f"no config file at {config_file}")
    cfg = get_trace_cfg()
    loaded = cfg.load_yaml_with_base(str(config_file))
    if "META_ARCHITECTURE" in (loaded.get("MODEL") or {}):
        loaded = {
            node: {"TRACE": loaded[node]["TRACE"]}
            for node in _defaults()
            if "TRACE" in (loaded.get(node) or {})
        }
    cfg.merge_from_other_cfg(CfgNode(loaded))
    cfg.merge_from_list(list(overrides or []))
    cfg.freeze()
    return cfg
