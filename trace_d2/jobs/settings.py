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

from trace_d2.edges.student_files import student_folder
from trace_d2.io.categories import Category, category_entries
from trace_d2.propagation.calibration import EdgeCalibration

BACKBONE, STUDENT, NO_EDGES = "backbone", "student", "none"
"""Values of the setting ``edges`` besides a folder: the teacher of the backbone, its distilled
student, or no edges."""

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
# What detected edges depend on, which given edges do not. A student looks for no timestep and no
# threshold; its files tell its blocks and its decoder, and a hash of them goes with these keys.
_DETECTOR_KEYS = {
    BACKBONE: ("SEED", "BACKBONE", "ATTENTION", "EMERGENCE", "ABDIV"),
    STUDENT: ("SEED", "BACKBONE", "STUDENT.MERGE_LORA"),
}
_HASHED_ENDINGS = (".json", ".safetensors")
_CHUNK = 2**20  # bytes


@dataclass(frozen=True)
class Settings(ABC):
    """All that decides what the results of a job are.

    Attributes:
        images: folder of the photographs.
        edges: folder of edge files, ``BACKBONE``, ``STUDENT`` or ``NO_EDGES``.
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

    @property
    def detects(self) -> bool:
        """Whether edges are found in the images, by the teacher or by the student."""
        return self.edges in (BACKBONE, STUDENT)

    @property
    def calibration(self) -> str:
        """The file of a given calibration of the edges; empty where it is to be measured."""
        return str(self.cfg.MODEL.TRACE.EDGES.CALIBRATION)

    @abstractmethod
    def own_json(self) -> dict[str, Any]:
        """What this kind of job has besides images, edges and config."""

    def to_json(self) -> dict[str, Any]:
        """The settings as ``settings.json`` holds them: one flat dict.

        Raises:
            FileNotFoundError, ValueError: the edges are the student's, and there is none; or a
                calibration is given that cannot be read.
        """
        content: dict[str, Any] = {
            "images": str(self.images.resolve()),
            "edges": self.edges if isinstance(self.edges, str) else str(self.edges.resolve()),
            **self.own_json(),
        }
        deciding = self.nodes
        if isinstance(self.edges, str):
            deciding += _DETECTOR_KEYS.get(self.edges, ())
        if self.edges == STUDENT:
            content["student"] = student_print(self.cfg)
        if self.calibration and self.edges != NO_EDGES:
            content["calibration"] = EdgeCalibration.load(self.calibration).to_json()
        for key, value in flatten(self.cfg.MODEL.TRACE).items():
            decides = any(key == name or key.startswith(f"{name}.") for name in deciding)
            if decides and key not in _RESOURCE_KEYS:
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


def student_print(cfg: CfgNode) -> str:
    """A short text that is equal for equal files of the student that ``cfg`` names.

    Where another student is put into the same folder, it changes.

    Raises:
        FileNotFoundError, ValueError: there is no student, see ``student_folder``.
    """
    folder = Path(student_folder(cfg))
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in _HASHED_ENDINGS):
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()[:16]


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
    if isinstance(value, Mapping) and "trust" in value:
        digest = hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]
        return f"one of trust {value['trust']:.2f} (sha256 {digest})"
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 8:
        digest = hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]
        return f"a list of {len(value)} (sha256 {digest})"
    return str(value)
