"""Pictures while training: what the model is taught, and what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.engine import HookBase
from detectron2.structures import BitMasks, Instances
from detectron2.utils import comm
from detectron2.utils.visualizer import Visualizer

from trace_d2.engine.loaders import Batch, BatchLoader
from trace_d2.formats.atomic import write_png

_SHOWN = 4  # images of a sheet
_LEAST_SCORE = 0.5  # of the predictions that are drawn


class SampleSheets(HookBase):
    """Writes ``samples/<iteration>.png``: for a few images of the batch, targets and predictions.

    Args:
        model: what is trained.
        batches: gives the last batch.
        folder: where the sheets go.
        dataset_name: whose metadata names the classes.
        image_format: of the batch's images, ``INPUT.FORMAT``.
        period: iterations from one sheet to the next.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        batches: BatchLoader,
        folder: Path,
        dataset_name: str,
        image_format: str,
        period: int,
    ) -> None:
        self._model = model
        self._batches = batches
        self._folder = folder
        self._metadata = MetadataCatalog.get(dataset_name)
        self._format = image_format
        self._period = period

    def after_step(self) -> None:
        """Write a sheet if one is due; every process predicts, as the model may synchronise."""
        done = self.trainer.iter + 1
        if done % self._period and done not in (1, self.trainer.max_iter):
            return
        batch = self._batches.last[:_SHOWN]
        predictions = _predict(self._model, batch)
        if comm.is_main_process():
            sheet = self.draw(batch, predictions)
            self._folder.mkdir(parents=True, exist_ok=True)
            write_png(self._folder / f"{done:07d}.png", sheet)
            self.trainer.storage.put_image("targets and predictions", sheet.transpose(2, 0, 1))

    def draw(self, batch: Batch, predictions: list[dict[str, Any]]) -> np.ndarray:
        """A sheet (H, W, 3) uint8: an image a column; targets above, predictions below."""
        columns = []
        for record, prediction in zip(batch, predictions, strict=True):
            image = convert_image_to_rgb(record["image"].permute(1, 2, 0), self._format)
            pair = [self._targets(image, record), self._prediction(image, prediction)]
            columns.append(np.concatenate(pair))
        height = max(column.shape[0] for column in columns)
        return np.concatenate(
            [np.pad(c, ((0, height - c.shape[0]), (0, 0), (0, 0))) for c in columns], axis=1
        )

    def _targets(self, image: np.ndarray, record: dict[str, Any]) -> np.ndarray:
        instances = record.get("instances")
        if instances is None:
            return image
        return self._overlay(image, instances.gt_masks, instances.gt_classes)

    def _prediction(self, image: np.ndarray, prediction: dict[str, Any]) -> np.ndarray:
        if "panoptic_seg" in prediction:
            segments, info = prediction["panoptic_seg"]
            drawn = Visualizer(image, self._metadata).draw_panoptic_seg(segments.cpu(), info)
            return _fit(drawn.get_image(), image)
        instances: Instances | None = prediction.get("instances")
        if instances is None or not instances.has("pred_masks"):
            return image
        instances = instances[instances.scores > _LEAST_SCORE].to("cpu")
        return self._overlay(image, instances.pred_masks, instances.pred_classes)

    def _overlay(self, image: np.ndarray, masks: Any, classes: torch.Tensor) -> np.ndarray:
        tensor = masks.tensor if isinstance(masks, BitMasks) else masks
        names = list(self._metadata.get("thing_classes", []))
        labels = [names[i] if i < len(names) else str(i) for i in classes.tolist()]
        drawn = Visualizer(image, self._metadata).overlay_instances(
            masks=tensor.cpu().numpy().astype(bool), labels=labels
        )
        return _fit(drawn.get_image(), image)


def _predict(model: torch.nn.Module, batch: Batch) -> list[dict[str, Any]]:
    """Predictions at the size of the batch's images; the model trains on afterwards."""
    records = [
        {"image": r["image"], "file_name": r.get("file_name", ""),
         "height": r["image"].shape[1], "width": r["image"].shape[2]}
        for r in batch
    ]  # fmt: skip
    model.eval()
    try:
        with torch.no_grad():
            return model(records)
    finally:
        model.train()


def _fit(drawn: np.ndarray, image: np.ndarray) -> np.ndarray:
    """matplotlib may be a pixel off."""
    height, width = image.shape[:2]
    return cv2.resize(np.ascontiguousarray(drawn), (width, height))
