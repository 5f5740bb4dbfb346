"""Semantic truth of public data sets, on miniatures of their folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin import register_all_ade20k
from detectron2.data.datasets.cityscapes import load_cityscapes_semantic
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.io import savemat

from trace_d2.data.builtin_datasets import NAMES, register_builtin_datasets
from trace_d2.data.dataset_files import datasets_root
from trace_d2.evaluation.semantic_evaluator import SemanticEvaluator
from trace_d2.io.atomic import write_png
from trace_d2.io.categories import load_categories
from trace_d2.io.images import read_semantic


@pytest.fixture
def run(load_script, tmp_path):
    """``run(dataset, *more)``: the exit status on ``tmp_path``."""

    def run(dataset, *more):
        options = ["--root", str(tmp_path), "--quiet", "--workers", "1", *more]
        return load_script("prepare_sem_seg").main([dataset, *options])

    return run


@pytest.fixture
def records(tmp_path):
    """``records(name)``: the dicts of a built-in data set below ``tmp_path``, which evaluate."""

    def remove():
        for name in NAMES:
            DatasetCatalog.pop(name, None)
            MetadataCatalog.pop(name, None)

    def get(name):
        SemanticEvaluator(name)  # looks at the truth
        return DatasetCatalog.get(name)

    remove()
    register_builtin_datasets(tmp_path)
    yield get
    remove()
    register_builtin_datasets()


def put(path: Path, values) -> None:
    """A map, or a photograph (JPEG) of its size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.asarray(values, np.uint8)
    if path.suffix == ".png":
        write_png(path, values)
    else:
        Image.fromarray(values).convert("RGB").save(path)


def write_json(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def rle(mask) -> dict:
    found = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": found["size"], "counts": found["counts"].decode()}


def test_voc(run, records, tmp_path):
    voc = tmp_path / "VOC2012"
    lists = voc / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for split, stem in (("train", "2007_000001"), ("val", "2007_000002")):
        (lists / f"{split}.txt").write_text(f"{stem}\n")
        put(voc / f"SegmentationClass/{stem}.png", [[0, 20, 255, 1]])
    for stem in ("2007_000001", "2007_000002", "2008_000003"):
        put(voc / f"JPEGImages/{stem}.jpg", [[0, 0, 0, 0]])
    (tmp_path / "sbd/inst").mkdir(parents=True)
    for name, stem in (("train", "2008_000003"), ("val", "2007_000002")):
        (tmp_path / f"sbd/{name}.txt").write_text(f"{stem}\n")
    inside = {"Segmentation": np.array([[0, 1, 2, 2]], np.uint8)}
    inside["Categories"] = np.array([[12], [15]], np.uint8)  # dog, person
    savemat(tmp_path / "sbd/inst/2008_000003.mat", {"GTinst": inside})
    assert run("voc") == 0
    names = [c.name for c in load_categories("voc")]
    train = records("voc_2012_train_aug_sem_seg")
    assert [r["image_id"] for r in train] == [1, 3]  # ranks among all photographs
    maps = [read_semantic(r["sem_seg_file_name"])[0].tolist() for r in train]
    background, dog, person = map(names.index, ("background", "dog", "person"))
    assert maps == [[background, 19, 255, 0], [background, dog, person, person]]
    (val,) = records("voc_2012_val_sem_seg")
    assert val["file_name"].endswith("JPEGImages/2007_000002.jpg")
    assert (val["height"], val["width"]) == (1, 4)
    put(voc / "SegmentationClass/2007_000002.png", [[0, 21, 255, 1]])
    assert run("voc", "--splits", "val") == 2


def context_json(path: Path, images, annotations) -> None:
    write_json(
        path,
        {
            "images": [
                {"image_id": k, "file_name": f"{stem}.jpg", "phase": phase, "height": 2, "width": 3}
                for k, (stem, phase) in enumerate(images)
            ],
            "annos_segmentation": [
                {"id": n, "image_id": k, "category_id": c, "segmentation": rle(mask)}
                for n, (k, c, mask) in enumerate(annotations)
            ],
        },
    )


def test_context(run, records, tmp_path, capsys):
    whole, left = np.ones((2, 3)), np.tile([1, 0, 0], (2, 1))
    path = tmp_path / "VOC2010/trainval_merged.json"
    images = [("2008_000002", "train"), ("2008_000001", "val"), ("2008_000004", "train")]
    # aeroplane is 2, bag 9, wood 458; what comes later in the file covers what was before
    masks = [(0, 458, whole), (1, 9, left), (2, 2, left), (0, 2, left)]
    context_json(path, images, masks)
    assert run("context") == 0
    assert capsys.readouterr().out == "2 images of train\n1 images of val\n"
    lists = tmp_path / "VOC2010/ImageSets/SegmentationContext"
    assert (lists / "train.txt").read_text() == "2008_000002\n2008_000004\n"
    for stem, _ in images:
        put(tmp_path / f"VOC2010/JPEGImages/{stem}.jpg", whole)
    train = records("pascal_context_60_train_sem_seg")
    maps = [read_semantic(r["sem_seg_file_name"]).tolist() for r in train]
    assert maps == [[[1, 59, 59]] * 2, [[1, 0, 0]] * 2]
    (val,) = records("pascal_context_60_val_sem_seg")
    assert read_semantic(val["sem_seg_file_name"]).tolist() == [[2, 0, 0]] * 2
    assert MetadataCatalog.get("pascal_context_60_val_sem_seg").stuff_classes[2] == "bag"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "has no images and annos_segmentation"),
        (
            lambda c: c["annos_segmentation"][0].update(category_id=3),
            "annotation 0 has the category 3, none",
        ),
        (lambda c: c["annos_segmentation"][0].update(image_id=9), "image 0 (a) has no annotation"),
        (
            lambda c: c["annos_segmentation"][0]["segmentation"].update(size=[2, 4]),
            "image 0 (a): a mask",
        ),
        (lambda c: c["images"][0].update(phase=None), "has no train"),
    ],
)
def test_context_that_is_not_as_published(run, tmp_path, capsys, change, message):
    path = tmp_path / "VOC2010/trainval_merged.json"
    assert run("context") == 2
    assert "no annotations of Pascal Context at" in capsys.readouterr().err
    context_json(path, [("a", "train")], [(0, 2, np.ones((2, 3)))])
    content = json.loads(path.read_text())
    change(content)
    write_json(path, content)
    assert run("context") == 2
    error = capsys.readouterr().err
    assert message in error
    assert str(path) in error


def test_coco_stuff_and_objects(run, records, tmp_path, capsys, caplog):
    # person, bicycle, toothbrush, and banner, wood and unlabelled
    values = [[0, 1, 89], [91, 181, 255]]
    put(tmp_path / "coco/stuffthingmaps/val2017/000000000139.png", values)
    put(tmp_path / "coco/val2017/000000000139.jpg", values)
    assert run("coco_stuff", "--splits", "val") == 0
    assert run("coco_object", "--splits", "val") == 0
    (stuff,) = records("coco_stuff_171_val_sem_seg")
    assert read_semantic(stuff["sem_seg_file_name"]).tolist() == [[0, 1, 79], [80, 170, 255]]
    (objects,) = records("coco_object_81_val_sem_seg")
    assert read_semantic(objects["sem_seg_file_name"]).tolist() == [[1, 2, 80], [0, 0, 0]]
    assert objects["image_id"] == 139
    put(tmp_path / "coco/stuffthingmaps/val2017/000000000140.png", [[11]])
    assert run("coco_object", "--splits", "val") == 2
    assert "000000000140.png holds 11, which no class" in capsys.readouterr().err
    (kept,) = (tmp_path / "coco/objects_detectron2/val2017").rglob("*")  # what was whole before
    assert kept.name == "000000000139.png"
    assert not caplog.text
    put(tmp_path / "coco/stuffthingmaps/val2017/000000000140.png", values)
    put(tmp_path / "coco/val2017/000000000140.jpg", values)
    assert run("coco_stuff", "--splits", "val") == 0
    (tmp_path / "coco/stuffthingmaps/val2017/000000000140.png").unlink()
    capsys.readouterr()
    assert run("coco_stuff", "--splits", "val") == 0
    assert "val2017 has 1 files that are not of this data set, such as 000000000140" in caplog.text
    assert "1 more images of val have no map (000000000140)" in capsys.readouterr().out
    assert run("coco_stuff", "--splits", "train") == 2
    assert "no folder of truth at" in capsys.readouterr().err


def test_coco_objects_from_instances(run, records, tmp_path):
    whole = np.ones((4, 4))
    corner = np.zeros((4, 4))
    corner[:2, :2] = 1
    rows = [(18, corner, 0), (1, whole, 0), (90, whole, 1)]  # dog, person, a crowd of toothbrushes
    images = [{"id": k, "file_name": f"{k:012d}.jpg", "height": 4, "width": 4} for k in (1, 2)]
    annotations = [
        {
            "id": n, "image_id": 1, "category_id": c, "segmentation": rle(mask),
            "area": int(mask.sum()), "bbox": [0, 0, int(mask[0].sum()), int(mask[:, 0].sum())],
            "iscrowd": crowd,
        }
        for n, (c, mask, crowd) in enumerate(rows, start=1)
    ]  # fmt: skip
    content = {"images": images, "annotations": annotations, "categories": []}
    write_json(tmp_path / "coco/annotations/instances_val2017.json", content)
    assert run("coco_object", "--splits", "val", "--from-instances") == 0
    for key in (1, 2):
        put(tmp_path / f"coco/val2017/{key:012d}.jpg", whole)
    painted, empty = (
        read_semantic(r["sem_seg_file_name"]) for r in records("coco_object_81_val_sem_seg")
    )
    assert painted.tolist() == [[17, 17, 1, 1]] * 2 + [[1, 1, 1, 1]] * 2
    assert not empty.any()


@pytest.fixture
def ade20k(tmp_path):
    """Detectron2's own names below ``tmp_path``."""

    def register(root):
        for split in ("train", "val"):
            DatasetCatalog.pop(f"ade20k_sem_seg_{split}", None)
            MetadataCatalog.pop(f"ade20k_sem_seg_{split}", None)
        register_all_ade20k(str(root))

    register(tmp_path)
    yield tmp_path / "ADEChallengeData2016"
    register(datasets_root())


def test_ade20k_as_detectron2_reads_it(run, ade20k):
    put(ade20k / "annotations/validation/ADE_val_00000001.png", [[0, 1, 150]])
    put(ade20k / "images/validation/ADE_val_00000001.jpg", [[0, 1, 150]])
    assert run("ade20k", "--splits", "val") == 0
    (record,) = DatasetCatalog.get("ade20k_sem_seg_val")
    assert read_semantic(record["sem_seg_file_name"]).tolist() == [[255, 0, 149]]
    SemanticEvaluator("ade20k_sem_seg_val")


def test_all_maps_are_written_or_none(run, ade20k, tmp_path, capsys):
    for rank, value in enumerate((1, 200, 201, 2)):
        put(ade20k / f"annotations/training/a/{rank}.png", [[value]])
        put(ade20k / f"images/training/a/{rank}.jpg", [[0]])
    assert run("ade20k", "--splits", "train") == 2
    error = capsys.readouterr().err
    assert "1.png holds 200" in error
    assert "2.png holds 201" in error
    written = ade20k / "annotations_detectron2"
    assert not list(written.rglob("*"))
    (written / ".trace_d2-training.tmp/a").mkdir(parents=True)  # of a process that was killed
    (written / ".trace_d2-training.tmp/a/9.png").touch()
    put(ade20k / "annotations/training/a/1.png", [[150]])
    (ade20k / "annotations/training/a/2.png").unlink()
    assert run("ade20k", "--splits", "train") == 0
    out = capsys.readouterr().out
    assert "3 maps in" in out
    assert "1 more images of train have no map (a/2): are the annotations unpacked whole?" in out
    names = sorted(p.relative_to(written).as_posix() for p in written.rglob("*") if p.is_file())
    assert names == [f"training/a/{k}.png" for k in (0, 1, 3)]


def test_cityscapes_as_detectron2_reads_it(run, tmp_path, caplog):
    city = "cityscapes/gtFine/val/frankfurt/frankfurt_000000_000294"
    put(tmp_path / f"{city}_gtFine_labelIds.png", [[0, 7, 33, 29]])
    for other in ("instanceIds.png", "color.png"):
        put(tmp_path / f"{city}_gtFine_{other}", [[200, 200, 200, 200]])
    write_json(tmp_path / f"{city}_gtFine_polygons.json", {"imgHeight": 1, "imgWidth": 4})
    photograph = city.replace("gtFine", "leftImg8bit")
    put(tmp_path / f"{photograph}_leftImg8bit.png", [[0, 0, 0, 0]])
    for _ in range(2):  # again, beside its own
        assert run("cityscapes", "--splits", "val") == 0
    assert not caplog.text
    folders = [str(tmp_path / "cityscapes" / kind / "val") for kind in ("leftImg8bit", "gtFine")]
    (record,) = load_cityscapes_semantic(*folders)
    assert read_semantic(record["sem_seg_file_name"]).tolist() == [[255, 0, 18, 255]]


def test_a_list_that_is_of_other_images(run, records, tmp_path):
    context = tmp_path / "VOC2010"
    put(context / "JPEGImages/a.jpg", [[0]])
    put(context / "SegmentationClassContext/a.png", [[0]])
    lists = context / "ImageSets/SegmentationContext"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("a\nb\n")
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images of .*val\.txt are not in .*b: put"):
        records("pascal_context_60_val_sem_seg")
    put(context / "JPEGImages/b.jpg", [[0]])
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images of .*val\.txt have no map in"):
        records("pascal_context_60_val_sem_seg")


def test_splits_and_options_of_other_data_sets(run, capsys):
    for options in (["voc", "--splits", "train"], ["voc", "--from-instances"]):
        with pytest.raises(SystemExit) as stop:
            run(*options)
        assert stop.value.code == 2
    assert "--splits of voc are train_aug, val" in capsys.readouterr().err
