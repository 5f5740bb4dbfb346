#!/usr/bin/env python3
"""How soon a report page of many images is there in Chromium, and how quickly it filters.

    python tools/benchmarks/benchmark_report.py [--images 500] [--runs 5]
    python tools/benchmarks/benchmark_report.py --report labels/report.html

Makes labels of 20 procedural scenes of 640 x 480 and a page that shows them again and again, under
ever new names, or takes a page that is there, and opens it from its file in a headless Chromium, a
new one each time. Printed are medians and the slowest: from opening to the first picture that is
painted, and, of every class and of two texts, from the choice to the first picture of the filtered
list. Needs Chromium (on Debian: apt install chromium) and the package playwright, whose own
browsers are not used.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

_SCENES = 20
_TOOLS = Path(__file__).parents[1]
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

# Milliseconds from opening to the first picture. The page's policy allows no more than to ask.
_FIRST = """async () => {
  for (;;) {
    const [mark] = performance.getEntriesByName("first picture");
    if (mark) return mark.startTime;
    await new Promise((resume) => setTimeout(resume, 10));
  }
}"""

# Resolves once the list is filtered and its first picture painted, with the milliseconds it took.
_FILTER = """async ([id, value]) => {
  const start = performance.now(), field = document.getElementById(id);
  const frame = () => new Promise((resume) => requestAnimationFrame(resume));
  field.value = value;
  field.dispatchEvent(new Event(id === "text" ? "input" : "change", { bubbles: true }));
  await frame();
  const first = document.querySelector("#images > .image:not([hidden])");
  if (first) first.scrollIntoView();
  const drawn = () => first.querySelector("img")?.complete;
  while (first?.querySelector("[data-pane]") && !drawn()) await frame();
  await frame();
  return performance.now() - start;
}"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--report", metavar="FILE", type=Path, help="a page that is there")
    parser.add_argument("--images", type=int, default=500, metavar="N", help="of the page made")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="new browsers")
    args = parser.parse_args(argv)
    browser = find_chromium()
    if browser is None:
        print("no Chromium here: on Debian, apt install chromium", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        report = args.report or make_report(Path(folder), args.images)
        opened, filtered = measure(report.resolve(), browser, args.runs)
    print(f"page of {args.images if args.report is None else args.report}, median (slowest):")
    for name, seconds in (("first picture", opened), ("a filter", filtered)):
        print(f"  {name:14} {statistics.median(seconds):.3f} s ({max(seconds):.3f} s)")
    return 0


def find_chromium() -> str | None:
    """The path of a Chromium or Chrome; the variable ``CHROMIUM`` names another."""
    named = os.environ.get("CHROMIUM")
    found = [shutil.which(name) for name in ([named] if named else _NAMES)]
    return next(filter(None, found), None)


def make_report(folder: Path, images: int) -> Path:
    """The report of labels of so many images, a few scenes again and again."""
    from trace_d2.jobs.kinds.panoptic_labels import LabelJob
    from trace_d2.jobs.layout import PREVIEWS
    from trace_d2.jobs.outcome import Outcome
    from trace_d2.jobs.report import write_report
    from trace_d2.jobs.store import JobStore
    from trace_d2.scenes.dataset import SceneSettings, write_scenes

    write_scenes(folder / "scenes", min(_SCENES, images), SceneSettings(size=(640, 480)))
    scenes, labels = folder / "scenes", folder / "labels"
    command: list[str | Path] = [
        *(sys.executable, str(_TOOLS / "make_pseudo_panoptic.py"), "--images", scenes / "images"),
        *("--semantic", scenes / "semantic", "--categories", scenes / "categories.json"),
        *("--edges", scenes / "edges_oracle", "--output", labels),
    ]
    subprocess.run(command, check=True)
    store = JobStore(labels, LabelJob.layout)
    records, (scenes_done, _) = dict(store.read_records()), store.read_images()
    entries = []
    for rank in range(images):
        entry = scenes_done[rank % len(scenes_done)]
        own = replace(entry, stem=f"{entry.stem}_{rank}", file_name=f"{entry.stem}_{rank}.png")
        record = records[entry.stem]
        records[own.stem] = replace(record, stem=own.stem, file_name=own.file_name)
        shutil.copy(labels / PREVIEWS.format(entry.stem), labels / PREVIEWS.format(own.stem))
        entries.append(own)
    outcome = Outcome(store, store.read_settings(), entries, records, entries)
    write_report(LabelJob.report(outcome), outcome, LabelJob.done)
    report = labels / "report.html"
    print(f"{report.stat().st_size / 2**20:.1f} MiB, {images} images")
    return report


def measure(report: Path, chromium: str, runs: int) -> tuple[list[float], list[float]]:
    """Seconds to the first picture, one a run, and of each filter."""
    from playwright.sync_api import sync_playwright

    opened, filtered = [], []
    with sync_playwright() as playwright:
        for _ in range(runs):
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(report.as_uri(), wait_until="commit")
            opened.append(page.evaluate(_FIRST) / 1000)
            page.wait_for_load_state("load")
            filtered += [page.evaluate(_FILTER, choice) / 1000 for choice in _choices(page)]
            browser.close()
    return opened, filtered


def _choices(page: Any) -> list[tuple[str, str]]:
    """Filters to set one after the other: fields and values."""
    classes = page.evaluate("[...document.getElementById('class').options].map((o) => o.value)")
    by_class = [("class", value) for value in (*classes[1:], "")]
    return [*by_class, ("text", "7"), ("text", "no such image"), ("text", "")]


if __name__ == "__main__":
    sys.exit(main())
