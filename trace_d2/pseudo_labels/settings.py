"""What a folder of results was made with, so that results of different settings never mix."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

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
        "BGP.THREADS",
    }
)
# What the backbone's edges depend on, which given edges do not.
_DETECTOR_NODES = ("SEED", "BACKBONE", "ATTENTION", "EMERGENCE", "ABDIV", "DISTILL")


@dataclass(frozen=True)
class Settings(ABC):
    """All that decides what the results of a job are.

    Attributes:
        images: folder of the photographs.
        edges: folder of edge files, ``BACKBONE`` or ``NO_EDGES``.
        cfg: the config, with the ``MODEL.TRACE`` node.
    """

    # Nodes of MODEL.TRACE that decide results, besides those of the detector. Keys of training and
    # inference come and go without a change of what exists.
    nodes: ClassVar[tuple[str, ...]]

    images: Path
    edges: Path | str
    cfg: CfgNode

    @property
    def edges_folder(self) -> Path | None:
        """The folder of given edges, if they are given."""
        return self.edges if isinstance(self.edges, Path) else None

    @abstractmethod
    def own_json(self) -> dict[str, Any]:
        """What this kind of job has besides images, edges and config."""

    def to_json(self) -> dict[str, Any]:
        """The settings as ``settings.json`` holds them: one flat dict."""
        content: dict[str, Any] = {
            "images": str(self.images.resolve()),
            "edges": self.edges if isinstance(self.edges, str) else str(self.edges.resolve()),
            **self.own_json(),
        }
        nodes = self.nodes + (_DETECTOR_NODES if self.edges == BACKBONE else ())
        for key, value in flatten(self.cfg.MODEL.TRACE).items():
            if key.split(".")[0] in nodes and key not in _RESOURCE_KEYS:
                content[f"MODEL.TRACE.{key}"] = value
        return content


@dataclass(frozen=True)
class JobSettings(Settings):
    """All that decides what labels are.

    Attributes:
        semantic: folder of the semantic masks.
        categories_name: file or built-in name the categories are from, for messages.
        categories: the categories.
    """

    nodes = ("LABELS",)

    semantic: Path
    categories_name: str
    categories: tuple[Category, ...]

    def own_json(self) -> dict[str, Any]:
        """Semantic masks and categories."""
        return {
            "semantic": str(self.semantic.resolve()),
            "categories": category_entries(self.categories),
        }


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
