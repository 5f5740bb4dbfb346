"""Data loaders by config: which mapper, and what happens to whole batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from trace_d2.data.dataset_mapper import TraceDatasetMapper
from trace_d2.data.tolerant_mapper import TolerantDatasetMapper

Batch = list[dict[str, Any]]

MAPPERS: dict[str, Callable[..., Callable[[dict[str, Any]], dict[str, Any] | None]]] = {
    "trace": TraceDatasetMapper,
    "detectron2": TolerantDatasetMapper,
}
"""Values of ``INPUT.TRACE.MAPPER``: what turns a training record into the input of a model."""


def build_train_mapper(cfg: CfgNode) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
    """The mapper of training records that ``INPUT.TRACE.MAPPER`` names, see ``check_mapper``."""
    return MAPPERS[cfg.INPUT.TRACE.MAPPER](cfg, True)


def check_mapper(cfg: CfgNode) -> None:
    """Raise unless ``INPUT.TRACE`` fits itself and the data sets in ``DATASETS.TRAIN``.

    Raises:
        ValueError: a key must be another.
    """
    node = cfg.INPUT.TRACE
    if node.MAPPER not in MAPPERS:
        raise ValueError(f"INPUT.TRACE.MAPPER is one of {', '.join(MAPPERS)}, not {node.MAPPER!r}")
    for name in cfg.DATASETS.TRAIN:
        metadata = MetadataCatalog.get(name)
        wanted = "trace" if metadata.get("categories") else node.MAPPER
        if metadata.get("evaluator_type") == "class_agnostic":
            wanted = "detectron2"
        if wanted != node.MAPPER:
            raise ValueError(f"INPUT.TRACE.MAPPER must be {wanted} for the data set {name!r}")
    if node.MAPPER == "detectron2" and node.CLASS_AGNOSTIC:
        raise ValueError(
            "INPUT.TRACE.CLASS_AGNOSTIC is for INPUT.TRACE.MAPPER trace; data sets of "
            "DATASETS.TRACE.INSTANCES have a single class already"
        )
    if node.MAPPER == "trace" and node.COPY_PASTE.ENABLED and node.SEMANTIC != "none":
        raise ValueError(
            "INPUT.TRACE.COPY_PASTE.ENABLED pastes instances only: set INPUT.TRACE.SEMANTIC none "
            "and INPUT.TRACE.FORMAT bitmask with it"
        )


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
