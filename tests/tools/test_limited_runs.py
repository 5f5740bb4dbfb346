"""Runs with ``--limit`` and ``--report-images`` on a folder that holds more: nothing is lost."""

from __future__ import annotations

import re

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
