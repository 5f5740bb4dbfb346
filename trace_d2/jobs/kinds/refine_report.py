"""The report page of refined masks: totals, what was left out, and pictures before and after."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from trace_d2.jobs.entries import ImageEntry
from trace_d2.jobs.journal import Record
from trace_d2.jobs.kinds.trust import trust_facts
from trace_d2.jobs.report import (
    MOST_LINES,
    cards,
    edges_row,
    record_tables,
    section,
    source_list,
    table,
    timesteps,
    trust_note,
    write_page,
)

if TYPE_CHECKING:
    from trace_d2.jobs.kinds.refine_store import RefinedStore

_PANES = (
    ("image", "Image"),
    ("given", "Given masks"),
    ("edges", "Edges"),
    ("refined", "Refined masks"),
)


def write_refine_report(
    store: RefinedStore,
    entries: Sequence[ImageEntry],
    records: Mapping[str, Record],
    done: Sequence[ImageEntry],
) -> None:
    """Write ``report.html`` from what ``store`` holds; the inputs need not be at hand.

    Args:
        store: the folder of refined masks.
        entries: all images of the job.
        records: how each came out.
        done: those that are finished.
    """
    settings = store.read_settings()
    own = [records[entry.stem] for entry in entries if entry.stem in records]
    refined = [records[entry.stem] for entry in done]
    shown = [e for e in done if e.pictured and store.preview_path(e.stem).is_file()]
    left_out, total = store.read_left_out(MOST_LINES)
    facts = [
        ("masks given", f"{sum(record.given for record in refined):,}"),
        ("refined masks", f"{sum(record.segments for record in refined):,}"),
        *trust_facts(store, refined),
    ]
    body = [
        "<h1>Refined masks</h1>",
        source_list(
            [("Images", settings["images"]), ("Masks", settings["masks"]), edges_row(settings)]
        ),
        cards("refined", own, refined, len(entries), facts),
        trust_note(store),
        timesteps(refined),
        table(
            "Annotations left out",
            [(f"no. {left.number} (id {left.annotation_id})", left.reason) for left in left_out],
            first_column="Annotation",
            total=total,
            source="left_out.jsonl",
        ),
        *record_tables(own, refined),
    ]
    if shown:
        body.append(f"<h2>Pictures of {len(shown)} of {len(done)} images</h2>")
        body += [_image(store, entry, records[entry.stem]) for entry in shown]
    write_page(store, "Refined masks", body)


def _image(store: RefinedStore, entry: ImageEntry, record: Record) -> str:
    """The pictures of one image."""
    pictures = json.loads(store.preview_path(entry.stem).read_text(encoding="utf-8"))
    facts = f"{record.given} masks given, {record.segments} refined"
    if record.timestep is not None:
        facts += f", emergence point {record.timestep}"
    return section(entry.file_name, facts, pictures, _PANES)
