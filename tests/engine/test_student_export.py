"""Training on pseudo edges in parts, and the student's files beside the checkpoints."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from PIL import Image
from torch import nn

from trace_d2.data.registration import register_from_config
from trace_d2.engine.hooks import StudentFiles
from trace_d2.engine.trainer import TraceTrainer
from trace_d2.io.edge_maps import write_ternary

_CALLS: list[int] = []


@META_ARCH_REGISTRY.register()
class ToyEdgeModel(nn.Module):
    """A convolution that learns edges; its student is its weight."""

    def __init__(self, cfg) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, batched_inputs):
        image = torch.stack([record["image"] for record in batched_inputs]).float() / 255
        logits = self.layer(image)[:, 0]
        if not self.training:
            return [{"edges": edges.sigmoid()} for edges in logits]
        _CALLS.append(len(batched_inputs))
        labels = torch.stack([record["pseudo_edges"] for record in batched_inputs])
        loss = nn.functional.binary_cross_entropy_with_logits(
            logits, (labels == 1).float(), weight=(labels != -1).float()
        )
        return {"loss_edges": loss}

    def save_student(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        torch.save(self.layer.state_dict(), folder / "student.pth")


@pytest.fixture
def cfg(tmp_path, make_cfg):
    (tmp_path / "images").mkdir()
    (tmp_path / "edges").mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        pixels = rng.integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
        labels = rng.integers(-1, 2, (20, 24)).astype(np.int8)
        write_ternary(tmp_path / "edges" / f"{number}.png", labels)
    cfg = make_cfg()
    name = f"export_{tmp_path.name}"
    cfg.DATASETS.TRACE.EDGES = [[name, str(tmp_path / "images"), str(tmp_path / "edges")]]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), ()
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.TRACE.MAPPER = "trace_edges"
    cfg.INPUT.TRACE.PSEUDO_EDGES.SIZE = 16
    cfg.MODEL.DEVICE, cfg.MODEL.META_ARCHITECTURE = "cpu", "ToyEdgeModel"
    cfg.MODEL.TRACE.SOLVER.ACCUMULATION_STEPS = 2
    cfg.MODEL.TRACE.SOLVER.SAMPLES_PERIOD = 2
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR = 3, 2, 0.1
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    Path(cfg.OUTPUT_DIR).mkdir()
    register_from_config(cfg)
    return cfg


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_the_student_is_that_of_the_last_iteration_or_the_average(decay, cfg):
    cfg.MODEL.TRACE.SOLVER.EMA_DECAY = decay
    _CALLS.clear()

    TraceTrainer(cfg).train()

    output = Path(cfg.OUTPUT_DIR)
    student = torch.load(output / "student" / "student.pth")["weight"]
    trained = torch.load(output / "model_final.pth", weights_only=False)["model"]["layer.weight"]
    if decay:
        averaged = torch.load(output / "model_averaged.pth")["model"]["layer.weight"]
        assert torch.equal(student, averaged)
        assert not torch.equal(student, trained)
    else:
        assert torch.equal(student, trained)
    assert _CALLS == [2, 1, 2, 1]
    assert np.asarray(Image.open(output / "samples" / "0000002.png")).shape == (512, 768, 3)


def test_files_come_with_checkpoints_and_at_the_end(tmp_path, caplog):
    saved = []

    class Model:
        def save_student(self, folder):
            saved.append((hook.trainer.iter, folder))

    class Trainer:
        max_iter = 7

    hook = StudentFiles(Model(), tmp_path / "student", period=3)
    hook.trainer = Trainer()
    with caplog.at_level(logging.INFO):
        for hook.trainer.iter in range(7):
            hook.after_step()

    assert saved == [(number, tmp_path / "student") for number in (2, 5, 6)]
    assert f"student after 7 iterations: {tmp_path / 'student'}" in caplog.text
