"""Runs with ``--limit`` and ``--report-images`` on a folder that holds more: nothing is lost."""

from __future__ import annotations

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trace_d2.config import get_trace_cfg
from trace_d2.io.categories import Category
from trace_d2.jobs.engine import RunOptions, begin
from trace_d2.jobs.journal import ImageEntry
from trace_d2.jobs.kinds.panoptic_labels import LabelJob
from trace_d2.jobs.locks import Shard, folder_lock
from trace_d2.jobs.output import SettingsChangedError
from trace_d2.jobs.store import JobStore

STEMS = ("a", "b", "c", "d", "e", "f")


def shown(label_job) -> list[str]:
    """The images whose pictures the report page has."""
    page = (label_job.output / "report.html").read_text()
    assert "damaged" not in page.partition("<script")[0]
    names = re.findall(r'<section class="image"><h3>(\w+)\.png<', page)
    assert f"<h2>Pictures of {len(names)} of " in page
    return sorted(names)


def listed(label_job) -> list[str]:
    """The images that have labels in the joined file."""
    images = label_job.coco("panoptic.json")["images"]
    return [image["file_name"].removesuffix(".png") for image in images]


def test_a_report_keeps_the_pictures_beyond_the_limit(label_job) -> None:
    label_job.add(*STEMS)
    assert label_job.run("--report-images", "3") == 0
    assert shown(label_job) == ["a", "c", "e"]
    assert label_job.run("--report-images", "3", "--limit", "2") == 0
    assert shown(label_job) == ["a", "b", "c", "e"]
    assert label_job.run("--report-images", "0", "--limit", "1") == 0
    assert shown(label_job) == ["b", "c", "e"]  # the first image is asked about, and no other
    assert label_job.run("--report-images", "2") == 0
    assert shown(label_job) == ["a", "d"]
    assert listed(label_job) == list(STEMS)


def test_what_is_joined_beyond_the_limit_is_told(label_job, capsys) -> None:
    label_job.add(*STEMS)
    assert label_job.run("--limit", "4") == 0
    assert "beyond --limit" not in capsys.readouterr().out
    for limit in ("2", "2"):  # joined anew, and found as it is
        assert label_job.run("--limit", limit) == 0
        said = capsys.readouterr().out.splitlines()
        first = next(i for i, line in enumerate(said) if line.startswith("2 labelled (2 of them"))
        assert said[first + 1] == (
            "note: 2 more, beyond --limit, were labelled before: they are in the joined files and "
            "in all figures of 4 images"
        )
        assert listed(label_job) == list(STEMS[:4])
    assert label_job.run("--limit", "2", "--shard", "1/1") == 0
    assert "2 more, beyond --limit" in capsys.readouterr().out
    assert label_job.run("--limit", "2", "--shard", "1/2") == 0
    assert "beyond --limit" not in capsys.readouterr().out  # a part joins nothing


def test_pictures_are_of_the_first_images_that_have_masks(label_job) -> None:
    label_job.add(*STEMS)
    (label_job.root / "semantic/a.png").unlink()
    assert label_job.run("--report-images", "0") == 0
    assert label_job.run("--report-images", "2", "--limit", "2") == 0
    assert shown(label_job) == ["b"]
    assert listed(label_job) == list(STEMS[1:])


def test_results_without_pictures_are_joined_all_the_same(label_job, capsys) -> None:
    label_job.add(*STEMS)
    assert label_job.run("--report-images", "0") == 0
    assert label_job.run("--report-images", "6", "--shard", "1/2") == 0
    capsys.readouterr()
    assert label_job.merge() == 0
    assert capsys.readouterr().out.startswith("6 labelled, 0 skipped, 0 failed")
    assert listed(label_job) == list(STEMS)
    assert shown(label_job) == ["a", "c", "e"]
    assert label_job.run("--report-images", "6") == 0
    assert shown(label_job) == list(STEMS)


@pytest.mark.parametrize("limited", [1, 2])
def test_shards_with_other_limits_are_not_taken_for_a_whole_job(label_job, limited, capsys):
    label_job.add(*STEMS)
    assert label_job.run("--shard", "1/2", *(("--limit", "2") if limited == 1 else ())) == 0
    assert label_job.run("--shard", "2/2", *(("--limit", "2") if limited == 2 else ())) == 0
    capsys.readouterr()
    assert label_job.merge() == 3
    said = capsys.readouterr().out
    assert said.startswith("4 labelled, 0 skipped, 0 failed")
    assert "2 not labelled yet: run the missing shards" in said
    done = {1: ["a", "b", "d", "f"], 2: ["a", "b", "c", "e"]}[limited]
    assert listed(label_job) == shown(label_job) == done
    assert label_job.run("--limit", "2") == 0  # a whole job says anew how many are to be done
    assert label_job.merge() == 0


def test_a_limit_beyond_the_images_is_their_number(label_job, capsys) -> None:
    label_job.add(*STEMS)
    assert label_job.run("--limit", "9") == 0
    capsys.readouterr()
    assert label_job.tool.main(["--status", str(label_job.output)]) == 0
    assert "\n6 of 6 images done, 0 skipped, 0 failed, 0 to do\n" in capsys.readouterr().out
    assert label_job.merge() == 0


def test_of_shards_that_begin_at_once_with_other_settings_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [ImageEntry(stem, f"{stem}.png", rank) for rank, stem in enumerate(STEMS)]
    categories = (Category(1, "cat", True, (1, 2, 3)),)
    output, checked, key = tmp_path / "out", threading.Event(), "MODEL.TRACE.LABELS.NECK_DEPTH"

    def job(depth: int) -> LabelJob:
        cfg = get_trace_cfg()
        cfg.MODEL.TRACE.EDGES.SOURCE, cfg.MODEL.TRACE.LABELS.NECK_DEPTH = "none", float(depth)
        return LabelJob(cfg, tmp_path, tmp_path, categories, output, entries)

    def start(number: int) -> None:
        with folder_lock(output, Shard(number, 2)):
            begin(job(number), RunOptions(Shard(number, 2)))

    check = JobStore.check_settings

    def slow(store, settings) -> None:
        check(store, settings)
        checked.set()
        threading.Event().wait(0.3)  # the other one comes in between

    monkeypatch.setattr(JobStore, "check_settings", slow)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(start, 1)
        assert checked.wait(10)
        other = pool.submit(start, 2)
        one.result()
        with pytest.raises(SettingsChangedError, match=r"NECK_DEPTH: 1\.0 there, 2\.0 now"):
            other.result()
    assert json.loads((output / "settings.json").read_text())[key] == 1.0
