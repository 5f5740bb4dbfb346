"""LVIS, KITTI, KINS, Objects365, OpenImages, UVO, VOC 2007 and its kin: miniatures of the official
layouts are prepared, loaded by name and scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from official_layouts import (
    BOX,
    HEIGHT,
    OUTLINE,
    WIDTH,
    encoded,
    listed,
    make_clipart,
    make_kins,
    make_kitti,
    make_lvis,
    make_objects365,
    make_openimages,
    make_uvo,
    make_uvo_video,
    make_voc,
    read,
    save,
    voc_xml,
    write,
)

from trace_d2.data.prepare.objects365 import parse_patches


class Case(NamedTuple):
    """A data set: its name, who draws the miniature, the command, and what comes of it."""

    name: str
    make: Callable[[Path], None]
    command: tuple[str, ...]
    files: list[str]  # as registered, below the root
    ignored: int = 0
    masks: bool = False
    box: list[int] = BOX


PREPARE = "prepare_{}_class_agnostic"
VOC_FILES = [f"voc/VOC2007/JPEGImages/{stem}.jpg" for stem in ("000001", "000005")]
UVO_FILES = [f"uvo/all_UVO_frames/LzOXbKzYNVk/{k}.png" for k in (0, 30, 60)]
CASES = [
    Case("lvis_all", make_lvis, ("coco", "--lvis"),
         ["coco/val2017/000000000139.jpg", "coco/train2017/000000000142.jpg"], masks=True),
    Case("kitti", make_kitti, ("kitti",),
         [f"kitti/training/image_2/{stem}.png" for stem in ("000000", "000007")], ignored=2),
    Case("kins_train", make_kins, ("kitti", "--kins"), ["kitti/training/image_2/000003.png"],
         masks=True, box=[4, 6, 10, 10]),
    Case("objects365", make_objects365, ("objects365",),
         ["objects365/val/patch8/objects365_v1_00420917.jpg",
          "objects365/val/patch16/objects365_v2_00908726.jpg"]),
    Case("objects365_16-40", make_objects365, ("objects365", "--patches", "16-40"),
         ["objects365/val/patch16/objects365_v2_00908726.jpg"]),
    Case("openimages", make_openimages, ("openimages",),
         [f"openImages/validation/{s}.jpg" for s in ("000026e7ee790996", "00a159a661a2f5aa")],
         ignored=2),
    Case("uvo", make_uvo, ("uvo",), UVO_FILES[:2], masks=True),
    Case("uvo", make_uvo_video, ("uvo",), UVO_FILES[::2], masks=True),
    Case("voc", make_voc, ("voc",), VOC_FILES, ignored=2),
    Case("clipart", make_clipart, ("voc", "--sets", "clipart"),
         [f"clipart/JPEGImages/{stem}.jpg" for stem in ("000001", "000005")], ignored=2),
]  # fmt: skip


@pytest.fixture
def run(load_script, tmp_path):
    """``run(name, *more)``: the exit status of a script on ``tmp_path``."""

    def run(name: str, *more: str) -> int:
        script = load_script(PREPARE.format(name))
        return script.main(["--root", str(tmp_path), "--quiet", *more])

    return run


@pytest.fixture
def catalogue(tmp_path) -> Iterator[Any]:
    """Detectron2's catalogue with the built-in names below ``tmp_path``."""
    data = pytest.importorskip("detectron2.data")
    from trace_d2.data import builtin_datasets

    def forget() -> None:
        for name in builtin_datasets.NAMES:
            data.DatasetCatalog.pop(name, None)
            data.MetadataCatalog.pop(name, None)

    forget()
    builtin_datasets.register_builtin_datasets(tmp_path)
    yield data
    forget()
    builtin_datasets.register_builtin_datasets()


@pytest.mark.detectron2
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name} {case.make.__name__}")
def test_official_files_are_prepared_loaded_and_scored(
    case, run, catalogue, tmp_path, load_tool, capsys
):
    import torch
    from detectron2.structures import Boxes, Instances

    from trace_d2.evaluation.evaluators import ClassAgnosticEvaluator

    case.make(tmp_path)
    assert run(*case.command) == 0
    name = f"cls_agnostic_{case.name}"
    records = catalogue.DatasetCatalog.get(name)
    assert [record["file_name"] for record in records] == [str(tmp_path / f) for f in case.files]
    rows = [row for record in records for row in record["annotations"]]
    assert sum(row["iscrowd"] for row in rows) == case.ignored
    assert len(rows) == len(records) + case.ignored
    assert all("segmentation" in row for row in rows) == case.masks
    for row in rows:
        if not row["iscrowd"]:
            np.testing.assert_allclose(row["bbox"], case.box, atol=1e-9)

    # What a model that finds the half of them gets, and the same as a file of masks.
    x, y, width, height = case.box
    mask = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    mask[:, y : y + height, x : x + width] = True
    boxes = Boxes(torch.tensor([[x, y, x + width, y + height]], dtype=torch.float32))
    found = Instances((HEIGHT, WIDTH), pred_boxes=boxes, scores=torch.ones(1), pred_masks=mask)
    found.pred_classes = torch.zeros(1, dtype=torch.int64)
    evaluator = ClassAgnosticEvaluator(name, tmp_path / "inference")
    record = {key: records[0][key] for key in ("image_id", "file_name")}
    evaluator.process([record], [{"instances": found}])
    scores = evaluator.evaluate()
    kinds = ["segm", "bbox"] if case.masks else ["bbox"]
    most = "AR_300" if "lvis" in name else "AR_100"
    assert list(scores) == kinds
    for kind in kinds:
        assert scores[kind][most] == pytest.approx(100 / len(records))
    results = read(tmp_path / "inference/coco_instances_results.json")
    bare = [{key: row[key] for key in ("image_id", "score", "segmentation")} for row in results]
    arguments = ["--truth", catalogue.MetadataCatalog.get(name).json_file]
    arguments += ["--predictions", str(write(tmp_path / "masks.json", bare))]
    capsys.readouterr()
    assert load_tool("evaluate_masks").main(arguments) == 0
    output = capsys.readouterr().out
    assert ("those of boxes (AP^box, not AP^mk)" in output) == (not case.masks)
    assert f"{len(records)} images, {len(records)} true instances, 1 predictions" in output


BROKEN = [
    ("kitti", make_kitti, "kitti/training/label_2/000007.txt", lambda text: text + "Car 0 0\n",
     "000007.txt, line 3 has 3 columns, and KITTI's labels have 15"),
    ("kitti", make_kitti, "kitti/training/label_2/000007.txt",
     lambda text: text.replace("DontCare", "Dontcare"),
     "000007.txt, line 2: Dontcare is none of Car,"),
    ("kitti", make_kitti, "kitti/training/label_2/000007.txt",
     lambda text: text.replace(" 4 6 ", " 4 x "), "line 1: 4, x, 24, 16 are not the four numbers"),
    ("kitti", make_kitti, "kitti/training/label_2/000007.txt",
     lambda text: text.replace(" 4 6 24 16 ", " 44 6 64 16 "),
     "line 1: the box 44, 6, 64, 16 (left, top, right, bottom) has no pixel of training/image_2/"
     "000007.png, which is 40x30"),
    ("kitti", make_kitti, "kitti/training/image_2/000007.png", None, "1 of 2 images are missing,"),
    ("kitti", make_kitti, "kitti/training/label_2/000007.txt", None, "1 of 2 images have no label"),
    ("kitti", make_kitti, "kitti/training/image_2/000007.png", lambda text: "no image",
     "image_2/000007.png cannot be read"),
    ("kitti --kins", make_kins, "kitti/kins/update_train_2020.json", lambda text: "[1]",
     "update_train_2020.json is no file of KINS (it is [1], not an object"),
    ("kitti --kins", make_kins, "kitti/kins/update_train_2020.json",
     lambda text: text.replace("i_segm", "mask"), "no annotation has i_segm or inmodal_seg"),
    ("kitti --kins test", make_kins, "kitti/kins/update_train_2020.json", None,
     "no annotations at"),
    ("objects365", make_objects365, "objects365/val/patch16/objects365_v2_00908726.jpg", None,
     "1 of 2 images of"),
    ("objects365 --patches 1-3", make_objects365, "", None,
     "zhiyuan_objv2_val.json has none of the images that are asked for"),
    ("objects365 --patches 9-3", make_objects365, "", None,
     "'9-3' is neither a patch as 7 nor a range of them as 16-40"),
    ("openimages", make_openimages, "openImages/annotations/validation-annotations-bbox.csv",
     lambda text: text.replace("YMax", "Top"), "annotations-bbox.csv has no column YMax"),
    ("openimages", make_openimages, "openImages/annotations/validation-annotations-bbox.csv",
     lambda text: text.replace("0,0,1,0,0", "0,0,yes,0,0", 1),
     "line 4: IsGroupOf is yes, neither 0 nor 1 nor -1"),
    ("openimages", make_openimages, "openImages/annotations/validation-annotations-bbox.csv",
     lambda text: text.rstrip()[:-4], "line 7 has 11 columns, its head 13"),
    ("uvo", make_uvo_video, "uvo/annotations/UVO_sparse_val_video.json",
     lambda text: text.replace('"video_id": 4', '"video_id": 5'),
     "annotation 1 has a mask of frame 0 of video 5, which is not listed"),
    ("uvo", make_uvo, "uvo/annotations/UVO_frame_val.json", lambda text: '{"frames": []}',
     "UVO_frame_val.json is no COCO instances file"),
    ("voc", make_voc, "voc/VOC2007/Annotations/000005.xml", lambda text: text[:-9],
     "000005.xml is no XML ("),
    ("voc", make_voc, "voc/VOC2007/Annotations/000005.xml",
     lambda text: text.replace("<xmin>5</xmin>", ""),
     "000005.xml, object 1 (person) has no bndbox of xmin"),
    ("voc", make_voc, "voc/VOC2007/ImageSets/Main/test.txt", None, "no list of images at"),
    ("coco --lvis", make_lvis, "coco/annotations/lvis_v1_val.json", lambda text: "[]",
     "lvis_v1_val.json has no categories"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "make", "file", "spoil", "message"), BROKEN, ids=[row[-1] for row in BROKEN]
)
def test_what_is_broken_is_named(run, tmp_path, capsys, command, make, file, spoil, message):
    make(tmp_path)
    if file and spoil is None:
        (tmp_path / file).unlink()
    elif spoil is not None:
        before = (tmp_path / file).read_bytes()
        changed = spoil(before.decode("utf-8", "replace"))
        write(tmp_path / file, changed)
        assert changed.encode() != before
    assert run(*command.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert not list(tmp_path.rglob("*cls_agnostic.json"))


def test_several_broken_labels_are_said_at_once(run, tmp_path, capsys):
    make_kitti(tmp_path)
    for path in (tmp_path / "kitti/training/label_2").iterdir():
        path.write_text("Car\n")
    assert run("kitti") == 2
    error = capsys.readouterr().err
    assert "several things are wrong" in error
    assert "000000.txt, line 1" in error
    assert "000007.txt, line 1" in error


def test_boxes_beyond_the_image_are_cut_and_told(run, tmp_path, caplog):
    make_voc(tmp_path)
    path = tmp_path / "voc/VOC2007/Annotations/000005.xml"
    path.write_text(voc_xml(([30, 20, 20, 9], 0)).replace("<width>40", "<width>80"))
    assert run("voc") == 0
    content = read(tmp_path / "voc/annotations/trainvaltest_2007_cls_agnostic.json")
    assert content["annotations"][-1]["bbox"] == [30, 20, 10, 9]
    assert content["annotations"][-1]["area"] == 90
    assert "1 boxes of images reach beyond it: cut; first:" in caplog.text
    assert "1 boxes of images were drawn at another size; first:" in caplog.text


def test_what_counts_neither_way_may_count(run, tmp_path):
    make_voc(tmp_path)
    assert run("voc", "--difficult") == 0
    content = read(tmp_path / "voc/annotations/trainvaltest_2007_difficult_cls_agnostic.json")
    assert content["info"]["description"].endswith("difficult objects count")
    assert len(list((tmp_path / "voc/annotations").iterdir())) == 1
    assert [row["iscrowd"] for row in content["annotations"]] == [0] * 4
    assert [image["id"] for image in content["images"]] == [1, 5]


def test_difficult_is_read_however_it_is_written(run, tmp_path, capsys):
    make_voc(tmp_path)
    path = tmp_path / "voc/VOC2007/Annotations/000005.xml"
    before = path.read_text()
    path.write_text(before.replace("<difficult>1", "<difficult>True"))
    assert run("voc") == 0
    content = read(tmp_path / "voc/annotations/trainvaltest_2007_cls_agnostic.json")
    assert [row["iscrowd"] for row in content["annotations"]] == [0, 1] * 2
    path.write_text(before.replace("<difficult>1", "<difficult>maybe"))
    assert run("voc") == 2
    assert "object 2 (person): difficult is maybe, neither 0 nor 1" in capsys.readouterr().err


def test_hidden_parts_of_objects_count_if_asked(run, tmp_path):
    make_kins(tmp_path)
    assert run("kitti", "--kins", "train", "--amodal") == 0
    content = read(tmp_path / "kitti/annotations/kins_train_amodal_cls_agnostic.json")
    assert "whole objects (amodal)" in content["info"]["description"]
    assert len(list((tmp_path / "kitti/annotations").iterdir())) == 1
    assert [row["bbox"] for row in content["annotations"]] == [BOX, BOX]


def test_files_of_kins_of_2019_serve_as_well(run, tmp_path):
    """They name what is seen otherwise, as RLE, and the testing images "val"."""
    save(tmp_path, "kitti/testing/image_2/000003.png")
    row = {"id": 0, "image_id": 3, "category_id": 4, "segmentation": OUTLINE, "bbox": BOX}
    seen = {"inmodal_seg": encoded(), "inmodal_bbox": BOX, "iscrowd": 0}
    content = {"images": [listed(3, file_name="000003.png")], "annotations": [row | seen]}
    write(tmp_path / "kitti/kins/instances_val.json", content)
    assert run("kitti", "--kins", "test") == 0
    (made,) = read(tmp_path / "kitti/annotations/kins_test_cls_agnostic.json")["annotations"]
    assert made["segmentation"] == encoded()
    assert (made["bbox"], made["area"]) == (BOX, 200)


def test_boxes_of_coco_files_are_cut_and_told_or_refused(run, tmp_path, caplog, capsys):
    make_objects365(tmp_path)
    path = tmp_path / "objects365/annotations/zhiyuan_objv2_val.json"
    content = read(path)
    content["annotations"][0]["bbox"] = [30, 20, 20, 9]
    write(path, content)
    assert run("objects365") == 0
    row = read(path.with_name("zhiyuan_objv2_val_cls_agnostic.json"))["annotations"][0]
    assert (row["bbox"], row["area"]) == ([30, 20, 10, 9], 90)
    assert "1 boxes of images reach beyond it: cut; first: the box 30, 20, 20, 9" in caplog.text
    content["annotations"][0]["bbox"] = [44, 6, 20, 10]
    content["annotations"][1]["bbox"] = [4, 31, 20, 10]
    write(path, content)
    assert run("objects365") == 2
    error = capsys.readouterr().err
    assert "the box 44, 6, 20, 10 (x, y, width, height) has no pixel of patch8/" in error
    assert "the box 4, 31, 20, 10 (x, y, width, height) has no pixel of patch16/" in error


def test_names_become_those_of_a_folder(run, tmp_path):
    """A file of other tools, whose names lack the folders."""
    make_objects365(tmp_path)
    source = tmp_path / "objects365/annotations/zhiyuan_objv2_val.json"
    write(
        source,
        source.read_text().replace("images/v1/patch8/", "").replace("images/v2/patch16/", ""),
    )
    output = tmp_path / "out.json"
    arguments = ["--instances", str(source), "--output", str(output)]
    assert run("coco", *arguments, "--images", str(tmp_path / "objects365/val")) == 0
    names = [image["file_name"] for image in read(output)["images"]]
    assert names == ["patch8/objects365_v1_00420917.jpg", "patch16/objects365_v2_00908726.jpg"]


@pytest.mark.detectron2
def test_images_are_found_in_patches_that_names_lack(catalogue, tmp_path):
    """CutLER's file of Objects365 serves as it is, and so do the archives."""
    make_objects365(tmp_path)
    source = tmp_path / "objects365/annotations/zhiyuan_objv2_val.json"
    bare = source.read_text().replace("images/v1/patch8/", "").replace("images/v2/patch16/", "")
    write(source.with_name("zhiyuan_objv2_val_cls_agnostic.json"), bare)
    records = catalogue.DatasetCatalog.get("cls_agnostic_objects365")
    assert [record["file_name"].rpartition("/val/")[2] for record in records] == [
        "patch8/objects365_v1_00420917.jpg", "patch16/objects365_v2_00908726.jpg",
    ]  # fmt: skip


def test_patches():
    assert parse_patches("16-40") == range(16, 41)
    assert parse_patches("7") == range(7, 8)
