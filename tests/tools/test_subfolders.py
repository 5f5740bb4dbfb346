"""Images in sub-folders, from photographs to training records and scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from trace_d2.data.registration import register_trace_panoptic
from trace_d2.data.stem_dicts import load_edge_dicts, load_semantic_dicts
from trace_d2.io.edge_maps import edge_stem, read_edges, write_ternary
from trace_d2.labels.self_training import merge_predictions

NESTED = ("x", "train/x", "train/deep/x", "val/y")
NAMES = [f"{stem}.png" for stem in NESTED]


def test_labels_mirror_the_sub_folders_of_images(label_job, load_tool, capsys) -> None:
    label_job.add(*NESTED)
    assert label_job.run() == 0
    said = capsys.readouterr().out
    assert "note: 3 of 4 images are in sub-folders of " in said
    assert "images: train (2), val (1)\n" in said
    panoptic = label_job.coco("panoptic.json")
    # Images of a folder come first, so that the ids of those that were there before stay.
    assert [(i["id"], i["file_name"]) for i in panoptic["images"]] == [*enumerate(NAMES, start=1)]
    # As panopticapi finds them: file_name below the folder of PNGs.
    assert [a["file_name"] for a in panoptic["annotations"]] == NAMES
    for kind in ("panoptic", "semantic"):
        for name in NAMES:
            shape = np.asarray(Image.open(label_job.output / kind / name)).shape
            assert shape[:2] == (24, 32)
    for kind in ("annotations", "previews"):
        assert sorted(p.name for p in (label_job.output / kind).rglob("*.json")) == [
            *("x.json", "x.json", "x.json", "y.json")
        ]
    assert set(label_job.journal()) == {*NESTED}
    # Each image got the label of its own mask.
    flat = label_job.root / "flat"
    for name in NAMES:
        own = flat / name.replace("/", "_").removesuffix(".png")
        for kind in ("images", "semantic", "edges"):
            (own / kind).mkdir(parents=True)
            shutil.copy(label_job.root / kind / name, own / kind / "one.png")
        arguments = label_job.arguments()
        for option in ("--images", "--semantic", "--edges", "--output"):
            place = arguments.index(option) + 1
            arguments[place] = str(own / Path(arguments[place]).name)
        assert label_job.tool.main(arguments) == 0
        assert (own / "out/panoptic/one.png").read_bytes() == (
            label_job.output / "panoptic" / name
        ).read_bytes()
    # They are scored by path, whatever the ids.
    truth = label_job.root / "truth.json"
    for content in (panoptic["images"], panoptic["annotations"]):
        for row in content:
            row["image_id" if "image_id" in row else "id"] = 9 - NAMES.index(row["file_name"])
    truth.write_text(json.dumps(panoptic))
    options = ["--truth-json", str(truth), "--truth-dir", str(label_job.output / "panoptic")]
    score = load_tool("evaluate_panoptic").main
    assert score([*options, "--predictions", str(label_job.output), "--workers", "1"]) == 0
    assert "100.0" in capsys.readouterr().out
    assert (
        load_tool("evaluate_edges").main(
            [*options, "--edges", str(label_job.root / "edges"), "--workers", "1", "--quiet"]
        )
        == 0
    )
    assert "4 images" in capsys.readouterr().out


def test_records_for_training_find_them(label_job, caplog) -> None:
    label_job.add(*NESTED)
    assert label_job.run() == 0
    root = label_job.root
    register_trace_panoptic("subfolders_panoptic", label_job.output, root / "images")
    try:
        records = DatasetCatalog.get("subfolders_panoptic")
    finally:
        DatasetCatalog.remove("subfolders_panoptic")
        MetadataCatalog.pop("subfolders_panoptic")
    for record, name in zip(records, NAMES, strict=True):
        assert record["file_name"] == str(root / "images" / name)
        assert record["pan_seg_file_name"] == str(label_job.output / "panoptic" / name)
        assert record["sem_seg_file_name"] == str(label_job.output / "semantic" / name)
    (label_job.output / "semantic/train/x.png").unlink()
    register_trace_panoptic("subfolders_panoptic", label_job.output, root / "images")
    with pytest.raises(FileNotFoundError, match=r"no semantic map at .*semantic/train/x\.png"):
        DatasetCatalog.get("subfolders_panoptic")
    DatasetCatalog.remove("subfolders_panoptic")
    MetadataCatalog.pop("subfolders_panoptic")
    folders = [root / name for name in ("images", "semantic", "edges")]
    records = load_semantic_dicts(*folders, "")
    for record, name in zip(records, NAMES, strict=True):
        keys = ("file_name", "trace_semantic_file_name", "trace_edges_file_name")
        assert [record[key] for key in keys] == [str(folder / name) for folder in folders]
    # Given one inside the other, masks are no images.
    shutil.move(root / "semantic", root / "images/masks")
    shutil.move(root / "edges", root / "images/masks/edges")
    again = load_semantic_dicts(folders[0], root / "images/masks", None, "")
    assert "4 masks of " in caplog.text
    assert "lie in folders without images, such as edges/train/deep/x" in caplog.text
    assert [r["file_name"] for r in again] == [r["file_name"] for r in records]


def test_pseudo_edges_are_found_below_their_folders(tmp_path: Path) -> None:
    for stem in ("a/0001", "b/0001"):
        (tmp_path / "images" / stem).parent.mkdir(parents=True)
        (tmp_path / "out/pseudo_edges" / stem).parent.mkdir(parents=True)
        Image.new("RGB", (8, 6)).save(tmp_path / f"images/{stem}.jpg")
        write_ternary(tmp_path / f"out/pseudo_edges/{stem}.png", np.zeros((6, 8), np.int8))
    records = load_edge_dicts(tmp_path / "images", tmp_path / "out", "")
    assert [r["image_id"] for r in records] == [1, 2]
    path = f"{tmp_path}/out/pseudo_edges/b/0001.png"
    assert records[1]["trace_pseudo_edges_file_name"] == path


def test_edges_of_a_record_are_those_of_its_folder(tmp_path: Path) -> None:
    for name in ("x.png", "a/x.png", "a/b/y.png"):
        (tmp_path / "edges" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "edges" / name).touch()
    folder = tmp_path / "edges"
    assert edge_stem(folder, "/data/images/x.jpg") == "x"
    assert edge_stem(folder, "/data/images/a/x.jpg") == "a/x"
    assert edge_stem(folder, "a/b/y.jpg") == "a/b/y"
    assert edge_stem(folder, "/data/a/z.jpg") == "a/z"  # not there, and no other is
    assert edge_stem(folder, "../edges/x.jpg") == "x"
    assert edge_stem(folder / "a", f"../{folder.name}/b/y.jpg") == "b/y"


def test_edges_are_predicted_in_sub_folders(tmp_path: Path, load_tool, monkeypatch) -> None:
    def find(image: np.ndarray, key: str):
        from trace_d2.edges.sources import EdgeOutput

        keys.append(key)
        edges = np.zeros(image.shape[:2], np.float32)
        edges[:, 3] = len(keys) / 10
        return EdgeOutput(edges)

    keys: list[str] = []
    monkeypatch.setattr("trace_d2.jobs.kinds.edge_job.build_edge_source", lambda cfg: find)
    for name in ("x", "a/x", "a/y", ".hidden/z"):
        path = tmp_path / f"images/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(path)
    output = tmp_path / "images/out"  # inside, and not searched
    arguments = ["--images", str(tmp_path / "images"), "--output", str(output), "--quiet"]
    for _ in range(2):
        assert (
            load_tool("predict_edges").main([*arguments, "MODEL.TRACE.BACKBONE.NAME", "trace-tiny"])
            == 0
        )
        assert keys == ["x", "x", "y"]  # the name alone fixes the noise
    assert sorted(p.relative_to(output / "edges") for p in output.glob("edges/**/*.png")) == [
        *map(Path, ("a/x.png", "a/y.png", "x.png"))
    ]
    assert read_edges(output / "edges/a/x.png")[0, 3] == pytest.approx(0.2, abs=1e-4)


def test_an_old_job_goes_on_where_sub_folders_are_new(label_job, capsys) -> None:
    label_job.add("b", "c")
    shutil.move(label_job.root / "images/c.png", label_job.root / "c.png")
    assert label_job.run() == 0
    before = label_job.contents()
    shutil.move(label_job.root / "c.png", label_job.root / "images/c.png")
    label_job.add("a/d", "a/b")
    capsys.readouterr()
    assert label_job.run() == 0
    assert "4 labelled (1 of them before)" in capsys.readouterr().out
    assert (
        label_job.contents().items()
        >= {key: value for key, value in before.items() if "/" in key}.items()
    )
    listed = label_job.coco("panoptic.json")["images"]
    assert [i["file_name"] for i in listed] == ["b.png", "c.png", "a/b.png", "a/d.png"]
    # Cut short, and in shards.
    shutil.rmtree(label_job.output)
    whole = {}
    for command in (("--shard", "1/2"), ("--shard", "2/2")):
        assert label_job.run(*command) == 0
    assert label_job.merge() == 0
    whole = label_job.contents()
    shutil.rmtree(label_job.output)
    assert label_job.run("--limit", "3") == 0
    assert label_job.run() == 0
    assert label_job.contents() == whole


def test_masks_of_a_flat_folder_serve_where_names_are_unique(label_job, capsys) -> None:
    label_job.add(*NESTED)
    for kind in ("semantic", "edges"):
        shutil.move(label_job.root / kind / "val/y.png", label_job.root / kind / "y.png")
    assert label_job.run() == 0
    assert label_job.journal()["val/y"]["things"] == 3
    # What has its name in two folders is not guessed at.
    shutil.rmtree(label_job.output)
    (label_job.root / "semantic/train/x.png").rename(label_job.root / "semantic/stray.png")
    (label_job.root / "semantic/train").rename(label_job.root / "semantic/z")
    capsys.readouterr()
    assert label_job.run() == 0
    said = capsys.readouterr().out
    assert "note: 2 of 4 images have no mask: train/x.png, train/deep/x.png\n" in said
    assert "note: 2 masks have no image in " in said
    assert "of these masks 1 have the name of an image in another folder, such as z/deep/x" in said
    assert label_job.journal()["train/deep/x"]["status"] == "skipped"


def test_edges_that_are_not_there_or_unclear_are_told_before(label_job, capsys) -> None:
    label_job.add("a/x", "b/x", "y", "z")
    (label_job.root / "edges/b/x.png").rename(label_job.root / "edges/x.png")
    assert label_job.run() == 3
    said = capsys.readouterr().out
    assert f"1 of 4 images have no edges in {label_job.root}/edges and will fail: b/x.png" in said
    assert "of the edges 1 have the name of an image in another folder, such as x for b/x" in said
    assert "no edge file at" in label_job.reason("b/x")


def test_masks_that_lie_elsewhere_are_named_before_any_work(label_job, capsys) -> None:
    label_job.add("train/x", "val/x")
    (label_job.root / "semantic/train").rename(label_job.root / "semantic/training")
    shutil.rmtree(label_job.root / "semantic/val")
    assert label_job.run() == 2
    said = capsys.readouterr().err
    assert "expected train/x.png, but there is training/x.png" in said
    assert not label_job.output.exists()


def test_names_that_the_output_cannot_tell_apart_are_refused(label_job, capsys) -> None:
    label_job.add("A/x", "a/X")
    if not (label_job.root / "images/A/X.png").exists():
        assert label_job.run() == 0
        assert len(label_job.coco("panoptic.json")["images"]) == 2
        # As a file system does that ignores case.
        (label_job.output / ".LOCKS").mkdir()
        assert label_job.run() == 2
        assert "does not tell the names of A/x.png and a/X.png apart" in capsys.readouterr().err


def test_a_path_that_is_too_long_for_the_output_fails_alone(label_job) -> None:
    left = 4088 - len(str(label_job.root / "images/")) - len("/x.png")
    label_job.add("a/x", "/".join(["d" * 99] * (left // 100)) + f"/{'e' * (left % 100 - 1)}/x")
    assert label_job.run() == 3
    (reason,) = (r["reason"] for r in label_job.journal().values() if r["status"] == "failed")
    assert "(File name too long): rename the image" in reason
    assert label_job.journal()["a/x"]["status"] == "done"


def test_a_folder_that_is_called_as_a_label_fails_alone(label_job) -> None:
    label_job.add("a", "a_/x", "b")
    (label_job.root / "images/a.png").rename(label_job.root / "images/a.bmp")
    (label_job.root / "images/a_").rename(label_job.root / "images/a.png")
    for kind in ("semantic", "edges"):  # where no folder can be called so, either
        (label_job.root / kind / "a_/x.png").rename(label_job.root / kind / "x.png")
    assert label_job.run() == 3
    assert {stem: r["status"] for stem, r in label_job.journal().items()} == {
        **{"a": "done", "b": "done"},
        "a.png/x": "failed",
    }
    assert "no file can be named after a.png/x.png" in label_job.reason("a.png/x")


def test_self_training_keeps_the_folders(label_job) -> None:
    label_job.add("a/x", "b/x")
    assert label_job.run() == 0
    labels = label_job.output / "instances.json"
    content = label_job.coco("instances.json")
    rows = [
        {"image_id": 2, "category_id": 1, "score": 0.9, "segmentation": a["segmentation"]}
        for a in content["annotations"]
        if a["image_id"] == 2
    ]
    merged, summary = merge_predictions(labels, rows)
    assert [i["file_name"] for i in merged["images"]] == ["a/x.png", "b/x.png"]
    assert (summary.new, summary.kept, summary.replaced) == (3, 3, 3)
    # Told by name where ids are of other images.
    images = [{"id": 1, "file_name": "b/x.png"}, {"id": 2, "file_name": "a/x.png"}]
    moved = [row | {"image_id": 1} for row in rows]
    again, _ = merge_predictions(labels, {"images": images, "annotations": moved})
    assert [a["image_id"] for a in again["annotations"]] == [1, 1, 1, 2, 2, 2]
    assert again["annotations"] == merged["annotations"]


def test_endings_of_any_case_are_found(label_job) -> None:
    label_job.add("a", "b")
    label_job.run()
    plain = label_job.coco("panoptic.json")["annotations"]
    shutil.rmtree(label_job.output)
    for path in sorted(label_job.root.rglob("a.png")):
        path.rename(path.with_suffix(".Png"))
    assert label_job.run() == 0
    assert label_job.coco("panoptic.json")["annotations"] == plain
