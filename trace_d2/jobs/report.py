"""The report page: one HTML file to look at, with totals, failures and pictures inside."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trace_d2.io.atomic import write_bytes
from trace_d2.io.json_files import read_json, shown
from trace_d2.jobs.journal import FAILED, SKIPPED, ImageEntry, Record
from trace_d2.jobs.store import PREVIEWS, JobStore
from trace_d2.terminal import plain_lines

_MOST_LINES = 300  # of a table
_PICTURE = re.compile(r"data:image/jpeg;base64,[A-Za-z0-9+/]+={0,2}")


@dataclass(frozen=True)
class Outcome:
    """What a folder of results holds once its journals are joined.

    Attributes:
        store: the folder.
        settings: what the results were made with.
        entries: all images of the job.
        records: how each came out, by stem.
        done: images with a finished result.
    """

    store: JobStore
    settings: Mapping[str, Any]
    entries: Sequence[ImageEntry]
    records: Mapping[str, Record]
    done: Sequence[ImageEntry]

    @property
    def finished(self) -> list[Record]:
        """Records of the images that are done."""
        return [self.records[entry.stem] for entry in self.done]


@dataclass(frozen=True)
class Table:
    """Names and texts, the first of which are shown.

    Attributes:
        title: what they are.
        rows: names and texts.
        first_column: what the names are of.
        source: the file that has them all.
    """

    title: str
    rows: Sequence[tuple[str, str]]
    first_column: str = "Image"
    source: str = "journal.jsonl"


@dataclass(frozen=True)
class Report:
    """What a kind of job adds to the page.

    Attributes:
        title: of the page.
        panes: keys and titles of the pictures of an image, in order.
        caption: what is said of one image.
        sources: where the results are from, by title.
        cards: names and values beside the counts.
        warnings, notes: sentences.
        bars: titles of bar charts, with how often each value occurs.
        tables: beside those of failures, skipped images and remarks.
        legend: of one image, colours (RGB) and texts.
    """

    title: str
    panes: Sequence[tuple[str, str]]
    caption: Callable[[Record], str]
    sources: Sequence[tuple[str, Any]]
    cards: Sequence[tuple[str, str]] = ()
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    bars: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    legend: Callable[[ImageEntry], list[tuple[tuple[int, int, int], str]]] = lambda entry: []


def write_report(report: Report, outcome: Outcome, word: str) -> None:
    """Write ``report.html`` from what the folder holds; the inputs need not be at hand.

    Args:
        report: what the kind of job adds.
        outcome: what the folder holds.
        word: what a finished image is, as ``"labelled"``.
    """
    import jinja2  # here, as workers need it not

    # Whatever comes out of a file of the folder is shown, not obeyed, by the page and its browser.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: plain_lines(value) if isinstance(value, str) else shown(value),
    )
    page = environment.get_template("report.html")
    entries, records, finished = outcome.entries, outcome.records, outcome.finished
    own = [records[entry.stem] for entry in entries if entry.stem in records]
    failed, skipped = ([r for r in own if r.status == status] for status in (FAILED, SKIPPED))
    tables = [
        *report.tables,
        Table("Failed", [(r.file_name, r.reason) for r in failed]),
        Table("Skipped", [(r.file_name, r.reason) for r in skipped]),
        Table("Remarks", [(r.file_name, "\n".join(r.notes)) for r in finished if r.notes]),
    ]
    text = page.render(
        report=report,
        cards=_cards(report, finished, len(failed), len(skipped), len(entries), word),
        tables=[table for table in tables if table.rows],
        images=[
            (entry, report.caption(records[entry.stem]), _pictures(outcome.store, entry))
            for entry in outcome.done
            if entry.pictured
        ],
        done=len(outcome.done),
        most=_MOST_LINES,
    )
    # File names may hold bytes that are no text.
    write_bytes(outcome.store.root / "report.html", text.encode("utf-8", errors="replace"))


def _pictures(store: JobStore, entry: ImageEntry) -> dict[str, str]:
    """The pictures of an image as addresses in the page; none where their file is damaged."""
    try:
        content = read_json(store.root / PREVIEWS.format(entry.stem))
    except ValueError:
        return {}
    if not isinstance(content, dict):
        return {}
    sound = all(isinstance(value, str) and _PICTURE.fullmatch(value) for value in content.values())
    return content if sound else {}


def _cards(
    report: Report, finished: Sequence[Record], failed: int, skipped: int, images: int, word: str
) -> list[tuple[str, str, bool]]:
    """Names and values of the cards, and whether they are bad news."""
    cards = [
        (f"images {word}", str(len(finished)), False),
        ("failed", str(failed), failed > 0),
        ("skipped", str(skipped), False),
    ]
    waiting = images - len(finished) - failed - skipped
    if waiting > 0:
        cards.append((f"not {word} yet", str(waiting), False))
    if finished:
        cards += [(name, value, False) for name, value in report.cards]
        seconds = statistics.median(record.seconds for record in finished)
        cards.append(("seconds an image (median)", f"{seconds:.2f}", False))
    return cards
