"""The report page of detected edges: totals, how many labels the student gets, and pictures."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from trace_d2.io.edge_maps import EDGE, IGNORED
from trace_d2.jobs.entries import ImageEntry
from trace_d2.jobs.journal import DONE, Record
from trace_d2.jobs.pictures import data_address, paint_edges, shrink
from trace_d2.jobs.report import (
    cards,
    edges_row,
    record_tables,
    section,
    source_list,
    timesteps,
    write_page,
)

if TYPE_CHECKING:
    from trace_d2.jobs.kinds.edge_store import EdgeStore

_PANES = (
    ("image", "Image"),
    ("edges", "Edge strength"),
    ("labels", "Pseudo edges (white: edge, black: none, grey: ignored)"),
)
_FEW = 0.01  # share of the pixels
_HINT = (
    "hint: where the spread of ABDiv nears its mean, MODEL.TRACE.ABDIV.THRESHOLD mean_std makes "
    "few negative pixels or none, and a student that sees positives alone learns to answer edge "
    "everywhere. MODEL.TRACE.ABDIV.THRESHOLD upper_band takes what is below the mean for negatives"
)


def label_summary(records: Sequence[Record]) -> list[str]:
    """What a user should know of the pseudo edges of ``records``, a line each.

    How many pixels got which label, in how many images a label is missing, and what to do about
    images without negatives. Empty without pseudo edges.
    """
    shares = [record.shares for record in records if record.status == DONE and record.shares]
    if not shares:
        return []
    edge, none, ignored = (statistics.mean(column) for column in zip(*shares, strict=True))
    no_edge = sum(share[0] == 0 for share in shares)
    no_none = sum(share[1] == 0 for share in shares)
    few_none = sum(0 < share[1] < _FEW for share in shares)
    lines = [f"pseudo edges: {edge:.1%} edge, {none:.1%} none, {ignored:.1%} ignored on average"]
    if no_edge:
        lines.append(f"{no_edge} of {len(shares)} images have no positive (edge) pixel")
    if no_none:
        lines.append(f"{no_none} of {len(shares)} images have no negative (none) pixel")
    if few_none:
        lines.append(f"{few_none} of {len(shares)} images have fewer than {_FEW:.0%} of them")
    if no_none or few_none:
        lines.append(_HINT)
    return lines


def write_edge_report(
    store: EdgeStore,
    entries: Sequence[ImageEntry],
    records: Mapping[str, Record],
    done: Sequence[ImageEntry],
) -> None:
    """Write ``report.html`` from what ``store`` holds; the inputs need not be at hand.

    Args:
        store: the folder of edges.
        entries: all images of the job.
        records: how each came out.
        done: those that are finished.
    """
    settings = store.read_settings()
    own = [records[entry.stem] for entry in entries if entry.stem in records]
    detected = [records[entry.stem] for entry in done]
    shown = [e for e in done if e.pictured and store.preview_path(e.stem).is_file()]
    summary = label_summary(detected)
    body = [
        f"<h1>{store.title}</h1>",
        source_list([("Images", settings["images"]), edges_row(settings)]),
        cards("finished", own, detected, len(entries), []),
        *(f'<p class="note">{line}</p>' for line in summary),
        timesteps(detected),
        *record_tables(own, detected),
    ]
    if shown:
        body.append(f"<h2>Pictures of {len(shown)} of {len(done)} images</h2>")
        body += [_image(store, entry, records[entry.stem]) for entry in shown]
    write_page(store, store.title, body)


def make_edge_pictures(
    image: np.ndarray, edges: np.ndarray, labels: np.ndarray | None
) -> dict[str, str]:
    """The pictures of one image as ``data:`` addresses of JPEG files.

    Args:
        image: uint8 (H, W, 3) RGB.
        edges: float32 (H, W) in 0..1.
        labels: int8 (H, W) of 1, 0 and -1, or None.

    Returns:
        ``image``, ``edges`` and, if there are any, ``labels``.
    """
    small, size = shrink(image)
    pictures = {"image": data_address(small), "edges": data_address(paint_edges(edges, size))}
    if labels is not None:
        grey = (labels == EDGE) + np.float32(0.5) * (labels == IGNORED)
        pictures["labels"] = data_address(paint_edges(grey, size))
    return pictures


def _image(store: EdgeStore, entry: ImageEntry, record: Record) -> str:
    """The pictures of one image."""
    pictures = json.loads(store.preview_path(entry.stem).read_text(encoding="utf-8"))
    facts = []
    if record.shares:
        edge, none, ignored = record.shares
        facts.append(f"{edge:.1%} edge, {none:.1%} none, {ignored:.1%} ignored")
    if record.timestep is not None:
        facts.append(f"emergence point {record.timestep}")
    return section(entry.file_name, ", ".join(facts), pictures, _PANES)
