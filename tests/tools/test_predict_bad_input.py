"""What the tool of predictions says of mistakes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from predicting import command, rcnn_cfg, save_model

pytest.importorskip("detectron2")

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.detectron2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["MODEL.MASK_ON", "False"], "GeneralizedRCNN predicts no masks of instances"),
        (["MODEL.META_ARCHITECTURE", "Nobody"], "no MODEL.META_ARCHITECTURE 'Nobody'"),
        (["MODEL.META_ARCHITECTURE", "TraceEdgePredictor"], "use predict_edges.py"),
        (["MODEL.META_ARCHITECTURE", "RetinaNet"], "RetinaNet predicts no masks"),
        (["MODEL.ROI_BOX_HEAD.FC_DIM", "32"], "the model cannot be loaded: "),
        (["MODEL.NOTHING", "1"], "MODEL.NOTHING"),
        (["MODEL.DEVICE", "cuda"], "MODEL.DEVICE is cuda, but no CUDA device is visible"),
        (["MODEL.WEIGHTS", "b.pth"], "--weights is given, but MODEL.WEIGHTS is b.pth: leave out"),
        (["INPUT.FORMAT", "L"], "INPUT.FORMAT is 'L'"),
    ],
)
def test_mistakes_end_with_status_2(
    keys, message, predict, two_images, tmp_path_factory, capsys, monkeypatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    folder = tmp_path_factory.getbasetemp() / "mistakes"
    if not folder.exists():
        save_model(rcnn_cfg(), folder)
    assert predict.main(command(folder, two_images, folder / "out", *keys)) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "out" / "predictions.json").exists()


def test_all_that_is_wrong_is_said_at_once_before_anything_is_imported(tmp_path):
    (tmp_path / "config.yaml").write_text("MODEL:\n  DEVICE: nowhere\nVERSION: 2\n")
    more = ["--score", "3", "--categories", "vco", "MODEL.TRACE.SED", "1", "MODEL.MASK_ON", "False"]
    arguments = command(tmp_path, tmp_path / "none", tmp_path / "out", *more)
    code = f"""import sys, predict
status = predict.main({arguments!r})
sys.exit("torch is imported" if "torch" in sys.modules else status)"""
    path = os.pathsep.join([str(REPOSITORY / "tools"), str(REPOSITORY)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 2, done.stderr
    for part in (
        "--score is 3.0",
        "--weights: no file at",
        "no categories file at vco",
        "no folder at",
        "did you mean MODEL.TRACE.SEED",
        "GeneralizedRCNN predicts no masks",
        "'nowhere' cannot be used",
    ):
        assert part in done.stderr


def test_what_is_missing_is_named(predict, capsys):
    assert predict.main(["--images", "here"]) == 2
    assert "--config-file, --weights, --output missing" in capsys.readouterr().err
