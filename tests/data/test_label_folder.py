"""Images without a label are counted before training."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from trace_d2.data.label_folder import missing_labels
from trace_d2.jobs.journal import DONE, SKIPPED, ImageEntry, Record
from trace_d2.jobs.layout import Layout
from trace_d2.jobs.store import JobStore


@pytest.fixture
def folders(tmp_path):
    """Twenty images, and a label folder that knows them."""
    (tmp_path / "images").mkdir()
    for number in range(20):
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / f"images/{number:02}.png")
    return tmp_path / "labels", tmp_path / "images"


def write(root, limit, *, unnamed=(), skipped=(), **settings):
    """What a job leaves that labelled the first ``limit`` images."""
    store = JobStore(root, Layout("labels"))
    store.open(settings)
    stems = [f"{number:02}" for number in range(20)]
    entries = [ImageEntry(s, f"{s}.png", None if s in unnamed else int(s)) for s in stems]
    store.write_images(entries, limit)
    with store.open_journal() as journal:
        for entry in entries[:limit]:
            left = entry.stem in unnamed or entry.stem in skipped
            reason = "no semantic mask" if left else ""
            status = SKIPPED if left else DONE
            journal.append(Record(entry.stem, entry.file_name, status, reason=reason))


def test_half_of_the_images(folders):
    write(folders[0], 10)
    said = missing_labels(*folders)
    assert "has labels of 10 of the 20 images" in said
    assert "10.png" in said
    assert "without --limit" in said


def test_the_reason_is_told_where_there_is_one(folders):
    write(folders[0], 20, skipped=("03", "04"))
    said = missing_labels(*folders)
    assert "18 of the 20 images" in said
    assert "03.png: no semantic mask" in said


def test_whole_folders_and_those_of_others_are_not_named(folders, tmp_path):
    write(folders[0], 20, unnamed=("07",))  # the list of images left it out on purpose
    assert missing_labels(*folders) == ""
    assert missing_labels(tmp_path / "nowhere", folders[1]) == ""
    assert missing_labels(folders[0], tmp_path / "nowhere") == ""


def test_masks_below_the_images_are_no_images(folders):
    masks = folders[1] / "masks"
    masks.mkdir()
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(masks / "00.png")
    write(folders[0], 20)
    assert "20 of the 21 images" in missing_labels(*folders)
    told = folders[0].with_name("told")
    write(told, 20, semantic=str(masks), edges="none")
    assert missing_labels(told, folders[1]) == ""


def test_images_that_came_since(folders):
    write(folders[0], 20)
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(folders[1] / "new.png")
    assert "20 of the 21 images" in missing_labels(*folders)
