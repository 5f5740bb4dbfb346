"""Data loaders by config: which mapper, and what happens to whole batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from trace_d2.data.augmentation import build_edge_augmentations
from trace_d2.data.dataset_mapper import TraceDatasetMapper
from trace_d2.data.edge_mapper import TraceEdgeDatasetMapper
from trace_d2.data.tolerant_mapper import TolerantDatasetMapper

Batch = list[dict[str, Any]]

EDGE_PREDICTOR = "TraceEdgePredictor"
"""The ``MODEL.META_ARCHITECTURE`` that learns and predicts edges."""

MAPPERS: dict[str, Callable[..., Callable[[dict[str, Any]], dict[str, Any] | None]]] = {
    "trace": TraceDatasetMapper,
    "detectron2": TolerantDatasetMapper,
    "trace_edges": TraceEdgeDatasetMapper,
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
        wanted = _mapper_of(name, node.MAPPER)
        if wanted != node.MAPPER:
            raise ValueError(f"INPUT.TRACE.MAPPER must be {wanted} for the data set {name!r}")
    _check_edge_training(cfg)
    if node.MAPPER != "trace" and node.CLASS_AGNOSTIC:
        raise ValueError(
            "INPUT.TRACE.CLASS_AGNOSTIC is for INPUT.TRACE.MAPPER trace; data sets of "
            "DATASETS.TRACE.INSTANCES have a single class already, and those of "
            "DATASETS.TRACE.EDGES none"
        )
    if node.MAPPER == "trace" and node.COPY_PASTE.ENABLED and node.SEMANTIC != "none":
        raise ValueError(
            "INPUT.TRACE.COPY_PASTE.ENABLED pastes instances only: set INPUT.TRACE.SEMANTIC none "
            "and INPUT.TRACE.FORMAT bitmask with it"
        )


def _mapper_of(name: str, asked: str) -> str:
    """The mapper that the data set ``name`` needs: ``asked`` if that will do."""
    metadata = MetadataCatalog.get(name)
    if metadata.get("pseudo_edges_root"):
        return "trace_edges"
    if metadata.get("evaluator_type") == "class_agnostic":
        return "detectron2"
    if metadata.get("categories"):
        return "trace"
    return "detectron2" if asked == "trace_edges" else asked


def _check_edge_training(cfg: CfgNode) -> None:
    """Raise unless mapper and model both learn edges, or neither."""
    node, model = cfg.INPUT.TRACE, cfg.MODEL.META_ARCHITECTURE
    edges, predictor = node.MAPPER == "trace_edges", model == EDGE_PREDICTOR
    if predictor and not edges:
        raise ValueError(
            f"MODEL.META_ARCHITECTURE {EDGE_PREDICTOR} is trained on data sets of "
            f"DATASETS.TRACE.EDGES by INPUT.TRACE.MAPPER trace_edges, not {node.MAPPER}"
        )
    if edges and not predictor:
        raise ValueError(
            "INPUT.TRACE.MAPPER trace_edges, for data sets of DATASETS.TRACE.EDGES, is for "
            f"MODEL.META_ARCHITECTURE {EDGE_PREDICTOR}, not {model}"
        )
    if not edges:
        return
    source = cfg.MODEL.TRACE.EDGES.SOURCE
    if source != "student":
        raise ValueError(
            f"MODEL.TRACE.EDGES.SOURCE is {source!r}, which has nothing to train: set it to student"
        )
    if not cfg.MODEL.TRACE.STUDENT.TRAIN:
        raise ValueError(
            "MODEL.TRACE.STUDENT.TRAIN is False, so that the student would be built for use: set "
            "it to True to train one"
        )
    if node.COPY_PASTE.ENABLED:
        raise ValueError(
            "INPUT.TRACE.COPY_PASTE.ENABLED pastes instances, and INPUT.TRACE.MAPPER trace_edges "
            "gives none: set it to False"
        )
    if cfg.SOLVER.AMP.ENABLED and cfg.MODEL.TRACE.BACKBONE.DTYPE != "float32":
        raise ValueError(
            "SOLVER.AMP.ENABLED runs the denoiser in float16, and MODEL.TRACE.BACKBONE.DTYPE is "
            f"{cfg.MODEL.TRACE.BACKBONE.DTYPE}: set the former to False (bfloat16 weights are "
            "mixed precision already, with adapters and decoder in float32), or use float32"
        )
    build_edge_augmentations(cfg, True)  # wrong sizes are named here


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
