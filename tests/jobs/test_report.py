"""The report page holds totals, failures and pictures, and no markup of file names."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import zlib
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
from trace_d2.jobs.outcome import Outcome
from trace_d2.jobs.pictures import cut_strengths, encode, paint_edges
from trace_d2.jobs.preview import read_preview
from trace_d2.jobs.report import write_report
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
        if tag not in ("meta", "input", "path", "polyline"):
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "polyline"):
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
    write_json(store.place("previews/{}.json", "a"), encode(pictures))
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
    assert '<p class="warning reason">reason &lt;2&gt;\nline</p>' in page
    assert "<td>c.png</td><td>no mask</td>" in page
    assert "note &lt;1&gt;" in page
    assert "<span>400</span>" in page
    assert "cat &amp; &lt;b&gt; ×2" in page


def test_failures_are_grouped_by_kind(tmp_path: Path) -> None:
    store = open_store(tmp_path, "teacher")
    entries = [ImageEntry(stem, f"{stem}.png", 1) for stem in "abcd"]
    reasons = {"a": "/i/a.png has 3 <b>", "b": "/i/b.png has 14 <b>", "c": "odd"}
    records = {s: Record(s, f"{s}.png", FAILED, reason) for s, reason in reasons.items()}
    page = write_page(store, entries, records, [])
    assert "Failures by kind (2)" in page
    row = "<td>2</td><td>a.png: /i/a.png has 3 &lt;b&gt; (and 1 like it)</td>"
    assert row in page
    assert "<td>1</td><td>c.png: odd</td>" in page
    assert '<table class="counts"><tr><th>Images</th>' in page
    del records["b"], records["c"]
    assert "Failures by kind" not in write_page(store, entries, records, [])


def test_the_page_is_whole_and_safe(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    parser = OpenTags()
    parser.feed(page.removeprefix("<!DOCTYPE html>"))
    assert parser.stack == []
    assert "://" not in page  # nothing is fetched from anywhere
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page, re.DOTALL)
    kind = ' type="application/json" id='
    assert [opening for opening, _ in scripts] == [f'{kind}"index"', "", f'{kind}"data-1"']
    # The browser runs this script and no other, and applies this style and no other.
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    allowed = html.unescape(policy[1])
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    for directive, part in (("script-src", scripts[1][1]), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in allowed
    assert allowed.startswith("default-src 'none'; img-src data:; ")
    assert "style=" not in page
    content = json.loads(scripts[2][1])
    assert content["size"] == [4, 2]
    assert sorted(content["regions"]) == ["segments", "semantic", "uncut"]
    for address in (content["photograph"], content["strengths"]["edges"]):
        picture = base64.b64decode(address.removeprefix("data:image/webp;base64,"))
        assert Image.open(io.BytesIO(picture)).size == (4, 2)


BOMB = zlib.compress(bytes(10**7))
FORGED = "a\u202e\x1b[2Jgpj"  # would turn what follows, and clear a terminal


def test_a_forged_folder_puts_nothing_into_the_page(tmp_path: Path) -> None:
    page_of(tmp_path)
    store = JobStore(tmp_path, LabelJob.layout)
    evil = '"><script>alert(1)</script>'
    entry = ImageEntry("a", FORGED, 1, True)
    facts = {"timestep": 400, "segments": 3, "things": 2, "uncut": 0}
    records = {"a": Record("a", FORGED, DONE, evil, (evil, FORGED), 0.5, facts=facts)}
    picture = "data:image/jpeg;base64,"
    path = store.place("previews/{}.json", "a")
    sound = json.loads(path.read_bytes())
    addresses = ("javascript:alert(1)", "http://x/y.jpg", "data:text/html;base64,AAAA", 7, None)
    for address in (*addresses, f"{picture}{evil}", f"x{picture}AAAA"):
        for content in ({"image": address}, {**sound, "photograph": address}):
            write_json(path, content)
            page = write_page(store, [entry], records, [entry])
            assert "its pictures are damaged: remove previews/a.json" in page
            assert_plain(page)
            assert "a\\u202e\\x1b[2Jgpj" in page
    mark = [1, evil + FORGED, [1, 2, 3], f"</script>{evil}"]
    regions = {evil: {**sound["regions"]["segments"], "marks": [mark]}}
    regions["segments"] = regions[evil]
    write_json(path, {**sound, "regions": regions, "strengths": {}, "cuts_of": f"</script>{evil}"})
    page = write_page(store, [entry], records, [entry])
    assert "its pictures are damaged" not in page
    assert_plain(page)
    assert page.count("</script>") == 3


def assert_plain(page: str) -> None:
    """Nothing of the forged texts is markup, and no character in them is unseen."""
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "\u202e" not in page
    assert "\\u202e" in page
    assert "\x1b" not in page
    data = "".join(re.findall(r'<script type="application/json".*?</script>', page, re.DOTALL))
    assert not re.search(r"(?<!\\)\\u(001b|202e)", data)  # nor in what its script reads


@pytest.mark.parametrize(
    "change",
    [
        {"size": [4]},
        {"size": [4, 10**6]},
        {"size": [4, 3]},
        {"regions": []},
        {"regions": {"segments": {"numbers": "!", "marks": []}}},
        {"regions": {"segments": {"numbers": "AAAA", "marks": []}}},
        {"regions": {"segments": {"numbers": base64.b64encode(BOMB).decode(), "marks": []}}},
        {"cuts": [[1, 2]]},
        {"cuts": [[1, 2, "x"]]},
        {"cuts_of": 3},
        {"pale": [3]},
        {"strengths": {"edges": "x"}},
    ],
)
def test_damaged_parts_of_pictures_are_found(tmp_path: Path, change: dict) -> None:
    page_of(tmp_path)
    store = JobStore(tmp_path, LabelJob.layout)
    path = tmp_path / "previews/a.json"
    sound = json.loads(path.read_bytes())
    assert read_preview(store, "a") is not None
    path.write_text(json.dumps({**sound, **change}))
    assert read_preview(store, "a") is None


@pytest.mark.parametrize(
    "mark",
    [[1, "x", [1, 2]], [1, "x", [1, 2, 256], ""], [1, 2, [1, 2, 3], ""], ["1", "x", [1, 2, 3], ""]],
)
def test_damaged_marks_of_pictures_are_found(tmp_path: Path, mark: list) -> None:
    page_of(tmp_path)
    path = tmp_path / "previews/a.json"
    content = json.loads(path.read_bytes())
    content["regions"]["segments"]["marks"] = [mark]
    path.write_text(json.dumps(content))
    assert read_preview(JobStore(tmp_path, LabelJob.layout), "a") is None


def test_pictures_of_earlier_versions_are_shown(tmp_path: Path) -> None:
    page_of(tmp_path)
    address = "data:image/jpeg;base64,AAAA"
    (tmp_path / "previews/a.json").write_text(json.dumps({"image": address, "segments": address}))
    entry = ImageEntry("a", "a.png", 1, True)
    records = {"a": Record("a", "a.png", DONE, facts={"segments": 3, "things": 2})}
    page = write_page(JobStore(tmp_path, LabelJob.layout), [entry], records, [entry])
    assert re.findall(r'data-pane="(\w+)"', page) == ["image", "segments"]
    assert page.count(address) == 2


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


def test_one_colour_a_segment_through_all_panes(tmp_path: Path) -> None:
    edges = np.zeros((2, 4), np.float32)
    edges[0, 1:3] = 0.25, 0.75
    label = PanopticLabel(
        LABEL.segment_ids, [replace(LABEL.segments[0], area=2), *LABEL.segments[1:]]
    )
    pictures = label_job(tmp_path).pictures(sample(np.zeros((2, 4, 3)), SEMANTIC, edges), label)
    panes = pictures.panes
    segments, uncut, classes = (panes[key].marks for key in ("segments", "uncut", "semantic"))
    cat, sky = CATEGORIES[0].color, CATEGORIES[1].color
    # The first of two cats of one size has the colour of its class, and so has their whole.
    assert [segments[n].color for n in (1, 3)] == [cat, sky]
    assert [mark.color for mark in uncut.values()] == [cat, sky]
    assert {n: mark.color for n, mark in classes.items()} == {2: cat, 3: sky}
    assert [mark.name for mark in segments.values()] == ["cat & <b>", "cat & <b>", "sky"]
    assert segments[2].text == "no. 2, 25.0% of the image"
    assert panes["semantic"].numbers[1, 3] == 0  # unknown
    assert pictures.cuts == {(1, 2): 0.75}


def test_cuts_lie_inside_what_is_one_without_edges() -> None:
    numbers = np.array([[1, 1, 2, 3], [1, 1, 2, 3]])
    uncut = np.array([[1, 1, 1, 2], [1, 1, 1, 2]])
    edges = np.array([[0.0, 0.5, 0.25, 1], [0, 0.25, 0.75, 1]])
    assert cut_strengths(numbers, uncut, edges) == {(1, 2): 0.625}
    assert cut_strengths(numbers, numbers, edges) == {}


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
    content = encode(label_job(tmp_path).pictures(inputs, label))
    assert sorted(content["regions"]) == ["segments", "semantic"]
    data = base64.b64decode(content["photograph"].split(",")[1])
    assert Image.open(io.BytesIO(data)).size == (560, 420)
    assert len(json.dumps(content)) < 4000
