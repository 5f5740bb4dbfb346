"""Mask2Former as a Detectron2 meta-architecture, with no compiled operator."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList
from torch import nn

from trace_d2.config import configured_categories
from trace_d2.settings import NodeSettings, within

from .inference import instance_inference, panoptic_inference, semantic_inference
from .settings import KEY, Mask2FormerSettings
from .targets import prepare_targets, thing_ids_of


@dataclass(frozen=True)
class Mask2FormerTestSettings(NodeSettings, node=f"{KEY}.TEST"):
    """Which results there are, and the thresholds of :func:`panoptic_inference`."""

    semantic_on: bool = True
    panoptic_on: bool = True
    instance_on: bool = True
    object_mask_threshold: float = within(0.0, 1.0, default=0.8)
    overlap_threshold: float = within(0.0, 1.0, default=0.8)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.semantic_on or self.panoptic_on or self.instance_on):
            raise ValueError(f"{KEY}.TEST: SEMANTIC_ON, PANOPTIC_ON and INSTANCE_ON are all False")


@META_ARCH_REGISTRY.register()
class TraceMask2Former(nn.Module):
    """``transformers``' Mask2Former on any Detectron2 backbone.

    Inputs and results are those of the official ``MaskFormer`` meta-architecture; loss names too.
    """

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        settings: Mask2FormerSettings,
        test: Mask2FormerTestSettings,
        num_classes: int,
        thing_ids: Collection[int],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        top_k: int = 100,
    ) -> None:
        """Assemble the model; :meth:`from_config` reads the arguments from a config.

        Args:
            num_classes: classes without "no object".
            thing_ids: contiguous ids of the thing classes.
            pixel_mean, pixel_std: a channel, in the units of the images.
            top_k: see :func:`instance_inference`.

        Raises:
            ValueError: the backbone lacks a feature, or the features do not fit; it names the key.
        """
        super().__init__()
        # With transformers' network, seconds that only who builds this model waits for.
        from .head import Mask2FormerCriterion, Mask2FormerHead

        shapes = _feature_shapes(backbone, settings.in_features)
        config = settings.transformers_config(num_classes, [shape.stride for shape in shapes])
        self.backbone = backbone
        self.sem_seg_head = Mask2FormerHead(config, [shape.channels for shape in shapes])
        self.criterion = Mask2FormerCriterion(config, deep_supervision=settings.deep_supervision)
        self.in_features = settings.in_features
        self.num_classes = num_classes
        self.thing_ids = frozenset(thing_ids)
        self.size_divisibility = settings.size_divisibility or backbone.size_divisibility
        self.test = test
        self.top_k = top_k
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments from ``MODEL.TRACE.MASK2FORMER`` and ``MODEL.SEM_SEG_HEAD.NUM_CLASSES``; things
        by ``MODEL.TRACE.CATEGORIES``, or the first of the data sets that knows its own.
        """
        settings = Mask2FormerSettings.from_config(cfg)
        test = Mask2FormerTestSettings.from_config(cfg)
        num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
        return {
            "settings": settings,
            "test": test,
            "num_classes": num_classes,
            "thing_ids": thing_ids_of(
                names,
                configured_categories(cfg),
                num_classes=num_classes,
                panoptic=test.panoptic_on,
            ),
            "backbone": build_backbone(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "top_k": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    @property
    def device(self) -> torch.device:
        """Where inputs are moved to."""
        return self.pixel_mean.device

    def forward(
        self, batched_inputs: Sequence[dict[str, Any]]
    ) -> dict[str, torch.Tensor] | list[dict[str, Any]]:
        """Losses in training, results otherwise.

        Args:
            batched_inputs: Detectron2's input dicts: ``image`` (C, H, W) in the units of
                ``MODEL.PIXEL_MEAN``; in training ``instances``, see :func:`prepare_targets`;
                otherwise ``height`` and ``width`` of the result (default: the image's).

        Returns:
            In training the weighted losses, see :class:`Mask2FormerCriterion`. Otherwise for each
            input a dict of those results that are switched on: ``sem_seg`` (C, H, W) float;
            ``panoptic_seg``: (H, W) int32 and the list of its segments; ``instances``:
            ``Instances``. See :mod:`trace_d2.modeling.mask2former.inference`.
        """
        images = self.preprocess_images(batched_inputs)
        features = self.backbone(images.tensor)
        class_logits, mask_logits = self.sem_seg_head([features[name] for name in self.in_features])
        if self.training:
            classes, masks = prepare_targets(
                batched_inputs,
                size=tuple(images.tensor.shape[-2:]),
                num_classes=self.num_classes,
                device=self.device,
            )
            return self.criterion(class_logits, mask_logits, classes, masks)
        upsampled = F.interpolate(
            mask_logits[-1].float(),
            size=images.tensor.shape[-2:],
            mode="bilinear",
            align_corners=False,
        )
        return [
            self.results_of(
                logits.float(),
                sem_seg_postprocess(
                    masks, size, record.get("height", size[0]), record.get("width", size[1])
                ),
            )
            for logits, masks, size, record in zip(
                class_logits[-1], upsampled, images.image_sizes, batched_inputs, strict=True
            )
        ]

    def preprocess_images(self, batched_inputs: Sequence[dict[str, Any]]) -> ImageList:
        """Normalise the images and pad them to one size: (B, C, H, W) float with their sizes."""
        images = [
            (record["image"].to(self.device) - self.pixel_mean) / self.pixel_std
            for record in batched_inputs
        ]
        return ImageList.from_tensors(images, size_divisibility=self.size_divisibility)

    def results_of(self, class_logits: torch.Tensor, mask_logits: torch.Tensor) -> dict[str, Any]:
        """The results of one image from its logits (Q, C + 1) and (Q, H, W) at its own size."""
        results: dict[str, Any] = {}
        if self.test.semantic_on:
            results["sem_seg"] = semantic_inference(class_logits, mask_logits)
        if self.test.panoptic_on:
            results["panoptic_seg"] = panoptic_inference(
                class_logits,
                mask_logits,
                thing_ids=self.thing_ids,
                object_mask_threshold=self.test.object_mask_threshold,
                overlap_threshold=self.test.overlap_threshold,
            )
        if self.test.instance_on:
            results["instances"] = instance_inference(
                class_logits, mask_logits, thing_ids=self.thing_ids, top_k=self.top_k
            )
        return results


def _feature_shapes(backbone: Backbone, in_features: Sequence[str]) -> list[Any]:
    """``ShapeSpec`` of each feature: three for deformable attention, and a finer one."""
    shapes = backbone.output_shape()
    missing = [name for name in in_features if name not in shapes]
    if missing:
        raise ValueError(
            f"{KEY}.IN_FEATURES has {', '.join(missing)}, but the backbone gives "
            f"{', '.join(shapes)} (MODEL.RESNETS.OUT_FEATURES for a ResNet)"
        )
    chosen = [shapes[name] for name in in_features]
    strides = [shape.stride for shape in chosen]
    if len(strides) != 4 or strides != [strides[0] * 2**level for level in range(4)]:
        raise ValueError(
            f"{KEY}.IN_FEATURES must be four features, finest first, each of twice the stride of "
            f"the one before; {list(in_features)} have the strides {strides}"
        )
    return chosen
