"""The student's own files, beside the checkpoints of its training."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from detectron2.engine import HookBase
from detectron2.utils import comm

logger = logging.getLogger(__name__)


@runtime_checkable
class SavesStudent(Protocol):
    """A model that writes its student to a folder."""

    def save_student(self, folder: Path) -> Any:
        """Write the files to ``folder``, in place of those that are there."""


class StudentFiles(HookBase):
    """Writes the student of a model with each checkpoint and at the end, on the main process.

    Args:
        model: whose student it is, not wrapped for distributed training.
        folder: where the files go.
        period: iterations from one checkpoint to the next.
    """

    def __init__(self, model: SavesStudent, folder: Path, period: int) -> None:
        self._model = model
        self._folder = folder
        self._period = period

    def after_step(self) -> None:
        """Write the files if a checkpoint is due."""
        done = self.trainer.iter + 1
        if done % self._period and done < self.trainer.max_iter:
            return
        if comm.is_main_process():
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._model.save_student(self._folder)
            logger.info("student after %d iterations: %s", done, self._folder)
