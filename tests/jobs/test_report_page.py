"""The report page in a real, headless Chromium, opened from its file."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trace_d2.io.atomic import write_json
from trace_d2.jobs.journal import DONE, FAILED, ImageEntry, Record
from trace_d2.jobs.layout import Layout
from trace_d2.jobs.outcome import Outcome
from trace_d2.jobs.pictures import Pictures, colored, cut_strengths, encode
from trace_d2.jobs.report import Measure, Report, write_report
from trace_d2.jobs.store import JobStore

TALL = {"width": 1280, "height": 1600}  # all images are in sight, and painted
HOSTILE = "<img src=x onerror=hacked()>\u202e.png"
SHOWN = r"<img src=x onerror=hacked()>\u202e.png"
NAMES = {"a1": "a1.png", "a2": "a2.png", "a10": "a10.png", "old": "old.png", "evil": HOSTILE}
ADDED = {"a1": 1, "a2": 3, "a10": 0, "old": 0, "evil": 2}
CAT, DOG = ("cat", "sky"), ("dog", "sky")
CLASSES = {"a1": CAT, "a2": DOG, "a10": CAT, "evil": DOG}
COLORS = {"cat": (250, 60, 20), "dog": (20, 90, 250), "sky": (60, 200, 190)}
WIDTH, HEIGHT = 160, 120


def pictures_of(classes: tuple[str, str], seed: int) -> Pictures:
    """Two animals that touch, cut by an edge of strength 0.5, in the sky."""
    segments = np.full((HEIGHT, WIDTH), 3)
    segments[30:90, 20:80], segments[30:90, 80:130] = 1, 2
    uncut = np.where(segments == 3, 2, 1)
    edges = np.zeros((HEIGHT, WIDTH), np.float32)
    edges[:, 79:81] = 0.5
    animal, stuff = classes
    regions = colored(segments, {1: animal, 2: animal, 3: stuff}, COLORS)
    whole = colored(uncut, {1: animal, 2: stuff}, COLORS, shown=[regions], numbered=False)
    panes = {"segments": regions, "semantic": whole, "edges": edges, "uncut": whole}
    pixels = np.random.default_rng(seed).integers(90, 160, (HEIGHT, WIDTH, 3), np.uint8)
    return Pictures(pixels, panes, cut_strengths(segments, uncut, edges), "segments", ["sky"])


def write_page(folder: Path, copies: int = 0, bare: bool = False) -> Path:
    """A page of four images, one of them hostile, one of an earlier version, and two failures.

    Args:
        copies: so many images more.
        bare: nothing was cut, and there are no regions.
    """
    store = JobStore(folder, Layout("labels"))
    store.open({"images": "/images", "categories": [{"id": 1, "name": "cat"}]})
    names = {**NAMES, **{f"copy{rank:03}": f"copy{rank:03}.png" for rank in range(copies)}}
    for rank, stem in enumerate(names):
        pictures = pictures_of(CLASSES.get(stem, CAT), rank)
        if bare:
            pictures = Pictures(pictures.photograph, {"edges": pictures.panes["edges"]})
        content = encode(pictures)
        if stem == "old":
            content = {"image": content["photograph"], "segments": content["photograph"]}
        write_json(store.place("previews/{}.json", stem), content)
    done = [ImageEntry(stem, name, 1, True) for stem, name in names.items()]
    entries = [*done, *(ImageEntry(stem, f"{stem}.png", 1) for stem in ("bad", "worse"))]
    records = {
        e.stem: Record(e.stem, e.file_name, DONE, facts={"n": 0 if bare else ADDED.get(e.stem, 0)})
        for e in done
    }
    for stem, reason in (("bad", "the mask is empty"), ("worse", HOSTILE)):
        records[stem] = Record(stem, f"{stem}.png", FAILED, reason)
    titles = ("image", "semantic", "edges", "uncut", "segments")
    report = Report(
        title="Labels",
        panes=[(key, key.capitalize()) for key in titles],
        caption=lambda record: "two animals",
        sources=[("Images", HOSTILE)],
        measures=[
            Measure("pieces added by edges", lambda record: record.facts["n"]),
            Measure("fewest pieces", lambda record: 3 - record.facts["n"], suspicious=False),
        ],
    )
    outcome = Outcome(store, store.read_settings(), entries, records, done)
    write_report(report, outcome, "labelled")
    return folder / "report.html"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("report"))


def names_of(page: Any) -> list[str]:
    """The images that are shown, from top to bottom."""
    headings = "[...document.querySelectorAll('#images > :not([hidden]) h3')]"
    return page.evaluate(f"{headings}.map((heading) => heading.firstChild.data)")


def pixel(page: Any, name: str, pane: str, x: int, y: int) -> list[int]:
    """What is painted there, RGBA; ``x`` and ``y`` in the pixels of the image."""
    return page.evaluate(
        """([name, pane, x, y, width]) => {
          const card = [...document.querySelectorAll("#images > section")].find(
            (one) => one.querySelector("h3").firstChild.data === name);
          const canvas = card.querySelector(`[data-pane=${pane}] canvas`);
          const scale = canvas.width / width;
          const [left, top] = [(x + 0.5) * scale, (y + 0.5) * scale].map(Math.floor);
          return [...canvas.getContext("2d").getImageData(left, top, 1, 1).data];
        }""",
        [name, pane, x, y, WIDTH],
    )


class TestPanes:
    def test_a_segment_has_one_colour_in_all_of_them_and_in_the_legend(self, show, report) -> None:
        page = show(report, viewport=TALL)
        left, right, sky = (50, 60), (105, 60), (10, 10)
        for name, (animal, _) in (("a1.png", CLASSES["a1"]), ("a2.png", CLASSES["a2"])):
            for place, color in ((left, COLORS[animal]), (sky, COLORS["sky"])):
                for pane in ("semantic", "uncut", "segments"):
                    red, green, blue, alpha = pixel(page, name, pane, *place)
                    assert alpha == 255
                    # The photograph below is grey: differences of channels are the colour's.
                    share = 0.35 if place == sky else 0.6  # stuff is paler
                    expected = share * np.diff(color)
                    np.testing.assert_allclose(np.diff([red, green, blue]), expected, atol=2)
            one, other = (np.array(pixel(page, name, "segments", *at)) for at in (left, right))
            assert np.abs(one - other).max() > 60
            whole = (np.array(pixel(page, name, "uncut", *at))[:3] for at in (left, right))
            differences = [np.diff(color) for color in whole]
            np.testing.assert_allclose(*differences, atol=2)
            section = page.locator("section", has_text=name)
            chip = section.locator(".legend path").first.get_attribute("fill")
            assert chip == "rgb({},{},{})".format(*COLORS[animal])

    def test_legends_look_like_the_panes(self, show, report) -> None:
        page = show(report)
        looks = page.evaluate(
            """() => [...document.querySelectorAll(".legend path")].slice(0, 3).map((path) => [
              getComputedStyle(path).fill, getComputedStyle(path).fillOpacity,
              getComputedStyle(path.parentElement).backgroundColor])"""
        )
        section = page.locator("section", has=page.locator(".legend")).first
        name = section.locator("h3").evaluate("(heading) => heading.firstChild.data")
        for (color, share, below), place in zip(
            looks, ((50, 60), (105, 60), (10, 10)), strict=True
        ):
            fill, under = (np.array(re.findall(r"\d+", c), float) for c in (color, below))
            chip = float(share) * fill + (1 - float(share)) * under
            # The photographs here are 90 to 160.
            np.testing.assert_allclose(chip, pixel(page, name, "segments", *place)[:3], atol=30)

    def test_cut_borders_are_broad_where_they_are_enlarged(self, show, report) -> None:
        page = show(report)
        page.locator("section", has_text="a1.png").locator("[data-pane=image]").click()
        page.locator(".frame canvas").wait_for()
        broad = page.locator(".frame canvas").evaluate(
            """(canvas) => {
              const { width, height } = canvas;
              const row = canvas.getContext("2d").getImageData(0, height / 2, width, 1);
              let count = 0;
              for (let i = 0; i < row.data.length; i += 4) count += row.data[i] > 200;
              return count * canvas.clientWidth / width;
            }"""
        )
        assert 5 <= broad <= 8  # pixels of the screen

    def test_cut_borders_show_the_strength_of_the_edge(self, show, report) -> None:
        page = show(report, viewport=TALL)
        assert pixel(page, "a1.png", "image", 50, 60)[3] == 0
        red, green, blue, alpha = pixel(page, "a1.png", "image", 79, 60)
        assert (alpha, red > 200, green > 180, blue < 110) == (255, True, True, True)  # yellow: 0.5
        assert pixel(page, "a1.png", "image", 50, 30)[3] == 0  # an outline, but no cut
        page.locator("#cuts").uncheck()
        assert pixel(page, "a1.png", "image", 79, 60)[3] == 0
        page.locator("#cuts").check()
        assert pixel(page, "a1.png", "image", 79, 60)[3] == 255

    def test_what_is_pointed_at_is_named_and_shown_in_all(self, show, report) -> None:
        page = show(report, viewport=TALL)
        before = pixel(page, "a2.png", "segments", 50, 60)
        section = page.locator("section", has_text="a2.png")
        box = section.locator("[data-pane=uncut]").bounding_box()
        page.mouse.move(box["x"] + box["width"] * 50 / WIDTH, box["y"] + box["height"] / 2)
        said = page.locator("#tip").inner_text().split("\n")
        assert said == [
            "Semantic: dog, 34.4% of the image",
            "Uncut: dog, 34.4% of the image",
            "Segments: dog, no. 1, 18.8% of the image",
        ]
        lit = pixel(page, "a2.png", "segments", 50, 60)
        assert abs(lit[2] - lit[0]) > abs(before[2] - before[0]) + 20
        other = pixel(page, "a2.png", "segments", 105, 60)
        assert max(other[:3]) - min(other[:3]) < 50
        page.mouse.move(box["x"] + box["width"] * 80 / WIDTH, box["y"] + box["height"] / 2)
        assert "cut border, strength 0.50" in page.locator("#tip").inner_text()
        tip = page.locator("#tip").bounding_box()
        assert tip["y"] >= box["y"] + box["height"] or tip["y"] + tip["height"] <= box["y"]
        page.mouse.move(2, 2)
        assert page.locator("#tip").is_hidden()
        assert pixel(page, "a2.png", "segments", 50, 60) == before

    def test_pictures_out_of_sight_are_let_go(self, show, drawn, tmp_path) -> None:
        page = show(write_page(tmp_path, copies=60))
        held = "document.querySelectorAll('#images img').length"
        first = page.evaluate(held)
        page.locator("section").last.scroll_into_view_if_needed()
        page.locator("section").last.locator("img").first.wait_for()
        drawn(page)
        assert 0 < page.evaluate(held) <= first + 10
        assert page.locator("section").nth(4).locator("img").count() == 0


class TestChoosing:
    def test_failures_come_first_then_what_is_suspicious(self, show, report) -> None:
        page = show(report)
        assert names_of(page) == [
            "bad.png", "worse.png", "a2.png", SHOWN, "a1.png", "a10.png", "old.png",
        ]  # fmt: skip
        assert page.locator("section", has_text="a2.png").locator("small").inner_text() == (
            "two animals, 3 pieces added by edges"
        )
        failure = page.locator("section").nth(0)
        assert failure.locator(".reason").inner_text() == "the mask is empty"
        assert failure.locator("[data-pane]").count() == 0

    def test_sorting(self, show, report) -> None:
        page = show(report)
        page.locator("#sort").select_option(label="by name")
        assert names_of(page)[1:] == [
            "a1.png", "a2.png", "a10.png", "bad.png", "old.png", "worse.png",
        ]  # fmt: skip
        page.locator("#sort").select_option(label="most fewest pieces")
        assert names_of(page)[:3] == ["a10.png", "old.png", "a1.png"]
        page.locator("#sort").select_option(label="most suspicious first")
        assert names_of(page)[:3] == ["bad.png", "worse.png", "a2.png"]

    def test_filtering_by_class_and_text(self, show, report) -> None:
        page = show(report)
        assert page.locator("#class option").all_inner_texts() == [
            "all classes", "cat (2)", "dog (2)", "sky (4)",
        ]  # fmt: skip
        page.locator("#class").select_option(label="cat (2)")
        assert names_of(page) == ["a1.png", "a10.png"]
        assert page.locator("#count").inner_text() == "2 of 7 images"
        page.locator("#text").fill("a10")
        assert names_of(page) == ["a10.png"]
        page.locator("#class").select_option(label="all classes")
        page.locator("#text").fill("DOG a2")
        assert names_of(page) == ["a2.png"]
        page.locator("#text").fill("mask is empty")
        assert names_of(page) == ["bad.png"]
        page.locator("#text").fill("nothing like it")
        assert names_of(page) == []
        assert page.locator("#none").inner_text().startswith("No image fits")
        page.locator("#text").fill("")
        assert page.locator("#count").inner_text() == "7 of 7 images"
        assert page.locator("#none").is_hidden()

    def test_nothing_is_offered_that_does_nothing(self, show, tmp_path) -> None:
        path = write_page(tmp_path, bare=True)
        page = show(path)
        page.locator("section img").first.wait_for()
        assert page.locator("#sort option").all_inner_texts() == [
            "most suspicious first", "most fewest pieces", "by name",
        ]  # fmt: skip
        assert page.locator("#class").count() == page.locator("#cuts").count() == 0
        page.locator("#text").fill("a10")
        assert names_of(page) == ["a10.png"]

    def test_a_click_on_a_class_of_a_legend_filters_by_it(self, show, report) -> None:
        page = show(report)
        page.locator("section", has_text="a2.png").get_by_role("button", name="dog ×2").click()
        assert names_of(page) == ["a2.png", SHOWN]
        page.locator("section", has_text="a2.png").get_by_role("button", name="dog ×2").click()
        assert len(names_of(page)) == 7


class TestEnlarging:
    def at(self, page: Any) -> tuple[str, str]:
        page.locator(".frame").wait_for()
        return page.locator("#large-name").inner_text(), page.locator("#large-pane").inner_text()

    def test_by_click_and_keys(self, show, report) -> None:
        page = show(report)
        page.locator("#text").fill(".png two")
        button = page.locator("section", has_text="a2.png").locator("[data-pane=uncut]")
        small = button.bounding_box()
        button.click()
        assert self.at(page) == ("a2.png", "Uncut (4 of 5)")
        large = page.locator(".frame canvas").bounding_box()
        assert large["width"] > 2.5 * small["width"]
        assert large["width"] / large["height"] == pytest.approx(WIDTH / HEIGHT, abs=0.02)
        assert page.locator(".frame canvas").evaluate("(canvas) => canvas.width") == 4 * WIDTH
        for key, place in (
            ("ArrowRight", ("a2.png", "Segments (5 of 5)")),
            ("ArrowRight", ("a2.png", "Image (1 of 5)")),
            ("ArrowLeft", ("a2.png", "Segments (5 of 5)")),
            ("ArrowDown", (SHOWN, "Segments (5 of 5)")),
            ("ArrowDown", ("a1.png", "Segments (5 of 5)")),
            ("ArrowDown", ("a10.png", "Segments (5 of 5)")),
            ("ArrowDown", ("old.png", "Segments (2 of 2)")),
            ("ArrowDown", ("old.png", "Segments (2 of 2)")),
            ("ArrowUp", ("a10.png", "Segments (5 of 5)")),
        ):
            page.keyboard.press(key)
            for part, text in zip(("name", "pane"), place, strict=True):  # once it is loaded
                page.locator(f"#large-{part}", has_text=text).wait_for()
            assert self.at(page) == place
        page.keyboard.press("Escape")
        assert page.locator("#large").is_hidden()
        page.locator("[data-pane=segments]:focus").wait_for()
        page.keyboard.press("Enter")
        assert self.at(page) == ("a10.png", "Segments (5 of 5)")
        page.get_by_role("button", name="✕").click()
        assert page.locator("#large").is_hidden()

    def test_pointing_names_what_is_there(self, show, report) -> None:
        page = show(report)
        page.locator("section", has_text="a1.png").locator("[data-pane=segments]").click()
        self.at(page)
        box = page.locator(".frame canvas").bounding_box()
        page.mouse.move(box["x"] + 5, box["y"] + 5)
        assert "Segments: sky, no. 3" in page.locator("#tip").inner_text()


class TestSafety:
    def test_hostile_names_are_shown_and_not_obeyed(self, show, report) -> None:
        page = show(report)
        assert SHOWN in names_of(page)
        assert page.locator("img[src=x]").count() == 0
        assert page.locator("dl.source dd").inner_text() == SHOWN
        page.locator("section", has_text="worse.png").scroll_into_view_if_needed()
        assert page.locator(".reason").nth(1).inner_text() == SHOWN

    def test_a_script_that_got_into_the_page_does_not_run(self, browser, report, tmp_path) -> None:
        text = report.read_text(encoding="utf-8")
        evil = '<script>hacked = 1</script><img src="x" onerror="hacked = 1"><b style="color:red">'
        (tmp_path / "evil.html").write_text(text.replace("<h1>", f"{evil}<h1>"), encoding="utf-8")
        page = browser.new_page()
        page.goto((tmp_path / "evil.html").as_uri())
        page.locator("#images canvas").first.wait_for()
        assert page.evaluate("typeof hacked") == "undefined"
        assert page.locator("b").first.evaluate("(b) => b.style.color") == ""
        page.close()


class TestLooks:
    @pytest.mark.parametrize("width", [320, 390, 1280, 2560])
    def test_nothing_sticks_out(self, show, report, width) -> None:
        page = show(report, viewport={"width": width, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        panes = page.locator("section", has_text="a1.png").locator("figure").all()
        tops = [round(pane.bounding_box()["y"]) for pane in panes]
        assert len(set(tops)) == (3 if width < 640 else 1)
        page.locator("section", has_text="a1.png").locator("[data-pane=segments]").click()
        page.locator(".frame canvas").wait_for()
        frame = page.locator(".frame").bounding_box()
        assert frame["x"] >= 0
        assert frame["x"] + frame["width"] <= width

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_texts_can_be_read(self, show, report, scheme) -> None:
        page = show(report, color_scheme=scheme)
        places = ("h1", "section small", ".reason", "figcaption", "#count", ".card span", ".legend")
        for where in places:
            colors = page.locator(where).first.evaluate(
                """(element) => {
                  const text = getComputedStyle(element).color;
                  const solid = (e) => getComputedStyle(e).backgroundColor;
                  while (/, 0\\)$/.test(solid(element))) element = element.parentElement;
                  return [text, solid(element)];
                }"""
            )
            light, dark = sorted(map(luminance, colors), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (where, colors)

    def test_settings_are_folded(self, show, report) -> None:
        page = show(report)
        row = page.get_by_role("row", name="categories")
        assert row.is_hidden()
        page.locator("summary", has_text="Settings").click()
        assert row.inner_text().split("\t") == ["categories", "1: cat"]


def luminance(color: str) -> float:
    """The relative luminance of ``rgb(...)`` as WCAG has it."""
    channels = np.array([int(part) for part in re.findall(r"\d+", color)[:3]]) / 255
    linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_the_benchmark_measures_a_page(load_tool, browser, report) -> None:
    tool = load_tool("benchmark_report").__file__
    command = [sys.executable, tool, "--report", str(report), "--runs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.search(r"first picture +\d+\.\d{3} s", done.stdout)
    assert re.search(r"a filter +\d+\.\d{3} s", done.stdout)
