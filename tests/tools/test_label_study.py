"""The inputs of a study of labels and masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from label_study import BASELINE, NO_EDGES, ROWS, StudyInputs
from PIL import Image

from trace_d2.scenes.dataset import SceneSettings, write_scenes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 3, SceneSettings(5, (48, 64)), progress=False)
    return folder


def study(scenes: Path, output: Path, **changes) -> StudyInputs:
    settings = {
        "images": scenes / "images",
        "truth_json": scenes / "panoptic.json",
        "truth_dir": scenes / "panoptic",
        "output": output,
        "detectors": {},
        "noise": 0.2,
    }
    return StudyInputs(**(settings | changes))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def test_rows_and_parts(scenes, tmp_path) -> None:
    one = study(scenes, tmp_path)
    assert list(one.rows) == [*ROWS, BASELINE]
    assert one.parts == [[1, 2, 3], [1, 3], [2]]
    two = study(scenes, tmp_path, detectors={"hed": tmp_path, "mine": tmp_path})
    assert list(two.rows) == [*ROWS, "hed", "mine"]
    assert two.false_edges == "hed"


def test_every_row_has_its_edges(scenes, tmp_path) -> None:
    inputs = study(scenes, tmp_path)
    assert inputs.edges(NO_EDGES) is None
    folders = {row: inputs.edges(row) for row in inputs.rows if row != NO_EDGES}
    assert len(set(folders.values())) == len(inputs.rows) - 1
    for folder in folders.values():
        assert len(list(folder.iterdir())) == 3
    name = "scene_000001.png"
    oracle = pixels(folders["oracle"] / name)
    np.testing.assert_array_equal(oracle, pixels(scenes / "edges_oracle" / name))
    assert np.count_nonzero(pixels(folders["oracle-gaps"] / name)) < np.count_nonzero(oracle)
    false = [pixels(folders[f"soft-{share}"] / name)[oracle == 0] for share in (0.5, 0.7, 0.9)]
    assert (false[0] <= false[1]).all()
    assert (false[1] <= false[2]).all()
    assert (false[0] < false[2]).any()


def test_semantic_masks(scenes, tmp_path) -> None:
    inputs = study(scenes, tmp_path)
    masks = [pixels(inputs.semantic(noisy) / "scene_000000.png") for noisy in (False, True)]
    np.testing.assert_array_equal(masks[0], pixels(scenes / "semantic/scene_000000.png"))
    assert 0 < (masks[0] != masks[1]).mean() < 0.2


def test_a_folder_that_is_not_whole_is_made_again(scenes, tmp_path) -> None:
    (tmp_path / "inputs/oracle.part/edges").mkdir(parents=True)
    folder = study(scenes, tmp_path).edges("oracle")
    assert len(list(folder.iterdir())) == 3
    (folder / "scene_000000.png").unlink()
    assert study(scenes, tmp_path).edges("oracle") == folder  # whole: not made again
    assert len(list(folder.iterdir())) == 2


def test_the_folder_of_another_study_is_refused(scenes, tmp_path) -> None:
    study(scenes, tmp_path).claim()
    study(scenes, tmp_path).claim()
    with pytest.raises(ValueError, match=r"other semantic_noise: give another --output"):
        study(scenes, tmp_path, noise=0.5).claim()
    with pytest.raises(ValueError, match="other opts"):
        study(scenes, tmp_path, opts=("MODEL.TRACE.SEED", "1")).claim()


def test_inputs_at_fault_are_named(scenes, tmp_path) -> None:
    study(scenes, tmp_path).check()
    (tmp_path / "images").mkdir()
    (tmp_path / "images/scene_000000.png").touch()
    with pytest.raises(ValueError, match=r"no image scene_000001\.\* in .*images"):
        study(scenes, tmp_path, images=tmp_path / "images").check()
    with pytest.raises(ValueError, match=r"detector hed: .* has no edges of 3 of 3 images"):
        study(scenes, tmp_path, detectors={"hed": tmp_path}).check()
    truth = json.loads((scenes / "panoptic.json").read_text())
    truth["images"].pop()
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    with pytest.raises(ValueError, match=r'"images" lists no scene_000002\.\* of id 3'):
        study(scenes, tmp_path, truth_json=tmp_path / "truth.json").check()
