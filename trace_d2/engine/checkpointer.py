"""Checkpoints that are noticed when they do not fit."""

from __future__ import annotations

import re
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor

_TORCHVISION_NAMES = (
    (re.compile(r"^(conv1|bn1)\."), r"stem.\1."),
    (re.compile(r"^layer(\d)\."), lambda match: f"res{int(match[1]) + 1}."),
    (re.compile(r"\.bn(\d)\."), r".conv\1.norm."),
    (re.compile(r"\.downsample\.0\."), ".shortcut."),
    (re.compile(r"\.downsample\.1\."), ".shortcut.norm."),
)
_LEAST_SHARE = 0.5  # of a backbone's tensors that its checkpoint must fill


class UnfitCheckpointError(ValueError):
    """A checkpoint that belongs to another model."""


class TraceCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, which also reads torchvision's ResNets and refuses misfits.

    Detectron2 only warns where names or shapes disagree, and then trains from random weights.
    This one raises an UnfitCheckpointError if a checkpoint leaves more than half of the backbone's
    tensors (or of all tensors, for a model without a ``backbone``) as they were.

    Args:
        model, save_dir, options: as Detectron2's.
        whole: the checkpoint is to fill the whole model, not only its backbone: for evaluation.
    """

    def __init__(
        self, model: torch.nn.Module, save_dir: str = "", *, whole: bool = False, **options: Any
    ) -> None:
        super().__init__(model, save_dir, **options)
        self.whole = whole

    def _load_file(self, filename: str) -> dict[str, Any]:
        loaded = super()._load_file(filename)
        if {"conv1.weight", "layer1.0.conv1.weight"} <= loaded["model"].keys():
            loaded["model"] = _rename_torchvision_resnet(loaded["model"])
            loaded["matching_heuristics"] = True
        self._path = filename
        return loaded

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        unfilled = {*incompatible.missing_keys, *(key for key, *_ in incompatible.incorrect_shapes)}
        _check_fit(self.model, unfilled, self._path, whole=self.whole)
        return incompatible


def _check_fit(model: torch.nn.Module, unfilled: set[str], path: str, *, whole: bool) -> None:
    """Raise if ``unfilled``, missing or of another shape, is most of what is to be filled."""
    names = [name for name in model.state_dict() if not name.startswith("pixel_")]
    backbone = [name for name in names if name.startswith("backbone.")] or names
    rest = [name for name in names if not name.startswith("backbone.")]
    for part, wanted in (("backbone", backbone), ("heads", rest if whole else [])):
        left = [name for name in wanted if name in unfilled]
        if len(left) > (1 - _LEAST_SHARE) * len(wanted):
            raise UnfitCheckpointError(
                f"{path} fits {len(wanted) - len(left)} of the {len(wanted)} tensors of the "
                f"{part} (not {left[0]}, for one): it belongs to another model. Correct "
                "MODEL.WEIGHTS, or MODEL.BACKBONE and the keys of its kind (MODEL.RESNETS.DEPTH, "
                "...)"
            )


def _rename_torchvision_resnet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision ResNet's tensors by Detectron2's names, without the classifier.

    Such weights want RGB input, MODEL.RESNETS.STRIDE_IN_1X1 False, and torchvision's mean and
    standard deviation times 255.
    """
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("fc.") or name.endswith("num_batches_tracked"):
            continue
        for pattern, replacement in _TORCHVISION_NAMES:
            name = pattern.sub(replacement, name)
        renamed[name] = tensor
    return renamed
