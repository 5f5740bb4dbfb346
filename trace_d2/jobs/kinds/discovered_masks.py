"""Masks discovered from bare images: by their edges, or by what a backbone says of their tokens.

::

    masks.json                   COCO: what tools/refine_masks.py, pycocotools and Detectron2 read
    masks.json.work/
      edges/<stem>.png           with --save-edges
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode

from trace_d2.complaints import Complaints
from trace_d2.config import usable_trace_cfg
from trace_d2.io.atomic import atomic_file
from trace_d2.io.edge_maps import edge_paths, edge_stem, find_edges
from trace_d2.io.images import Inputs, read_image
from trace_d2.io.mask_rle import decode_segmentation
from trace_d2.io.paths import check_output
from trace_d2.io.remote import InputFolder, input_folder
from trace_d2.jobs.coco_files import mask_annotations, write_instances
from trace_d2.jobs.command_line import NONE, asked_keys
from trace_d2.jobs.edge_options import SOURCE, edge_cfg
from trace_d2.jobs.fingerprint import files_print
from trace_d2.jobs.journal import ImageEntry, Record
from trace_d2.jobs.kinds.edge_job import KEPT_EDGES, EdgeTakingJob, deciding_keys
from trace_d2.jobs.kinds.edges import edge_entries
from trace_d2.jobs.layout import Layout
from trace_d2.jobs.outcome import FactCounts, Outcome
from trace_d2.jobs.pictures import PHOTOGRAPH, Pictures, Regions, colored
from trace_d2.jobs.report import Measure, Report, counted
from trace_d2.jobs.store import JobStore
from trace_d2.masks.methods import METHODS, Scored, TokenMaskFinder, TokenMasks, checked
from trace_d2.masks.preflight import EDGES, check_discovery
from trace_d2.masks.settings import DiscoverySettings, FeatureSettings
from trace_d2.masks.sharpening import Sharpener, enlarged
from trace_d2.terminal import say

CATEGORIES = [{"id": 1, "name": "object", "isthing": 1}]
_NODE = "DISCOVERY"
_METHOD = "MODEL.TRACE.DISCOVERY.METHOD"
_PANES = (
    (PHOTOGRAPH, "Image"),
    ("edges", "Edges"),
    ("tokens", "Masks of tokens, as they were found"),
    ("masks", "Masks of the highest scores"),
)
_SHOWN = 100  # masks of an image
_SCALE = 1000  # of scores in the journal, which holds whole numbers


@dataclass(frozen=True)
class DiscoveryInputs(Inputs):
    """A photograph with its edges, or with the masks of tokens that were found in it."""

    tokens: TokenMasks | None = None


@dataclass(frozen=True)
class DiscoveredMasks:
    """The masks of one image.

    Attributes:
        annotations: COCO, from the highest score to the lowest, without ids.
        left_out: how many masks of tokens had no mask of the image's size.
        twins: how many were pixel by pixel one of a higher score.
    """

    annotations: list[dict[str, Any]] = field(default_factory=list)
    left_out: int = 0
    twins: int = 0


class DiscoveryJob(EdgeTakingJob[ImageEntry, DiscoveryInputs, DiscoveredMasks]):
    """Discovers the masks of images one by one.

    Args:
        cfg: ``MODEL.TRACE.DISCOVERY`` says how. Of the method "edges" ``MODEL.TRACE.EDGES`` says
            where edges come from; of the others nothing is asked of it.
        images, output, entries, save_edges: see ``EdgeTakingJob``.
    """

    layout = Layout(
        kind="discovered masks",
        optional=(KEPT_EDGES,),
        facts=("segments", "things"),
        beside=True,
    )
    done = "searched"
    files = "masks: {}"

    def __init__(
        self,
        cfg: CfgNode,
        images: str | InputFolder,
        output: str | Path,
        entries: Sequence[ImageEntry],
        save_edges: bool = False,
    ) -> None:
        self.common = DiscoverySettings.from_config(cfg)
        self.by_edges = self.common.method == EDGES
        if not self.by_edges:
            cfg = _without_edges(cfg)
            self.sharpener = Sharpener.from_config(cfg)
        settings = {"categories": CATEGORIES, **deciding_keys(cfg, _deciding(cfg))}
        super().__init__(cfg, images, output, entries, settings, save_edges)
        self.looks = self.looks or not self.by_edges

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> DiscoveryJob:
        """The job of ``tools/discover_masks.py``."""
        wrong = Complaints()
        method = args.method or _method(args)
        opts = []
        if method != EDGES:
            opts += [SOURCE, NONE]
            if SOURCE in asked_keys(args):
                say(f"note: {SOURCE} means nothing, as the method is {method}", error=True)
            for option in ("edges", "save_edges"):
                if getattr(args, option):
                    wrong.say(
                        f"--{option.replace('_', '-')} goes with --method edges, and the method is "
                        f"{method}: leave it out, or choose that one"
                    )
                    setattr(args, option, None)
        wrong.of(check_output, args.output)
        cfg = edge_cfg(wrong, args, *opts)
        if method == EDGES and cfg.MODEL.TRACE.EDGES.SOURCE == NONE:
            wrong.say(f'{SOURCE} is "none", but --method edges takes edges: set it to another')
        wrong.of(check_discovery, cfg)
        images = wrong.of(input_folder, args.images)
        if images:
            entries = wrong.of(edge_entries, images, args.limit, args.report_images)
        wrong.end()
        return cls(cfg, images, args.output, entries, args.save_edges)

    def open_detector(self) -> None:
        if self.looks:
            self.detector  # noqa: B018

    @cached_property
    def detector(self) -> Any:
        """The teacher, the student, or what finds masks of tokens."""
        return super().detector if self.by_edges else self.built(TokenMaskFinder.from_config)

    def fingerprint(self, entry: ImageEntry) -> str:
        paths = [self.images / entry.file_name]
        if self.edges_folder is not None:
            paths += edge_paths(self.edges_folder, edge_stem(self.edges_folder, entry.file_name))
        return files_print(paths)

    def load(self, entry: ImageEntry) -> DiscoveryInputs:
        edges, folder = None, self.edges_folder
        if folder is not None:
            edges = find_edges(folder, edge_stem(folder, entry.file_name))
        photograph = read_image(self.images / entry.file_name, [] if edges is None else [edges])
        inputs = DiscoveryInputs(photograph, None, photograph.notes)
        return inputs if edges is None else inputs.with_edge_file(edges)

    def with_detected(
        self, entry: ImageEntry, inputs: DiscoveryInputs, found: Any
    ) -> DiscoveryInputs:
        if isinstance(found, TokenMasks):
            return replace(inputs, tokens=found)
        return super().with_detected(entry, inputs, found)

    def make(self, entry: ImageEntry, inputs: DiscoveryInputs) -> DiscoveredMasks:
        """The masks of ``entry``, each encoded as it comes.

        Raises:
            ValueError: the edges are not fit for the method, or it gives what is no mask.
        """
        most = self.common.max_masks or None
        if inputs.tokens is None:
            assert inputs.edges is not None
            size = inputs.edges.shape
            method = METHODS[EDGES].of_one(self.cfg)
            found = [_annotation(checked(one, size)) for one in method(inputs.edges)]
            found.sort(key=lambda one: -one["score"])
            return DiscoveredMasks(found[:most])
        left_out, twins = _Count(), _Count()
        sharp = self._sharp(inputs.photograph.pixels, inputs.tokens, left_out)
        found = list(islice(_each_once(map(_annotation, sharp), twins), most))
        return DiscoveredMasks(found, left_out.number, twins.number)

    def _sharp(self, image: np.ndarray, tokens: TokenMasks, left_out: _Count) -> Iterator[Scored]:
        """The masks of tokens at the image's size, from the highest score to the lowest."""
        sharpen = self.sharpener.of_image(image, tokens.grid) if tokens.masks else None
        for mask, score in zip(tokens.masks, tokens.scores, strict=True):
            assert sharpen is not None
            sharp = sharpen(mask)
            if sharp is None:
                left_out.number += 1
            else:
                yield sharp, score

    def write(
        self, entry: ImageEntry, inputs: DiscoveryInputs, result: DiscoveredMasks
    ) -> dict[str, Any]:
        if self.optional:
            self.keep_edges(entry, inputs.edges)
        height, width = inputs.photograph.pixels.shape[:2]
        return {"height": height, "width": width, "instances": result.annotations}

    def pictures(self, inputs: DiscoveryInputs, result: DiscoveredMasks) -> Pictures:
        pixels = inputs.photograph.pixels
        size, best = pixels.shape[:2], result.annotations[:_SHOWN]
        masks = (decode_segmentation(one["segmentation"], *size) for one in best)
        panes: dict[str, Regions | np.ndarray] = {}
        panes["masks"] = shown = _regions(masks, [one["score"] for one in best], size)
        if inputs.edges is not None:
            panes["edges"] = inputs.edges
        if inputs.tokens is not None:
            given = (enlarged(mask, size) for mask in inputs.tokens.masks[:_SHOWN])
            panes["tokens"] = _regions(given, inputs.tokens.scores, size, [shown])
        return Pictures(pixels, panes)

    def facts(self, inputs: DiscoveryInputs, result: DiscoveredMasks) -> Mapping[str, Any]:
        count = len(result.annotations)
        best = result.annotations[0]["score"] if count else 0
        return {
            "segments": count,
            "things": count,
            "left_out": result.left_out,
            "twins": result.twins,
            "best": round(_SCALE * best),
        }

    def notes(self, inputs: DiscoveryInputs, result: DiscoveredMasks) -> tuple[str, ...]:
        return inputs.notes if result.annotations else (*inputs.notes, "no mask was found")

    @classmethod
    def join(cls, outcome: Outcome) -> None:
        description, method = "masks discovered from bare images", outcome.settings.get(_METHOD)
        with atomic_file(outcome.store.output) as file:
            write_instances(file, outcome, CATEGORIES, description, method=str(method))

    @classmethod
    def tell(cls, store: JobStore) -> None:
        super().tell(store)
        for line in _summary(store.read_records().values()):
            say(line)

    @classmethod
    def report(cls, outcome: Outcome) -> Report:
        settings, masks = outcome.settings, outcome.counts.sums["segments"]
        return cls.page(
            outcome,
            "Discovered masks",
            _PANES,
            lambda facts: [counted(facts["segments"], "masks")],
            [("Method", settings.get(_METHOD, "")), *_looked_at(settings)],
            cards=[
                ("masks", f"{masks:,}"),
                ("masks an image", f"{outcome.counts.mean('segments'):.1f}"),
            ],
            notes=_summary(outcome.finished),
            measures=[
                Measure("images without masks", _is_empty, said="no mask"),
                Measure("masks left out", lambda record: record.facts.get("left_out", 0), False),
                Measure("masks", lambda record: record.facts["segments"], False),
            ],
        )


@dataclass
class _Count:
    number: int = 0


def _method(args: argparse.Namespace) -> str:
    """The method of config file and keys, whatever else is wrong with them."""
    cfg = usable_trace_cfg(Complaints(), args.config_file, args.opts)
    return str(cfg.MODEL.TRACE.DISCOVERY.METHOD)


def _without_edges(cfg: CfgNode) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.TRACE.EDGES.SOURCE = NONE
    cfg.freeze()
    return cfg


def _deciding(cfg: CfgNode) -> list[str]:
    """Keys and nodes of ``MODEL.TRACE`` that decide results, besides those of edges."""
    common = DiscoverySettings.from_config(cfg)
    names = [f"{_NODE}.{key}" for key in ("METHOD", "MAX_MASKS", common.method.upper())]
    if common.method == EDGES:
        return names
    features = FeatureSettings.from_config(cfg).kind
    own = ["FEATURES", "TIMESTEP", *(["KEY_BLOCK"] if features == "keys" else [])]
    own += ["SHARPEN"]
    if common.sharpen != "none":
        own += ["FILL_HOLES", "MIN_IOU", common.sharpen.upper()]
    names += ["SEED", "BACKBONE", *(f"{_NODE}.{key}" for key in own)]
    return [*names, "ATTENTION"] if features == "attention" else names


def _annotation(found: Scored) -> dict[str, Any]:
    """The COCO annotation of a mask bool (H, W) and its score, without ids."""
    mask, score = found
    return mask_annotations(mask[None], [1], [score])[0]


def _each_once(annotations: Iterator[dict[str, Any]], twins: _Count) -> Iterator[dict[str, Any]]:
    """``annotations`` of one image without those whose mask came before; ``twins`` counts them."""
    seen = set()
    for annotation in annotations:
        mask = annotation["segmentation"]["counts"]
        if mask in seen:
            twins.number += 1
        else:
            seen.add(mask)
            yield annotation


def _regions(
    masks: Iterator[np.ndarray],
    scores: Sequence[float],
    size: tuple[int, int],
    shown: Sequence[Regions] = (),
) -> Regions:
    """Masks bool (H, W) from the highest score on, without those of which most is covered."""
    numbers = np.zeros(size, np.int32)
    names, texts = {}, {}
    for rank, (mask, score) in enumerate(zip(masks, scores, strict=False), start=1):
        free = mask & (numbers == 0)
        if 2 * np.count_nonzero(free) > np.count_nonzero(mask):
            numbers[free] = rank
            names[rank], texts[rank] = str(CATEGORIES[0]["name"]), f"score {score:.2f}"
    return colored(numbers, names, {}, texts, shown)


def _looked_at(settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What a method of tokens looked at, for the page; nothing of edges, which it has anyway."""
    if settings.get(_METHOD) == EDGES:
        return []
    key = "MODEL.TRACE.DISCOVERY.KEY_BLOCK"  # which is of keys alone
    features = "keys" if key in settings else "attention"
    return [("Backbone", settings.get("MODEL.TRACE.BACKBONE.NAME", "")), ("Features", features)]


def _is_empty(record: Record) -> int:
    return int(not record.facts["segments"])


def _summary(records: Iterable[Record]) -> list[str]:
    """What users should know of all masks, a line each."""
    counts = FactCounts(records)
    searched = counts.present["segments"]
    lines = [f"{counted(counts.sums['segments'], 'masks')} in {counted(searched, 'images')}"]
    if empty := searched - counts.nonzero["segments"]:
        lines.append(f"{empty} of {searched} images have no mask; they are in the file")
    if left_out := counts.sums["left_out"]:
        lines.append(
            f"left out: {counted(left_out, 'masks')} of tokens, of which sharpening made others "
            "(MODEL.TRACE.DISCOVERY.MIN_IOU)"
        )
    if twins := counts.sums["twins"]:
        lines.append(f"left out: {counted(twins, 'masks')} of tokens, the same as a better one")
    return lines
