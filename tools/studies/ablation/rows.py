"""What the study compares, read from rows.yaml, and what was written by hand, from remarks.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import yaml

_HERE = Path(__file__).parent

STRIDE = 100
FINEST_STRIDE = 25
"""All other strides are multiples of it, so that one trajectory serves them all."""
TIMESTEPS = tuple(range(0, 1000, STRIDE))
DIVERGENCE_NAMES = ("kl", "jsd", "l1", "l2", "entropy", "wasserstein")
BLOCKS = 6
"""Self-attention blocks of trace-tiny."""
DEFAULT_LABELS = "upper_band"
"""Of the students that do not compare pseudo edges, as in configs/edges/trace_tiny_distill.yaml."""
SHIPPED = "shipped"
"""The row of the student that is given, not trained here."""


@dataclass(frozen=True)
class Teacher:
    """Edges by emergence point and ABDiv."""

    metric: str = "kl"  # of the search for t*, as the stride
    stride: int = STRIDE
    timestep: int = -1  # a fixed one; -1 searches
    abdiv: str = "kl"  # the divergence between neighbours
    neighbourhood: int = 4
    threshold: str = "mean_std"  # what falls on 0.5 of the edges
    blocks: tuple[int, ...] = ()  # that the edges are read of, or all; the search reads all

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))


@dataclass(frozen=True)
class Student:
    """A distilled student.

    ``whole`` learns from whole images instead of crops, as decoders must that belong to one grid; a
    quarter of them an iteration, so that it sees as many tokens.
    """

    decoder: str = "relative"
    reconstruction: bool = True  # the term is on, as the config weighs it
    labels: str = DEFAULT_LABELS  # pseudo edges, a name in ``LABELS``
    whole: bool = False


class Entry(NamedTuple):
    """A line of a table."""

    name: str
    row: str
    paper: str = ""  # what it says


class Contrast(NamedTuple):
    """Two rows whose difference the text states."""

    name: str  # what changes
    before: str
    after: str
    paper: tuple[float, float] | str = ""  # its AP^mk of the two, or what it says without figures


@dataclass(frozen=True)
class Section:
    """A table of the report and what stands below it."""

    key: str  # of the section in remarks.md
    title: str
    entries: tuple[Entry, ...]
    contrasts: tuple[Contrast, ...]
    text: str
    remarks: tuple[str, ...]  # on causes, which no number can write by itself
    divergence: str = ""  # "iep_ms" or "abdiv_ms": a last column with the time of these alone


def _read_remarks() -> tuple[str, dict[str, list[str]]]:
    """The head of the report; by section the paragraphs and items below it, each on one line."""
    head, *parts = (_HERE / "remarks.md").read_text(encoding="utf-8").split("\n## ")
    paragraphs = {}
    for part in parts:
        key, _, body = part.partition("\n")
        blocks = body.replace("\n- ", "\n\n- ").split("\n\n")
        paragraphs[key] = [" ".join(block.split()) for block in blocks if block.strip()]
    return head.strip(), paragraphs


def _section(
    key: str, title: str, entries: list[list[str]], contrasts: list[list[str]], divergence: str = ""
) -> Section:
    written = _REMARKS.get(key, [])
    return Section(
        key,
        title,
        tuple(Entry(*entry) for entry in entries),
        tuple(Contrast(*contrast) for contrast in contrasts),
        " ".join(block for block in written if not block.startswith("- ")),
        tuple(block for block in written if block.startswith("- ")),
        divergence,
    )


_DATA = yaml.safe_load((_HERE / "rows.yaml").read_text(encoding="utf-8"))
HEAD, _REMARKS = _read_remarks()

TEACHERS = {row: Teacher(**fields) for row, fields in _DATA["teachers"].items()}
BASELINES = tuple(_DATA["baselines"])
LABELS = {name: Teacher(**fields) for name, fields in _DATA["labels"].items()}
"""The teachers whose pseudo edges students learn."""
STUDENTS = {row: Student(**fields) for row, fields in _DATA["students"].items()}
"""The most telling first: they are trained in this order."""
SECTIONS = tuple(_section(**fields) for fields in _DATA["sections"])
