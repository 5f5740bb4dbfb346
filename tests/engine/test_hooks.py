"""Hooks of the training: averaged weights, and sheets of targets and predictions."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks, Instances
from PIL import Image
from torch import nn

from trace_d2.engine.builders import BatchLoader
from trace_d2.engine.hooks import (
    ExponentialMovingAverage,
    SampleSheets,
    draw_edges,
    draw_ternary,
)


def test_average_of_three_steps_by_hand():
    model = nn.Linear(1, 1, bias=False)
    averaging = ExponentialMovingAverage(model, decay=0.75)
    for value in (8.0, 4.0, 0.0):  # the first step is the start of the average
        nn.init.constant_(model.weight, value)
        averaging.after_step()

    # 8, then 0.75 * 8 + 0.25 * 4 = 7, then 0.75 * 7 = 5.25
    assert averaging.model.weight.item() == pytest.approx(5.25)
    assert model.weight.item() == 0.0


def test_it_resumes():
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    first = ExponentialMovingAverage(model, decay=0.5)
    first.after_step()
    second = ExponentialMovingAverage(nn.Linear(2, 2), decay=0.5)
    second.load_state_dict(first.state_dict())

    assert torch.equal(second.model.weight, first.model.weight)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_names_its_key(decay):
    with pytest.raises(ValueError, match=r"MODEL\.TRACE\.SOLVER\.EMA_DECAY"):
        ExponentialMovingAverage(nn.Linear(1, 1), decay)


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
    np.random.seed(0)  # Detectron2 draws in colours at random, grey ones among them
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


class TopEdges(nn.Module):
    """Predicts an edge of full strength in the upper half of every image."""

    def forward(self, batched_inputs):
        results = []
        for record in batched_inputs:
            edges = torch.zeros(record["height"], record["width"])
            edges[: record["height"] // 2] = 1
            results.append({"edges": edges})
        return results


def test_edge_targets_above_predicted_edges(tmp_path):
    labels = torch.zeros(32, 48, dtype=torch.int8)
    labels[:, :16], labels[:, 16:32] = 1, -1
    image = torch.full((3, 32, 48), 100, dtype=torch.uint8)
    batch = [{"image": image, "pseudo_edges": labels}]
    sheets = SampleSheets(TopEdges(), BatchLoader([]), tmp_path, "samples_one", "RGB", period=10)

    sheet = sheets.draw(batch, TopEdges()([{"height": 32, "width": 48}]))

    yellow, grey, dark = [255, 230, 0], [90, 90, 90], [35, 35, 35]
    assert sheet.shape == (2 * 256, 384, 3)
    assert [sheet[128, x].tolist() for x in (64, 192, 320)] == [yellow, grey, dark]
    assert [sheet[256 + y, 192].tolist() for y in (64, 192)] == [yellow, dark]


def test_colours_of_edges():
    image = np.full((1, 3, 3), 200, np.uint8)

    labels = draw_ternary(image, np.array([[1, 0, -1]], np.int8))
    assert labels[0].tolist() == [[255, 230, 0], [70, 70, 70], [90, 90, 90]]
    # Half way between 70 and (255, 230, 0).
    edges = draw_edges(image, np.array([[1.0, 0.5, 0.0]], np.float32))
    assert edges[0].tolist() == [[255, 230, 0], [162, 150, 35], [70, 70, 70]]
