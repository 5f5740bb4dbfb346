"""A trained Detectron2 model that predicts photographs, one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import BoxMode, Instances

from trace_d2.config import configured_categories
from trace_d2.data.augmentation import ResizeShortestEdge
from trace_d2.data.categories import ModelClasses
from trace_d2.edges.sources import EdgeSource
from trace_d2.engine.checkpointer import TraceCheckpointer
from trace_d2.evaluation.panoptic import decode_prediction
from trace_d2.io.coco_panoptic import segments_info
from trace_d2.jobs.coco_files import mask_annotations
from trace_d2.jobs.job import UsageError
from trace_d2.jobs.kinds.predicted import Predicted, Prediction
from trace_d2.modeling.postprocessor import PostProcessor

_DIVISOR = 1000  # of coded panoptic ids where no data set tells another


class ModelPredictor:
    """Predicts one photograph at a time, so that results do not depend on its neighbours.

    Args:
        cfg: of the model, frozen; ``MODEL.TRACE.POSTPROCESSOR.ENABLED`` is obeyed.
        weights: its checkpoint, which must fill the whole model.
        classes: what its classes are.
        score: instances of a lower score are left out, 0..1.
        edge_source: for the post-processor; None: as ``MODEL.TRACE.EDGES`` says.

    Raises:
        ValueError, OSError: the model cannot be built, or the checkpoint is of another one.
    """

    def __init__(
        self,
        cfg: CfgNode,
        weights: str,
        classes: ModelClasses,
        score: float,
        edge_source: EdgeSource | None = None,
    ) -> None:
        cfg = cfg.clone()
        cfg.defrost()
        self.cut = None
        if cfg.MODEL.TRACE.POSTPROCESSOR.ENABLED:
            cfg.MODEL.TRACE.POSTPROCESSOR.ENABLED = False
            self.cut = PostProcessor(cfg, edge_source=edge_source)
        self.model = build_model(cfg).eval()
        checkpointer = TraceCheckpointer(
            self.model, whole=True, categories=configured_categories(cfg)
        )
        checkpointer.load(weights)
        self.score = score
        self.classes = classes
        self.image_format = cfg.INPUT.FORMAT
        self.resize = ResizeShortestEdge(
            [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST], cfg.INPUT.MAX_SIZE_TEST
        )
        self.metadata = _metadata(classes, cfg.DATASETS.TEST)

    def ready(self, pixels: np.ndarray) -> torch.Tensor:
        """An image uint8 (H, W, 3) RGB as the model takes it: (3, h, w) uint8."""
        if self.image_format == "BGR":
            pixels = np.ascontiguousarray(pixels[..., ::-1])
        resized = self.resize.get_transform(pixels).apply_image(pixels)
        return torch.from_numpy(np.array(resized.transpose(2, 0, 1), order="C"))

    def predict(self, ready: torch.Tensor, pixels: np.ndarray, file_name: str) -> Predicted:
        """What the model says of an image; ``file_name`` names its edges, and fixes their noise.

        Raises:
            UsageError: the model gives neither masks of instances nor panoptic segments.
            ValueError: a class that ``classes`` do not know, or edges that do not fit.
        """
        height, width = pixels.shape[:2]
        record = {"image": ready, "height": height, "width": width, "file_name": file_name}
        with torch.no_grad():
            output = self.model([record])
            found = self._prediction(output[0])
            if self.cut is None:
                return Predicted(found)
            cut = self.cut(self.model, ([record],), {}, output)
        return Predicted(self._prediction(cut[0]), uncut=found, edges=self.cut.last_edges)

    def _prediction(self, output: dict[str, Any]) -> Prediction:
        instances, panoptic = output.get("instances"), output.get("panoptic_seg")
        if instances is not None and not instances.has("pred_masks"):
            instances = None  # boxes alone
        if panoptic is None and instances is None:
            raise UsageError(
                f"{type(self.model).__name__} predicts no masks of instances and no panoptic "
                "segments: give a model with a mask head (MODEL.MASK_ON True)"
            )
        found = Prediction() if instances is None else self._instances(instances.to("cpu"))
        return found if panoptic is None else self._with_panoptic(found, *panoptic)

    def _instances(self, instances: Instances) -> Prediction:
        scores = instances.scores if instances.has("scores") else torch.ones(len(instances))
        classes = instances.pred_classes.tolist()
        things = self.classes.things
        unknown = {number for number in classes if number not in things}
        if unknown:
            raise ValueError(
                f"the model predicts class {min(unknown)} (counted from 0), and only "
                f"{len(things)} are known: give the right ones by --categories"
            )
        isthing = torch.tensor([things[n].isthing for n in classes], dtype=torch.bool)
        masks = instances.pred_masks
        inside = masks if masks.dtype == torch.bool else masks > 0.5
        seen = isthing & inside.flatten(1).any(1)
        kept = seen & (scores >= self.score)
        order = torch.argsort(-scores, stable=True)
        order = order[kept[order]]
        rows = mask_annotations(
            inside[order].numpy(),
            [things[classes[rank]].id for rank in order.tolist()],
            scores[order].tolist(),
        )
        if instances.has("pred_boxes"):  # the model's own; masks may be a little off
            boxes = instances.pred_boxes.tensor[order]
            boxes = BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
            rows = [row | {"bbox": box} for row, box in zip(rows, boxes.tolist(), strict=True)]
        return Prediction(
            rows,
            below=int((seen & ~kept).sum()),
            best=float(scores[seen].max()) if seen.any() else 0.0,
        )

    def _with_panoptic(
        self, found: Prediction, ids: torch.Tensor, infos: list[dict[str, Any]] | None
    ) -> Prediction:
        try:
            segment_ids, decoded = decode_prediction(ids.cpu().numpy(), infos, self.metadata)
        except ValueError as error:
            raise ValueError(f"{error}: give the right ones by --categories") from error
        present = set(np.unique(segment_ids).tolist())
        categories = {s["id"]: s["category_id"] for s in decoded if s["id"] in present}
        segments = segments_info(segment_ids, categories)
        return replace(found, segment_ids=segment_ids, segments=tuple(segments))


def _metadata(classes: ModelClasses, names: Sequence[str]) -> SimpleNamespace:
    """What decodes panoptic results, as the metadata of a data set do."""
    known = names[0] if names else ""
    divisor = MetadataCatalog.get(known).get("label_divisor") if known in MetadataCatalog else None
    return SimpleNamespace(
        thing_dataset_id_to_contiguous_id={
            c.id: number for number, c in classes.things.items() if c.isthing
        },
        stuff_dataset_id_to_contiguous_id={
            c.id: number for number, c in classes.stuff.items() if not c.isthing
        },
        label_divisor=divisor or _DIVISOR,
    )
