"""Hooks of the training: averaged weights, pictures of what is taught and said, student files."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.engine import HookBase
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.visualizer import Visualizer
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trace_d2.engine.builders import Batch, BatchLoader
from trace_d2.io.atomic import write_png
from trace_d2.modeling.postprocessor import without_postprocessor

logger = logging.getLogger(__name__)

_SHOWN = 4  # images of a sheet
_LEAST_SCORE = 0.5  # of the predictions that are drawn
_EDGE_COLOR, _IGNORED_COLOR = (255, 230, 0), (90, 90, 90)  # RGB
_SHADE = 0.35  # of the image behind edges
_LEAST_SIDE = 256  # pixels; smaller images are drawn larger, so that names fit


class ExponentialMovingAverage(HookBase):
    """Keeps the average of a model's parameters and buffers; resumes with the trainer.

    ``decay`` is the share of the old average kept at each step, in (0, 1). The model of this and
    of the other hooks is the one that is trained, not wrapped for distributed training.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"MODEL.TRACE.SOLVER.EMA_DECAY lies in (0, 1), or 0 for off: {decay}")
        self._model = model
        self._average = AveragedModel(
            nn.Identity(), multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True
        )
        # Frozen weights are shared: a diffusion backbone would not fit twice.
        shared = {id(p): p for p in model.parameters() if not p.requires_grad}
        self._average.module = copy.deepcopy(model, shared)

    @property
    def model(self) -> nn.Module:
        """The model with averaged weights."""
        return self._average.module

    def after_step(self) -> None:
        """Take the weights of this step in; what is no number in between, as tags, is copied."""
        self._average.update_parameters(self._model)
        for averaged, buffer in zip(self.model.buffers(), self._model.buffers(), strict=True):
            if not buffer.is_floating_point():
                averaged.copy_(buffer)

    def state_dict(self) -> dict[str, Any]:
        """For the trainer's checkpoint."""
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undoes ``state_dict``."""
        self._average.load_state_dict(state)


class StudentFiles(HookBase):
    """Writes the student of a model with each checkpoint and at the end, on the main process.

    The model does so by ``save_student(folder)``.
    """

    def __init__(self, model: Any, folder: Path, period: int) -> None:
        self._model, self._folder, self._period = model, folder, period

    def after_step(self) -> None:
        """Write the files if a checkpoint is due."""
        done = self.trainer.iter + 1
        if done % self._period and done < self.trainer.max_iter:
            return
        self._write(done)

    def after_train(self) -> None:
        """Write the files of a training that was interrupted after its last checkpoint."""
        if self.trainer.iter >= self.trainer.max_iter and not self._folder.exists():
            self._write(self.trainer.max_iter)

    def _write(self, done: int) -> None:
        if comm.is_main_process():
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._model.save_student(self._folder)
            logger.info("student after %d iterations: %s", done, self._folder)


class SampleSheets(HookBase):
    """Writes ``<folder>/<iteration>.png``: targets and predictions of images of the last batch.

    Args:
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
        self._model, self._batches, self._folder = model, batches, folder
        self._metadata = MetadataCatalog.get(dataset_name)
        self._format, self._period = image_format, period

    def after_step(self) -> None:
        """Write a sheet if one is due, on the main process."""
        done = self.trainer.iter + 1
        if done % self._period and done not in (1, self.trainer.max_iter):
            return
        if comm.is_main_process():
            batch = self._batches.last[:_SHOWN]
            sheet = self.draw(batch, _predict(self._model, batch))
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
        if "pseudo_edges" in record:
            return _enlarge(draw_ternary(image, record["pseudo_edges"].numpy()))
        instances = record.get("instances")
        if instances is None or not instances.has("gt_masks"):
            return _enlarge(image)
        return self._overlay(image, instances.gt_masks, instances.gt_classes)

    def _prediction(self, image: np.ndarray, prediction: dict[str, Any]) -> np.ndarray:
        if "edges" in prediction:
            return _enlarge(draw_edges(image, prediction["edges"].float().cpu().numpy()))
        if "panoptic_seg" in prediction:
            segments, info = prediction["panoptic_seg"]
            drawn = self._visualizer(image).draw_panoptic_seg(segments.cpu(), info)
            return _fit(drawn.get_image(), image)
        instances: Instances | None = prediction.get("instances")
        if instances is None or not instances.has("pred_masks"):
            return _enlarge(image)
        instances = instances[instances.scores > _LEAST_SCORE].to("cpu")
        return self._overlay(image, instances.pred_masks, instances.pred_classes)

    def _overlay(self, image: np.ndarray, masks: Any, classes: torch.Tensor) -> np.ndarray:
        names = list(self._metadata.get("thing_classes", []))
        labels = [names[i] if i < len(names) else str(i) for i in classes.tolist()]
        drawn = self._visualizer(image).overlay_instances(
            masks=masks, labels=None if len(names) == 1 else labels
        )
        return _fit(drawn.get_image(), image)

    def _visualizer(self, image: np.ndarray) -> Visualizer:
        return Visualizer(image, self._metadata, scale=_enlargement(image))


def draw_ternary(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """``image`` (H, W, 3) uint8 RGB, darkened, with ``labels`` (H, W) 1 yellow and -1 grey."""
    drawn = (image * _SHADE).astype(np.uint8)
    drawn[labels == 1] = _EDGE_COLOR
    drawn[labels == -1] = _IGNORED_COLOR
    return drawn


def draw_edges(image: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """``image`` (H, W, 3) uint8 RGB, darkened, with yellow as strong as ``edges`` (H, W) 0..1."""
    strength = edges[..., None]
    drawn = image * _SHADE * (1 - strength) + np.array(_EDGE_COLOR) * strength
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)


def _predict(model: torch.nn.Module, batch: Batch) -> list[dict[str, Any]]:
    """Predictions at the size of the batch's images; the model trains on afterwards.

    The post-processor rests: it would search edges of augmented images, or read those of others.
    """
    records = [
        {"image": r["image"], "file_name": r.get("file_name", ""),
         "height": r["image"].shape[1], "width": r["image"].shape[2]}
        for r in batch
    ]  # fmt: skip
    model.eval()
    try:
        with torch.no_grad(), without_postprocessor(model):
            return model(records)
    finally:
        model.train()


def _enlargement(image: np.ndarray) -> int:
    return max(1, round(_LEAST_SIDE / min(image.shape[:2])))


def _enlarge(image: np.ndarray) -> np.ndarray:
    factor = _enlargement(image)
    return image.repeat(factor, 0).repeat(factor, 1)


def _fit(drawn: np.ndarray, image: np.ndarray) -> np.ndarray:
    """``drawn`` as ``_enlarge(image)`` is large; matplotlib may be a pixel off."""
    factor = _enlargement(image)
    size = (image.shape[1] * factor, image.shape[0] * factor)
    return cv2.resize(np.ascontiguousarray(drawn), size)
