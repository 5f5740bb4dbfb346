"""What is wrong with a training is said at once, before PyTorch and Detectron2 are imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("detectron2")

pytestmark = pytest.mark.detectron2

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def train(run_apart, tmp_path):
    """``train(config, *options)``: what ``tools/train_net.py`` prints to stdout and to stderr."""

    def run(config: str, *options: str) -> tuple[str, str]:
        file = tmp_path / "config.yaml"
        file.write_text(config)
        return run_apart("train_net.py", "--config-file", file, *options, cwd=tmp_path)

    return run


def label_folder(root: Path, stems: list[str]) -> str:
    """A data set of labels, and its entry in DATASETS.TRACE.PANOPTIC."""
    (root / "images").mkdir()
    (root / "labels/panoptic").mkdir(parents=True)
    for stem in stems:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / f"images/{stem}.png")
    categories = [{"id": n, "name": name, "isthing": 1} for n, name in enumerate(("cat", "dog"))]
    (root / "labels/categories.json").write_text(json.dumps(categories))
    return f"['own', '{root}/labels', '{root}/images']"


def test_all_of_it_at_once_and_before_anything_is_imported(train, tmp_path):
    entry = label_folder(tmp_path, ["a"])
    (tmp_path / "weights.pth").write_text("no weights")
    out, err = train(
        f"""
MODEL:
  META_ARCHITECTURE: TraceMask2Formr
  WEIGHTS: weights.pth
  DEVICE: cudaa
  SEM_SEG_HEAD: {{NUM_CLASSES: 3}}
DATASETS:
  TRACE: {{PANOPTIC: [{entry}, ['gone', '{tmp_path}/label', '{tmp_path}/images']]}}
  TRAIN: ("owm",)
  TEST: ("gone",)
SOLVER: {{AMP: {{ENABLED: True}}, IMS_PER_BATCH: 0}}
INPUT: {{TRACE: {{MAPPER: trac, MAPPR: 1}}}}
""",
        *("--num-gpus", "0", "MODEL.TRACE.SOLVER.OPTIMIZER", "adam", "SOLVER.MAX_ITR", "9"),
    )
    assert out == "status 2 []\n"
    for line in (
        "names config keys that do not exist: INPUT.TRACE.MAPPR (did you mean INPUT.TRACE.MAPPER?)",
        "do not exist: SOLVER.MAX_ITR (did you mean SOLVER.MAX_ITER?)",
        "--num-gpus 0, --num-machines 1",
        "MODEL.DEVICE 'cudaa' cannot be used: ",
        "is called cudaa (did you mean cuda?)",
        "SOLVER.AMP.ENABLED needs CUDA",
        "MODEL.WEIGHTS: weights.pth holds no weights, it is text",
        "SOLVER.IMS_PER_BATCH is 0",
        "'TraceMask2Formr' is none of",
        f"no folder of labels at {tmp_path}/label (did you mean {tmp_path}/labels?)",
        "no data set 'owm' is registered (did you mean own?)",
        "INPUT.TRACE.MAPPER is one of trace, detectron2, trace_edges, not 'trac' (did you mean",
    ):
        assert line in err, line
    assert not (tmp_path / "output").exists()


def test_classes_and_mapper_are_held_against_the_data(train, tmp_path):
    entry = label_folder(tmp_path, ["a"])
    config = f"""
MODEL: {{META_ARCHITECTURE: TraceMask2Former, DEVICE: cpu, SEM_SEG_HEAD: {{NUM_CLASSES: 3}}}}
DATASETS: {{TRACE: {{PANOPTIC: [{entry}]}}, TRAIN: [own], TEST: []}}
INPUT: {{TRACE: {{MAPPER: detectron2}}}}
"""
    out, err = train(config)
    assert out == "status 2 []\n"
    assert "NUM_CLASSES is 3, but own has 2 classes: make it 2" in err
    assert "INPUT.TRACE.MAPPER must be trace for the data set 'own'" in err


def test_an_edge_predictor_without_its_backbone(train, tmp_path):
    (tmp_path / "images").mkdir()
    config = f"""
MODEL:
  META_ARCHITECTURE: TraceEdgePredictor
  DEVICE: cpu
  TRACE:
    BACKBONE: {{NAME: {tmp_path}/images, DTYPE: float3}}
    EDGES: {{SOURCE: student}}
    STUDENT: {{TRAIN: True, LORA: {{RANK: 0}}}}
DATASETS:
  TRACE: {{EDGES: [['e', '{tmp_path}/images', '{tmp_path}/edges']]}}
  TRAIN: ("e",)
  TEST: ("coco_2017_val_panopti",)
INPUT: {{TRACE: {{MAPPER: trace_edges}}}}
"""
    out, err = train(config)
    assert out == "status 2 []\n"
    for line in (
        f"no folder of edges at {tmp_path}/edges",
        "MODEL.TRACE.BACKBONE.DTYPE must be one of auto, float32, float16, bfloat16, not 'float3'",
        "MODEL.TRACE.STUDENT.LORA.RANK must be 1 or more, not 0",
        "(did you mean coco_2017_val_panoptic?)",
    ):
        assert line in err, line


def test_what_detectron2_calls_at_its_import_is_not_remarked_on():
    code = """import warnings, trace_d2.engine
warnings.warn("`torch.jit.script` is deprecated. Please switch", FutureWarning)
warnings.warn("another", FutureWarning)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "jit" not in done.stderr
    assert "another" in done.stderr


def test_names_of_data_sets_that_are_known_without_detectron2():
    from trace_d2.data.known import _builtin_names, _names_of_detectron2

    own = {*_builtin_names(), *_names_of_detectron2()}
    import detectron2.data.datasets.builtin as builtin

    for table in (builtin._PREDEFINED_SPLITS_COCO, builtin._PREDEFINED_SPLITS_LVIS):
        assert {name for splits in table.values() for name in splits} <= own
    assert {"coco_2017_val_panoptic", "voc_2007_test", "coco_2017_val"} <= own


def test_the_defaults_of_detectron2_are_read_without_it():
    from detectron2.config import get_cfg

    from trace_d2.engine.preflight import _detectron2_defaults
    from trace_d2.settings import flatten

    assert flatten(_detectron2_defaults()) == flatten(get_cfg())


def test_names_are_those_that_are_there():
    from trace_d2.engine import builders, names

    assert tuple(builders.MAPPERS) == names.MAPPER_NAMES
    assert tuple(builders.EVALUATORS) == names.EVALUATOR_NAMES
    assert tuple(builders.EDGE_EVALUATORS) == names.EDGE_EVALUATOR_NAMES
