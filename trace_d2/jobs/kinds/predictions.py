"""Predictions: what a trained model sees in photographs.

::

    OUTPUT/
      predictions.json                      COCO instances with scores, of a model that gives them
      panoptic.json  panoptic/<stem>.png    COCO panoptic, of a model that gives it
      categories.json                       what both speak of, in the order of the model's classes

What the model is, and how it is built, the job is told by ``build``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trace_d2.io.atomic import atomic_file, write_json, write_png
from trace_d2.io.categories import Category, category_entries
from trace_d2.io.coco_panoptic import id2rgb, image_entry, panoptic_annotation
from trace_d2.io.coco_stream import CocoStream
from trace_d2.io.edge_maps import edge_paths, edge_stem
from trace_d2.io.images import Inputs, read_image
from trace_d2.io.json_files import shown
from trace_d2.io.mask_rle import decode_segmentation
from trace_d2.io.regions import is_sliver
from trace_d2.io.remote import InputFolder, input_folder
from trace_d2.jobs.coco_files import read_result, stored_categories
from trace_d2.jobs.fingerprint import files_print
from trace_d2.jobs.job import Job, Read, UsageError
from trace_d2.jobs.journal import ImageEntry, Record
from trace_d2.jobs.kinds.predicted import Predicted, Prediction, Predictor
from trace_d2.jobs.layout import Layout
from trace_d2.jobs.outcome import FactCounts, Outcome
from trace_d2.jobs.pictures import (
    PHOTOGRAPH,
    Pictures,
    Regions,
    colored,
    cut_strengths,
    stacked,
)
from trace_d2.jobs.report import Measure, Report, counted
from trace_d2.jobs.store import JobStore
from trace_d2.terminal import say

PANOPTIC = "panoptic/{}.png"
_INSTANCES, _PANOPTIC_JSON, _CATEGORIES = "predictions.json", "panoptic.json", "categories.json"
_OUTPUTS = ("instances", "segments")  # facts, and panes
_PANES = (
    (PHOTOGRAPH, "Image"),
    ("uncut_instances", "Instances as predicted"),
    ("uncut_segments", "Panoptic segments as predicted"),
    ("edges", "Edges"),
    ("instances", "Instances"),
    ("segments", "Panoptic segments"),
)
_THRESHOLD = "MODEL.TRACE.MASK2FORMER.TEST.OBJECT_MASK_THRESHOLD"  # above which classes are seen
_SCALE = 1000  # of scores in the journal, which holds whole numbers


@dataclass(frozen=True)
class PredictInputs(Inputs):
    """A photograph, and what the model says of it once it has seen it."""

    predicted: Predicted | None = None


class PredictionJob(Job[ImageEntry, PredictInputs, Prediction]):
    """Predicts image by image.

    Args:
        build: gives the model once the folder is ours, which ``store`` tells of.
        images: folder of the photographs.
        output, entries: see ``Job``.
        categories: what the classes of the model are.
        settings: what decides the results besides images and categories.
        edges_folder: of given edges, files of which are inputs as well; None: none are given.
        devices: of the model and of what finds edges, by the keys that name them.
    """

    layout = Layout(
        "predictions",
        joined=(_INSTANCES, _PANOPTIC_JSON, _CATEGORIES),
        told={"segments": PANOPTIC},
    )
    done = "predicted"
    files = "predictions: {}"
    needs = ("config_file", "weights", "images", "output")
    looks = True
    stays = (*Job.stays, "build", "predictor")
    travels = ("build",)

    def __init__(
        self,
        build: Callable[[JobStore], Predictor],
        images: str | InputFolder,
        output: str | Path,
        entries: Sequence[ImageEntry],
        categories: Sequence[Category],
        settings: Mapping[str, Any],
        edges_folder: InputFolder | None = None,
        devices: Mapping[str, str] | None = None,
    ) -> None:
        self.build = build
        self.devices = devices or {}
        self.images = input_folder(images)
        self.categories = tuple(categories)
        self.edges_folder = edges_folder
        content = {
            "images": str(self.images.resolve()),
            "categories": category_entries(self.categories),
            **settings,
        }
        super().__init__(output, content, entries)

    def open_detector(self) -> None:
        self.predictor  # noqa: B018

    @cached_property
    def predictor(self) -> Predictor:
        """The model. Raises UsageError where it cannot be loaded."""
        return self.build(self.store)

    def fingerprint(self, entry: ImageEntry) -> str:
        paths = [self.images / entry.file_name]
        if self.edges_folder is not None:
            paths += edge_paths(self.edges_folder, edge_stem(self.edges_folder, entry.file_name))
        return files_print(paths)

    def skip(self, entry: ImageEntry) -> str:
        return "the list given by --images-json does not name it" if entry.image_id is None else ""

    def load(self, entry: ImageEntry) -> PredictInputs:
        photograph = read_image(self.images / entry.file_name)
        return PredictInputs(photograph, None, photograph.notes)

    def read(self, entry: ImageEntry) -> Read[ImageEntry, PredictInputs]:
        inputs = self.load(entry)
        # The model is built in the main thread, at the first look.
        built = "predictor" in vars(self)
        ready = self.predictor.ready(inputs.photograph.pixels) if built else None
        return Read(entry, inputs, ready)

    def look(
        self, images: Sequence[Read[ImageEntry, PredictInputs]]
    ) -> list[tuple[PredictInputs, Mapping[str, Any]] | Exception]:
        return [self._attempt(image) for image in images]

    def _attempt(
        self, image: Read[ImageEntry, PredictInputs]
    ) -> tuple[PredictInputs, Mapping[str, Any]] | Exception:
        predictor, pixels = self.predictor, image.inputs.photograph.pixels
        try:
            ready = predictor.ready(pixels) if image.ready is None else image.ready
            predicted = predictor.predict(ready, pixels, image.entry.file_name)
        except UsageError:  # no fault of the image
            raise
        except Exception as error:  # recorded with its cause; the other images go on
            return error
        if not image.entry.pictured:  # workers need not be sent them
            predicted = replace(predicted, edges=None)
        return replace(image.inputs, predicted=predicted), {}

    def make(self, entry: ImageEntry, inputs: PredictInputs) -> Prediction:
        assert inputs.predicted is not None
        return inputs.predicted.found

    def write(
        self, entry: ImageEntry, inputs: PredictInputs, result: Prediction
    ) -> Mapping[str, Any]:
        height, width = inputs.photograph.pixels.shape[:2]
        note: dict[str, Any] = {"height": height, "width": width}
        if result.segment_ids is not None:
            path = self.store.place(PANOPTIC, entry.stem)
            write_png(path, id2rgb(result.segment_ids), fast=True)
            note["segments"] = list(result.segments)
        if result.instances is not None:
            note["instances"] = result.instances
        return note

    def pictures(self, inputs: PredictInputs, result: Prediction) -> Pictures:
        assert inputs.predicted is not None
        uncut, edges = inputs.predicted.uncut, inputs.predicted.edges
        shape = inputs.photograph.pixels.shape[:2]
        wanted = {c.name: c.color for c in self.categories}
        pale = [c.name for c in self.categories if not c.isthing]
        maps = self._maps(result, shape)
        before = {} if uncut is None else self._maps(uncut, shape)
        panes: dict[str, Regions] = {}
        for key, own in (*maps.items(), *((f"uncut_{key}", own) for key, own in before.items())):
            numbers, names, texts = own
            panes[key] = colored(numbers, names, wanted, texts, [*panes.values()])
        if edges is None:
            return Pictures(inputs.photograph.pixels, panes, pale=pale)
        cuts = {key: cut_strengths(own[0], before[key][0], edges) for key, own in maps.items()}
        cut = next((key for key in cuts if cuts[key]), next(iter(cuts)))
        pixels = inputs.photograph.pixels
        return Pictures(pixels, {**panes, "edges": edges}, cuts[cut], cut, pale)

    def _maps(
        self, found: Prediction, shape: tuple[int, int]
    ) -> dict[str, tuple[np.ndarray, dict[int, str], dict[int, str]]]:
        """Of each pane: numbers of regions, their classes, and what is said besides.

        Panes follow those before them in their colours.
        """
        names = {category.id: category.name for category in self.categories}
        maps: dict[str, tuple[np.ndarray, dict[int, str], dict[int, str]]] = {}
        if found.segment_ids is not None:
            known = np.unique(np.append(found.segment_ids, 0))  # some models' ids are large
            ids = [segment["id"] for segment in found.segments]
            ranks = dict(zip(ids, np.searchsorted(known, ids).tolist(), strict=True))
            maps["segments"] = (
                np.searchsorted(known, found.segment_ids).astype(np.int32),
                {ranks[segment["id"]]: names[segment["category_id"]] for segment in found.segments},
                {},
            )
        if found.instances is not None:
            rows = dict(enumerate(found.instances, start=1))
            masks = [decode_segmentation(row["segmentation"], *shape) for row in rows.values()]
            maps["instances"] = (
                stacked(masks, shape),
                {rank: names[row["category_id"]] for rank, row in rows.items()},
                {rank: f"score {row['score']:.2f}" for rank, row in rows.items()},
            )
        return maps

    def facts(self, inputs: PredictInputs, result: Prediction) -> Mapping[str, Any]:
        found: dict[str, int] = {}
        if result.instances is not None:
            found["instances"] = len(result.instances)
            found["below"] = result.below
            found["best"] = round(_SCALE * result.best)
        if result.segment_ids is not None:
            found["segments"] = len(result.segments)
        things = self._things(result)
        height, width = inputs.photograph.pixels.shape[:2]
        slivers = [is_sliver(row["area"], row["bbox"], height * width) for row in things]
        found["things"], found["slivers"] = len(things), sum(slivers)
        assert inputs.predicted is not None
        if inputs.predicted.uncut is not None:
            found["uncut"] = len(self._things(inputs.predicted.uncut))
        return found

    def _things(self, found: Prediction) -> list[dict[str, Any]]:
        """Annotations of the things of a prediction: instances, if the model gives them."""
        if found.instances is not None:
            return found.instances
        isthing = {category.id: category.isthing for category in self.categories}
        return [segment for segment in found.segments if isthing[segment["category_id"]]]

    def notes(self, inputs: PredictInputs, result: Prediction) -> tuple[str, ...]:
        return (*inputs.notes, *result.notes)

    @classmethod
    def join(cls, outcome: Outcome) -> None:
        root, categories = outcome.store.root, stored_categories(outcome)
        things = [c for c in categories if c.isthing]
        lists = {
            "instances": (_INSTANCES, category_entries(tuple(things)), "predicted instances"),
            "segments": (_PANOPTIC_JSON, category_entries(categories), "panoptic predictions"),
        }
        write_json(root / _CATEGORIES, category_entries(categories), indent=1)
        given = outcome.counts.present
        with ExitStack() as stack:
            streams = {
                key: stack.enter_context(
                    CocoStream(stack.enter_context(atomic_file(root / name)), listed, text)
                )
                for key, (name, listed, text) in lists.items()
                if key in given
            }
            for entry, record in outcome.noted():
                counts = {key: record.facts[key] for key in streams}
                note = read_result(outcome.store, entry.stem, **counts)
                image_id = int(entry.image_id)  # type: ignore[arg-type]  # finished ones have one
                image = image_entry(image_id, entry.file_name, note["height"], note["width"])
                for stream in streams.values():
                    stream.add_image(image)
                for row in note.get("instances", ()):
                    stream = streams["instances"]
                    stream.add({"id": stream.count + 1, "image_id": image_id, **row})
                if "segments" in streams:
                    segments = note["segments"]
                    png = f"{outcome.store.placed(entry.stem)}.png"
                    annotation = panoptic_annotation(image_id, png, segments)
                    streams["segments"].add(annotation)
            for stream in streams.values():
                stream.end()

    @classmethod
    def tell(cls, store: JobStore) -> None:
        for line in _summary(store):
            say(line)

    @classmethod
    def report(cls, outcome: Outcome) -> Report:
        settings, counts = outcome.settings, outcome.counts
        cards = [("things an image", f"{counts.mean('things'):.1f}")]
        if counts.present["uncut"]:
            cards.append(("before the cut along edges", f"{counts.mean('uncut'):.1f}"))

        def caption(record: Record) -> str:
            facts = record.facts
            return ", ".join(counted(facts[key], key) for key in _OUTPUTS if key in facts)

        return Report(
            "Predictions",
            _PANES,
            caption,
            [
                ("Images", settings.get("images", "")),
                ("Weights", settings.get("weights", "")),
                ("Edges", settings.get("edges", "none: nothing is cut")),
            ],
            cards=cards,
            notes=_summary(outcome.store),
            measures=[
                Measure("things added by edges", _added),
                Measure("slivers", lambda record: record.facts.get("slivers", 0)),
                Measure("empty results", _is_empty, said="nothing at all"),
                Measure("things", lambda record: record.facts["things"], suspicious=False),
            ],
        )


def _added(record: Record) -> int:
    """Things that there are for edges alone."""
    return max(0, record.facts["things"] - record.facts.get("uncut", record.facts["things"]))


def _is_empty(record: Record) -> int:
    return int(not any(record.facts.get(key) for key in _OUTPUTS))


def _summary(store: JobStore) -> list[str]:
    """What users should know of all predictions, a line each."""
    counts = FactCounts(store.read_records().values())
    found, below, segments = (counts.sums[key] for key in ("instances", "below", "segments"))
    best = counts.highest["best"] / _SCALE
    lines = []
    if counts.present["instances"]:
        score = store.read_settings().get("score", 0)
        lines.append(
            f"{counted(found, 'instances')} of a score of {score:g} or more, "
            f"{below} below it left out"
        )
        if not found and below:
            lines.append(f"the highest score is {best:.3f}: a lower --score shows more")
    if counts.present["segments"]:
        lines.append(counted(segments, "panoptic segments"))
        if not segments:
            lines.append(_advice(store.read_settings(), best))
    if counts.present["uncut"]:
        before, after = (counts.sums[key] for key in ("uncut", "things"))
        lines.append(f"{counted(after, 'things')} after the cut along edges, {before} before")
    return lines


def _advice(settings: Mapping[str, Any], best: float) -> str:
    """What to do where a model gives no panoptic segment at all."""
    if settings.get("MODEL.META_ARCHITECTURE") != "TraceMask2Former":
        return "train longer for panoptic segments"
    least = settings.get(_THRESHOLD)
    said = [] if least is None else [f"{shown(least)} now"]
    said += [f"the highest score of an instance is {best:.3f}"] if best else []
    now = f" ({', '.join(said)})" if said else ""
    return f"a lower {_THRESHOLD}{now} shows more, or train longer"
