from __future__ import annotations

import json

import numpy as np
import pytest

from trace_d2.io.atomic import write_png


@pytest.fixture
def arguments(tmp_path):
    """Two images of VOC: cats (8) and sheep (17) on background, borders of 255."""
    maps = {
        "truth/2007_1": [[0, 8, 8, 255]], "out/2007_1": [[0, 8, 0, 0]],
        "truth/2007_2": [[17, 17, 0, 0]], "out/2007_2": [[17, 255, 0, 0]],
    }  # fmt: skip
    for name, values in maps.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_png(tmp_path / f"{name}.png", np.array(values, np.uint8))
    return ["--truth", str(tmp_path / "truth"), "--predictions", str(tmp_path / "out")]


def run(load_tool, arguments, *more):
    return load_tool("evaluate_semantic").main([*arguments, "--workers", "1", *more])


def test_table_and_json(load_tool, arguments, tmp_path, capsys):
    more = ["--rule", "voc21", "--json", str(tmp_path / "iou.json"), "--per-category"]
    assert run(load_tool, arguments, "--categories", "voc", *more) == 0
    output = capsys.readouterr().out
    rows = [line.split() for line in output.splitlines()]
    assert ["background", "75.0", "100.0", "3", "4"] in rows
    assert ["cat", "50.0", "50.0", "2", "1"] in rows
    assert ["sheep", "50.0", "50.0", "2", "1"] in rows
    assert not any("dog" in row for row in rows)
    # fwIoU: (3 * 3/4 + 2 * 1/2 + 2 * 1/2) / 7; 5 of 7 pixels are right
    assert ["voc21", "58.3", "60.7", "66.7", "71.4"] in rows
    assert output.endswith("\n2 images\n")
    report = json.loads((tmp_path / "iou.json").read_text())
    assert report["rule"] == "voc21"
    assert report["mIoU"] == pytest.approx(7 / 12)
    assert report["per_class"]["12"]["iou"] is None


def test_an_interrupted_preparation_is_not_the_truth(load_tool, arguments, tmp_path, capsys):
    stuff = ["--categories", "stuff171", "--rule", "stuff171"]
    write_png(tmp_path / "truth/2007_1_labelTrainIds.png", np.array([[0, 7, 7, 255]], np.uint8))
    assert run(load_tool, arguments, *stuff) == 2
    error = capsys.readouterr().err
    assert "has 1 maps <stem>_labelTrainIds.png, which are the truth, but 1 images have" in error
    assert "<stem>.png alone (2007_2): was a preparation interrupted?" in error
    names = tmp_path / "val.txt"  # of maps as published or as written, or of images
    for name in ("2007_1.png", "2007_1_labelTrainIds.png"):
        names.write_text(f"{name}\n")
        assert run(load_tool, arguments, *stuff, "--list", str(names)) == 0
        assert capsys.readouterr().out.endswith("1 images\n")
    # Maps that others wrote beside are no images of their own.
    write_png(tmp_path / "truth/2007_2_labelTrainIds.png", np.array([[9, 9, 9, 9]], np.uint8))
    write_png(tmp_path / "truth/2007_3_instanceTrainIds.png", np.array([[9, 9]], np.uint8))
    assert run(load_tool, arguments, *stuff) == 0


def test_capitals_in_endings(load_tool, arguments, tmp_path, capsys):
    assert run(load_tool, arguments, "--categories", "voc") == 0
    plain = capsys.readouterr().out
    for name in ("truth/2007_1", "out/2007_2"):
        (tmp_path / f"{name}.png").rename(tmp_path / f"{name}.PNG")
    assert run(load_tool, arguments, "--categories", "voc") == 0
    assert capsys.readouterr().out == plain


def test_background_that_is_not_judged_or_left_over(load_tool, arguments, capsys):
    assert run(load_tool, arguments, "--categories", "voc", "--rule", "voc20") == 0
    output = capsys.readouterr().out
    assert ["voc20", "50.0", "50.0", "50.0", "50.0"] in [x.split() for x in output.splitlines()]
    assert "predicted as no class of voc20, so wrong: background" in output


def test_what_is_missing_or_wrong(load_tool, arguments, tmp_path, capsys):
    (tmp_path / "out/2007_2.png").unlink()
    voc = ["--categories", "voc"]
    assert run(load_tool, arguments, *voc) == 2
    assert "no prediction for 1 of 2 images (2007_2)" in capsys.readouterr().err
    assert run(load_tool, arguments, *voc, "--missing", "miss") == 0
    assert "1 of them without prediction, all their pixels counted" in capsys.readouterr().out
    assert run(load_tool, arguments, *voc, "--missing", "skip") == 0
    assert "1 images; 1 more without prediction left out" in capsys.readouterr().out
    names = tmp_path / "val.txt"
    names.write_text("2007_1\n")
    assert run(load_tool, arguments, *voc, "--list", str(names)) == 0
    assert capsys.readouterr().out.endswith("\n1 images\n")
    assert run(load_tool, arguments, *voc, "--list", str(names), "--json", str(names)) == 2
    assert "is --list as well, which would be lost" in capsys.readouterr().err
    assert run(load_tool, arguments, "--categories", "city19", "--rule", "voc21") == 2
    assert "city19 lacks 15 of the 21 classes of voc21" in capsys.readouterr().err
    wrong = ["--truth", str(tmp_path / "trut"), "--json", str(tmp_path / "absent/x.json")]
    assert run(load_tool, arguments, "--categories", "city19", "--rule", "voc21", *wrong) == 2
    error = capsys.readouterr().err
    for complaint in ("no folder of truth at", "for the output x.json", "city19 lacks 15"):
        assert complaint in error


def test_thresholds_of_the_background(load_tool, arguments, tmp_path, capsys):
    voc = ["--categories", "voc20", "--rule", "voc21", "--background-threshold"]
    assert run(load_tool, arguments, *voc, "0.5") == 2
    assert "2 of 2 predictions are maps" in capsys.readouterr().err
    assert run(load_tool, arguments, *voc, "nan") == 2
    assert "the threshold of the background is nan" in capsys.readouterr().err
    for stem in ("2007_1", "2007_2"):
        (tmp_path / f"out/{stem}.png").unlink()
        scores = np.zeros((20, 1, 4), np.float32)
        scores[3, 0, 0] = 20  # a logit
        np.save(tmp_path / f"out/{stem}.npy", scores)
    for level, share in (("-1", "note: 0 %"), ("30", "note: 100 %"), ("10", None)):
        assert run(load_tool, arguments, *voc, level) == 0
        out = capsys.readouterr().out
        assert share in out if share else "note:" not in out
