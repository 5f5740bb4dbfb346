"""The trainer: Detectron2's, with what TRACE's recipes use on top."""

from __future__ import annotations

import logging
import math
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.engine import DefaultTrainer, HookBase, SimpleTrainer, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from trace_d2.config import configured_categories
from trace_d2.data.copy_paste import CopyPaste
from trace_d2.engine.accumulation import accumulating
from trace_d2.engine.builders import MAPPERS, BatchLoader, build_evaluator
from trace_d2.engine.checkpointer import TraceCheckpointer, write_checkpoint
from trace_d2.engine.hooks import ExponentialMovingAverage, SampleSheets, StudentFiles
from trace_d2.engine.optimizer import build_optimizer
from trace_d2.io.atomic import write_json

logger = logging.getLogger(__name__)


class TraceTrainer(DefaultTrainer):
    """``DefaultTrainer`` with TRACE's mappers, evaluators, optimizer, averaging and pictures.

    Mixed precision, checkpoints, logs and distributed training are Detectron2's. After each
    evaluation, ``OUTPUT_DIR/results.json`` holds the figures of every data set in
    ``DATASETS.TEST``. A model with a student writes it to ``OUTPUT_DIR/student`` with each
    checkpoint.
    """

    _trainer: SimpleTrainer

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(cfg)
        self._trainer = accumulating(self._trainer, cfg.MODEL.TRACE.SOLVER.ACCUMULATION_STEPS)

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's hooks, with averaging, sample sheets and the student where they are due."""
        self.checkpointer = TraceCheckpointer(
            self.model,
            self.cfg.OUTPUT_DIR,
            categories=configured_categories(self.cfg),
            trainer=weakref.proxy(self),
        )
        decay = self.cfg.MODEL.TRACE.SOLVER.EMA_DECAY
        self.averaging = ExponentialMovingAverage(self.checkpointer.model, decay) if decay else None
        evaluation = hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, self.evaluate)
        others = [
            evaluation if isinstance(hook, hooks.EvalHook) else hook
            for hook in super().build_hooks()
        ]
        # The average comes first: checkpoints and evaluations of a step hold that step. Detectron2
        # wants the writers, which are last on the main process, after what they write.
        end = len(others) - 1 if comm.is_main_process() else len(others)
        own = [self._student_files(), self._sample_sheets()]
        return [self.averaging, *others[:end], *own, *others[end:]]

    def _student_files(self) -> StudentFiles | None:
        model = self.averaging.model if self.averaging else self.checkpointer.model
        if not hasattr(model, "save_student"):
            return None
        folder = Path(self.cfg.OUTPUT_DIR) / "student"
        return StudentFiles(model, folder, self.cfg.SOLVER.CHECKPOINT_PERIOD)

    def _sample_sheets(self) -> SampleSheets | None:
        period = self.cfg.MODEL.TRACE.SOLVER.SAMPLES_PERIOD
        if not period:
            return None
        return SampleSheets(
            self.checkpointer.model,
            self._trainer.data_loader,
            Path(self.cfg.OUTPUT_DIR) / "samples",
            self.cfg.DATASETS.TRAIN[0],
            self.cfg.INPUT.FORMAT,
            period,
        )

    def train(self) -> OrderedDict[str, Any] | None:
        """As Detectron2's; averaged weights end as ``model_averaged.pth``, for MODEL.WEIGHTS."""
        results = super().train()
        if self.averaging and comm.is_main_process():
            path = Path(self.cfg.OUTPUT_DIR) / "model_averaged.pth"
            write_checkpoint(path, self.averaging.model, self.checkpointer.categories)
            logger.info("averaged weights: %s", path)
        return results

    def evaluate(self) -> OrderedDict[str, Any]:
        """Evaluate the averaged weights, or else those that are trained."""
        model = self.averaging.model if self.averaging else self.model
        self._last_eval_results = self.test(self.cfg, model)  # where Detectron2 looks for them
        return self._last_eval_results

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: torch.nn.Module,
        evaluators: DatasetEvaluator | list[DatasetEvaluator] | None = None,
    ) -> OrderedDict[str, Any]:
        """As Detectron2's, and writes ``OUTPUT_DIR/results.json``."""
        results = super().test(cfg, model, evaluators)
        if comm.is_main_process() and results:
            path = Path(cfg.OUTPUT_DIR) / "results.json"
            write_json(path, _without_nan(results), indent=1)
            logger.info("results: %s", path)
        return results

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> BatchLoader:
        """Detectron2's loader with the mapper of the config, and copy-paste where it is on."""
        mapper = MAPPERS[cfg.INPUT.TRACE.MAPPER](cfg, True)
        loader = build_detection_train_loader(cfg, mapper=mapper)
        enabled = cfg.INPUT.TRACE.COPY_PASTE.ENABLED
        return BatchLoader(loader, [CopyPaste.from_config(cfg)] if enabled else [])

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """By the ``evaluator_type`` of the data set."""
        return build_evaluator(cfg, dataset_name)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        """By ``MODEL.TRACE.SOLVER``."""
        return build_optimizer(cfg, model)


def _without_nan(results: Any) -> Any:
    """``results`` with None, which JSON has, for NaN (a figure without truth), which it has not."""
    if isinstance(results, Mapping):
        return {key: _without_nan(value) for key, value in results.items()}
    return None if isinstance(results, float) and math.isnan(results) else results
