"""Files that break programs: told in a line, with their name, and nothing is written or lost."""

from __future__ import annotations

import json
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trace_d2.data.prepare.command import run as run_script
from trace_d2.data.prepare.nuclei import prepare_tnbc
from trace_d2.data.prepare.one_class import prepare_class_agnostic
from trace_d2.data.prepare.sa1b import prepare_sa1b

SQUARE = [[1.0, 1.0, 3.0, 1.0, 3.0, 3.0, 1.0, 3.0]]
VIDEO = {"id": 4, "file_names": ["v/0.png"], "height": 6, "width": 8}
OBJECT = {"id": 1, "video_id": 4, "iscrowd": 0, "segmentations": [SQUARE]}
HEAD = "ImageID,XMin,XMax,YMin,YMax,IsGroupOf\n"
XML = (
    "<annotation><size/><object><name>a</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
    "<xmax>4</xmax><ymax>4</ymax></bndbox></object></annotation>"
)


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(path)


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def run(load_script, tmp_path, capsys):
    """``run(script)``: its exit status and what it says."""

    def start(script: str) -> tuple[int, str]:
        status = load_script(script).main(["--root", str(tmp_path), "--quiet"])
        return status, capsys.readouterr().err

    return start


@pytest.mark.parametrize(
    ("videos", "rows", "message"),
    [
        ([VIDEO | {"id": [4]}], [OBJECT], 'video [4]: "id" is [4], neither a whole number nor'),
        ([VIDEO], [OBJECT | {"video_id": {}}], 'annotation 1: "video_id" is {}, neither a whole'),
        ([VIDEO, VIDEO | {"file_names": ["v/1.png"]}], [OBJECT], "video 4 is listed twice"),
    ],
)
def test_ids_of_videos(run, tmp_path, videos, rows, message):
    save(tmp_path / "uvo/all_UVO_frames/v/0.png")
    content = {"videos": videos, "annotations": rows}
    path = write(tmp_path / "uvo/annotations/UVO_sparse_val_video.json", content)
    status, said = run("prepare_uvo_class_agnostic")
    assert (status, f"{path}: {message}" in said) == (2, True)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (HEAD + "a" * 140_000 + ",0,1,0,1,0\n", "line 2 is no line of a table (field larger"),
        (HEAD + "../../out,0,1,0,1,0\n", "line 2: the file name ../../out leads out of its folder"),
        (HEAD + "a,0,inf,0,1,0\n", "line 2: 0, 0, inf, 1 are not the four numbers of a box"),
        (HEAD + "a,nan,1,0,1,0\n", "line 2: nan, 0, 1, 1 are not the four numbers of a box"),
    ],
)
def test_tables_of_boxes(run, tmp_path, table, message):
    save(tmp_path / "openImages/validation/a.jpg")
    save(tmp_path / "out.jpg")
    write(tmp_path / "openImages/annotations/validation-annotations-bbox.csv", table)
    status, said = run("prepare_openimages_class_agnostic")
    assert (status, message in said) == (2, True)


@pytest.mark.parametrize("encoding", ["shift_jis", "klingon"])
def test_encodings_of_xml(run, tmp_path, encoding):
    folder = tmp_path / "voc/VOC2007"
    save(folder / "JPEGImages/1.jpg")
    for split in ("trainval", "test"):
        write(folder / f"ImageSets/Main/{split}.txt", "\ufeff1\r\n")
    path = write(folder / "Annotations/1.xml", f"<?xml version='1.0' encoding='{encoding}'?>{XML}")
    status, said = run("prepare_voc_class_agnostic")
    assert (status, f"{path} is no XML (" in said) == (2, True)
    write(path, XML)
    assert run("prepare_voc_class_agnostic")[0] == 0


def test_what_macs_add_to_archives_is_passed_over(run, tmp_path):
    kitti, sa1b = tmp_path / "kitti/training", tmp_path / "sa1b"
    save(kitti / "image_2/000000.png")
    line = "Car 0.00 0 -1.58 1 1 3 3 1.6 1.8 3.6 2.8 1.6 8.4 -1.5"
    write(kitti / "label_2/000000.txt", line)
    save(sa1b / "sa_1.jpg")
    entry = {"image_id": 1, "file_name": "sa_1.jpg", "height": 6, "width": 8}
    write(sa1b / "sa_1.json", {"image": entry, "annotations": []})
    for path in (kitti / "image_2/000000.png", kitti / "label_2/000000.txt", *sa1b.iterdir()):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7\xff")
    assert run("prepare_kitti_class_agnostic") == (0, "")
    assert prepare_sa1b(sa1b, tmp_path / "out.json", progress=False) == (1, 0)


def test_no_slide_of_tnbc_is_passed_over_for_its_ending(tmp_path):
    source = tmp_path / "source"
    for name in ("Slide_01/01_1.png", "GT_01/01_1.png", "Slide_01/01_2.PNG", "GT_01/01_2.Png"):
        save(source / name)
    nucleus = np.zeros((6, 8), np.uint8)
    nucleus[1:4, 1:4] = 255
    Image.fromarray(nucleus).save(source / "GT_01/01_2.Png")
    assert prepare_tnbc(source, tmp_path / "out", progress=False) == (2, 1)


def test_annotations_are_not_written_over(tmp_path):
    image = {"id": 1, "file_name": "a.jpg", "height": 6, "width": 8}
    row = {"id": 1, "image_id": 1, "category_id": 3, "segmentation": SQUARE}
    path = write(tmp_path / "all.json", {"images": [image], "annotations": [row]})
    (tmp_path / "link.json").symlink_to(path)
    before = path.read_bytes()
    for output in (path, tmp_path / "link.json"):
        with pytest.raises(ValueError, match="is what it would be made from, and be lost"):
            prepare_class_agnostic(path, output, progress=False)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt, 130, "\nprepare_any: interrupted: run it again\n"),
        (BrokenProcessPool, 2, "prepare_any: a process was killed, perhaps as memory ran out: "),
        (
            BrokenProcessPool,
            2,
            "prepare_any: a process was killed, perhaps as memory ran out: run it again with fewer "
            "--workers; a Python script that calls this must do so under if __name__",
        ),
    ],
)
def test_ends_that_no_file_brings_about(capsys, error, status, message):
    def written():
        yield "one"
        raise error

    assert run_script("datasets/prepare_any.py", written()) == status
    assert capsys.readouterr().err.startswith(message)
