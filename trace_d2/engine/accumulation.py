"""Gradient accumulation: large batches in little memory."""

from __future__ import annotations

import contextlib
import itertools
import time
from typing import Any

import torch
from detectron2.engine import AMPTrainer, SimpleTrainer
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from trace_d2.engine.builders import Batch


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """``batch`` in ``parts`` runs of images, whose lengths differ by one at most, longest first.

    Of fewer images than ``parts`` each is a run: over many processes a batch is short.
    """
    parts = min(parts, len(batch))
    least, longer = divmod(len(batch), parts)
    starts = [number * least + min(number, longer) for number in range(parts + 1)]
    return [batch[begin:end] for begin, end in itertools.pairwise(starts)]


class AccumulatingTrainer(SimpleTrainer):
    """``SimpleTrainer`` that takes each batch in parts, with one step of the optimizer for all.

    The loss of a part counts by its share of the batch's images, so that gradient and logged
    losses are those of the whole batch where the loss is a mean over images. Where it is not (batch
    normalization, losses over the number of masks), they are those of the parts, averaged. Loss,
    what is logged, and the end at losses that are not finite are as Detectron2 has them; processes
    exchange gradients once, with the last part.

    Args:
        model, data_loader, optimizer: as ``SimpleTrainer``'s; batches are lists.
        steps: parts of a batch.
    """

    def __init__(
        self, model: torch.nn.Module, data_loader: Any, optimizer: Any, steps: int, **options: Any
    ) -> None:
        super().__init__(model, data_loader, optimizer, **options)
        self.steps = steps

    def run_step(self) -> None:
        """One iteration."""
        assert self.model.training, "the model was changed to eval mode"
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        parts = split_batch(batch, self.steps)
        self.optimizer.zero_grad()
        totals: dict[str, Tensor] = {}
        for number, part in enumerate(parts, start=1):
            with self._exchange(last=number == len(parts)):
                losses = self._losses(part, len(part) / len(batch))
                self._backward(sum(losses.values(), torch.zeros(())))
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0) + loss.detach()
        self._write_metrics(totals, data_time)
        self._step()

    def _exchange(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """Within it, gradients stay in this process unless the part is the ``last``."""
        if last or not isinstance(self.model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.model.no_sync()

    def _losses(self, part: Batch, share: float) -> dict[str, Tensor]:
        losses = self.model(part)
        if isinstance(losses, Tensor):
            losses = {"total_loss": losses}
        return {name: loss * share for name, loss in losses.items()}

    def _backward(self, loss: Tensor) -> None:
        loss.backward()

    def _step(self) -> None:
        self.optimizer.step()


class AccumulatingAMPTrainer(AccumulatingTrainer, AMPTrainer):
    """``AccumulatingTrainer`` in mixed precision, with one gradient scale for all parts."""

    def _losses(self, part: Batch, share: float) -> dict[str, Tensor]:
        with torch.autocast(next(self.model.parameters()).device.type):
            return super()._losses(part, share)

    def _backward(self, loss: Tensor) -> None:
        self.grad_scaler.scale(loss).backward()

    def _step(self) -> None:
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()


def accumulating(trainer: SimpleTrainer, steps: int) -> SimpleTrainer:
    """``trainer``, or one of its kind that takes batches in ``steps`` parts if these are many.

    The old trainer is not to be used any more. Its loader is entered a second time, which costs
    nothing where, as with ``BatchLoader``, iteration starts at the first batch.
    """
    if steps == 1:
        return trainer
    model, loader, optimizer = trainer.model, trainer.data_loader, trainer.optimizer
    if isinstance(trainer, AMPTrainer):
        scaler = trainer.grad_scaler
        return AccumulatingAMPTrainer(model, loader, optimizer, steps, grad_scaler=scaler)
    return AccumulatingTrainer(model, loader, optimizer, steps)
