"""What jobs that export labels share: which labels, which images, and what was lost."""

from __future__ import annotations

import argparse
import math
import os
import secrets
import shutil
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from trace_d2.complaints import Complaints
from trace_d2.io.atomic import atomic_file
from trace_d2.io.categories import Category, category_entries
from trace_d2.io.exports.shapes import Shape
from trace_d2.io.exports.sources import (
    LabelledImage,
    LabelSource,
    chosen_categories,
    decode_labels,
    read_labels,
)
from trace_d2.io.images import Photograph, read_image
from trace_d2.io.json_files import shown
from trace_d2.io.listing import locate_images
from trace_d2.io.paths import relative_name
from trace_d2.io.remote import is_address
from trace_d2.jobs.command_line import existing_folder
from trace_d2.jobs.fingerprint import files_print
from trace_d2.jobs.folder import open_job_folder
from trace_d2.jobs.job import Job, Lookers, UsageError
from trace_d2.jobs.journal import ImageEntry, Record
from trace_d2.jobs.outcome import FactCounts, Outcome
from trace_d2.jobs.output import ForeignFolderError
from trace_d2.jobs.report import Report
from trace_d2.jobs.store import JobStore
from trace_d2.terminal import say

COPY, LINK = "copy", "link"
"""What becomes of the images; neither: they stay where they are."""

# What is lost of the labels, by the names of facts in the journal.
_LOST = {
    "stuff": "segments of stuff are left out (--stuff keep takes them)",
    "crowds": "crowd regions are left out: the format has none",
    "others": "shapes of classes that --classes does not name are left out",
    "faint": "shapes that score less than --min-score are left out",
    "scores": "scores are left out: the format has none",
    "bridged": "shapes have parts that do not touch: joined by lines one pixel thin",
    "added": "pixels were added by these lines",
    "twins": "lines have class and box of another line: YOLO keeps one of them",
    "covered": "pixels of shapes lie under other shapes, and count as theirs",
    "hidden": "shapes lie under others as a whole, and are lost",
    "grouped": "objects are beyond the thousandth of a class in one image: they become a group",
}


@dataclass(frozen=True)
class ExportEntry(ImageEntry):
    """One image to export, with all that its worker needs of the labels.

    Attributes:
        image: what the labels say of it.
        skipped: why it cannot be exported; empty if it can.
    """

    image: LabelledImage | None = None
    skipped: str = ""


@dataclass(frozen=True)
class ExportInputs:
    """What is exported of one image.

    Attributes:
        shapes: those that the format takes.
        size: (H, W) of the image in pixels.
        lost: how many things were left out, by the names of facts.
        notes: remarks for the journal.
    """

    shapes: Sequence[Shape]
    size: tuple[int, int]
    lost: Mapping[str, int]
    notes: tuple[str, ...]


class ExportJob(Job[ExportEntry, ExportInputs, Any]):
    """Exports the labels of images one by one.

    Args:
        source: the labels.
        categories: those that are wanted, in their order.
        output: see ``Job``.
        entries: all images, in sorted order of stems.
        images: the folder of the images; None: they are not looked at.
        placing: ``COPY`` or ``LINK`` them into the output, or leave them (``""``).
        stuff: ids of categories that would be wanted, and are left out as stuff.
        min_score: shapes of less are left out.
        more: settings of the format.
    """

    done = "exported"
    needs = ("labels", "format", "output")
    title: ClassVar[str]
    takes_crowds: ClassVar[bool] = False
    takes_stuff: ClassVar[bool] = True  # if the user does not say
    image_place: ClassVar[str] = "images/{}{}"  # stem and ending

    def __init__(
        self,
        source: LabelSource,
        categories: Sequence[Category],
        output: str | Path,
        entries: Sequence[ExportEntry],
        images: str | Path | None = None,
        placing: str = "",
        stuff: Sequence[int] = (),
        min_score: float = 0.0,
        **more: Any,
    ) -> None:
        self.categories = tuple(categories)
        self.images = None if images is None else Path(images)
        self.placing, self.stuff, self.min_score = placing, frozenset(stuff), min_score
        settings = {
            "labels": str(source.path.resolve()),
            "categories": category_entries(self.categories),
            "images": "" if self.images is None else str(self.images.resolve()),
            "placing": placing,
            "without": sorted(stuff),
            "min_score": min_score,
            **more,
        }
        super().__init__(output, settings, entries)

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> ExportJob:
        """The job of ``tools/export_labels.py``; says what is peculiar about the labels."""
        wrong = Complaints()
        if is_address(args.output):
            wrong.say(
                f"{args.output} is no folder of this machine, to which exports are written: choose "
                "one for --output, and copy it from there"
            )
        wrong.of(_check_finished, args.labels)
        source = wrong.of(read_labels, args.labels, args.images_json)
        named = [name.strip() for name in (args.classes or "").split(",") if name.strip()]
        if args.classes and not named:
            wrong.say(f"--classes {shown(args.classes)} names no class: correct it")
        if source:
            categories = wrong.of(chosen_categories, source.categories, named)
        if args.images:
            wrong.of(existing_folder, args.images, "--images")
        if not math.isfinite(args.min_score):
            wrong.say(f"--min-score is {args.min_score}: give a number, such as 0.5")
        wrong.end()
        keep = cls.takes_stuff if args.stuff is None else args.stuff == "keep"
        exported = [c for c in categories if keep or c.isthing]
        stuff = [c.id for c in categories if not (keep or c.isthing)]
        if not exported:
            raise UsageError(f"all classes of {source.path} are stuff: give --stuff keep")
        cls.check_categories(exported)
        placing = COPY if args.copy_images else LINK if args.link_images else ""
        images = args.images or (_root_of(args.labels) if placing else None)
        if placing and images is None:
            raise UsageError(f"{source.path} does not tell where its images lie: give --images DIR")
        entries = cls.entries_of(source, images)
        job = cls(
            source, exported, args.output, entries, images, placing, stuff, args.min_score,
            **cls.more_settings(args),
        )  # fmt: skip
        say(f"{source.path}: labels of {len(entries)} images, {len(exported)} classes to export")
        for line in source.remarks:
            say(f"note: {line}")
        absent = [entry.skipped for entry in entries if entry.skipped]
        if absent:
            say(f"note: {len(absent)} images are skipped; first: {absent[0]}")
        return job

    @classmethod
    def check_categories(cls, categories: Sequence[Category]) -> None:
        """Raise a ValueError if the format cannot hold them."""

    @classmethod
    def more_settings(cls, args: argparse.Namespace) -> dict[str, Any]:
        """Settings that only this format has."""
        return {}

    @classmethod
    def stem(cls, file_name: str) -> str:
        """After what the files of an image are named."""
        return str(PurePosixPath(file_name).with_suffix(""))

    @classmethod
    def entries_of(cls, source: LabelSource, images: str | Path | None) -> list[ExportEntry]:
        """The images of ``source``, in sorted order of stems.

        Raises:
            NotADirectoryError: there is no such folder of images.
            ValueError: none of the images is there, or two have one stem.
        """
        names = {one.image_id: one.file_name for one in source.images}
        if images is None:
            places, absent = _own_names(names)
        else:
            places, absent = locate_images(names, images)
        entries: dict[str, ExportEntry] = {}
        for image in source.images:
            reason = absent.get(image.image_id, "")
            name = f"{image.image_id}.absent" if reason else places[image.image_id]
            stem = cls.stem(name)
            if stem in entries:
                raise UsageError(
                    f"{source.path}: the images {shown(entries[stem].file_name)} and {shown(name)} "
                    "would have files of one name: rename one"
                )
            entries[stem] = ExportEntry(stem, name, image.image_id, image=image, skipped=reason)
        if entries and all(entry.skipped for entry in entries.values()):
            first = next(iter(entries.values())).skipped
            raise UsageError(f"none of the {len(entries)} images can be exported: {first}")
        return [entries[stem] for stem in sorted(entries)]

    def fingerprint(self, entry: ExportEntry) -> str:
        image = entry.image
        assert image is not None
        paths = [image.png] if image.png else []
        if self.images is not None:
            paths.append(self.images / entry.file_name)
        masks = [(mask.category_id, mask.segmentation, mask.score) for mask in image.masks]
        return files_print(paths, masks, image.segments, image.size, entry.skipped)

    def is_current(self, record: Record | None, entry: ExportEntry) -> bool:
        place = self._place(entry)
        return super().is_current(record, entry) and (not self.placing or place.is_file())

    def skip(self, entry: ExportEntry) -> str:
        return entry.skipped

    def prepare(
        self,
        left: Sequence[ExportEntry],
        workers: int,
        progress: bool,
        lookers: Lookers | None = None,
    ) -> None:
        folder = self.store.root / self.image_place.split("/")[0]
        if self.placing and folder.is_symlink():
            raise ForeignFolderError(
                f"{folder} is a link, and would lead images elsewhere: remove it, or choose "
                "another --output"
            )

    def load(self, entry: ExportEntry) -> ExportInputs:
        assert entry.image is not None
        photograph = None if self.images is None else read_image(self.images / entry.file_name)
        return self._chosen(*decode_labels(entry.image, photograph), photograph)

    def _chosen(
        self,
        shapes: Sequence[Shape],
        size: tuple[int, int],
        remarks: Sequence[str],
        photograph: Photograph | None,
    ) -> ExportInputs:
        """Those of the shapes that are wanted, and how many are not."""
        wanted = {category.id for category in self.categories}
        kept: list[Shape] = []
        lost = Counter[str]()
        for shape in shapes:
            if shape.category_id not in wanted:
                lost["stuff" if shape.category_id in self.stuff else "others"] += 1
            elif shape.crowd and not self.takes_crowds:
                lost["crowds"] += 1
            elif shape.score is not None and shape.score < self.min_score:
                lost["faint"] += 1
            else:
                lost["scores"] += shape.score is not None
                kept.append(shape)
        notes = (*(photograph.notes if photograph else ()), *remarks)
        return ExportInputs(kept, size, lost, notes)

    def write(self, entry: ExportEntry, inputs: ExportInputs, result: Any) -> dict[str, Any]:
        if self.placing and self.images is not None:
            place_image(self.images / entry.file_name, self._place(entry), self.placing)
        height, width = inputs.size
        return {"height": height, "width": width}

    @staticmethod
    @abstractmethod
    def lost(result: Any) -> Counter[str]:
        """What the format has not taken of the shapes."""

    def facts(self, inputs: ExportInputs, result: Any) -> Mapping[str, Any]:
        lost = Counter(inputs.lost) + self.lost(result)
        return {"shapes": len(inputs.shapes), **{name: count for name, count in lost.items()}}

    @classmethod
    def report(cls, outcome: Outcome) -> Report:
        counts = outcome.counts
        return Report(
            title=cls.title,
            panes=(),
            caption=lambda record: "",
            sources=[("Labels", outcome.settings.get("labels", ""))],
            cards=[("shapes", f"{counts.sums['shapes']:,}")],
            notes=_losses(counts),
        )

    @classmethod
    def tell(cls, store: JobStore) -> None:
        for line in _losses(FactCounts(store.read_records().values())):
            say(f"note: {line}")

    def _place(self, entry: ExportEntry) -> Path:
        ending = PurePosixPath(entry.file_name).suffix
        return self.store.root / self.image_place.format(entry.stem, ending)


def place_image(image: Path, place: Path, how: str) -> None:
    """``COPY`` an image to ``place``, or ``LINK`` it there; whole, or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if how == COPY:
        with open(image, "rb") as source, atomic_file(place) as target:
            shutil.copyfileobj(source, target)
        return
    link = place.with_name(f".{secrets.token_hex(8)}.link")
    link.symlink_to(image.resolve())
    os.replace(link, place)


def _own_names(names: Mapping[int, str]) -> tuple[dict[int, str], dict[int, str]]:
    """Names of images as the labels have them, and why some cannot be taken."""
    places, absent = {}, {}
    for key, name in names.items():
        try:
            places[key] = relative_name(name)
        except ValueError as error:
            absent[key] = f"{error}, or name the folder of the images by --images"
    return places, absent


def _check_finished(labels: str | Path) -> None:
    """Raise an UnfinishedLabelsError while a job still makes the labels of a folder."""
    job = open_job_folder(labels) if Path(labels).is_dir() else None
    if job is None:
        return
    job.check_finished("results", "do so by --merge")
    missing = len(job.entries) - len(job.done)
    if job.entries and missing:
        say(f"note: {missing} of {len(job.entries)} images of {job.root} have no labels (failed or "
            "skipped), and are not exported")  # fmt: skip


def _root_of(labels: str | Path) -> str | None:
    """The folder of images that a folder of labels was made from."""
    job = open_job_folder(labels) if Path(labels).is_dir() else None
    return job.settings.get("images") if job else None


def _losses(counts: FactCounts) -> list[str]:
    """A line if nothing is exported, and one for everything that is lost."""
    images, lost = counts.present["shapes"], counts.sums
    lines = [f"{lost[name]:,} {text}" for name, text in _LOST.items() if lost[name]]
    if images and not lost["shapes"]:
        lines.insert(0, f"nothing is exported: none of {images} images has a shape that is wanted")
    return lines
