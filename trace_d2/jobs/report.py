"""The report page: one HTML file to look at, with totals, failures and pictures inside.

A kind of job says as data what it adds (``Report``), and each image what is shown of it
(``trace_d2.jobs.pictures``). The page is ``report.html`` with ``report.css``, ``paint.js`` and
``report.js`` inside; its script paints what is in view, sorts, filters and enlarges.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trace_d2.io.atomic import write_bytes
from trace_d2.io.json_files import shown
from trace_d2.jobs.failures import count_kinds
from trace_d2.jobs.journal import FAILED, SKIPPED, Record
from trace_d2.jobs.layout import PREVIEWS
from trace_d2.jobs.outcome import Outcome
from trace_d2.jobs.preview import Preview, read_preview
from trace_d2.terminal import plain_lines

if TYPE_CHECKING:
    import jinja2

_HERE = Path(__file__).parent
_MOST_LINES = 300  # of a table, and failures that are shown among the images
_MOST_UNSEEN = 20  # suspicious images without pictures that are named


@dataclass(frozen=True)
class Table:
    """Names and texts, the first of which are shown.

    Attributes:
        title: what they are.
        rows: names and texts.
        columns: what the names and the texts are.
        source: the file that has them all.
        folded: whether it is opened by a click.
        counts: whether the names are numbers.
        more: how many rows there are besides.
    """

    title: str
    rows: Iterable[tuple[str, Any]]
    columns: tuple[str, str] = ("Image", "Why")
    source: str = "journal.jsonl"
    folded: bool = False
    counts: bool = False
    more: int = 0

    def cut(self) -> Table:
        """The same with its first rows alone."""
        rows = iter(self.rows)
        first = list(islice(rows, _MOST_LINES))
        return replace(self, rows=first, more=self.more + sum(1 for _ in rows))


@dataclass(frozen=True)
class Measure:
    """A number of an image by which the page sorts, the greatest first.

    Attributes:
        title: what is counted, as ``"slivers"``.
        value: of the record of a finished image, 0 or more.
        suspicious: whether the more of it, the more an image should be looked at. It is then said
            of the image, unless it is 0.
        said: what is said instead of the number and the title.
    """

    title: str
    value: Callable[[Record], float]
    suspicious: bool = True
    said: str = ""


@dataclass(frozen=True)
class Curve:
    """A line drawn from points, x and y in 0..1."""

    title: str
    points: Sequence[tuple[float, float]]
    x: str
    y: str


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
        tables: beside those of failures, skipped images, remarks and settings.
        measures: what images are sorted by.
        curves: drawn with the settings.
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
    measures: Sequence[Measure] = ()
    curves: Sequence[Curve] = ()


@dataclass(frozen=True)
class _Shown:
    """One image on the page.

    Attributes:
        name: its file name.
        said: a line of it.
        reason: why it failed; empty if it did not.
        values: of the measures.
        suspicion: how soon it should be looked at.
        file: of its pictures, below the output.
        preview: its pictures; None where they are damaged, or it failed.
    """

    name: str
    said: str = ""
    reason: str = ""
    values: tuple[float, ...] = ()
    suspicion: float = 0.0
    file: str = ""
    preview: Preview | None = None


def counted(count: float, names: str) -> str:
    """``"2 pieces added by edges"``, ``"1 piece added by edges"``."""
    return f"{count:,.6g} " + (re.sub(r"s\b", "", names, count=1) if count == 1 else names)


def write_report(report: Report, outcome: Outcome, word: str) -> None:
    """Write ``report.html`` from what the folder holds; the inputs need not be at hand.

    Args:
        report: what the kind of job adds.
        outcome: what the folder holds.
        word: what a finished image is, as ``"labelled"``.
    """
    from markupsafe import Markup  # here, as workers need it not

    failed, skipped = map(outcome.of_status, (FAILED, SKIPPED))
    images, unseen = _images(report, outcome)
    images = [*_failures(failed), *images]
    counts = Counter(name for image in images if image.preview for name in image.preview.legend)
    classes = sorted(counts.items())
    parts = _parts()
    text = _template().render(
        report=report,
        cards=_cards(report, outcome, len(failed), len(skipped), word),
        tables=_tables(report, outcome, unseen),
        settings=_settings(outcome.settings),
        images=images,
        failed=len(failed),
        pictured=sum(bool(image.file) for image in images),
        done=len(outcome.done),
        index=_index(report, images, list(dict(classes))),
        classes=classes,
        measures=_measures(report, images),
        cuts=any(image.preview.content.get("cuts") for image in images if image.preview),
        most=_MOST_LINES,
        parts={name: Markup(part) for name, part in parts.items()},
        hashes={name: _hash(part) for name, part in parts.items()},
    )
    # File names may hold bytes that are no text.
    write_bytes(outcome.store.root / "report.html", text.encode("utf-8", errors="replace"))


@cache
def _template() -> jinja2.Template:
    """The page, compiled once: what comes out of a file of the folder is shown, not obeyed."""
    import jinja2
    from markupsafe import Markup

    def plain(value: object) -> str:
        if isinstance(value, Markup):  # of ours
            return value
        return plain_lines(value) if isinstance(value, str) else shown(value)

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        finalize=plain,
    )
    return environment.get_template("report.html")


def _parts() -> dict[str, str]:
    """The style and the script of the page."""
    names = ("report.css", "paint.js", "report.js")
    css, *js = ((_HERE / name).read_text("utf-8") for name in names)
    return {"css": css, "js": f'"use strict";\n{{\n{"".join(js)}}}'}


def _tables(report: Report, outcome: Outcome, unseen: Sequence[tuple[str, str]]) -> list[Table]:
    """Those that have rows; ``unseen``: images that should be looked at, but have no pictures."""
    failed, skipped = map(outcome.of_status, (FAILED, SKIPPED))
    kinds = count_kinds(failed, outcome.settings) if len(failed) > 1 else []
    noted = (record for record in outcome.finished if record.notes)
    tables = (
        Table(
            "Failures by kind",
            [(f"{kind.count:,}", str(kind)) for kind in kinds],
            columns=("Images", "Why"),
            counts=True,
        ),
        *report.tables,
        Table("Worth a look, but without pictures: raise --report-images", unseen, folded=True),
        Table("Skipped", ((one.file_name, one.reason) for one in skipped), folded=True),
        Table("Remarks", ((one.file_name, "\n".join(one.notes)) for one in noted)),
    )
    return [table for table in (table.cut() for table in tables) if table.rows]


def _failures(failed: Iterable[Record]) -> list[_Shown]:
    """The first failures."""
    first = islice(failed, _MOST_LINES)
    return [_Shown(record.file_name, reason=record.reason or "no reason") for record in first]


def _images(report: Report, outcome: Outcome) -> tuple[list[_Shown], list[tuple[str, str]]]:
    """Images to show, most suspicious first, and names and numbers of those without pictures."""
    measures = report.measures
    most = [0.0] * len(measures)
    for record in outcome.finished:
        most = [max(high, float(m.value(record))) for high, m in zip(most, measures, strict=True)]
    shown, unseen = list[_Shown](), list[_Shown]()
    for entry, record in outcome.results():
        values = tuple(float(measure.value(record)) for measure in measures)
        suspicion = sum(
            value / highest
            for value, highest, measure in zip(values, most, measures, strict=True)
            if measure.suspicious and highest > 0
        )
        least = unseen[-1].suspicion if len(unseen) == _MOST_UNSEEN else 0
        pictured = entry.pictured and outcome.store.has_pictures(entry)
        if not pictured and suspicion <= least:
            continue
        numbers = [
            measure.said or counted(value, measure.title)
            for measure, value in zip(measures, values, strict=True)
            if value and measure.suspicious
        ]
        image = _Shown(entry.file_name, ", ".join(numbers), "", values, suspicion)
        if pictured:
            said = ", ".join(filter(None, [report.caption(record), image.said]))
            preview = read_preview(outcome.store, entry.stem)
            file = str(outcome.store.path(PREVIEWS, entry.stem).relative_to(outcome.store.root))
            shown.append(replace(image, said=said, file=file, preview=preview))
        else:
            unseen = sorted([*unseen, image], key=_less_suspicious)[:_MOST_UNSEEN]
    shown.sort(key=_less_suspicious)
    return shown, [(image.name, image.said) for image in unseen]


def _less_suspicious(image: _Shown) -> float:
    return -image.suspicion


def _index(report: Report, images: Sequence[_Shown], classes: Sequence[str]) -> dict[str, Any]:
    """What the page's script sorts and filters by."""
    rank = {name: position for position, name in enumerate(classes)}
    return {
        "classes": classes,
        "panes": [[key, title] for key, title in report.panes],
        "images": [
            {
                "values": image.values,
                "classes": [rank[name] for name in image.preview.legend] if image.preview else [],
                "failed": bool(image.reason),
            }
            for image in images
        ],
    }


def _measures(report: Report, images: Sequence[_Shown]) -> list[tuple[int, str]]:
    """Ranks and titles of the measures that are not 0 throughout."""
    columns = zip(*(image.values for image in images if image.values), strict=True)
    titles = [measure.title for measure in report.measures]
    found = enumerate(zip(titles, columns, strict=False))
    return [(rank, title) for rank, (title, column) in found if any(column)]


def _settings(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of what the results were made with; lists of categories in short."""
    rows = []
    for name, value in settings.items():
        if name == "categories" and isinstance(value, list):
            named = [one.get("name", one) if isinstance(one, dict) else one for one in value]
            value = f"{len(named)}: " + ", ".join(map(str, named))
        rows.append((name, value if isinstance(value, str) else shown(value)))
    return rows


def _hash(part: str) -> str:
    """What allows exactly this script or style in the page's content security policy."""
    digest = hashlib.sha256(part.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _cards(
    report: Report, outcome: Outcome, failed: int, skipped: int, word: str
) -> list[tuple[str, str, bool]]:
    """Names and values of the cards, and whether they are bad news."""
    done = len(outcome.done)
    cards = [
        (f"images {word}", str(done), False),
        ("failed", str(failed), failed > 0),
        ("skipped", str(skipped), False),
    ]
    waiting = len(outcome.entries) - done - failed - skipped
    if waiting > 0:
        cards.append((f"not {word} yet", str(waiting), False))
    if done:
        cards += [(name, value, False) for name, value in report.cards]
        seconds = np.fromiter((record.seconds for record in outcome.finished), np.float32, done)
        cards.append(("seconds an image (median)", f"{np.median(seconds):.2f}", False))
    return cards
