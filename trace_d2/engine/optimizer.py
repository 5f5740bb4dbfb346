"""Optimizers of the recipes: Detectron2's SGD, and AdamW as Mask2Former trains with it."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer as build_detectron2_optimizer
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

from trace_d2.engine.machine import check_optimizer

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
# Parameters of Swin and its kin that hold positions: embeddings in all but their type.
_POSITIONS = ("relative_position_bias_table", "absolute_pos_embed", "position_embeddings")


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a config; gradients are clipped in its ``step``, after any unscaling.

    Args:
        cfg: ``SOLVER`` and ``MODEL.TRACE.SOLVER`` are read; where the official Mask2Former put keys
            into ``SOLVER``, those count.
        model: parameters that need no gradient are left out; those whose name starts with
            ``backbone`` are the backbone's.
    """
    name, node, clip_norm = check_optimizer(cfg)
    solver = cfg.clone()
    solver.defrost()
    if solver.SOLVER.CLIP_GRADIENTS.CLIP_TYPE == "full_model":
        # Detectron2 knows only clipping parameter by parameter.
        solver.SOLVER.CLIP_GRADIENTS.ENABLED = False
    if name == "sgd":
        optimizer = build_detectron2_optimizer(solver, model)
    else:
        kind = maybe_add_gradient_clipping(solver, torch.optim.AdamW)
        optimizer = kind(_adamw_groups(cfg.SOLVER, node, model), lr=cfg.SOLVER.BASE_LR)
    if clip_norm > 0:
        optimizer.register_step_pre_hook(partial(_clip_full_model, clip_norm))
    return optimizer


def _adamw_groups(solver: CfgNode, own: CfgNode, model: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups, one for each pair of learning rate and weight decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        rate = solver.BASE_LR
        if "backbone" in module_name.split("."):
            rate *= own.BACKBONE_MULTIPLIER
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            decay = solver.WEIGHT_DECAY
            if isinstance(module, _NORMS):
                decay = solver.WEIGHT_DECAY_NORM
            elif isinstance(module, nn.Embedding) or name in _POSITIONS:
                decay = own.WEIGHT_DECAY_EMBED
            groups[rate, decay].append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def _clip_full_model(
    max_norm: float, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any
) -> None:
    """Scale the gradient over all parameters to an L2 norm of at most ``max_norm``."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(parameters, max_norm)
