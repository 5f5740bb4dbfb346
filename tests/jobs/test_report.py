"""The report page holds totals, failures and pictures, and no markup of file names."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trace_d2.config import get_trace_cfg
from trace_d2.io.atomic import write_json
from trace_d2.io.categories import Category, category_entries
from trace_d2.io.images import Photograph, Sample
from trace_d2.jobs.journal import DONE, FAILED, SKIPPED, ImageEntry, Record
from trace_d2.jobs.kinds.panoptic_labels import LabelJob
from trace_d2.jobs.pictures import data_addresses, paint_classes, paint_edges, paint_segments
from trace_d2.jobs.report import Outcome, write_report
from trace_d2.jobs.store import JobStore
from trace_d2.labels.panoptic import PanopticLabel, Segment

CATEGORIES = (
    Category(1, "cat & <b>", True, (250, 10, 20)),
    Category(2, "sky", False, (30, 40, 240)),
)
LABEL = PanopticLabel(
    np.array([[1, 1, 2, 2], [3, 3, 3, 3]], np.int32),
    [
        Segment(1, 1, True, 2, (0, 0, 2, 1)),
        Segment(2, 1, True, 2, (2, 0, 2, 1)),
        Segment(3, 2, False, 4, (0, 1, 4, 1)),
    ],
)
SEMANTIC = np.array([[1, 1, 1, 1], [2, 2, 2, 255]], np.uint8)


class OpenTags(HTMLParser):
    """Fails where tags do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in ("meta", "img"):
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


def write_page(store: JobStore, entries: list, records: dict, done: list) -> str:
    outcome = Outcome(store, store.read_settings(), entries, records, done)
    write_report(LabelJob.report(outcome), outcome, LabelJob.done)
    return (store.root / "report.html").read_text(encoding="utf-8")


def open_store(folder: Path, edges: str) -> JobStore:
    store = JobStore(folder, LabelJob.layout)
    listed = category_entries(CATEGORIES)
    store.open({"images": "/i", "semantic": "/s", "edges": edges, "categories": listed})
    return store


def label_job(folder: Path) -> LabelJob:
    return LabelJob(get_trace_cfg(), folder, folder, CATEGORIES, folder, [])


def sample(image: np.ndarray, semantic: np.ndarray, edges: np.ndarray | None) -> Sample:
    return Sample(Photograph(Path("a.png"), image, 1), edges, (), semantic)


def page_of(folder: Path) -> str:
    """The report of a done image with pictures, one failed, one skipped, one to come."""
    store = open_store(folder, "teacher")
    evil = '<script>"&.png'
    entries = [ImageEntry(stem, f"{stem}.png", 1, stem == "a") for stem in "abcd"]
    entries[0] = replace(entries[0], file_name=evil)
    facts = {"timestep": 400, "segments": 3, "things": 2, "uncut": 0}
    records = {
        "a": Record("a", evil, DONE, "", ("note <1>",), 0.5, facts=facts),
        "b": Record("b", "b.png", FAILED, "reason <2>\nline"),
        "c": Record("c", "c.png", SKIPPED, "no mask"),
    }
    job = label_job(folder)
    inputs = sample(np.zeros((2, 4, 3), np.uint8), SEMANTIC, np.zeros((2, 4), np.float32))
    store.write_note("a", job.write(entries[0], inputs, LABEL))
    pictures = job.pictures(inputs, LABEL)
    content = data_addresses(pictures)
    write_json(store.place("previews/{}.json", "a"), content)
    return write_page(store, entries, records, entries[:1])


def test_totals_and_reasons(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    cards = dict(
        (name, value) for value, name in re.findall(r"<b>([^<]*)</b><span>([^<]*)</span>", page)
    )
    assert cards == {
        "images labelled": "1", "failed": "1", "skipped": "1", "not labelled yet": "1",
        "segments": "3", "things an image": "2.0", "stuff an image": "1.0",
        "seconds an image (median)": "0.50",
    }  # fmt: skip
    assert "<td>b.png</td><td>reason &lt;2&gt;\nline</td>" in page
    assert "<td>c.png</td><td>no mask</td>" in page
    assert "note &lt;1&gt;" in page
    assert "<span>400</span>" in page
    assert "cat &amp; &lt;b&gt; ×2" in page


def test_the_page_is_whole_and_safe(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    parser = OpenTags()
    parser.feed(page.removeprefix("<!DOCTYPE html>"))
    assert parser.stack == []
    assert "<script" not in page
    assert "http" not in page  # nothing is fetched from anywhere
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == 4
    for picture in pictures:
        assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (4, 2)


FORGED = "a\u202e\x1b[2Jgpj"  # would turn what follows, and clear a terminal


def test_a_forged_folder_puts_nothing_into_the_page(tmp_path: Path) -> None:
    page_of(tmp_path)
    store = JobStore(tmp_path, LabelJob.layout)
    evil = '"><script>alert(1)</script>'
    entry = ImageEntry("a", FORGED, 1, True)
    facts = {"timestep": 400, "segments": 3, "things": 2, "uncut": 0}
    records = {"a": Record("a", FORGED, DONE, evil, (evil, FORGED), 0.5, facts=facts)}
    picture = "data:image/jpeg;base64,"
    addresses = ("javascript:alert(1)", "http://x/y.jpg", "data:text/html;base64,AAAA", 7, None)
    for address in (*addresses, f"{picture}{evil}", f"x{picture}AAAA"):
        write_json(store.place("previews/{}.json", "a"), {"image": address})
        page = write_page(store, [entry], records, [entry])
        assert "<script" not in page
        assert "<img" not in page
        assert "\u202e" not in page
        assert "\x1b" not in page
        assert "a\\u202e\\x1b[2Jgpj" in page
        assert "its pictures are damaged: remove previews/a.json" in page


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_a_page_goes_without_damaged_pictures(tmp_path: Path, content: bytes) -> None:
    page_of(tmp_path)
    store = JobStore(tmp_path, LabelJob.layout)
    (tmp_path / "previews/a.json").write_bytes(content)
    entry = ImageEntry("a", "a.png", 1, True)
    records = {"a": Record("a", "a.png", DONE, facts={"segments": 3, "things": 2})}
    page = write_page(store, [entry], records, [entry])
    assert "its pictures are damaged: remove previews/a.json" in page
    assert "<b>3</b><span>segments</span>" in page


def test_a_page_of_nothing(tmp_path: Path) -> None:
    page = write_page(open_store(tmp_path, "none"), [], {}, [])
    assert "<b>0</b><span>images labelled</span>" in page


def test_classes_have_their_colours_and_segments_their_own() -> None:
    painted = paint_classes(SEMANTIC, CATEGORIES)
    assert painted[0, 0].tolist() == [250, 10, 20]
    assert painted[1, 0].tolist() == [30, 40, 240]
    assert painted[1, 3].tolist() == [40, 40, 40]
    blocks = np.kron(LABEL.segment_ids, np.ones((4, 4), np.int32))
    over = paint_segments(np.zeros((*blocks.shape, 3), np.uint8), blocks)
    inside = [tuple(over[1, 1]), tuple(over[1, 9]), tuple(over[5, 5])]
    assert len(set(inside)) == 3
    assert over[1, 7].tolist() == [255, 255, 255]  # the border of segments 1 and 2


def test_pictures_are_small_and_thin_edges_stay_visible(tmp_path: Path) -> None:
    edges = np.zeros((1200, 1600), np.float32)
    edges[600] = 1
    small = paint_edges(edges, (320, 240))
    assert small.shape == (240, 320)
    assert small[120].tolist() == [255] * 320
    assert (small > 0).any(axis=1).sum() <= 2
    label = PanopticLabel(np.ones((1200, 1600), np.int32), [Segment(1, 2, False, 1, (0, 0, 1, 1))])
    semantic = np.full((1200, 1600), 2, np.uint8)
    inputs = sample(np.zeros((1200, 1600, 3), np.uint8), semantic, None)
    pictures = label_job(tmp_path).pictures(inputs, label)
    assert sorted(pictures) == ["image", "segments", "semantic"]
    data = base64.b64decode(data_addresses(pictures)["image"].split(",")[1])
    assert Image.open(io.BytesIO(data)).size == (320, 240)
