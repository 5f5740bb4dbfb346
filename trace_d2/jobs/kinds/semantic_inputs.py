"""What jobs of photographs with semantic masks are made from, and what they leave out."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trace_d2.complaints import Complaints
from trace_d2.io.categories import (
    TEXT_SUFFIXES,
    Category,
    describe_categories,
    load_categories,
)
from trace_d2.io.edge_maps import edge_stems
from trace_d2.io.images import check_masks
from trace_d2.io.listing import some, spread
from trace_d2.io.remote import InputFolder, input_folder
from trace_d2.io.subfolders import counterparts, files_by_stem, unclear
from trace_d2.jobs.command_line import given_folder, image_ids, images_below
from trace_d2.jobs.job import UsageError
from trace_d2.jobs.journal import ImageEntry
from trace_d2.jobs.kinds.edge_job import given_edges
from trace_d2.terminal import say

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode


@dataclass(frozen=True)
class SemanticInputs:
    """What a command line gives.

    Attributes:
        images, semantic: folders of the photographs and masks.
        categories: what the masks hold.
        entries: all images, in sorted order of stems.
        masks: the masks, by stem.
        mask_stems: of the masks, by the stem of their image.
        edges: folder of the given edges; None: there is none.
        edged: stems of the given edges, by the stem of their image.
        edge_files: all given edges, by stem.
    """

    images: InputFolder
    semantic: InputFolder
    categories: tuple[Category, ...]
    entries: list[ImageEntry]
    masks: Mapping[str, list[str]]
    mask_stems: Mapping[str, str]
    edges: InputFolder | None
    edged: Mapping[str, str]
    edge_files: Collection[str]

    def tell(self, images_json: str | None) -> None:
        """Say what will be left out, before hours of work."""
        entries = self.entries
        bare = [entry.file_name for entry in entries if entry.stem not in self.mask_stems]
        if bare:
            have = "has" if len(bare) == 1 else "have"
            say(f"note: {len(bare)} of {len(entries)} images {have} no mask: {some(bare)}")
        orphans = sorted(self.masks.keys() - self.mask_stems.values())
        if orphans:
            listed = some([self.masks[stem][0] for stem in orphans])
            say(f"note: {len(orphans)} masks have no image in {self.images}: {listed}")
        stems = [entry.stem for entry in entries]
        if near := unclear(stems, self.masks):
            say(f"note: of these masks {near}")
        names = {entry.stem: entry.file_name for entry in entries}
        blank = [names[stem] for stem in self.mask_stems if stem not in self.edged]
        if self.edges is not None and blank:
            say(
                f"note: {len(blank)} of {len(self.mask_stems)} images have no edges in "
                f"{self.edges} and will fail: {some(blank)}"
            )
        if near := unclear(stems, self.edge_files):
            say(f"note: of the edges {near}")
        unnamed = [entry.file_name for entry in entries if entry.image_id is None]
        if images_json and unnamed:
            say(f"note: {images_json} does not name {len(unnamed)} images: {some(unnamed)}")


def semantic_inputs(
    wrong: Complaints,
    args: argparse.Namespace,
    cfg: CfgNode,
    endings: Collection[str],
) -> SemanticInputs:
    """The inputs of a command line, once nothing is ``wrong`` with them.

    Args:
        wrong: is told, and raises what it was told of the command line before as well.
        args: with ``images``, ``semantic``, ``categories``, ``output``, ``limit``,
            ``report_images`` and perhaps ``images_json``.
        endings: of masks.
    """
    semantic = wrong.of(given_folder, args.semantic, "--semantic")
    categories = wrong.of(load_categories, args.categories)
    given = given_edges(cfg)
    images = wrong.of(input_folder, args.images)
    names = wrong.of(images_below, images, semantic, given, args.output) if images else {}
    masks = (wrong.of(files_by_stem, semantic, endings) or {}) if semantic else {}
    edges = (wrong.of(edge_stems, given) or {}) if given else {}
    images_json = getattr(args, "images_json", None)
    if names or images_json:
        ids = wrong.of(image_ids, names or {}, images_json)
    mask_stems = wrong.of(_masked, names, masks, semantic) if names and semantic else {}
    for files in masks.values():
        if len(files) > 1:
            wrong.say(f"{' and '.join(files)} in {semantic} are of one image: remove all but one")
            break
    if wrong and semantic and categories:  # else more is looked at, once the job is there
        paths = [
            semantic / files[0] for files in masks.values() if files[0].lower().endswith(".png")
        ]
        wrong.of(check_masks, paths, categories, args.categories)
    wrong.end()
    if Path(args.categories).suffix.lower() in TEXT_SUFFIXES:
        say(f"{args.categories}: {describe_categories(categories)}")
    ready = [stem for stem in list(names)[: args.limit] if stem in mask_stems]
    shown = frozenset(spread(ready, args.report_images))
    entries = [ImageEntry(s, name, ids.get(s), s in shown) for s, name in names.items()]
    return SemanticInputs(
        images, semantic, categories, entries, masks, mask_stems, given,
        counterparts(names, edges), edges,
    )  # fmt: skip


def elsewhere(stems: Mapping[str, str]) -> dict[str, str]:
    """Those that differ from the stem of their image: mostly none."""
    return {stem: other for stem, other in stems.items() if other != stem}


def _masked(
    names: Mapping[str, str], masks: Mapping[str, Any], folder: InputFolder
) -> dict[str, str]:
    """The stem of the mask of each image that has one; a UsageError if none has."""
    stems = counterparts(names, masks)
    if not stems:
        raise UsageError(
            f"no mask in {folder} is named like one of the {len(names)} images: "
            f"expected {next(iter(names))}.png"
            + (f", but there is {next(iter(masks))}.png" if masks else "")
        )
    return stems
