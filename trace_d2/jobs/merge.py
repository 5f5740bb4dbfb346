"""Joins the labels of single images to the COCO files, the journal and the report page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, TypeVar

from trace_d2.io.atomic import atomic_file
from trace_d2.io.categories import Category, category_entries, parse_categories
from trace_d2.io.coco_panoptic import image_entry, panoptic_annotation
from trace_d2.jobs.entries import ImageEntry, Shard
from trace_d2.jobs.locks import folder_lock
from trace_d2.jobs.report import write_report
from trace_d2.jobs.store import JobStore, LabelStore, MergeResult, writing_to

StoreT = TypeVar("StoreT", bound=JobStore)


def merge_folder(store: StoreT, merge: Callable[[StoreT], MergeResult]) -> MergeResult:
    """``merge`` while holding the folder; for after shards, or after a job cut short.

    Raises:
        FileNotFoundError: it is no folder of results.
        FolderInUseError: a job writes there.
    """
    store.read_settings()
    with folder_lock(store.root, Shard()), writing_to(store.root):
        store.sweep()
        result = merge(store)
        if not result.pending:
            store.drop_sampled()
        return result


def merge_labels(store: LabelStore) -> MergeResult:
    """Write ``panoptic.json``, ``instances.json``, the joined journal and the report page.

    All finished labels of the job's images go in, in sorted order of stems, so that the files do
    not depend on workers, shards or the order in which images ended. The caller holds the folder.
    """
    settings = store.read_settings()
    categories = parse_categories(settings["categories"], str(store.settings_path))
    entries, limit = store.read_images()
    records = store.join_journals()
    done = [e for e in entries if store.is_finished(records.get(e.stem), e, save_edges=False)]
    _write_coco_files(store, categories, done)
    write_report(store, categories, entries, records, done)
    return store.standing(entries[:limit], records, len(done))


class CocoStream:
    """Writes a COCO file one annotation a line, so that no list of them need fit into memory.

    Args:
        file: what to write to.
        categories: COCO ``categories``.
        description: of the data set.
    """

    def __init__(
        self, file: BinaryIO, categories: Sequence[Mapping[str, Any]], description: str
    ) -> None:
        self.file = file
        self.count = 0
        info = {"description": description}
        head = {"info": info, "licenses": [], "categories": list(categories)}
        for key, value in head.items():
            opening = "{" if key == "info" else ",\n"
            self._write(f'{opening}"{key}": {json.dumps(value)}')
        self._write(',\n"annotations": [')

    def add(self, annotation: dict[str, Any]) -> None:
        """Write one more annotation."""
        self._write((",\n" if self.count else "\n") + json.dumps(annotation))
        self.count += 1

    def close(self, images: list[dict[str, Any]]) -> None:
        """End the annotations and write ``images``."""
        lines = ",\n".join(map(json.dumps, images))
        self._write(f'\n],\n"images": [\n{lines}\n]}}\n')

    def _write(self, text: str) -> None:
        self.file.write(text.encode("ascii"))


def _write_coco_files(
    store: LabelStore, categories: Sequence[Category], done: Sequence[ImageEntry]
) -> None:
    """``panoptic.json`` and ``instances.json`` of the images ``done``, in that order."""
    listed = category_entries(tuple(categories))
    things = category_entries(tuple(c for c in categories if c.isthing))
    images = []
    with (
        atomic_file(store.root / "panoptic.json") as panoptic_file,
        atomic_file(store.root / "instances.json") as instances_file,
    ):
        panoptic = CocoStream(panoptic_file, listed, "pseudo panoptic labels")
        instances = CocoStream(instances_file, things, "pseudo instance labels")
        for entry in done:
            note = store.read_annotation(entry.stem)
            image_id = int(entry.image_id)  # type: ignore[arg-type]  # finished ones have an id
            images.append(image_entry(image_id, entry.file_name, note["height"], note["width"]))
            panoptic.add(panoptic_annotation(image_id, f"{entry.stem}.png", note["segments"]))
            for instance in note["instances"]:
                instances.add({**instance, "image_id": image_id, "id": instances.count + 1})
        panoptic.close(images)
        instances.close(images)
