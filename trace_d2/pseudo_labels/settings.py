"""What a folder of labels was made with, so that labels of different settings never mix."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from trace_d2.formats.categories import Category, category_entries

BACKBONE, NO_EDGES = "backbone", "none"
"""Values of the setting ``edges`` besides a folder."""

# How the work is done, which leaves labels as they are (up to rounding).
_RESOURCE_KEYS = frozenset(
    {
        "DEVICE",
        "BACKBONE.CPU_OFFLOAD",
        "ATTENTION.SCRATCH_MB",
        "EMERGENCE.BATCH",
        "EMERGENCE.MEMORY_MB",
    }
)
# What the backbone's edges depend on, which given edges do not.
_DETECTOR_NODES = ("SEED", "BACKBONE", "ATTENTION", "EMERGENCE", "ABDIV", "DISTILL")


@dataclass(frozen=True)
class JobSettings:
    """All that decides what the labels are.

    Attributes:
        images: folder of the photographs.
        semantic: folder of the semantic masks.
        edges: folder of edge files, ``BACKBONE`` or ``NO_EDGES``.
        categories_name: file or built-in name the categories are from, for messages.
        categories: the categories.
        cfg: the config, with the ``MODEL.TRACE`` node.
    """

    images: Path
    semantic: Path
    edges: Path | str
    categories_name: str
    categories: tuple[Category, ...]
    cfg: CfgNode

    @property
    def edges_folder(self) -> Path | None:
        """The folder of given edges, if they are given."""
        return self.edges if isinstance(self.edges, Path) else None

    def to_json(self) -> dict[str, Any]:
        """The settings as ``settings.json`` holds them: one flat dict."""
        content: dict[str, Any] = {
            "images": str(self.images.resolve()),
            "semantic": str(self.semantic.resolve()),
            "edges": self.edges if isinstance(self.edges, str) else str(self.edges.resolve()),
            "categories": category_entries(self.categories),
        }
        for key, value in flatten(self.cfg.MODEL.TRACE).items():
            detector_key = key.split(".")[0] in _DETECTOR_NODES
            if key not in _RESOURCE_KEYS and (self.edges == BACKBONE or not detector_key):
                content[f"MODEL.TRACE.{key}"] = value
        return content


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a config node by dotted key; tuples become lists, as JSON has them."""
    leaves: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            leaves.update(flatten(value, f"{prefix}{key}."))
        else:
            leaves[prefix + key] = list(value) if isinstance(value, tuple) else value
    return leaves


def fingerprint(settings: Mapping[str, Any]) -> str:
    """A short text that is equal for equal settings."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A line for every key that differs, with both values."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, now = (_show(side[key]) if key in side else "absent" for side in (old, new))
        if key not in old or key not in new or old[key] != new[key]:
            lines.append(f"{key}: {before} there, {now} now")
    return lines


def _show(value: Any) -> str:
    """``value`` short enough for a message."""
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 8:
        digest = hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]
        return f"a list of {len(value)} (sha256 {digest})"
    return str(value)
