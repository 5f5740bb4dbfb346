"""Edges of photographs: detected, kept, and made to pseudo edges.

::

    OUTPUT/
      edges/<stem>.png           edge strength at the size of the image, 16 bit: fit for --edges
      pseudo_edges/<stem>.png    of the teacher: 0 none, 255 edge, 128 ignored, 8 bit

``annotations/<stem>.json`` has the size of an image.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from fvcore.common.config import CfgNode

from trace_d2.complaints import Complaints
from trace_d2.config import usable_trace_cfg
from trace_d2.edges.sources import BASELINES, EdgeOutput
from trace_d2.io.edge_maps import EDGE, IGNORED, label_shares, write_ternary
from trace_d2.io.hints import did_you_mean
from trace_d2.io.images import Inputs, read_image
from trace_d2.io.json_files import shown
from trace_d2.io.listing import spread
from trace_d2.io.remote import InputFolder, input_folder
from trace_d2.jobs.arguments import add_images_option, add_output_folder, job_parser
from trace_d2.jobs.command_line import NONE, STUDENT, TEACHER, asked_keys, images_below
from trace_d2.jobs.edge_options import SOURCE, edge_cfg, named_by_file
from trace_d2.jobs.fingerprint import files_print
from trace_d2.jobs.journal import DONE, ImageEntry, Record
from trace_d2.jobs.kinds.edge_job import KEPT_EDGES, EdgeTakingJob, upgrade
from trace_d2.jobs.layout import Layout
from trace_d2.jobs.outcome import Outcome
from trace_d2.jobs.pictures import PHOTOGRAPH, Pictures
from trace_d2.jobs.report import Measure, Report
from trace_d2.jobs.store import JobStore
from trace_d2.terminal import say

PSEUDO_EDGES = "pseudo_edges/{}.png"
_PANES = (
    (PHOTOGRAPH, "Image"),
    ("edges", "Edge strength"),
    ("labels", "Pseudo edges (white: edge, black: none, grey: ignored)"),
)
_WORKERS = 2  # they encode files, which takes far less time than finding edges
_FEW = 0.01  # share of the pixels
_HINT = (
    "hint: where the spread of ABDiv nears its mean, MODEL.TRACE.ABDIV.THRESHOLD mean_std makes "
    "few negative pixels or none, and a student that sees positives alone learns to answer edge "
    "everywhere. MODEL.TRACE.ABDIV.THRESHOLD upper_band takes what is below the mean for negatives"
)


@dataclass(frozen=True)
class EdgeInputs(Inputs):
    """A photograph, its edges once they are detected, and the pseudo edges made of them.

    Attributes:
        labels: int8 (H, W) of 1, 0 and -1; None from the student.
    """

    labels: np.ndarray | None = None


class PredictedEdgeJob(EdgeTakingJob[ImageEntry, EdgeInputs, tuple[float, ...]]):
    """Detects the edges of images one by one, by the student or by a baseline.

    Args:
        cfg: ``MODEL.TRACE.EDGES.SOURCE`` is one of ``sources``.
        images, output, entries: see ``EdgeTakingJob``.
    """

    layout = Layout("edges", results=(KEPT_EDGES,), upgrade=upgrade)
    done = "finished"
    files = "edges: {}/edges"
    title: ClassVar[str] = "Predicted edges"
    sources: ClassVar[tuple[str, ...]] = (STUDENT, *BASELINES)  # the first unless one is asked for
    others: ClassVar[str] = (
        f"these edges are the student's, or those of {', '.join(BASELINES)}: leave it out, or name "
        "one of these; the teacher's are made by tools/make_pseudo_edges.py"
    )

    def __init__(
        self,
        cfg: CfgNode,
        images: str | InputFolder,
        output: str | Path,
        entries: Sequence[ImageEntry],
    ) -> None:
        super().__init__(cfg, images, output, entries, {}, save_edges=True)

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> PredictedEdgeJob:
        wrong = Complaints()
        source = cls._source(wrong, args)
        if getattr(args, "weights", None) and source not in (STUDENT, NONE):
            wrong.say(f"--weights is a student's folder, but {SOURCE} is {source}: leave out one")
        cfg = edge_cfg(wrong, args, SOURCE, source)
        images = wrong.of(input_folder, args.images)
        if images:
            entries = wrong.of(edge_entries, images, args.limit, args.report_images, args.output)
        wrong.end()
        return cls(cfg, images, args.output, entries)

    @classmethod
    def _source(cls, wrong: Complaints, args: argparse.Namespace) -> str:
        """Who finds edges; none where another one is asked for, so that its model is no matter."""
        asked = asked_keys(args).get(SOURCE)
        if asked not in (None, *cls.sources):
            meant = did_you_mean(asked, cls.sources)
            wrong.say(f"{SOURCE} is {shown(asked)}{meant}, but {cls.others}")
            return NONE
        cfg = usable_trace_cfg(Complaints(), args.config_file, args.opts)
        source, own = str(cfg.MODEL.TRACE.EDGES.SOURCE), cls.sources[0]
        if source in cls.sources:
            return source
        # A config that a student is trained by names it, and its teacher makes the pseudo edges.
        if source != STUDENT and named_by_file(args, SOURCE):
            file = shown(str(args.config_file))
            say(
                f"note: {SOURCE} {source} of {file} counts for nothing: here the {own} looks",
                error=True,
            )
        return own

    def fingerprint(self, entry: ImageEntry) -> str:
        return files_print([self.images / entry.file_name])

    def load(self, entry: ImageEntry) -> EdgeInputs:
        photograph = read_image(self.images / entry.file_name)
        return EdgeInputs(photograph, None, photograph.notes)

    def with_detected(self, entry: ImageEntry, inputs: EdgeInputs, found: EdgeOutput) -> EdgeInputs:
        size = inputs.photograph.pixels.shape[:2]
        if found.edges.shape != size:
            raise ValueError(
                f"the edges detected in {entry.file_name} are of shape {found.edges.shape}, not "
                f"{size}: repair the detector"
            )
        return super().with_detected(entry, inputs, found)

    def make(self, entry: ImageEntry, inputs: EdgeInputs) -> tuple[float, ...]:
        """The shares of edge, none and ignored pixels; empty without pseudo edges."""
        return () if inputs.labels is None else label_shares(inputs.labels)

    def write(
        self, entry: ImageEntry, inputs: EdgeInputs, result: tuple[float, ...]
    ) -> dict[str, Any]:
        self.keep_edges(entry, inputs.edges)
        if inputs.labels is not None:
            write_ternary(self.store.place(PSEUDO_EDGES, entry.stem), inputs.labels)
        height, width = inputs.photograph.pixels.shape[:2]
        return {"height": height, "width": width}

    def pictures(self, inputs: EdgeInputs, result: tuple[float, ...]) -> Pictures:
        assert inputs.edges is not None
        panes = {"edges": inputs.edges}
        if inputs.labels is not None:
            panes["labels"] = (inputs.labels == EDGE) + np.float32(0.5) * (inputs.labels == IGNORED)
        return Pictures(inputs.photograph.pixels, panes)

    def facts(self, inputs: EdgeInputs, result: tuple[float, ...]) -> Mapping[str, Any]:
        return {"shares": [round(share, 6) for share in result]}

    @classmethod
    def tell_last(cls, store: JobStore) -> None:
        records = store.read_records()
        entries, _ = store.read_images()
        for line in label_summary(records[e.stem] for e in entries if e.stem in records):
            say(line)

    @classmethod
    def report(cls, outcome: Outcome) -> Report:
        def caption(facts: dict[str, Any]) -> list[str]:
            shares = zip(facts.get("shares", ()), ("edge", "none", "ignored"), strict=False)
            return [f"{share:.1%} {name}" for share, name in shares]

        def percent(rank: int) -> Callable[[Record], float]:
            return lambda record: 100 * (record.facts.get("shares") or (0, 0, 0))[rank]

        labelled = any(record.facts.get("shares") for record in outcome.finished)
        titles = ("edge pixels", "negative pixels", "ignored pixels") if labelled else ()
        measures = [Measure(title, percent(i), False) for i, title in enumerate(titles)]
        notes = label_summary(outcome.finished)
        return cls.page(outcome, cls.title, _PANES, caption, notes=notes, measures=measures)


class PseudoEdgeJob(PredictedEdgeJob):
    """Detects the edges of images by the teacher, and makes pseudo edges of them; args as above."""

    layout = Layout("pseudo edges", results=(KEPT_EDGES, PSEUDO_EDGES), upgrade=upgrade)
    title = "Pseudo edges"
    sources = (TEACHER,)
    others = (
        "pseudo edges are always the teacher's: leave it out; the student's edges are made by "
        "tools/predict_edges.py"
    )

    def with_detected(self, entry: ImageEntry, inputs: EdgeInputs, found: EdgeOutput) -> EdgeInputs:
        from trace_d2.edges.abdiv import ternary_edges  # with torch, which workers do without

        inputs = super().with_detected(entry, inputs, found)
        if found.abdiv is None:
            raise ValueError(f"no ABDiv of {entry.file_name}: pseudo edges need the teacher")
        size = inputs.photograph.pixels.shape[:2]
        threshold = self.cfg.MODEL.TRACE.ABDIV.THRESHOLD
        return replace(inputs, labels=ternary_edges(found.abdiv, size, threshold))


def edge_parser(description: str | None) -> argparse.ArgumentParser:
    """The options of a tool that detects edges."""
    parser = job_parser(description, "every image has its edges", "finished", workers=_WORKERS)
    add_images_option(parser)
    add_output_folder(parser)
    return parser


def label_summary(records: Iterable[Record]) -> list[str]:
    """What a user should know of the pseudo edges of ``records``, a line each.

    How many pixels got which label, in how many images a label is missing, and what to do about
    images without negatives. Empty without pseudo edges.
    """
    images = no_edge = no_none = few_none = 0
    sums = [0.0, 0.0, 0.0]
    for record in records:
        shares = record.facts.get("shares")
        if record.status == DONE and shares:
            images += 1
            sums = [total + share for total, share in zip(sums, shares, strict=True)]
            no_edge += shares[0] == 0
            no_none += shares[1] == 0
            few_none += 0 < shares[1] < _FEW
    if not images:
        return []
    edge, none, ignored = (total / images for total in sums)
    lines = [f"pseudo edges: {edge:.1%} edge, {none:.1%} none, {ignored:.1%} ignored on average"]
    if no_edge:
        lines.append(f"{no_edge} of {images} images have no positive (edge) pixel")
    if no_none:
        lines.append(f"{no_none} of {images} images have no negative (none) pixel")
    if few_none:
        lines.append(f"{few_none} of {images} images have fewer than {_FEW:.0%} of them")
    if no_none or few_none:
        lines.append(_HINT)
    return lines


def edge_entries(
    images: str | InputFolder, limit: int | None, pictured: int, *others: str | InputFolder
) -> list[ImageEntry]:
    """The images of a folder, their ids being their ranks; ``pictured`` of the first ``limit``.

    Takes ``others`` and raises as ``images_below``.
    """
    names = images_below(images, *others)
    shown = frozenset(spread(list(names)[:limit], pictured))
    return [
        ImageEntry(stem, name, rank, stem in shown)
        for rank, (stem, name) in enumerate(names.items(), start=1)
    ]
