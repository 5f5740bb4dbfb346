"""An exponential moving average of the weights while they are trained."""

from __future__ import annotations

import copy
from typing import Any

from detectron2.engine import HookBase
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class ExponentialMovingAverage(HookBase):
    """Keeps the average of a model's parameters and buffers; resumes with the trainer.

    Args:
        model: the model that is trained, not wrapped for distributed training.
        decay: share of the old average kept at each step, in (0, 1).

    Raises:
        ValueError: ``decay`` is out of its range.
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
        """What the trainer's checkpoint keeps."""
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undoes ``state_dict``."""
        self._average.load_state_dict(state)
