"""The scores of edge files against panoptic truth, from the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trace_d2.edges.baselines import fixed_canny_edges
from trace_d2.evaluation import edges as module
from trace_d2.evaluation import evaluate_edges
from trace_d2.io.atomic import write_json
from trace_d2.io.categories import Category
from trace_d2.io.coco_panoptic import (
    coco_dataset,
    image_entry,
    panoptic_annotation,
    read_panoptic_png,
    segments_info,
    write_panoptic_png,
)
from trace_d2.io.edge_maps import read_edges, write_edges
from trace_d2.scenes.dataset import SceneSettings, write_scenes

STEMS = [f"scene_{index:06d}" for index in range(4)]


@pytest.fixture(scope="module")
def tool(load_tool):
    return load_tool("evaluate_edges")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, len(STEMS), SceneSettings(series=7, size=(64, 80)), progress=False)
    return folder


@pytest.fixture
def edges(scenes, tmp_path) -> Path:
    """Oracle edges at varied strengths, which .npy files hold as well."""
    (tmp_path / "edges").mkdir()
    for rank, stem in enumerate(STEMS):
        strength = np.float32(0.9 - 0.1 * rank)
        oracle = read_edges(scenes / "edges_oracle" / f"{stem}.png") * strength
        write_edges(tmp_path / "edges" / f"{stem}{'.npy' if rank == 2 else '.png'}", oracle)
    return tmp_path / "edges"


def truth(scenes: Path) -> list[str]:
    files = [str(scenes / "panoptic.json"), str(scenes / "panoptic")]
    return ["--truth-json", files[0], "--truth-dir", files[1]]


def row(output: str) -> list[str]:
    """The cells of the only row of the table."""
    return output.splitlines()[2].split()


def test_oracle_edges_are_perfect(tool, scenes, edges, tmp_path, capsys) -> None:
    files = {name: str(tmp_path / "out" / name) for name in ("r.json", "c.png")}
    (tmp_path / "out").mkdir()
    extra = ["--output", files["r.json"], "--curve", files["c.png"]]
    assert tool.main(["--edges", str(edges), *truth(scenes), *extra]) == 0
    output = capsys.readouterr().out
    # The weakest of the four has strength 0.6.
    assert row(output)[:4] == ["edges", "100.0", "0.01", "100.0"]
    assert row(output)[5:] == ["100.0", "0.60", "100.0"]
    assert output.endswith("\n4 images\n")
    report = json.loads(Path(files["r.json"]).read_text())
    assert report["scores"]["ods"] == report["scores"]["ois"] == 1
    assert list(report["images"]) == STEMS
    assert report["settings"]["max_distance"] == 0.0075
    last = report["images"][STEMS[3]]
    assert (last["best_f"], last["best_threshold"]) == (1, pytest.approx(0.6))
    assert last["matched"] == last["predictions"] == [last["truth"]] * 60 + [0] * 39
    with Image.open(files["c.png"]) as picture:
        assert picture.size == (600, 600)
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 5


@pytest.mark.parametrize("name", ["canny", "sobel", "gradient"])
def test_baselines_find_some_of_it(tool, scenes, name, capsys) -> None:
    extra = ["--baseline", name, "--images", str(scenes / "images"), "--thresholds", "19"]
    assert tool.main([*truth(scenes), *extra]) == 0
    cells = row(capsys.readouterr().out)
    assert cells[0] == name
    assert 10 < float(cells[1]) < 95
    assert float(cells[3]) >= float(cells[1])


def test_fixed_canny_and_hed(tool, scenes, weights_of_hed, tmp_path, capsys) -> None:
    images = ["--images", str(scenes / "images"), "--thresholds", "3"]
    assert tool.main([*truth(scenes), *images, "--baseline", "canny", "--canny", "90", "180"]) == 0
    found = row(capsys.readouterr().out)
    (tmp_path / "edges").mkdir()
    for stem in STEMS:
        image = np.asarray(Image.open(scenes / f"images/{stem}.png"))
        write_edges(tmp_path / f"edges/{stem}.png", fixed_canny_edges(image, 90, 180))
    assert tool.main([*truth(scenes), "--edges", str(tmp_path / "edges"), *images[2:]]) == 0
    assert row(capsys.readouterr().out)[1:] == found[1:]
    assert found[1] == found[3]  # one threshold: OIS is ODS

    hed = ["--baseline", "hed", *images, "--hed-weights"]
    weights = weights_of_hed.write_red(tmp_path / "hed.h5", -9.0)  # no edge at any threshold
    assert tool.main([*truth(scenes), *hed, str(weights)]) == 0
    assert row(capsys.readouterr().out)[:2] == ["hed", "0.0"]
    assert tool.main([*truth(scenes), *hed, str(tmp_path / "absent.h5")]) == 2
    assert "no weights of HED at" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--canny", "1", "2"), ("--hed-weights", "x")])
def test_options_of_other_baselines(tool, scenes, option, capsys) -> None:
    with pytest.raises(SystemExit):
        tool.main([*truth(scenes), "--baseline", "sobel", "--images", "x", *option])
    assert f"{option[0]} " in capsys.readouterr().err


def test_workers_do_not_change_the_result(scenes, edges, monkeypatch) -> None:
    monkeypatch.setattr(module, "_IMAGES_A_WORKER", 2)
    files = (scenes / "panoptic.json", scenes / "panoptic")
    alone, shared = (evaluate_edges(edges, *files, workers=n) for n in (1, 2))
    assert alone.to_dict() == shared.to_dict()


def test_missing_edges(tool, scenes, edges, capsys) -> None:
    arguments = ["--edges", str(edges), *truth(scenes)]
    (edges / f"{STEMS[1]}.png").unlink()
    assert tool.main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"evaluate_edges: there are no edges of 1 of 4 images ({STEMS[1]});")
    assert "--allow-missing" in message
    assert tool.main([*arguments, "--allow-missing"]) == 0
    assert capsys.readouterr().out.endswith("\n3 images; 1 more without edges left out\n")
    for path in edges.iterdir():
        path.rename(path.with_name(f"other_{path.name}"))
    assert tool.main([*arguments, "--allow-missing"]) == 2
    assert "no edges of any of the 4 images" in capsys.readouterr().err


def test_edges_of_another_size(tool, scenes, edges, capsys) -> None:
    write_edges(edges / f"{STEMS[0]}.png", np.zeros((32, 40), np.float32))
    assert tool.main(["--edges", str(edges), *truth(scenes)]) == 2
    message = capsys.readouterr().err
    assert f"{STEMS[0]}.png gives edges of 40 x 32 pixels, the truth has 80 x 64" in message
    assert "resize" in message


def test_distances_reach_the_scores(tool, scenes, edges, capsys) -> None:
    """Edges two pixels off are right only where they may be that far off."""
    for path in edges.iterdir():
        write_edges(path, np.roll(read_edges(path), 2, axis=1))

    def scores(*extra: str) -> tuple[float, float]:
        assert tool.main(["--edges", str(edges), *truth(scenes), *extra]) == 0
        cells = row(capsys.readouterr().out)
        return float(cells[1]), float(cells[5])

    strict, lenient = scores(), scores("--max-distance", "0.03")
    plain = scores("--max-distance", "0.03", "--cldice-distance", "0")
    assert max(strict) < 60 < 95 < min(lenient)
    assert plain[0] == lenient[0]
    assert plain[1] < 60


def test_void_reaches_the_scores(tool, scenes, edges, tmp_path, capsys) -> None:
    """With a segment made void, the edges around it are false under "ignore"."""
    for stem in STEMS:
        ids = read_panoptic_png(scenes / "panoptic" / f"{stem}.png").copy()
        ids[ids == ids[0, 0]] = 0
        (tmp_path / "void").mkdir(exist_ok=True)
        write_panoptic_png(tmp_path / "void" / f"{stem}.png", ids)
    arguments = ["--edges", str(edges), *truth(scenes), "--truth-dir", str(tmp_path / "void")]
    ods = []
    for void in ("count", "ignore"):
        assert tool.main([*arguments, "--void", void]) == 0
        ods.append(float(row(capsys.readouterr().out)[1]))
    assert ods[0] == 100 > ods[1]


@pytest.fixture
def bands(tmp_path) -> list[str]:
    """Upright bands, 4 x 10 pixels each: stuff, stuff, thing, thing; and an edge at each border."""
    ids = np.tile(np.repeat([1, 2, 3, 4], 4), (10, 1))
    strengths = np.zeros(ids.shape, np.float32)
    strengths[:, [3, 7, 11]] = [0.9, 0.6, 0.6]
    for folder in ("panoptic", "lines"):
        (tmp_path / folder).mkdir()
    write_panoptic_png(tmp_path / "panoptic" / "a.png", ids)
    write_edges(tmp_path / "lines" / "a.png", strengths)
    categories = [Category(i, f"c{i}", i == 7, (i, 0, 0)) for i in (5, 7)]
    segments = segments_info(ids, {1: 5, 2: 5, 3: 7, 4: 7})
    annotation = panoptic_annotation(1, "a.png", segments)
    content = coco_dataset([image_entry(1, "a.jpg", 10, 16)], [annotation], categories)
    write_json(tmp_path / "panoptic.json", content)
    return ["--edges", str(tmp_path / "lines"), *truth(tmp_path)]


@pytest.mark.parametrize(
    ("kind", "name", "ods", "matched"),
    [
        # 30 pixels are true and found; at 0.9 10 are found, all of them right.
        ("panoptic", "boundaries of all segments", "100.0", (30, 10)),
        # 20 are true; those of strength 0.9 lie between stuff. F = 2 x 20 / (30 + 20).
        ("things", "outlines of thing instances", "80.0", (20, 0)),
    ],
)
def test_kinds_of_truth(tool, bands, kind, name, ods, matched, tmp_path, capsys) -> None:
    report = tmp_path / "report.json"
    assert tool.main([*bands, "--truth-kind", kind, "--output", str(report)]) == 0
    output = capsys.readouterr().out
    assert row(output)[1:3] == [ods, "0.01"]
    assert output.endswith(f"\n\nTruth: {name}\n1 images\n")
    content = json.loads(report.read_text())
    assert content["settings"]["truth_kind"] == kind
    counts = content["images"]["a"]
    assert (counts["truth"], counts["predictions"][59]) == (matched[0], 30)
    assert (counts["matched"][59], counts["matched"][89]) == matched


def test_all_segments_are_the_default(tool, bands, capsys) -> None:
    outputs = []
    for extra in ([], ["--truth-kind", "panoptic"]):
        assert tool.main([*bands, *extra]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


def test_things_need_categories(tool, bands, tmp_path, capsys) -> None:
    content = json.loads((tmp_path / "panoptic.json").read_text())
    del content["categories"]
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    assert tool.main(bands) == 0
    assert tool.main([*bands, "--truth-kind", "things"]) == 2
    assert '"categories" lacks [5, 7]' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--edges", "nowhere"], "no folder of edges at nowhere"),
        (["--edges", ".", "--thresholds", "0"], "one threshold at least"),
        (["--edges", ".", "--truth-json", "nowhere.json"], "no panoptic JSON at nowhere.json"),
        (["--edges", ".", "--truth-dir", "nowhere"], "no folder of panoptic PNGs at nowhere"),
        (["--baseline", "canny", "--images", "nowhere"], "no folder of images at nowhere"),
    ],
)
def test_bad_input_is_named(tool, scenes, arguments, message, capsys) -> None:
    assert tool.main([*truth(scenes), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--baseline", "canny"],
        ["--baseline", "magic", "--images", "b"],
        ["--edges", "a", "--images", "b"],
        ["--edges", "a", "--baseline", "canny", "--images", "b"],
        ["--edges", "a", "--workers", "-1"],
        ["--edges", "a", "--truth-kind", "stuff"],
    ],
)
def test_usage(tool, scenes, arguments, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        tool.main([*truth(scenes), *arguments])
    assert caught.value.code == 2


def test_truths_of_one_name_in_two_folders(tool, scenes, edges, tmp_path, capsys) -> None:
    content = json.loads((scenes / "panoptic.json").read_text())
    again = content["annotations"][0] | {"image_id": 99, "file_name": f"b/{STEMS[0]}.png"}
    content["annotations"].append(again)
    (tmp_path / "two.json").write_text(json.dumps(content))
    extra = ["--truth-json", str(tmp_path / "two.json"), "--truth-dir", str(scenes / "panoptic")]
    assert tool.main(["--edges", str(edges), *extra]) == 2
    assert f"no edges of 1 of 5 images (b/{STEMS[0]})" in capsys.readouterr().err
    again["file_name"] = f"./{STEMS[0]}.jpg"
    (tmp_path / "two.json").write_text(json.dumps(content))
    assert tool.main(["--edges", str(edges), *extra]) == 2
    assert re.search("share a stem|both have the PNG", capsys.readouterr().err)


def test_edges_that_no_threshold_finds_are_told(tool, scenes, edges, capsys, caplog) -> None:
    path = edges / f"{STEMS[0]}.png"
    Image.fromarray((read_edges(path) > 0).astype(np.uint8)).save(path)
    assert tool.main([*truth(scenes), "--edges", str(edges), "--workers", "1", "--quiet"]) == 0
    assert f"1 of 4 images have no edge at any threshold, such as {STEMS[0]}" in caplog.text


def test_maps_that_look_inverted_are_told(tool, scenes, edges, caplog) -> None:
    command = [*truth(scenes), "--edges", str(edges), "--workers", "1", "--quiet"]
    assert tool.main([*command, "--thresholds", "3"]) == 0
    assert "most pixels are edges" not in caplog.text
    path = edges / f"{STEMS[1]}.png"
    write_edges(path, 1 - read_edges(path))
    write_edges(edges / f"{STEMS[3]}.png", np.ones((64, 80), np.float32))
    assert tool.main([*command, "--thresholds", "3"]) == 0
    assert (
        f"in 2 of 4 edge maps most pixels are edges, such as {STEMS[1]}: is the map inverted?"
        in caplog.text
    )


def test_a_truth_without_any_edge_is_no_score(tool, scenes, edges, tmp_path, capsys) -> None:
    content = json.loads((scenes / "panoptic.json").read_text())
    for category in content["categories"]:
        category["isthing"] = 0
    (tmp_path / "stuff.json").write_text(json.dumps(content))
    files = ["--truth-json", str(tmp_path / "stuff.json"), "--truth-dir", f"{scenes}/panoptic"]
    command = ["--edges", str(edges), *files, "--quiet", "--thresholds", "3"]
    assert tool.main([*command, "--truth-kind", "things"]) == 2
    message = "the truth (outlines of thing instances) has no pixel in any of 4 images"
    assert f"stuff.json: {message}" in capsys.readouterr().err
    assert tool.main(command) == 0


def test_sizes_of_edges_and_truth_are_compared_first(scenes, tmp_path) -> None:
    """The edges are damaged as well, which is not looked at."""
    (tmp_path / "edges").mkdir()
    for stem in STEMS:
        write_edges(tmp_path / "edges" / f"{stem}.png", np.zeros((5, 5)))
        content = (tmp_path / "edges" / f"{stem}.png").read_bytes()
        (tmp_path / "edges" / f"{stem}.png").write_bytes(content[:-20])
    with pytest.raises(ValueError, match="gives edges of 5 x 5 pixels, the truth has 80 x 64"):
        evaluate_edges(tmp_path / "edges", scenes / "panoptic.json", scenes / "panoptic")


def test_a_truth_whose_pngs_have_other_ids_is_refused(tool, scenes, edges, tmp_path, capsys):
    (tmp_path / "panoptic").mkdir()
    for stem in STEMS:
        ids = read_panoptic_png(scenes / "panoptic" / f"{stem}.png")
        write_panoptic_png(tmp_path / "panoptic" / f"{stem}.png", ids << 16)
    files = [
        "--truth-json",
        str(scenes / "panoptic.json"),
        "--truth-dir",
        str(tmp_path / "panoptic"),
    ]
    assert tool.main(["--edges", str(edges), *files, "--quiet"]) == 2
    assert "its bytes are in the order B, G, R" in capsys.readouterr().err


def test_truth_of_linked_folders_and_accents(tool, scenes, edges, tmp_path, capsys):
    content = json.loads((scenes / "panoptic.json").read_text())
    content["images"][0]["file_name"] = "caf\u00e9.png"
    (edges / f"{STEMS[0]}.png").rename(edges / "cafe\u0301.png")
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "linked").symlink_to(scenes / "panoptic", target_is_directory=True)
    files = ["--truth-json", str(tmp_path / "truth.json"), "--truth-dir", str(tmp_path / "linked")]
    assert tool.main(["--edges", str(edges), *files, "--quiet"]) == 0
    assert row(capsys.readouterr().out)[1] == "100.0"
