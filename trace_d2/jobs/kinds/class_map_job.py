"""What jobs share whose photographs come with class maps: semantic masks, or stacks of scores."""

from __future__ import annotations

import argparse
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from trace_d2.complaints import Complaints
from trace_d2.io.categories import Category, category_entries
from trace_d2.io.edge_maps import edge_paths, find_edges
from trace_d2.io.fans import file_of
from trace_d2.io.images import Sample, load_sample
from trace_d2.io.remote import InputFile, InputFolder, input_folder
from trace_d2.jobs.edge_options import edge_cfg
from trace_d2.jobs.fingerprint import files_print
from trace_d2.jobs.job import ResultT
from trace_d2.jobs.journal import ImageEntry
from trace_d2.jobs.kinds.cutting_job import CuttingJob
from trace_d2.jobs.kinds.semantic_inputs import elsewhere, semantic_inputs

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

_OwnT = TypeVar("_OwnT", bound="ClassMapJob[Any]")


class ClassMapJob(CuttingJob[ImageEntry, Sample, ResultT]):
    """A job that cuts class maps along edges.

    Args:
        cfg, images, output, entries, save_edges: see ``EdgeTakingJob``.
        semantic: folder of the class maps.
        categories: what they hold; scores are in their order.
        origin: file or built-in name the categories are from, for messages.
        mask_stems, edge_stems: of the maps and given edges that have not the stem of their image.
    """

    needs = ("images", "semantic", "categories", "output")
    endings: ClassVar[tuple[str, ...]] = (".png",)  # of the class maps
    checks: ClassVar[tuple[Callable[[CfgNode], object], ...]]  # raise what is wrong with a config

    def __init__(
        self,
        cfg: CfgNode,
        images: str | InputFolder,
        semantic: str | InputFolder,
        categories: Sequence[Category],
        output: str | Path,
        entries: Sequence[ImageEntry],
        origin: str = "",
        save_edges: bool = False,
        mask_stems: Mapping[str, str] | None = None,
        edge_stems: Mapping[str, str] | None = None,
    ) -> None:
        self.semantic = input_folder(semantic)
        self.mask_stems, self.edge_stems = mask_stems or {}, edge_stems or {}
        self.categories = tuple(categories)
        self.origin = origin
        self.cutter = self.build_cutter(cfg)
        settings = {
            "semantic": str(self.semantic.resolve()),
            "categories": category_entries(self.categories),
        }
        super().__init__(cfg, images, output, entries, settings, save_edges)

    @abstractmethod
    def build_cutter(self, cfg: CfgNode) -> Any:
        """What makes results of ``categories``, see ``CuttingJob``."""

    @classmethod
    def from_args(cls: type[_OwnT], args: argparse.Namespace) -> _OwnT:
        """The job of a command line; says what will be left out."""
        wrong = Complaints()
        cfg = edge_cfg(wrong, args)
        for check in cls.checks:
            wrong.of(check, cfg)
        found = semantic_inputs(wrong, args, cfg, cls.endings)
        job = cls(
            cfg, found.images, found.semantic, found.categories, args.output, found.entries,
            args.categories, args.save_edges, elsewhere(found.mask_stems), elsewhere(found.edged),
        )  # fmt: skip
        job.edges_folder = found.edges  # which is listed by now
        found.tell(getattr(args, "images_json", None))
        return job

    def fingerprint(self, entry: ImageEntry) -> str:
        paths = [self.images / entry.file_name, *self.maps(entry)]
        if self.edges_folder is not None:
            paths += edge_paths(self.edges_folder, self.edge_stems.get(entry.stem, entry.stem))
        return files_print(paths)

    def load(self, entry: ImageEntry) -> Sample:
        folder, stem = self.edges_folder, self.edge_stems.get(entry.stem, entry.stem)
        edges = None if folder is None else find_edges(folder, stem)
        image = self.images / entry.file_name
        return load_sample(image, self.given_map(entry), edges, self.categories, self.origin)

    def maps(self, entry: ImageEntry) -> list[InputFile]:
        """The files that may hold the class map of ``entry``."""
        stem = self.mask_stems.get(entry.stem, entry.stem)
        return [file_of(self.semantic, f"{stem}{ending}") for ending in self.endings]

    def given_map(self, entry: ImageEntry) -> InputFile:
        """The one that holds it. Raises a ValueError if there are several."""
        return self.maps(entry)[0]
