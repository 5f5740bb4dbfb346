"""Sheets of targets and predictions."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks, Instances
from PIL import Image
from torch import nn

from trace_d2.engine.loaders import BatchLoader
from trace_d2.engine.samples import SampleSheets

pytestmark = pytest.mark.detectron2


class LeftHalf(nn.Module):
    """Predicts the left half of every image, by instance or as a panoptic segment."""

    def __init__(self, panoptic: bool) -> None:
        super().__init__()
        self.panoptic = panoptic

    def forward(self, batched_inputs):
        assert not self.training
        results = []
        for record in batched_inputs:
            mask = torch.zeros(record["height"], record["width"], dtype=torch.bool)
            mask[:, : record["width"] // 2] = True
            if self.panoptic:
                info = [{"id": 1, "isthing": True, "category_id": 0}]
                results.append({"panoptic_seg": (mask.int(), info)})
                continue
            found = Instances(tuple(mask.shape))
            found.pred_masks, found.scores = mask[None], torch.tensor([0.9])
            found.pred_classes = torch.tensor([0])
            results.append({"instances": found})
        return results


def batch(bitmasks: bool):
    record = {"image": torch.full((3, 32, 48), 100, dtype=torch.uint8)}
    target = Instances((32, 48))
    masks = torch.zeros(1, 32, 48, dtype=torch.bool)
    masks[:, :16] = True
    target.gt_masks = BitMasks(masks) if bitmasks else masks
    target.gt_classes = torch.tensor([0])
    record["instances"] = target
    return [record]


@pytest.mark.parametrize("panoptic", [False, True])
def test_targets_above_predictions(panoptic, tmp_path):
    MetadataCatalog.get("samples_one").set(thing_classes=["object"], stuff_classes=["object"])
    batches = BatchLoader([batch(bitmasks=not panoptic)])
    next(iter(batches))
    model = LeftHalf(panoptic).train()
    sheets = SampleSheets(model, batches, tmp_path / "samples", "samples_one", "RGB", period=10)
    images = {}
    sheets.trainer = SimpleNamespace(
        iter=9, max_iter=100, storage=SimpleNamespace(put_image=images.__setitem__)
    )

    sheets.after_step()

    assert model.training
    sheet = np.asarray(Image.open(tmp_path / "samples" / "0000010.png")).astype(int)
    assert sheet.shape == (2 * 256, 384, 3)
    assert images["targets and predictions"].shape == (3, 512, 384)
    colored = (np.ptp(sheet, axis=2) > 20) | (abs(sheet.mean(2) - 100) > 20)
    targets, predictions = colored[:256], colored[256:]
    assert targets[8:120].mean() > 0.9
    assert targets[140:].mean() < 0.1
    assert predictions[:, 8:180].mean() > 0.8
    assert predictions[:, 204:].mean() < 0.1


def test_nothing_between_periods(tmp_path):
    sheets = SampleSheets(nn.Identity(), BatchLoader([]), tmp_path, "samples_one", "RGB", period=10)
    sheets.trainer = SimpleNamespace(iter=10, max_iter=100)

    sheets.after_step()

    assert not list(tmp_path.iterdir())
