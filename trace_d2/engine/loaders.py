"""Data loaders by config: which mapper, and what happens to whole batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper

from trace_d2.data.dataset_mapper import TraceDatasetMapper

Batch = list[dict[str, Any]]

MAPPERS: dict[str, Callable[..., Callable[[dict[str, Any]], dict[str, Any] | None]]] = {
    "trace": TraceDatasetMapper,
    "detectron2": DatasetMapper,
}
"""Values of ``INPUT.TRACE.MAPPER``: what turns a training record into the input of a model."""


def build_train_mapper(cfg: CfgNode) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
    """The mapper of training records that ``INPUT.TRACE.MAPPER`` names, see ``check_config``."""
    return MAPPERS[cfg.INPUT.TRACE.MAPPER](cfg, True)


class BatchLoader:
    """A data loader whose batches go through ``transforms``, and whose last batch can be seen.

    Args:
        loader: gives batches without end, as Detectron2's training loader.
        transforms: applied in order to each batch.
    """

    def __init__(
        self, loader: Iterable[Batch], transforms: Iterable[Callable[[Batch], Batch]] = ()
    ) -> None:
        self.loader = loader
        self.transforms = tuple(transforms)
        self.last: Batch = []

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            for transform in self.transforms:
                batch = transform(batch)
            self.last = batch
            yield batch
