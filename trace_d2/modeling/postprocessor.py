"""Cut what any Detectron2 model predicts along instance edges, through a forward hook.

A hook leaves the model's class, state dict, checkpoints and training as they are. It acts in eval
mode on what ``model(batched_inputs)`` returns; code that calls ``model.inference`` on its own, as
test-time augmentation does, goes past it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from torch import Tensor, nn

from trace_d2.edges.sources import (
    EdgeSource,
    build_edge_source,
    check_edge_source,
    edge_calibration,
    with_tile_scale,
)
from trace_d2.propagation import BoundaryGuidedPropagation
from trace_d2.settings import NodeSettings, within

from .edge_predictor import find_image_edges
from .mask_cutting import cut_coded_panoptic, cut_instances, cut_panoptic

# Calibrations come from class masks; masks that a model merges hold more borders.
_MORE_BORDERS = 2.0

_Edges = Callable[[int, int], np.ndarray]  # height, width -> edges of an image


@dataclass(frozen=True)
class PostProcessorSettings(NodeSettings, node="MODEL.TRACE.POSTPROCESSOR"):
    """Which outputs are refined, and which instances stay; ``config`` says what the keys mean."""

    instances: bool = True
    panoptic: bool = True
    min_score: float = within(0.0, 1.0, default=0.05)
    max_instances: int = within(1, default=100)
    share_power: float = within(0.0, default=0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.instances or self.panoptic):
            raise ValueError(
                f"{self.node}.INSTANCES and {self.node}.PANOPTIC are both False: nothing to refine"
            )


class PostProcessor:
    """The hook: predictions of a batch in, refined predictions out; see ``with_postprocessor``.

    The metadata of ``DATASETS.TEST`` decodes panoptic predictions without ``segments_info``.

    Attributes:
        last_edges: float32 (H, W) in 0..1, along which the last image was cut; None: it was not.
    """

    def __init__(self, cfg: Any, *, edge_source: EdgeSource | None = None) -> None:
        if edge_source is None:
            cfg = with_tile_scale(cfg)
        calibration = edge_calibration(cfg)
        if calibration is not None:
            calibration = calibration.expecting(_MORE_BORDERS)
        if edge_source is None:
            check_edge_source(cfg)
        self.settings = PostProcessorSettings.from_config(cfg)
        self.propagation = BoundaryGuidedPropagation.from_config(cfg, calibration)
        # Panoptic segments do not overlap, so none may grow.
        self.panoptic_propagation = BoundaryGuidedPropagation(
            replace(self.propagation.settings, grow=False), calibration
        )
        self.edge_source = edge_source
        self.build_source = partial(build_edge_source, cfg.clone())
        self.input_format = cfg.INPUT.FORMAT
        self.dataset_name = cfg.DATASETS.TEST[0] if len(cfg.DATASETS.TEST) else ""
        self.resting = False
        self.last_edges: np.ndarray | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> PostProcessor:
        # Copies of a model (moving averages of its weights, say) share one frozen edge source.
        return copy.copy(self)

    def __call__(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """The refined ``output`` in eval mode, ``output`` itself in training."""
        if model.training or self.resting:
            return output
        inputs = args[0] if args else next(iter(kwargs.values()))
        if not _holds_masks(output):
            raise ValueError(
                f"MODEL.TRACE.POSTPROCESSOR is on, but {type(model).__name__} predicts no masks: "
                "set MODEL.TRACE.POSTPROCESSOR.ENABLED to False, or use a model with a mask head "
                "(MODEL.MASK_ON True)"
            )
        if self.edge_source is None:
            self.edge_source = self.build_source(str(_device(model)))
        with torch.no_grad():
            return [
                self._refine(record, prediction, self.edge_source)
                for record, prediction in zip(inputs, output, strict=True)
            ]

    def _refine(
        self, record: dict[str, Any], prediction: dict[str, Any], source: EdgeSource
    ) -> dict[str, Any]:
        """One image's prediction, cut; what else it holds (``sem_seg``) stays."""
        self.last_edges = None

        @cache  # found when they are first needed, once a size
        def edges(height: int, width: int) -> np.ndarray:
            self.last_edges = find_image_edges(record, source, self.input_format, (height, width))
            return self.last_edges

        refined = dict(prediction)
        if self.settings.instances and "instances" in prediction:
            refined["instances"] = self._instances(prediction["instances"], edges)
        if self.settings.panoptic and "panoptic_seg" in prediction:
            refined["panoptic_seg"] = self._panoptic(prediction["panoptic_seg"], edges)
        return refined

    def _instances(self, instances: Instances, edges: _Edges) -> Instances:
        if instances.has("scores"):
            instances = instances[instances.scores >= self.settings.min_score]
        if len(instances) == 0:
            return instances
        return cut_instances(
            instances,
            edges(*instances.pred_masks.shape[-2:]),
            self.propagation,
            share_power=self.settings.share_power,
            max_instances=self.settings.max_instances,
        )

    def _panoptic(
        self, predicted: tuple[Tensor, list[dict[str, Any]] | None], edges: _Edges
    ) -> tuple[Tensor, list[dict[str, Any]] | None]:
        ids, infos = predicted
        if infos is None:
            things, divisor = self._coding()
            cut = cut_coded_panoptic(
                ids,
                edges(*ids.shape),
                self.panoptic_propagation,
                thing_classes=things,
                label_divisor=divisor,
            )
            return cut, None
        if not any(info["isthing"] for info in infos):
            return predicted
        return cut_panoptic(ids, infos, edges(*ids.shape), self.panoptic_propagation)

    def _coding(self) -> tuple[list[int], int]:
        """Thing classes and label divisor of the test set."""
        metadata = MetadataCatalog.get(self.dataset_name) if self.dataset_name else None
        things = getattr(metadata, "thing_dataset_id_to_contiguous_id", None)
        divisor = getattr(metadata, "label_divisor", None)
        if things is None or divisor is None:
            raise ValueError(
                "the model codes classes into panoptic ids (it gives no segments_info); to cut "
                "them, DATASETS.TEST[0] must name a data set with label_divisor and "
                f"thing_dataset_id_to_contiguous_id, and {self.dataset_name!r} has none"
            )
        return list(things.values()), int(divisor)


def with_postprocessor(
    model: nn.Module, cfg: Any, *, edge_source: EdgeSource | None = None
) -> nn.Module:
    """Let ``model`` cut the masks it predicts in eval mode along instance edges.

    Args:
        model: of any Detectron2 meta-architecture that predicts ``instances`` with masks or
            ``panoptic_seg``.
        cfg: its config, with the ``TRACE`` keys; ``POSTPROCESSOR.ENABLED`` is not asked.
        edge_source: in place of the one that ``MODEL.TRACE.EDGES`` names, which is built at the
            first prediction, on the model's device.

    Returns:
        ``model`` itself.

    Raises:
        ValueError: a key is wrong, or the model has a post-processor already.
        FileNotFoundError: the folder of edge files does not exist.
    """
    if has_postprocessor(model):
        raise ValueError(
            f"this {type(model).__name__} has a post-processor already: call with_postprocessor "
            "once, and not on a model built with MODEL.TRACE.POSTPROCESSOR.ENABLED True"
        )
    model.register_forward_hook(PostProcessor(cfg, edge_source=edge_source), with_kwargs=True)
    return model


@contextmanager
def without_postprocessor(model: nn.Module) -> Iterator[None]:
    """Let ``model`` predict as it would without a post-processor, inside the ``with`` block."""
    for hook in _postprocessors(model):
        hook.resting = True
    try:
        yield
    finally:
        for hook in _postprocessors(model):
            hook.resting = False


def has_postprocessor(model: nn.Module) -> bool:
    """Whether ``with_postprocessor`` was called on ``model``."""
    return bool(_postprocessors(model))


def _postprocessors(model: nn.Module) -> list[PostProcessor]:
    return [hook for hook in model._forward_hooks.values() if isinstance(hook, PostProcessor)]


def _holds_masks(output: Any) -> bool:
    if not isinstance(output, list) or not all(isinstance(one, dict) for one in output):
        return False
    return all(
        "panoptic_seg" in one or ("instances" in one and one["instances"].has("pred_masks"))
        for one in output
    )


def _device(model: nn.Module) -> torch.device:
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device
