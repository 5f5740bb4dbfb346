"""Optimizers of the recipes: Detectron2's SGD, and AdamW as Mask2Former trains with it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer as build_detectron2_optimizer
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

KEY = "MODEL.TRACE.SOLVER"
_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
)
# Parameters of Swin and its kin that hold positions: embeddings in all but their type.
_POSITIONS = ("relative_position_bias_table", "absolute_pos_embed", "position_embeddings")


@dataclass(frozen=True)
class OptimizerSettings:
    """What an optimizer is built from, whichever keys said it.

    Attributes:
        name: "sgd" or "adamw".
        backbone_multiplier: learning rate of the backbone over that of the rest.
        weight_decay_embed: weight decay of embeddings.
        clip_norm: greatest L2 norm of the gradient over all parameters; 0: not clipped.
    """

    name: str
    backbone_multiplier: float
    weight_decay_embed: float
    clip_norm: float

    @classmethod
    def from_config(cls, cfg: CfgNode) -> OptimizerSettings:
        """Read ``MODEL.TRACE.SOLVER``, or ``SOLVER`` where the official Mask2Former put the keys.

        Raises:
            ValueError: an unknown optimizer, a negative value, or two clipping norms.
        """
        prefix, node = KEY, cfg.MODEL.TRACE.SOLVER
        if "OPTIMIZER" in cfg.SOLVER:
            prefix, node = "SOLVER", cfg.SOLVER
        name = node.OPTIMIZER.lower()
        if name not in ("sgd", "adamw"):
            raise ValueError(f"{prefix}.OPTIMIZER is {node.OPTIMIZER}: it must be sgd or adamw")
        for key in ("BACKBONE_MULTIPLIER", "WEIGHT_DECAY_EMBED"):
            if node[key] < 0:
                raise ValueError(f"{prefix}.{key} is {node[key]}: it must be 0 or more")
        return cls(name, node.BACKBONE_MULTIPLIER, node.WEIGHT_DECAY_EMBED, _clip_norm(cfg))


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a config; gradients are clipped in its ``step``, after any unscaling.

    Args:
        cfg: ``SOLVER`` and ``MODEL.TRACE.SOLVER`` are read.
        model: parameters that need no gradient are left out; those whose name starts with
            ``backbone`` are the backbone's.

    Raises:
        ValueError: see :meth:`OptimizerSettings.from_config`.
    """
    settings = OptimizerSettings.from_config(cfg)
    solver = cfg.clone()
    solver.defrost()
    if solver.SOLVER.CLIP_GRADIENTS.CLIP_TYPE == "full_model":
        # Detectron2 knows only clipping parameter by parameter.
        solver.SOLVER.CLIP_GRADIENTS.ENABLED = False
    if settings.name == "sgd":
        optimizer = build_detectron2_optimizer(solver, model)
    else:
        groups = adamw_groups(
            model,
            lr=cfg.SOLVER.BASE_LR,
            backbone_multiplier=settings.backbone_multiplier,
            weight_decay=cfg.SOLVER.WEIGHT_DECAY,
            weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
            weight_decay_embed=settings.weight_decay_embed,
        )
        kind = maybe_add_gradient_clipping(solver, torch.optim.AdamW)
        optimizer = kind(groups, lr=cfg.SOLVER.BASE_LR)
    if settings.clip_norm > 0:
        clip_full_model(optimizer, settings.clip_norm)
    return optimizer


def adamw_groups(
    model: nn.Module,
    *,
    lr: float,
    backbone_multiplier: float,
    weight_decay: float,
    weight_decay_norm: float,
    weight_decay_embed: float,
) -> list[dict[str, Any]]:
    """Parameter groups, one for each pair of learning rate and weight decay.

    Args:
        model: see :func:`build_optimizer`.
        lr: learning rate outside the backbone.
        backbone_multiplier: learning rate of the backbone over ``lr``.
        weight_decay: of everything but norms and embeddings.
        weight_decay_norm: of norm layers.
        weight_decay_embed: of ``nn.Embedding`` and tables of positions.

    Returns:
        Groups for ``torch.optim``, each parameter in one of them.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            decay = weight_decay
            if isinstance(module, _NORMS):
                decay = weight_decay_norm
            elif isinstance(module, nn.Embedding) or name in _POSITIONS:
                decay = weight_decay_embed
            in_backbone = "backbone" in module_name.split(".")
            groups[lr * (backbone_multiplier if in_backbone else 1.0), decay].append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def clip_full_model(optimizer: torch.optim.Optimizer, max_norm: float) -> None:
    """Scale the gradient over all parameters to an L2 norm of at most ``max_norm`` at each step."""

    def clip(opt: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [p for group in opt.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, max_norm)

    optimizer.register_step_pre_hook(clip)


def _clip_norm(cfg: CfgNode) -> float:
    """The clipping norm that the config's two places agree on; 0: none.

    Raises:
        ValueError: they disagree, it is negative, or the norm is not L2.
    """
    norm = cfg.MODEL.TRACE.SOLVER.CLIP_NORM
    if norm < 0:
        raise ValueError(f"{KEY}.CLIP_NORM is {norm}: it must be 0 (off) or more")
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return norm
    if norm:
        raise ValueError(
            f"{KEY}.CLIP_NORM is {norm} and SOLVER.CLIP_GRADIENTS.ENABLED is True: use one of them"
        )
    if clip.CLIP_TYPE != "full_model":
        return 0.0
    if clip.NORM_TYPE != 2.0 or clip.CLIP_VALUE <= 0:
        raise ValueError(
            f"SOLVER.CLIP_GRADIENTS has NORM_TYPE {clip.NORM_TYPE} and CLIP_VALUE "
            f"{clip.CLIP_VALUE}: full_model needs NORM_TYPE 2.0 and a positive CLIP_VALUE"
        )
    return clip.CLIP_VALUE
