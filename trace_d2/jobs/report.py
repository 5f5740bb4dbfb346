"""The report page: one HTML file to look at, with totals, failures and pictures inside."""

from __future__ import annotations

import html
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trace_d2.io.atomic import write_bytes
from trace_d2.io.categories import Category
from trace_d2.jobs.entries import ImageEntry
from trace_d2.jobs.journal import FAILED, SKIPPED, Record
from trace_d2.jobs.kinds.trust import trust_facts, trust_warning
from trace_d2.jobs.settings import BACKBONE, STUDENT
from trace_d2.jobs.store import JobStore, LabelStore

MOST_LINES = 300
"""Lines of a table; the journal has them all."""

_PANES = (
    ("image", "Image"),
    ("semantic", "Semantic mask"),
    ("edges", "Edges"),
    ("segments", "Segments"),
)

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --text: #1b1f24;
  --soft: #5c6670; --line: #dde1e6; --accent: #2f6fde; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --card: #1d2126; --text: #e8eaed;
  --soft: #9aa4af; --line: #32383f; --accent: #7aa7ff; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 84rem; background: var(--page);
  color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0 0 .75rem; font-size: 1.6rem; }
h2 { margin: 2.25rem 0 .75rem; font-size: 1.15rem; }
dl.source { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .9rem; margin: 0;
  color: var(--soft); font-size: .9rem; }
dl.source dd { margin: 0; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem;
  margin-top: 1.5rem; }
.card, .image { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; }
.card { padding: .7rem .95rem; }
.card b { display: block; font-size: 1.5rem; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: .85rem; }
.card.bad b { color: var(--bad); }
table { width: 100%; border-collapse: collapse; background: var(--card); font-size: .9rem; }
th, td { padding: .4rem .7rem; border: 1px solid var(--line); text-align: left;
  vertical-align: top; }
td { overflow-wrap: anywhere; white-space: pre-wrap; }
td:first-child { width: 18rem; }
.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: .3rem .75rem;
  align-items: center; max-width: 40rem; font-variant-numeric: tabular-nums; }
.bars i { height: .9rem; border-radius: .2rem; background: var(--accent); }
.image { margin: 0 0 1rem; padding: .9rem; }
.image h3 { margin: 0 0 .6rem; font-size: .95rem; overflow-wrap: anywhere; }
.image h3 small { margin-left: .6rem; color: var(--soft); font-weight: normal; }
.panes { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .6rem; }
figure { margin: 0; }
figure img { display: block; width: 100%; border-radius: .3rem; }
figcaption { padding-top: .15rem; color: var(--soft); font-size: .8rem; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem .9rem; margin: .6rem 0 0; padding: 0;
  list-style: none; font-size: .85rem; }
.legend i { display: inline-block; width: .8rem; height: .8rem; margin-right: .35rem;
  border-radius: .2rem; vertical-align: -.08rem; }
.note { color: var(--soft); font-size: .85rem; }
.warning { color: var(--bad); }
"""


def write_report(
    store: LabelStore,
    categories: Sequence[Category],
    entries: Sequence[ImageEntry],
    records: Mapping[str, Record],
    done: Sequence[ImageEntry],
) -> None:
    """Write ``report.html`` from what ``store`` holds; the inputs need not be at hand.

    Args:
        store: the folder of labels.
        categories: names and colours.
        entries: all images of the job.
        records: how each came out.
        done: those that have a finished label.
    """
    own = [records[entry.stem] for entry in entries if entry.stem in records]
    labelled = [records[entry.stem] for entry in done]
    shown = [e for e in done if e.pictured and store.preview_path(e.stem).is_file()]
    body = [
        "<h1>Pseudo panoptic labels</h1>",
        _source(store.read_settings()),
        _totals(store, own, labelled, len(entries)),
        trust_note(store),
        timesteps(labelled),
        *record_tables(own, labelled),
    ]
    if shown:
        body.append(f"<h2>Pictures of {len(shown)} of {len(done)} images</h2>")
        body += [_image(store, categories, entry, records[entry.stem]) for entry in shown]
    write_page(store, "Pseudo panoptic labels", body)


def write_page(store: JobStore, title: str, body: Sequence[str]) -> None:
    """Write ``report.html`` of pieces of HTML."""
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )
    # File names may hold bytes that are no text.
    write_bytes(store.root / "report.html", page.encode("utf-8", errors="replace"))


def source_list(rows: Sequence[tuple[str, Any]]) -> str:
    """Where the results are from, by title."""
    return (
        '<dl class="source">'
        + "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(str(v))}</dd>" for k, v in rows)
        + "</dl>"
    )


def edges_row(settings: Mapping[str, Any]) -> tuple[str, str]:
    """Where the edges are from."""
    edges = settings["edges"]
    backbone = settings.get("MODEL.TRACE.BACKBONE.NAME")
    if edges == STUDENT:
        return "Edges", f"student of {backbone}"
    return "Edges", f"{edges} {backbone}" if edges == BACKBONE else edges


def cards(
    word: str,
    records: Sequence[Record],
    done: Sequence[Record],
    images: int,
    facts: Sequence[tuple[str, str]],
) -> str:
    """Cards with the counts.

    Args:
        word: what a finished image is, as ``"labelled"``.
        records: of the job's images.
        done: those of finished ones.
        images: how many the job has.
        facts: names and values of further cards, shown if any image is finished.
    """
    count = Counter(record.status for record in records)
    shown = [
        (f"images {word}", str(len(done)), False),
        ("failed", str(count[FAILED]), count[FAILED] > 0),
        ("skipped", str(count[SKIPPED]), False),
    ]
    waiting = images - len(done) - count[FAILED] - count[SKIPPED]
    if waiting > 0:
        shown.append((f"not {word} yet", str(waiting), False))
    if done:
        shown += [(name, value, False) for name, value in facts]
        seconds = statistics.median(record.seconds for record in done)
        shown.append(("seconds an image (median)", f"{seconds:.2f}", False))
    return (
        '<div class="cards">'
        + "".join(
            f'<div class="card{" bad" if bad else ""}"><b>{value}</b><span>{name}</span></div>'
            for name, value, bad in shown
        )
        + "</div>"
    )


def timesteps(done: Iterable[Record]) -> str:
    """How often each instance emergence point was found, as bars."""
    counts = Counter(record.timestep for record in done if record.timestep is not None)
    if not counts:
        return ""
    most = max(counts.values())
    rows = "".join(
        f'<span>{step}</span><i style="width:{100 * count / most:.1f}%"></i><span>{count}</span>'
        for step, count in sorted(counts.items())
    )
    return f'<h2>Instance emergence point (of 1000)</h2><div class="bars">{rows}</div>'


def record_tables(records: Sequence[Record], done: Sequence[Record]) -> list[str]:
    """Tables of failures, skipped images and remarks."""
    return [
        table("Failed", [(r.file_name, r.reason) for r in records if r.status == FAILED]),
        table("Skipped", [(r.file_name, r.reason) for r in records if r.status == SKIPPED]),
        table("Remarks", [(r.file_name, "\n".join(r.notes)) for r in done if r.notes]),
    ]


def table(
    title: str,
    rows: Sequence[tuple[str, str]],
    *,
    first_column: str = "Image",
    total: int | None = None,
    source: str = "journal.jsonl",
) -> str:
    """A table of names and texts, or nothing; ``total`` where ``rows`` are not all of them."""
    if not rows:
        return ""
    total = len(rows) if total is None else total
    lines = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(text)}</td></tr>"
        for name, text in rows[:MOST_LINES]
    )
    more = total - MOST_LINES
    note = f'<p class="note">and {more} more in {source}</p>' if more > 0 else ""
    return (
        f"<h2>{title} ({total})</h2>"
        f"<table><tr><th>{first_column}</th><th>Why</th></tr>{lines}</table>{note}"
    )


def section(
    name: str,
    facts: str,
    pictures: Mapping[str, str],
    panes: Sequence[tuple[str, str]],
    legend: str = "",
) -> str:
    """The pictures of one image.

    Args:
        name: its file name.
        facts: what is said of it.
        pictures: addresses by key.
        panes: keys and titles in order; those without a picture are left out.
        legend: HTML below the pictures.
    """
    name = html.escape(name)
    figures = "".join(
        f'<figure><img src="{html.escape(pictures[key])}" loading="lazy" alt="{title} of {name}">'
        f"<figcaption>{title}</figcaption></figure>"
        for key, title in panes
        if key in pictures
    )
    return (
        f'<section class="image"><h3>{name}<small>{facts}</small></h3>'
        f'<div class="panes">{figures}</div>{legend}</section>'
    )


def trust_note(store: JobStore) -> str:
    """The warning of useless edges, if there is one."""
    warning = trust_warning(store)
    return f'<p class="warning">{html.escape(warning)}</p>' if warning else ""


def _source(settings: Mapping[str, Any]) -> str:
    """Where the labels are from."""
    images = ("Images", settings["images"])
    return source_list([images, ("Semantic masks", settings["semantic"]), edges_row(settings)])


def _totals(
    store: LabelStore, records: Sequence[Record], done: Sequence[Record], images: int
) -> str:
    """Cards with the counts."""
    facts = []
    if done:
        stuff = statistics.mean(r.segments - r.things for r in done)
        facts = [
            ("segments", f"{sum(r.segments for r in done):,}"),
            ("things an image", f"{statistics.mean(r.things for r in done):.1f}"),
            ("stuff an image", f"{stuff:.1f}"),
            *trust_facts(store, done),
        ]
    return cards("labelled", records, done, images, facts)


def _image(
    store: LabelStore, categories: Sequence[Category], entry: ImageEntry, record: Record
) -> str:
    """The pictures of one image, with a legend of its classes."""
    pictures = json.loads(store.preview_path(entry.stem).read_text(encoding="utf-8"))
    facts = f"{record.things} things, {record.segments - record.things} stuff"
    if record.timestep is not None:
        facts += f", emergence point {record.timestep}"
    counts = Counter(s["category_id"] for s in store.read_annotation(entry.stem)["segments"])
    legend = "".join(
        f'<li><i style="background:rgb{category.color}"></i>{html.escape(category.name)}'
        + (f" ×{counts[category.id]}" if category.isthing else "")
        + "</li>"
        for category in categories
        if counts[category.id]
    )
    return section(entry.file_name, facts, pictures, _PANES, f'<ul class="legend">{legend}</ul>')
