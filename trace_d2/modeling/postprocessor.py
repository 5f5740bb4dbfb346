"""Cut what any Detectron2 model predicts along instance edges, through a forward hook.

A hook leaves the model's class, state dict, checkpoints and training as they are. It acts in eval
mode on what ``model(batched_inputs)`` returns; code that calls ``model.inference`` on its own, as
test-time augmentation does, goes past it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from torch import Tensor, nn

from trace_d2.edges.sources import (
    EdgeSource,
    build_edge_source,
    check_edge_source,
    edge_calibration,
)
from trace_d2.propagation import BoundaryGuidedPropagation

from .input_images import find_image_edges
from .mask_cutting import cut_coded_panoptic, cut_instances, cut_panoptic

# Calibrations come from class masks; masks that a model merges hold more borders.
_MORE_BORDERS = 2.0

_Predictions = list[dict[str, Any]]


class PostProcessor:
    """The hook: predictions of a batch in, refined predictions out.

    Args:
        propagation: how masks are cut.
        edge_source: finds the edges of an image; or ``build_source`` makes it at the first use.
        build_source: device -> edge source.
        input_format: of the images, as ``cfg.INPUT.FORMAT`` names it.
        instances, panoptic: which outputs to refine.
        min_score, max_instances, share_power: see the keys of ``MODEL.TRACE.POSTPROCESSOR``.
        dataset_name: whose metadata decodes panoptic predictions without ``segments_info``.

    Raises:
        ValueError: a value is out of its range, or nothing is to be refined.
    """

    @configurable
    def __init__(
        self,
        *,
        propagation: BoundaryGuidedPropagation,
        edge_source: EdgeSource | None = None,
        build_source: Callable[[str], EdgeSource] | None = None,
        input_format: str = "BGR",
        instances: bool = True,
        panoptic: bool = True,
        min_score: float = 0.05,
        max_instances: int = 100,
        share_power: float = 0.5,
        dataset_name: str = "",
    ) -> None:
        key = "MODEL.TRACE.POSTPROCESSOR."
        if edge_source is None and build_source is None:
            raise ValueError("a post-processor needs edge_source or build_source")
        if not (instances or panoptic):
            raise ValueError(f"{key}INSTANCES and {key}PANOPTIC are both False: nothing to refine")
        if not 0 <= min_score <= 1:
            raise ValueError(f"{key}MIN_SCORE must lie in 0..1, not {min_score}")
        if max_instances < 1:
            raise ValueError(f"{key}MAX_INSTANCES must be at least 1, not {max_instances}")
        if share_power < 0:
            raise ValueError(f"{key}SHARE_POWER must not be negative, but is {share_power}")
        self.propagation = propagation
        # Panoptic segments do not overlap, so none may grow.
        self.panoptic_propagation = BoundaryGuidedPropagation(
            replace(propagation.settings, grow=False), propagation.calibration
        )
        self.edge_source = edge_source
        self.build_source = build_source
        self.input_format = input_format
        self.instances = instances
        self.panoptic = panoptic
        self.min_score = min_score
        self.max_instances = max_instances
        self.share_power = share_power
        self.dataset_name = dataset_name
        self.resting = False

    @classmethod
    def from_config(cls, cfg: Any, *, edge_source: EdgeSource | None = None) -> dict[str, Any]:
        """Arguments from ``MODEL.TRACE.{POSTPROCESSOR,BGP,EDGES}``, ``INPUT``, ``DATASETS.TEST``.

        Args:
            cfg: a Detectron2 config.
            edge_source: in place of the one that ``MODEL.TRACE.EDGES`` names.
        """
        node = cfg.MODEL.TRACE.POSTPROCESSOR
        calibration = edge_calibration(cfg)
        if calibration is not None:
            calibration = calibration.expecting(_MORE_BORDERS)
        if edge_source is None:
            check_edge_source(cfg)
        return {
            "propagation": BoundaryGuidedPropagation.from_config(cfg, calibration),
            "edge_source": edge_source,
            "build_source": partial(build_edge_source, cfg.clone()),
            "input_format": cfg.INPUT.FORMAT,
            "instances": node.INSTANCES,
            "panoptic": node.PANOPTIC,
            "min_score": node.MIN_SCORE,
            "max_instances": node.MAX_INSTANCES,
            "share_power": node.SHARE_POWER,
            "dataset_name": cfg.DATASETS.TEST[0] if len(cfg.DATASETS.TEST) else "",
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> PostProcessor:
        # Copies of a model (moving averages of its weights, say) share one frozen edge source.
        return copy.copy(self)

    def __call__(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """The refined ``output`` in eval mode, ``output`` itself in training.

        Raises:
            ValueError: the model predicts no masks.
        """
        if model.training or self.resting:
            return output
        inputs = args[0] if args else next(iter(kwargs.values()))
        if not _holds_masks(output):
            raise ValueError(
                f"MODEL.TRACE.POSTPROCESSOR is on, but {type(model).__name__} predicts no masks: "
                "set MODEL.TRACE.POSTPROCESSOR.ENABLED to False, or use a model with a mask head "
                "(MODEL.MASK_ON True)"
            )
        if self.edge_source is None and self.build_source is not None:
            self.edge_source = self.build_source(str(_device(model)))
        with torch.no_grad():
            return [
                self.refine(record, prediction)
                for record, prediction in zip(inputs, output, strict=True)
            ]

    def refine(self, record: dict[str, Any], prediction: dict[str, Any]) -> dict[str, Any]:
        """One image's prediction with ``instances`` and ``panoptic_seg`` cut along edges.

        Args:
            record: the input dict of Detectron2: ``image``, perhaps ``file_name``.
            prediction: the output dict; what else it holds (``sem_seg``) stays.
        """
        edges = _EdgesBySize(record, self._source(), self.input_format)
        refined = dict(prediction)
        if self.instances and "instances" in prediction:
            refined["instances"] = self._instances(prediction["instances"], edges)
        if self.panoptic and "panoptic_seg" in prediction:
            refined["panoptic_seg"] = self._panoptic(prediction["panoptic_seg"], edges)
        return refined

    def _source(self) -> EdgeSource:
        if self.edge_source is None:
            raise RuntimeError("the edge source is built when the model first predicts")
        return self.edge_source

    def _instances(self, instances: Instances, edges: _EdgesBySize) -> Instances:
        if instances.has("scores"):
            instances = instances[instances.scores >= self.min_score]
        if len(instances) == 0:
            return instances
        return cut_instances(
            instances,
            edges(instances.pred_masks.shape[-2:]),
            self.propagation,
            share_power=self.share_power,
            max_instances=self.max_instances,
        )

    def _panoptic(
        self, predicted: tuple[Tensor, list[dict[str, Any]] | None], edges: _EdgesBySize
    ) -> tuple[Tensor, list[dict[str, Any]] | None]:
        ids, infos = predicted
        if infos is None:
            things, divisor = self._coding()
            cut = cut_coded_panoptic(
                ids,
                edges(ids.shape),
                self.panoptic_propagation,
                thing_classes=things,
                label_divisor=divisor,
            )
            return cut, None
        if not any(info["isthing"] for info in infos):
            return predicted
        return cut_panoptic(ids, infos, edges(ids.shape), self.panoptic_propagation)

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
    hooks = [hook for hook in model._forward_hooks.values() if isinstance(hook, PostProcessor)]
    for hook in hooks:
        hook.resting = True
    try:
        yield
    finally:
        for hook in hooks:
            hook.resting = False


def has_postprocessor(model: nn.Module) -> bool:
    """Whether ``with_postprocessor`` was called on ``model``."""
    return any(isinstance(hook, PostProcessor) for hook in model._forward_hooks.values())


class _EdgesBySize:
    """Edges of one image, found when they are first needed and once a size."""

    def __init__(self, record: dict[str, Any], source: EdgeSource, input_format: str) -> None:
        self._find = partial(find_image_edges, record, source, input_format)
        self._found: dict[tuple[int, int], np.ndarray] = {}

    def __call__(self, shape: Sequence[int]) -> np.ndarray:
        size = (int(shape[0]), int(shape[1]))
        if size not in self._found:
            self._found[size] = self._find(size)
        return self._found[size]


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
