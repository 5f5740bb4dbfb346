"""MoNuSeg and TNBC to panoptic, on miniatures of their archives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image
from pycocotools import mask as coco_mask

from trace_d2.data.prepare.nuclei import painted, read_outlines, read_painted
from trace_d2.data.registration import register_class_agnostic, register_panoptic_files
from trace_d2.io.atomic import write_png
from trace_d2.io.coco_panoptic import encode_mask, id2rgb, read_panoptic_png

HEIGHT, WIDTH = 12, 16
FIRST = [(1.0, 1.0), (5.0, 1.0), (5.0, 5.0), (1.0, 5.0)]
SECOND = [(4.0, 1.0), (8.0, 1.0), (8.0, 5.0), (4.0, 5.0)]  # a column of the first one as well
UNDER = [(1.0, 1.0), (3.0, 1.0), (3.0, 3.0), (1.0, 3.0)]
LINE = [(9.0, 9.0), (11.0, 9.0)]
OUTSIDE = [(20.0, 20.0), (24.0, 20.0), (24.0, 24.0)]


def xml(*regions: list[tuple[float, float]]) -> str:
    """As ImageScope writes them, two lines and a line a vertex each."""
    drawn = "".join(
        f'<Region Id="{rank}">\n<Vertices>'
        + "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>\n' for x, y in region)
        + "</Vertices></Region>\n"
        for rank, region in enumerate(regions, start=1)
    )
    head = '<?xml version="1.0"?>\n<Annotations MicronsPerPixel="0.25">\n'
    return f"{head}<Annotation><Regions>\n{drawn}</Regions></Annotation></Annotations>\n"


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.fixture
def monuseg(tmp_path):
    """Training data in two folders, in a folder of their own name; test data all in one."""
    twice = "MoNuSeg 2018 Training Data"
    train, test = tmp_path / "monuseg" / twice / twice, tmp_path / "monuseg/MoNuSegTestData"
    for image, annotation, stems in (
        (train / "Tissue Images", train / "Annotations", ("TCGA-18", "TCGA-21")),
        (test, test, ("TCGA-2Z",)),
    ):
        for folder in (image, annotation):
            folder.mkdir(parents=True, exist_ok=True)
        for stem in stems:
            Image.new("RGB", (WIDTH, HEIGHT)).save(image / f"{stem}.tif")
            (annotation / f"{stem}.xml").write_text(xml(FIRST, SECOND, LINE, OUTSIDE))
    return tmp_path


@pytest.fixture
def run(load_script, tmp_path):
    """``run(name, *more)``: the exit status of a script on ``tmp_path``."""
    return lambda name, *more: load_script(f"prepare_{name}_panoptic").main(
        ["--root", str(tmp_path), "--workers", "1", "--quiet", *more]
    )


def test_outlines_overlap_as_instances_and_not_as_segments(run, monuseg, capsys, caplog):
    assert run("monuseg") == 0
    assert "2 images with 4 nuclei in" in capsys.readouterr().out
    # Behind a head of three lines and two regions of six.
    assert "2 outlines without a pixel are left out (line 16, 20)" in caplog.text
    folder = monuseg / "monuseg/panoptic_train"
    panoptic, instances = read(folder / "panoptic.json"), read(folder / "instances.json")
    name = "MoNuSeg 2018 Training Data/MoNuSeg 2018 Training Data/Tissue Images/TCGA-18.tif"
    assert panoptic["images"][0] == {"id": 1, "file_name": name, "height": 12, "width": 16}
    assert [(c["id"], c["name"], c["isthing"]) for c in panoptic["categories"]] == [
        (1, "nucleus", 1), (0, "background", 0),
    ]  # fmt: skip
    segments = panoptic["annotations"][0]["segments_info"]
    assert [(s["category_id"], s["area"], s["bbox"]) for s in segments] == [
        (1, 16, [1, 1, 4, 4]), (1, 12, [5, 1, 3, 4]), (0, 164, [0, 0, 16, 12]),
    ]  # fmt: skip
    segment_ids = read_panoptic_png(folder / "panoptic/TCGA-18.png")
    assert segment_ids[1].tolist() == [3] + [1] * 4 + [2] * 3 + [3] * 8
    own = [a for a in instances["annotations"] if a["image_id"] == 1]
    assert [(a["id"], a["area"], a["bbox"]) for a in own] == [
        (1, 16, [1, 1, 4, 4]), (2, 16, [4, 1, 4, 4]),
    ]  # fmt: skip
    assert coco_mask.decode(own[1]["segmentation"])[1].tolist() == [0] * 4 + [1] * 4 + [0] * 8


def test_what_is_written_loads(run, monuseg):
    run("monuseg", "--splits", "test")
    folder = monuseg / "monuseg/panoptic_test"
    paths = "t_monuseg", monuseg / "monuseg", folder / "panoptic.json", "nuclei"
    register_panoptic_files(*paths, remedy="none")
    register_class_agnostic("t_nuclei", folder / "instances.json", monuseg / "monuseg")
    try:
        (record,) = DatasetCatalog.get("t_monuseg")
        assert record["file_name"] == str(monuseg / "monuseg/MoNuSegTestData/TCGA-2Z.tif")
        assert [s["category_id"] for s in record["segments_info"]] == [0, 0, 1]
        (record,) = DatasetCatalog.get("t_nuclei")
        assert len(record["annotations"]) == 2
    finally:
        for name in ("t_monuseg", "t_nuclei"):
            DatasetCatalog.remove(name)


def test_more_than_255_nuclei(tmp_path):
    squares = [
        [(x, y), (x + 2, y), (x + 2, y + 2), (x, y + 2)]
        for y in range(0, 60, 3)
        for x in range(0, 60, 3)
    ]
    (tmp_path / "a.xml").write_text(xml(*squares))
    segment_ids, count = painted(read_outlines(tmp_path / "a.xml", 60, 60).masks, 60, 60)
    assert (count, segment_ids.max()) == (400, 400)
    assert np.bincount(segment_ids.ravel())[1:].tolist() == [4] * 400


def test_a_nucleus_under_another_has_no_segment(run, monuseg, caplog):
    (path,) = (monuseg / "monuseg/MoNuSegTestData").glob("*.xml")
    path.write_text(xml(FIRST, UNDER))
    assert run("monuseg", "--splits", "test") == 0
    assert "1 nuclei lie under others: they are instances, but no segments" in caplog.text
    folder = monuseg / "monuseg/panoptic_test"
    assert len(read(folder / "instances.json")["annotations"]) == 2
    assert len(read(folder / "panoptic.json")["annotations"][0]["segments_info"]) == 2


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (xml(FIRST)[:-20], "line 10: unclosed token"),
        (xml(FIRST).replace('X="5.0"', 'X="wide"', 1), "line 6: a Vertex whose X is 'wide'"),
        (xml(FIRST).replace('Y="1.0"', 'Y="nan"', 1), "line 5: a Vertex whose Y is 'nan'"),
        ("<html/>", "is no XML of ImageScope"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><Annotations/>', "line 1: it declares the entity 'b'"),
        ("<Annotations><Vertex/></Annotations>", "line 1: a Vertex outside any Region"),
    ],
)
def test_broken_xml_is_named_with_its_line(run, monuseg, content, named, capsys):
    path = monuseg / "monuseg/MoNuSegTestData/TCGA-2Z.xml"
    path.write_text(content)
    assert run("monuseg", "--splits", "test") == 2
    message = capsys.readouterr().err
    assert str(path) in message
    assert named in message
    assert not (monuseg / "monuseg/panoptic_test/panoptic.json").exists()


def test_all_that_is_wrong_is_told(run, monuseg, capsys):
    train = monuseg / "monuseg/MoNuSeg 2018 Training Data/MoNuSeg 2018 Training Data"
    (train / "Tissue Images/TCGA-18.tif").write_bytes(b"II*\0nothing")
    (train / "Annotations/TCGA-21.xml").write_text("<Annotations>")
    assert run("monuseg", "--splits", "train") == 2
    message = capsys.readouterr().err
    assert "TCGA-18.tif cannot be read" in message
    assert "TCGA-21.xml, line 1:" in message
    (train / "Annotations/TCGA-21.xml").unlink()
    (train / "Tissue Images/TCGA-18.tif").unlink()
    assert run("monuseg", "--splits", "train") == 2
    message = capsys.readouterr().err
    assert f"no annotation of {train}/Tissue Images/TCGA-21.tif" in message
    assert f"no image for {train}/Annotations/TCGA-18.xml" in message
    assert run("tnbc") == 2
    assert "no images and annotations in" in capsys.readouterr().err


@pytest.fixture
def tnbc(tmp_path):
    """Two slides; three nuclei in the first, two of which touch by a corner, and none."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[1:3, 1:3] = mask[5:7, 5:7] = mask[7:9, 7:9] = 255
    for slide, painting in (("01", mask), ("02", np.zeros_like(mask))):
        for kind in ("Slide", "GT"):
            folder = tmp_path / f"TNBC_NucleiSegmentation/{kind}_{slide}"
            folder.mkdir(parents=True)
            pixels = painting if kind == "GT" else np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            write_png(folder / f"{slide}_1.png", pixels)
    return tmp_path


def test_connected_nuclei(run, tnbc, capsys):
    assert run("tnbc") == 0
    assert "2 images with 2 nuclei in" in capsys.readouterr().out
    panoptic = read(tnbc / "tnbc/panoptic.json")
    assert [image["file_name"] for image in panoptic["images"]] == ["01_1.png", "02_1.png"]
    segments = [
        [(s["category_id"], s["area"]) for s in annotation["segments_info"]]
        for annotation in panoptic["annotations"]
    ]
    assert segments == [[(1, 4), (1, 8), (0, 180)], [(0, 192)]]
    assert sorted(path.name for path in (tnbc / "tnbc/images").iterdir()) == [
        "01_1.png", "02_1.png",
    ]  # fmt: skip


def test_revisions_with_a_value_a_nucleus(tmp_path):
    values = np.zeros((HEIGHT, WIDTH), np.uint16)
    values[1:3, 1:3], values[1:3, 3:5], values[8, 8] = 1, 300, 1
    expected = [encode_mask(values == 1)["counts"], encode_mask(values == 300)["counts"]]
    write_png(tmp_path / "a.png", values)
    write_png(tmp_path / "b.png", id2rgb(values.astype(np.int32)))
    for name in ("a", "b"):
        masks = read_painted(tmp_path / f"{name}.png", HEIGHT, WIDTH).masks
        assert [int(coco_mask.area(mask)) for mask in masks] == [4, 1, 4]
        assert masks[2]["counts"] == expected[1]


def test_smoothed_masks_are_told(tmp_path):
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[1:5, 1:5] = 255
    values[0, 1:5], values[5, 1:5] = range(40, 80, 10), range(90, 130, 10)
    write_png(tmp_path / "a.png", values)
    (note,) = read_painted(tmp_path / "a.png", HEIGHT, WIDTH).notes
    assert note == "8 of 9 nuclei have fewer than 4 pixels: was the mask smoothed?"


def test_files_of_an_earlier_run_and_images_without_nuclei_are_told(run, tnbc, caplog):
    assert run("tnbc") == 0
    assert "02_1.png: there is no nucleus in it" in caplog.text
    assert "not of this data set" not in caplog.text
    for kind in ("Slide", "GT"):
        (tnbc / f"TNBC_NucleiSegmentation/{kind}_02/02_1.png").unlink()
    assert run("tnbc") == 0
    for folder in ("images", "panoptic"):
        assert (
            f"tnbc/{folder} has 1 files that are not of this data set, such as 02_1" in caplog.text
        )


def test_a_mask_of_another_size_is_named(run, tnbc, capsys):
    path = tnbc / "TNBC_NucleiSegmentation/GT_01/01_1.png"
    write_png(path, np.zeros((4, 4), np.uint8))
    assert run("tnbc") == 2
    assert f"{path} is 4x4 pixels, its image 16x12" in capsys.readouterr().err
