"""Predictions of trained models: their files and the report page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from predicting import command, predicted, rcnn_cfg, save_model
from pycocotools import mask as coco_mask

pytest.importorskip("detectron2")

from detectron2.config import get_cfg

from trace_d2.data.categories import with_categories
from trace_d2.engine.configs import load_cfg
from trace_d2.io.categories import Category, load_categories
from trace_d2.io.coco_panoptic import load_panoptic_json, read_panoptic_png
from trace_d2.io.edge_maps import write_edges
from trace_d2.jobs.actors import packed, unpacked

pytestmark = pytest.mark.detectron2

CONFIGS = Path(__file__).parents[2] / "configs"
MASK2FORMER = CONFIGS / "panoptic" / "coco_mask2former_R50.yaml"
MASK_RCNN = CONFIGS / "instance" / "mask_rcnn_R50_FPN.yaml"


@pytest.fixture(scope="module")
def trained(small_options, small_scenes, tmp_path_factory):
    """``trained(config)``: config and checkpoint of a small model that has learned nothing."""
    made: dict[Path, Path] = {}

    def make(config: Path) -> Path:
        if config not in made:
            output = tmp_path_factory.mktemp(config.stem)
            cfg = load_cfg(str(config), small_options(config, output))
            categories = load_categories(small_scenes / "categories.json")
            if config == MASK_RCNN:
                categories = (Category(1, "object", True, (255, 0, 0)),)
            made[config] = save_model(with_categories(cfg, categories), output)
        return made[config]

    return make


@pytest.fixture(scope="module")
def photographs(small_scenes, tmp_path_factory) -> Path:
    """Three scenes' worth of images of two sizes, one turned by EXIF, and one that is damaged."""
    folder = tmp_path_factory.mktemp("photographs")
    first, second = sorted((small_scenes / "images").iterdir())
    shutil.copy(first, folder / "a.png")
    Image.open(second).resize((80, 56)).save(folder / "b.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(first).resize((72, 40)).save(folder / "c.jpg", exif=exif)
    (folder / "d.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    return folder


# So that a model which has learned nothing says something.
EAGER = ["MODEL.TRACE.MASK2FORMER.TEST.OBJECT_MASK_THRESHOLD", "0.0"]
EAGER += ["MODEL.TRACE.MASK2FORMER.TEST.OVERLAP_THRESHOLD", "0.0"]


def contents(output: Path) -> dict[str, bytes]:
    names = ("predictions.json", "panoptic.json", "categories.json")
    paths = [output / name for name in names if (output / name).exists()]
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in [*paths, *(output / "panoptic").glob("*")]
    }


def test_mask2former_gives_both(predict, trained, photographs, small_scenes, tmp_path, capsys):
    folder, output = trained(MASK2FORMER), tmp_path / "out"
    assert predict.main(command(folder, photographs, output, "--score", "0", *EAGER)) == 3
    out, err = capsys.readouterr()
    assert "3 predicted (0 of them before), 0 skipped, 1 failed" in out
    assert "d.png" in err

    truth = load_categories(small_scenes / "categories.json")
    assert load_categories(output / "categories.json") == truth
    panoptic = load_panoptic_json(output / "panoptic.json")
    assert panoptic.categories == truth
    assert panoptic.sizes == {1: (64, 64), 2: (56, 80), 3: (72, 40)}  # c is turned
    for annotation in panoptic.annotations.values():
        ids = read_panoptic_png(output / "panoptic" / annotation["file_name"])
        assert {s["id"] for s in annotation["segments_info"]} == set(np.unique(ids)) - {0}
    instances = json.loads((output / "predictions.json").read_text())
    things = {c.id for c in truth if c.isthing}
    assert {c["id"] for c in instances["categories"]} == things
    assert instances["annotations"]
    for row in instances["annotations"]:
        assert row["category_id"] in things
        assert row["area"] == coco_mask.area(row["segmentation"]) > 0
        assert 0 <= row["score"] <= 1
    for image in instances["images"]:
        scores = [r["score"] for r in instances["annotations"] if r["image_id"] == image["id"]]
        assert scores == sorted(scores, reverse=True)
    page = (output / "report.html").read_text()
    assert page.count("data:image/webp") == 3
    assert f"{truth[0].name}" in page

    # Whatever runs it, and however often it was cut short.
    before = contents(output)
    again = tmp_path / "again"
    limited = command(folder, photographs, again, "--score", "0", "--limit", "1", *EAGER)
    assert predict.main(limited) == 0
    whole = command(folder, photographs, again, "--score", "0", *EAGER)
    assert predict.main([*whole[:-4], "--workers", "3", *EAGER]) == 3
    assert contents(again) == before
    (again / "panoptic" / "a.png").unlink()
    assert predict.main(whole) == 3
    assert contents(again) == before


def test_predictions_are_those_that_evaluation_scores(
    predict, trained, small_options, small_scenes, load_tool, tmp_path
):
    folder, output = trained(MASK_RCNN), tmp_path / "out"
    options = [*small_options(MASK_RCNN, tmp_path / "evaluated")]
    options += ["MODEL.WEIGHTS", str(folder / "model_final.pth")]
    evaluate = ["--eval-only", "--config-file", str(MASK_RCNN), *options]
    assert load_tool("train_net").main(evaluate) == 0
    name = "evaluated/inference/small_instances/coco_instances_results.json"
    expected = json.loads((tmp_path / name).read_text())

    truth = str(small_scenes / "instances.json")
    more = ["--score", "0", "--images-json", truth]
    assert predict.main(command(folder, small_scenes / "images", output, *more)) == 0
    found = json.loads((output / "predictions.json").read_text())
    keys = ("image_id", "category_id", "bbox", "score", "segmentation")

    def rows(entries: list) -> list:
        kept = [e for e in entries if coco_mask.area(e["segmentation"])]
        return sorted(json.dumps([e[key] for key in keys]) for e in kept)

    assert [c["name"] for c in found["categories"]] == ["object"]
    assert expected
    assert rows(found["annotations"]) == rows(expected)
    assert not (output / "panoptic.json").exists()
    labels = ["--labels", truth, "--output", str(tmp_path / "next.json"), "--threshold", "0.0"]
    given = ["--predictions", str(output / "predictions.json")]
    assert load_tool("make_self_training").main([*labels, *given]) == 0
    assert len(json.loads((tmp_path / "next.json").read_text())["annotations"]) >= len(expected)


NAMES = ("a", "sub/b")  # stems


def test_the_model_of_anybody_is_cut_along_edges(predict, two_images, tmp_path, capsys):
    folder = save_model(rcnn_cfg(), tmp_path / "model")
    plain, cut = tmp_path / "plain", tmp_path / "cut"
    assert predict.main(command(folder, two_images, plain, "--score", "0")) == 0
    note = "taken to be those of the data set coco_2017_train"
    assert note in capsys.readouterr().out
    assert {c["id"] for c in predicted(plain)["categories"]} >= {1, 90}

    edges = np.zeros((64, 64), np.float32)
    edges[::9] = edges[:, ::11] = 1
    (tmp_path / "edges" / "sub").mkdir(parents=True)
    for name in NAMES:
        write_edges(tmp_path / "edges" / f"{name}.png", edges)
    keys = ["MODEL.TRACE.POSTPROCESSOR.ENABLED", "True", "MODEL.TRACE.EDGES.SOURCE", "files"]
    keys += ["MODEL.TRACE.EDGES.DIR", str(tmp_path / "edges")]
    keys += ["MODEL.TRACE.POSTPROCESSOR.MIN_SCORE", "0.0"]
    assert predict.main(command(folder, two_images, cut, "--score", "0", *keys)) == 0
    before, after = predicted(plain)["annotations"], predicted(cut)["annotations"]
    assert len(after) > len(before)
    lines = (cut / "journal.jsonl").read_text().splitlines()
    facts = [json.loads(line)["facts"] for line in lines]
    assert sum(one["uncut"] for one in facts) == len(before)
    assert sum(one["things"] for one in facts) == len(after)
    assert f"{len(after)} things after the cut along edges, {len(before)} before" in (
        capsys.readouterr().out
    )
    for name in NAMES:
        preview = json.loads((cut / "previews" / f"{name}.json").read_text())
        assert set(preview["regions"]) == {"instances", "uncut_instances"}
        assert set(preview["strengths"]) == {"edges"}
    # An edge file that changes makes its image again, and only that.
    write_edges(tmp_path / "edges" / "sub" / "b.png", edges[::-1].copy())
    assert predict.main(command(folder, two_images, cut, "--score", "0", *keys)) == 0
    assert "2 predicted (1 of them before)" in capsys.readouterr().out
    # Other weights are other predictions.
    save_model(rcnn_cfg(MODEL__FPN__OUT_CHANNELS=32), folder)
    assert predict.main(command(folder, two_images, plain, "--score", "0")) == 2
    message = capsys.readouterr().err
    assert "weights: model_final.pth, sha256" in message
    assert "MODEL.FPN.OUT_CHANNELS: 16 there, 32 now" in message


def test_things_and_stuff_that_are_counted_apart(predict, two_images, tmp_path, memory_store):
    cfg = rcnn_cfg("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml")
    folder, output = save_model(cfg, tmp_path / "model"), tmp_path / "out"
    assert predict.main(command(folder, two_images, output, "--score", "0")) == 0
    panoptic = load_panoptic_json(output / "panoptic.json")
    assert len(panoptic.categories) == 133
    known = {c.id: c for c in load_categories("coco-panoptic")}
    assert {c.id: (c.name in known[c.id].name, c.isthing) for c in panoptic.categories} == {
        key: (True, c.isthing) for key, c in known.items()
    }
    assert [a["file_name"] for a in panoptic.annotations.values()] == [f"{n}.png" for n in NAMES]
    assert all((output / "panoptic" / f"{name}.png").is_file() for name in NAMES)
    segments = [s for a in panoptic.annotations.values() for s in a["segments_info"]]
    assert {known[s["category_id"]].isthing for s in segments} == {True, False}
    again = tmp_path / "again"
    by_address = memory_store.put_folder(two_images, "images")
    more = ("--score", "0", "--categories", "coco")
    assert predict.main(command(folder, by_address, again, *more)) == 0
    assert json.loads((again / "settings.json").read_text())["images"] == by_address
    ours = load_panoptic_json(again / "panoptic.json").annotations
    assert {k: [s["category_id"] for s in a["segments_info"]] for k, a in ours.items()} == {
        k: [s["category_id"] for s in a["segments_info"]] for k, a in panoptic.annotations.items()
    }


def test_classes_that_nobody_tells(predict, two_images, tmp_path, capsys):
    cfg = rcnn_cfg(MODEL__ROI_HEADS__NUM_CLASSES=3)
    folder, output = save_model(cfg, tmp_path / "model"), tmp_path / "out"
    assert predict.main(command(folder, two_images, output, "--score", "0")) == 0
    said = capsys.readouterr().out
    assert "it has 3; coco_2017_train has 80" in said
    assert "numbered from 1, as things" in said
    named = load_categories(output / "categories.json")
    assert [(c.id, c.name) for c in named] == [(1, "class 1"), (2, "class 2"), (3, "class 3")]

    assert predict.main(command(folder, two_images, output, "--categories", "voc")) == 2
    message = "config file has 3 classes, but --categories has 21 categories, 20 of them things"
    assert message in capsys.readouterr().err

    own = [{"id": 5, "name": "sky", "isthing": 0}]
    own += [{"id": 9 - n, "name": name, "isthing": 1} for n, name in enumerate("abc")]
    (tmp_path / "own.json").write_text(json.dumps(own))
    more = ["--score", "0", "--overwrite", "--categories", str(tmp_path / "own.json")]
    before = [row["category_id"] for row in predicted(output)["annotations"]]
    assert predict.main(command(folder, two_images, output, *more)) == 0
    # The things alone, as the model has no stuff.
    assert [row["category_id"] for row in predicted(output)["annotations"]] == [
        10 - number for number in before
    ]

    save_model(cfg, folder, trace_categories=own[2:])
    assert predict.main(command(folder, two_images, tmp_path / "told")) == 2
    message = capsys.readouterr().err
    assert f"{folder / 'model_final.pth'} has 2 categories, 2 of them things: this" in message
    assert message.endswith(f"wrote beside it, {folder / 'config.yaml'}\n")

    told = {"trace_categories": own[1:]}
    save_model(cfg, folder, **told)
    assert predict.main(command(folder, two_images, tmp_path / "told")) == 0
    assert [c.name for c in load_categories(tmp_path / "told" / "categories.json")] == [*"abc"]
    given = ["--categories", str(tmp_path / "given.json")]
    (tmp_path / "given.json").write_text(json.dumps(own[:0:-1]))
    assert predict.main(command(folder, two_images, tmp_path / "other", *given)) == 2
    message = capsys.readouterr().err
    assert "number 0 is a (id 9, thing) in the one and c (id 7, thing) in the other" in message
    assert not (tmp_path / "other").exists()


def test_nothing_is_found(predict, trained, two_images, tmp_path, capsys):
    folder, output = trained(MASK2FORMER), tmp_path / "out"
    assert predict.main(command(folder, two_images, output, "--score", "1")) == 0
    assert predicted(output)["annotations"] == []
    panoptic = load_panoptic_json(output / "panoptic.json")
    assert [a["segments_info"] for a in panoptic.annotations.values()] == [[], []]
    assert "a lower --score shows more" in capsys.readouterr().out


def test_a_project_of_its_own(predict, two_images, tmp_path, capsys):
    pytest.importorskip("detectron2.projects.point_rend")
    from detectron2.projects.point_rend import add_pointrend_config

    cfg = get_cfg()
    add_pointrend_config(cfg)
    cfg.merge_from_other_cfg(rcnn_cfg())
    keys = """MODEL.ROI_HEADS.NUM_CLASSES 2 MODEL.ROI_MASK_HEAD.NAME PointRendMaskHead
    MODEL.ROI_MASK_HEAD.POOLER_TYPE "" MODEL.ROI_MASK_HEAD.FC_DIM 8 MODEL.ROI_MASK_HEAD.NUM_FC 1
    MODEL.ROI_MASK_HEAD.OUTPUT_SIDE_RESOLUTION 7 MODEL.POINT_HEAD.FC_DIM 8
    MODEL.POINT_HEAD.NUM_CLASSES 2 MODEL.POINT_HEAD.NUM_FC 1
    MODEL.ROI_MASK_HEAD.POINT_HEAD_ON True"""
    cfg.merge_from_list([part.replace('""', "") for part in keys.split()])
    folder = save_model(cfg, tmp_path / "model")
    assert predict.main(command(folder, two_images, tmp_path / "out")) == 2
    assert "--project MODULE" in capsys.readouterr().err
    more = ["--score", "0", "--project", "detectron2.projects.point_rend"]
    assert predict.main(command(folder, two_images, tmp_path / "out", *more)) == 0
    assert predicted(tmp_path / "out")["annotations"]
    # An actor, to which the job is sent, sees the same by a model of its own.
    options = command(folder, two_images, tmp_path / "out", *more)
    job = predict._job(predict.build_parser().parse_intermixed_args(options))
    there = unpacked(packed(job))
    entry = job.entries[0]
    ((seen, _),) = there.look([there.read(entry)])
    note = json.loads((tmp_path / f"out/annotations/{entry.stem}.json").read_text())
    assert seen.predicted.found.instances == note["instances"]
    assert job.build.args[-1] == ("detectron2.projects.point_rend",)  # for it to import
